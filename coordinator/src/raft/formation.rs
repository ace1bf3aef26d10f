//! The cluster is formed once.
//!
//! Every data folder has a random id. The coordinator with the lowest id asks all others who they are, and
//! initializes Raft only when all of them answered that they hold nothing and were given the same peer list. The
//! folder ids it heard become part of the membership, the log's first entry. Every other coordinator just waits to be
//! asked for its vote. So it does not matter who starts first, and the lowest coordinator with a lost folder forms no
//! second cluster: the others hold something. One that was started to join never forms any.
//!
//! Once there is a cluster the peer list that a coordinator was started with only says whom it asks first: who the
//! coordinators are stands in the catalog (see `tending`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use volley_common::wire::raft::{Identity, MembershipStatus};
use volley_common::{Error, Result};

use super::asking::ask_all;
use super::handle::Inner;
use super::tending;
use super::types::Peer;

/// The others are asked this often until there is a cluster.
const FORMING: Duration = Duration::from_millis(200);

/// Forms the cluster if it falls to this coordinator, then tends it. Ends when cancelled.
pub async fn run(inner: Arc<Inner>) {
    while let Err(why) = form(&inner).await {
        inner.report(Some(why));
        tokio::time::sleep(FORMING).await;
    }
    tending::run(&inner).await;
}

/// One attempt. Ok: this folder holds something of a cluster; Err: what it waits for.
async fn form(inner: &Inner) -> Result<()> {
    if inner.initialized().await? {
        return Ok(());
    }
    let lowest = inner.config.peers.keys().next().copied();
    let others = ask_all(inner).await;
    let mut members = BTreeMap::from([(inner.config.id, inner.store.id())]);
    let mut waiting = inner.config.join.then(|| to_be_added(inner));
    for (id, answer) in others {
        match answer {
            Ok(theirs) if theirs.initialized => waiting = Some(to_be_taken(inner, &theirs)),
            Ok(theirs) => {
                agree(inner, &theirs)?;
                members.insert(id, theirs.store);
            }
            Err(error) => waiting = waiting.or(Some(error.at("waiting for all coordinators, to form the cluster"))),
        }
    }
    match waiting {
        Some(why) => Err(why),
        None if lowest != Some(inner.config.id) => Err(Error::unavailable(format!(
            "waiting for coordinator {} to form the cluster",
            lowest.unwrap_or_default()
        ))),
        None => initialize(inner, &members).await,
    }
}

fn to_be_added(inner: &Inner) -> Error {
    let addr = inner.config.peers.get(&inner.config.id).map_or("HOST:PORT", String::as_str);
    Error::unavailable(format!("waiting to be added: volley coordinators add {}={addr}", inner.config.id))
}

/// What an empty coordinator waits for where there is a cluster.
fn to_be_taken(inner: &Inner, theirs: &Identity) -> Error {
    match theirs.status() {
        MembershipStatus::Unknown => to_be_added(inner),
        _ => Error::unavailable(format!(
            "the data folder {} is empty but coordinator {} holds a cluster: waiting for its leader to take this one back",
            inner.store.dir().display(),
            theirs.id
        )),
    }
}

async fn initialize(inner: &Inner, stores: &BTreeMap<u64, u64>) -> Result<()> {
    let peer = |(id, addr): (&u64, &String)| {
        let store = stores.get(id).copied().unwrap_or_default();
        (*id, Peer { addr: addr.clone(), store })
    };
    let members: BTreeMap<u64, Peer> = inner.config.peers.iter().map(peer).collect();
    tracing::info!(coordinators = members.len(), "forming a new cluster");
    inner.raft.initialize(members).await.map_err(|e| Error::unavailable(format!("cannot form the cluster: {e}")))
}

/// Those that form a cluster must have been given the same list.
fn agree(inner: &Inner, theirs: &Identity) -> Result<()> {
    if theirs.peers == inner.digest {
        return Ok(());
    }
    let their_list: BTreeMap<u64, String> = theirs.list.iter().map(|p| (p.id, p.addr.clone())).collect();
    let ids: BTreeSet<u64> = their_list.keys().chain(inner.config.peers.keys()).copied().collect();
    let show = |addr: Option<&String>| addr.map_or("absent".to_string(), Clone::clone);
    let differences: Vec<String> = ids
        .into_iter()
        .map(|id| (id, inner.config.peers.get(&id), their_list.get(&id)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(id, ours, theirs)| format!("{id} is {} here and {} there", show(ours), show(theirs)))
        .collect();
    Err(Error::precondition(format!(
        "coordinator {} was given another peer list ({}): give all coordinators the same --peers",
        theirs.id,
        differences.join("; ")
    )))
}
