//! The cluster is formed once; coordinators that lost their data folder are taken back.
//!
//! **Forming.** Every data folder has a random id. The coordinator with the lowest id asks all others who
//! they are, and initializes Raft only when all of them answered that they hold nothing and were given the
//! same peer list. The folder ids it heard become part of the membership, the log's first entry. Every other
//! coordinator just waits to be asked for its vote. So it does not matter who starts first, and the lowest
//! coordinator with a lost folder forms no second cluster: the others hold something.
//!
//! **Lost folders.** Raft is safe only while members remember their votes and their log. Every Raft message
//! carries the folder id for which it is meant, out of the sender's membership, and a coordinator refuses what
//! is for another folder than it has. A coordinator that comes back empty is therefore a dead member: it
//! neither votes nor acknowledges. The leader, asking the others who they are, finds the new folder id and
//! replaces the member: the old one is removed (a majority that still remembers must agree), the new one is
//! added as a learner, catches up by snapshot, and only then votes. While there is no such majority, nothing
//! is decided: of three coordinators, one lost folder and one that is down stop the catalog until the latter is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use volley_common::wire::catalog::{Command, FormCluster, command};
use volley_common::wire::raft::Identity;
use volley_common::{Error, Result};

use super::handle::Inner;
use super::network::client;
use super::runtime::random;
use super::types::{Membership, Peer, TypeConfig};

/// The others are asked this often until there is a cluster.
const FORMING: Duration = Duration::from_millis(200);
/// ... and by the leader afterwards.
const TENDING: Duration = Duration::from_secs(1);
/// An answer takes no longer.
const ASKING: Duration = Duration::from_secs(2);
/// A change of members takes no longer, or is tried again.
const CHANGING: Duration = Duration::from_secs(10);
/// A learner that is so many entries behind at most may vote.
const CAUGHT_UP: u64 = 100;

/// Forms the cluster if it falls to this coordinator, then tends it while it leads. Ends when cancelled.
pub async fn run(inner: Arc<Inner>) {
    while let Err(why) = form(&inner).await {
        inner.report(Some(why));
        tokio::time::sleep(FORMING).await;
    }
    loop {
        if let Err(error) = tend(&inner).await {
            inner.report(Some(error));
        } else {
            inner.report(None);
        }
        wait(&inner).await;
    }
}

/// Until it is time to look again: at once when leadership changes.
async fn wait(inner: &Inner) {
    let mut leader = inner.leader.subscribe();
    let _ = tokio::time::timeout(TENDING, leader.changed()).await;
}

/// One attempt. Ok: this folder holds something of a cluster; Err: what it waits for.
async fn form(inner: &Inner) -> Result<()> {
    if inner.initialized().await? {
        return Ok(());
    }
    let lowest = inner.config.peers.keys().next().copied();
    let others = ask_all(inner).await;
    let mut members = BTreeMap::from([(inner.config.id, inner.store.id())]);
    let mut waiting = None;
    for (id, answer) in others {
        match answer {
            Ok(theirs) => {
                agree(inner, &theirs)?;
                if theirs.initialized {
                    waiting = Some(Error::unavailable(format!(
                        "the data folder {} is empty but coordinator {id} holds a cluster: waiting for its leader to take this one back",
                        inner.store.dir().display()
                    )));
                }
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

async fn initialize(inner: &Inner, stores: &BTreeMap<u64, u64>) -> Result<()> {
    let peer = |(id, addr): (&u64, &String)| {
        let store = stores.get(id).copied().unwrap_or_default();
        (*id, Peer { addr: addr.clone(), store })
    };
    let members: BTreeMap<u64, Peer> = inner.config.peers.iter().map(peer).collect();
    tracing::info!(coordinators = members.len(), "forming a new cluster");
    inner.raft.initialize(members).await.map_err(|e| Error::unavailable(format!("cannot form the cluster: {e}")))
}

/// Everyone else's identity, or why there is none.
async fn ask_all(inner: &Inner) -> Vec<(u64, Result<Identity>)> {
    let ours = match inner.identity().await {
        Ok(ours) => ours,
        Err(error) => return vec![(inner.config.id, Err(error))],
    };
    let others = inner.channels.iter().filter(|(id, _)| **id != inner.config.id);
    let asking = others.map(|(id, channel)| {
        let (ours, mut client) = (ours.clone(), client(channel.clone()));
        async move {
            let addr = inner.config.peers.get(id).map_or("?", String::as_str);
            let answer = match tokio::time::timeout(ASKING, client.identify(ours)).await {
                Ok(Ok(reply)) => check_id(*id, addr, reply.into_inner()),
                Ok(Err(status)) => Err(Error::from(status).at(format!("coordinator {id} at {addr}"))),
                Err(_) => Err(Error::unavailable(format!("coordinator {id} at {addr} does not answer"))),
            };
            (*id, answer)
        }
    });
    futures::future::join_all(asking).await
}

fn check_id(id: u64, addr: &str, theirs: Identity) -> Result<Identity> {
    if theirs.id == id {
        return Ok(theirs);
    }
    Err(Error::precondition(format!(
        "the peer list says that coordinator {id} is at {addr}, but coordinator {} answers there",
        theirs.id
    )))
}

/// Peer lists must be the same everywhere.
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

/// What the leader looks after: the cluster's id, and members with new data folders.
async fn tend(inner: &Inner) -> Result<()> {
    if inner.current_leader() != Some(inner.config.id) {
        return Ok(());
    }
    if inner.view().cluster().is_none() {
        name(inner).await?;
    }
    let answers: Vec<Identity> = ask_all(inner).await.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
    let mut stores = BTreeMap::from([(inner.config.id, inner.store.id())]);
    stores.extend(answers.iter().map(|theirs| (theirs.id, theirs.store)));
    for (id, store) in &stores {
        if let Some((change, what)) = next_step(inner, *id, *store) {
            if matches!(change, ChangeMembers::RemoveVoters(_)) && !majority_remembers(inner, &stores) {
                return Err(Error::unavailable(format!(
                    "coordinator {id} lost its data folder, and it can be replaced only while a majority that kept theirs is up"
                )));
            }
            tracing::info!(coordinator = id, "{what}");
            return change_members(inner, change).await;
        }
    }
    answers.iter().try_for_each(|theirs| agree(inner, theirs))
}

/// Whether a majority of the voters is up with the folder that it had: without it nothing can be decided.
fn majority_remembers(inner: &Inner, stores: &BTreeMap<u64, u64>) -> bool {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let members: &Membership = metrics.membership_config.membership();
    let remembers = |id: &u64| members.get_node(id).is_some_and(|peer| stores.get(id) == Some(&peer.store));
    members.get_joint_config().iter().all(|voters| voters.iter().filter(|id| remembers(id)).count() > voters.len() / 2)
}

/// The first command of the log: the cluster's id and key.
async fn name(inner: &Inner) -> Result<()> {
    inner.read_index_here().await?;
    let id = format!("{:016x}{:016x}", random(), random());
    let ticket_key = [random(), random(), random(), random()].map(u64::to_le_bytes).concat().into();
    let op = Some(command::Op::FormCluster(FormCluster { id, ticket_key }));
    // A refusal says that there is one already, which is as well.
    inner.propose_here(Command { now_ms: (inner.around.clock)(), op }).await.map(drop)
}

/// What brings a member with this data folder nearer to being a voter; none if it is one.
fn next_step(inner: &Inner, id: u64, store: u64) -> Option<(ChangeMembers<u64, Peer>, &'static str)> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let members: &Membership = metrics.membership_config.membership();
    let votes = members.voter_ids().any(|voter| voter == id);
    let known = members.get_node(&id).map(|peer| peer.store);
    let behind = || {
        let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?.index;
        Some(metrics.last_log_index?.saturating_sub(matched))
    };
    match known {
        Some(known) if known == store && votes => None,
        Some(known) if known == store => behind()
            .filter(|behind| *behind <= CAUGHT_UP)
            .map(|_| (ChangeMembers::AddVoterIds(BTreeSet::from([id])), "a coordinator caught up and votes again")),
        Some(_) if votes => Some((
            ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            "a coordinator lost its data folder: it is replaced",
        )),
        Some(_) => Some((ChangeMembers::RemoveNodes(BTreeSet::from([id])), "a coordinator lost its data folder again")),
        None => {
            let addr = inner.config.peers.get(&id).cloned().unwrap_or_default();
            let peer = BTreeMap::from([(id, Peer { addr, store })]);
            Some((ChangeMembers::AddNodes(peer), "a coordinator with a new data folder catches up"))
        }
    }
}

async fn change_members(inner: &Inner, change: ChangeMembers<u64, Peer>) -> Result<()> {
    let failed = |e: RaftError<TypeConfig, ClientWriteError<TypeConfig>>| {
        Error::unavailable(format!("cannot change the members: {e}"))
    };
    match tokio::time::timeout(CHANGING, inner.raft.change_membership(change, false)).await {
        Ok(outcome) => outcome.map(drop).map_err(failed),
        Err(_) => Err(Error::unavailable(
            "changing the members takes long: a majority of coordinators that kept their data folder is needed",
        )),
    }
}
