//! Forms a new cluster, once.
//!
//! Every data folder has a random id. The coordinator with the lowest id asks all others for their identity, and
//! initializes Raft only when all of them answered that their folder is empty and that they were started with the same
//! peer list. The ids of their folders become part of the membership, the first entry of the log. Every other
//! coordinator waits for a request for its vote. So the order in which coordinators start does not matter, and if the
//! lowest coordinator lost its folder, it forms no second cluster, because the folders of the others are not empty. A
//! coordinator that was started with `join` never forms a cluster.
//!
//! Once the cluster exists, the peer list that a coordinator was started with only determines which coordinators it
//! contacts first: the catalog lists the coordinators (see `membership_reconciler`).

use std::collections::BTreeMap;
use std::time::Duration;

use volley_common::wire::raft::{Identity, MembershipStatus};
use volley_common::{Error, Result};

use super::membership_plan::peer_list_differences;
use super::peer_identity::query_all;
use crate::raft::context::RaftContext;
use crate::raft::types::RaftPeer;

/// Interval of the attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Returns once the data folder contains the state of a cluster; forms the cluster if this coordinator has the lowest
/// id.
pub async fn run(ctx: &RaftContext) {
    while let Err(why) = try_form(ctx).await {
        ctx.set_fault(Some(why));
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Makes one attempt. The error says what this coordinator waits for.
async fn try_form(ctx: &RaftContext) -> Result<()> {
    if ctx.is_initialized().await? {
        return Ok(());
    }
    let lowest = ctx.config.peers.keys().next().copied();
    let mut store_ids = BTreeMap::from([(ctx.config.id, ctx.store.id())]);
    let mut waiting = ctx.config.join.then(|| waiting_to_be_added(ctx));
    for (id, answer) in query_all(ctx).await {
        match answer {
            Ok(theirs) if theirs.initialized => waiting = Some(waiting_for_leader(ctx, &theirs)),
            Ok(theirs) => {
                check_same_peers(ctx, &theirs)?;
                store_ids.insert(id, theirs.store);
            }
            Err(error) => waiting = waiting.or(Some(error.at("waiting for all coordinators, to form the cluster"))),
        }
    }
    match waiting {
        Some(why) => Err(why),
        None if lowest != Some(ctx.config.id) => Err(Error::unavailable(format!(
            "waiting for coordinator {} to form the cluster",
            lowest.unwrap_or_default()
        ))),
        None => initialize(ctx, &store_ids).await,
    }
}

fn waiting_to_be_added(ctx: &RaftContext) -> Error {
    let addr = ctx.config.peers.get(&ctx.config.id).map_or("HOST:PORT", String::as_str);
    Error::unavailable(format!("waiting to be added: volley coordinators add {}={addr}", ctx.config.id))
}

/// What a coordinator with an empty folder waits for when a cluster exists.
fn waiting_for_leader(ctx: &RaftContext, theirs: &Identity) -> Error {
    match theirs.status() {
        MembershipStatus::Unknown => waiting_to_be_added(ctx),
        _ => Error::unavailable(format!(
            "the data folder {} is empty but coordinator {} holds a cluster: waiting for its leader to add this one again",
            ctx.store.dir().display(),
            theirs.id
        )),
    }
}

async fn initialize(ctx: &RaftContext, store_ids: &BTreeMap<u64, u64>) -> Result<()> {
    let peer = |(id, addr): (&u64, &String)| {
        let store_id = store_ids.get(id).copied().unwrap_or_default();
        (*id, RaftPeer { addr: addr.clone(), store_id })
    };
    let members: BTreeMap<u64, RaftPeer> = ctx.config.peers.iter().map(peer).collect();
    tracing::info!(coordinators = members.len(), "forming a new cluster");
    ctx.raft.initialize(members).await.map_err(|e| Error::unavailable(format!("cannot form the cluster: {e}")))
}

/// Checks that another coordinator was started with the same peer list.
fn check_same_peers(ctx: &RaftContext, theirs: &Identity) -> Result<()> {
    if theirs.peers == ctx.peers_digest {
        return Ok(());
    }
    let their_list: BTreeMap<u64, String> = theirs.list.iter().map(|p| (p.id, p.addr.clone())).collect();
    Err(Error::precondition(format!(
        "coordinator {} was started with another peer list ({}): give all coordinators the same --peers",
        theirs.id,
        peer_list_differences(&ctx.config.peers, &their_list).join("; ")
    )))
}
