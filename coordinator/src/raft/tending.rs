//! The Raft group is made what the catalog wants.
//!
//! **What is wanted** stands in the catalog: the coordinators' ids and addresses. Commands change that list, each
//! whole or not at all, and then the leader changes the Raft group step by step (`members` decides which). So a leader that
//! dies in the middle of a change leaves nothing half done: the next one goes on from what is wanted and what there is.
//!
//! **Lost folders.** Raft is safe only while members remember their votes and their log. Every Raft message
//! carries the folder id for which it is meant, out of the sender's membership, and a coordinator refuses what
//! is for another folder than it has. A coordinator that comes back empty is therefore a dead member: it
//! neither votes nor acknowledges. The leader, asking the others who they are, finds the new folder id and
//! replaces the member: the old one is removed (a majority that still remembers must agree), the new one is
//! added as a learner, catches up, and only then votes. While there is no such majority, nothing is decided: of
//! three coordinators, one lost folder and one that is down stop the catalog until the latter is back.
//!
//! **Adding** is the same without a member to replace. A new folder that is sent the log from its beginning passes
//! through every group that there ever was, also one in which its id was a voter, with another folder. openraft knows ids
//! only, so a coordinator stands for election only while the group has it with the folder that it has ([`may_stand`]).
//!
//! **Removing.** A coordinator that is wanted no more is first told to hand the leadership over, if it leads. Its folder's id
//! is remembered in the catalog as retired, then it leaves the group. Alone it can do no harm: it would need the votes of
//! members that have more log than it has, and asks for them without raising their term (pre-vote). Everybody asks everybody
//! once a second; a coordinator that hears that its folder is retired and in the group no more marks the folder, says so and
//! ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{Command, CoordinatorPeer, FormCluster, NameCoordinators, RetireStore};
use volley_common::{Error, Result};

use super::handle::Inner;
use super::members::{Answer, Group, Step, next_step};
use super::runtime::{blocking, random};
use super::types::{Peer, TypeConfig};
use super::{asking, retired};

/// How often everybody is asked.
const TENDING: Duration = Duration::from_secs(1);
/// A change of members takes no longer, or is tried again.
const CHANGING: Duration = Duration::from_secs(10);

/// Tends the cluster: for ever.
pub async fn run(inner: &Inner) {
    let mut hinted = false;
    loop {
        let done = tend(inner).await;
        hinted = hinted || hint(inner);
        let again = matches!(done, Ok(true));
        inner.report(done.err());
        if !again {
            wait(inner).await;
        }
    }
}

/// Until it is time to look again: at once when leadership changes.
async fn wait(inner: &Inner) {
    let mut leader = inner.leader.subscribe();
    let _ = tokio::time::timeout(TENDING, leader.changed()).await;
}

/// One look around, and one step; says whether it did one.
async fn tend(inner: &Inner) -> Result<bool> {
    let leads = || inner.current_leader() == Some(inner.config.id);
    if leads() && inner.view().cluster().is_none() {
        name(inner).await?;
    }
    let heard = asking::ask_all(inner).await;
    if is_out(inner) {
        inner.end(asking::removed(inner)).await;
    }
    if !leads() {
        return Ok(false);
    }
    catch_up(inner).await?;
    if inner.view().coordinators().is_empty() {
        return name_coordinators(inner).await;
    }
    match decide(inner, &asking::answers(inner, &heard)) {
        Some(step) => act(inner, step).await,
        None => Ok(false),
    }
}

/// Whether this coordinator knows by itself that it was removed.
fn is_out(inner: &Inner) -> bool {
    let store = inner.store.id();
    inner.view().is_retired(store) && inner.committed_members().nodes().all(|(_, peer)| peer.store != store)
}

/// A decision on an old catalog would take out what was added since.
async fn catch_up(inner: &Inner) -> Result<()> {
    let index = inner.read_index_here(None).await?;
    let mut applied = inner.shared.applied.subscribe();
    let lags = || Error::unavailable("the leader has not applied its log yet");
    let caught_up = tokio::time::timeout(CHANGING, applied.wait_for(|applied| *applied >= index)).await;
    caught_up.map_err(|_| lags())?.map(drop).map_err(|_| lags())
}

/// The first command of the log: the cluster's id and key.
async fn name(inner: &Inner) -> Result<()> {
    inner.read_index_here(None).await?;
    let id = format!("{:016x}{:016x}", random(), random());
    let ticket_key = [random(), random(), random(), random()].map(u64::to_le_bytes).concat().into();
    // A refusal says that there is one already, which is as well.
    propose(inner, Op::FormCluster(FormCluster { id, ticket_key })).await
}

/// In a new catalog, or one of older software, those are wanted who are there.
async fn name_coordinators(inner: &Inner) -> Result<bool> {
    let there = inner.members();
    let one = |(id, peer): (&u64, &Peer)| CoordinatorPeer { id: *id, peer: peer.addr.clone() };
    let coordinators = there.nodes().map(one).collect();
    propose(inner, Op::NameCoordinators(NameCoordinators { coordinators })).await.map(|()| true)
}

async fn propose(inner: &Inner, op: Op) -> Result<()> {
    let command = Command { now_ms: (inner.around.clock)(), op: Some(op) };
    tokio::time::timeout(CHANGING, inner.propose_here(command))
        .await
        .map_err(|_| Error::unavailable("a change of the coordinators is not agreed on: a majority of them is needed"))?
        .map(drop)
}

fn decide(inner: &Inner, answers: &BTreeMap<u64, Answer>) -> Option<Step> {
    let (members, behind) = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let behind: BTreeMap<u64, u64> =
            matched.filter_map(|(id, at)| Some((*id, last.saturating_sub(at.as_ref()?.index)))).collect();
        (metrics.membership_config.membership().clone(), behind)
    };
    let (wanted, retired) = {
        let view = inner.view();
        let retired: BTreeSet<u64> = view.cluster().iter().flat_map(|c| c.removed_stores.iter().copied()).collect();
        (view.coordinators(), retired)
    };
    next_step(&Group {
        me: inner.config.id,
        wanted: &wanted,
        members: &members,
        retired: &retired,
        answers,
        behind: &behind,
    })
}

async fn act(inner: &Inner, step: Step) -> Result<bool> {
    match step {
        Step::Retire(store) => propose(inner, Op::RetireStore(RetireStore { store })).await?,
        Step::HandOver => {
            tracing::info!("this coordinator leads and is to be removed: another one takes over");
            inner.hand_over().await;
            return Ok(false);
        }
        Step::Change(change, why) => {
            tracing::info!(%change, "{why}");
            change_members(inner, change).await?;
        }
        Step::Wait(why) => return Err(Error::unavailable(why)),
    }
    Ok(true)
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

/// Whether this coordinator may stand for election: the group has it with the folder that it has.
pub fn may_stand(inner: &Inner) -> bool {
    let own = |peer: &Peer| peer.store == inner.store.id();
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let groups = [&metrics.membership_config, &metrics.committed_membership_config];
    let member = groups.iter().any(|group| group.membership().get_node(&inner.config.id).is_some_and(own));
    member && !inner.ending.load(Ordering::Relaxed)
}

/// Whether this coordinator is none any more.
pub fn has_ended(inner: &Inner) -> bool {
    inner.ended.borrow().is_some()
}

/// Says where the peer list differs from the cluster's; whether there was something to compare.
fn hint(inner: &Inner) -> bool {
    let wanted = inner.view().coordinators();
    if wanted.is_empty() {
        return false;
    }
    let given = &inner.config.peers;
    let ids: BTreeSet<u64> = wanted.keys().chain(given.keys()).copied().collect();
    let show = |addr: Option<&String>| addr.map_or("absent".to_string(), Clone::clone);
    let differences: Vec<String> = ids
        .iter()
        .filter(|id| wanted.get(id) != given.get(id))
        .map(|id| format!("{id} is {} here and {} there", show(given.get(id)), show(wanted.get(id))))
        .collect();
    if !differences.is_empty() {
        tracing::warn!(
            "--peers is another peer list than the cluster has, whose own counts ({}): this one can be brought up to date",
            differences.join("; ")
        );
    }
    true
}

impl Inner {
    /// This coordinator is none any more: it never stands for election again, and its folder says so from now on.
    pub(super) async fn end(&self, why: String) {
        if self.ending.swap(true, Ordering::Relaxed) {
            return;
        }
        self.raft.runtime_config().elect(false);
        tracing::error!("{why}");
        let (disk, text) = (self.around.disk.clone(), why.clone());
        let marked = blocking(move || retired::mark(&*disk, &text)).await.flatten();
        if let Err(error) = marked {
            tracing::warn!("the data folder {} cannot be marked: {error}", self.store.dir().display());
        }
        self.ended.send_replace(Some(Error::precondition(why)));
    }
}
