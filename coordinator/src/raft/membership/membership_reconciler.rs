//! Reconciles the Raft group with the desired coordinators in the catalog.
//!
//! **Desired state.** The catalog lists the coordinators' ids and addresses. A command changes that list atomically;
//! then the leader changes the Raft group step by step (`membership_plan` decides the steps). If a leader crashes
//! during a change, the next one continues from the desired and the current state.
//!
//! **Lost data folders.** Raft is safe only while members remember their votes and their log. Every Raft message
//! carries the id of the folder that it is meant for, from the sender's membership, and a coordinator refuses messages
//! for another folder than its own. A coordinator that comes back with an empty folder therefore does not act as a
//! member: it neither votes nor acknowledges. The leader queries the others' identities, finds the new folder id and
//! replaces the member: it removes the old one (a majority that still has its folders must agree), adds the new one as
//! a learner, and makes it a voter once it has caught up. Without such a majority nothing is changed: if of three
//! coordinators one has lost its folder and one is down, the catalog is unavailable until the latter is back.
//!
//! **Adding** is the same without a member to replace. See `eligibility` for why a new folder may not stand for election
//! before it is a member.
//!
//! **Removing.** A coordinator that is no longer desired first transfers leadership, if it leads. The catalog records
//! its folder's id as retired, then it leaves the group. After that it cannot disturb the group: it would need the
//! votes of members whose log is longer, and requests them without raising their term (pre-vote). Every coordinator
//! queries all others once a second; one that learns that its folder is retired and no longer in the group marks the
//! folder, logs the reason and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{Command, CoordinatorPeer, FormCluster, NameCoordinators, RetireStore};
use volley_common::{Error, Result};

use super::decommission::decommission;
use super::membership_plan::{MembershipStep, MembershipView, PeerStatus, next_step, peer_list_differences};
use super::peer_identity::{peer_statuses, query_all, removed_message};
use crate::raft::context::RaftContext;
use crate::raft::runtime::random;
use crate::raft::types::{RaftPeer, TypeConfig};

/// Interval of the reconciliations.
const INTERVAL: Duration = Duration::from_secs(1);
/// The timeout of one step, which is retried.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reconciles forever.
pub async fn run(ctx: &RaftContext) {
    let mut peer_list_checked = false;
    loop {
        let outcome = reconcile(ctx).await;
        peer_list_checked = peer_list_checked || check_peer_list(ctx);
        let stepped = matches!(outcome, Ok(true));
        ctx.set_fault(outcome.err());
        if !stepped {
            // Runs immediately when leadership changes.
            let mut leader = ctx.leader.subscribe();
            let _ = tokio::time::timeout(INTERVAL, leader.changed()).await;
        }
    }
}

/// Queries the other coordinators and, on the leader, executes one step; returns whether it executed one.
async fn reconcile(ctx: &RaftContext) -> Result<bool> {
    if ctx.is_leader() && ctx.view().cluster().is_none() {
        create_cluster_id(ctx).await?;
    }
    let answers = query_all(ctx).await;
    if is_removed(ctx) {
        decommission(ctx, removed_message(ctx)).await;
    }
    if !ctx.is_leader() {
        return Ok(false);
    }
    wait_applied(ctx).await?;
    if ctx.view().coordinators().is_empty() {
        list_coordinators(ctx).await?;
        return Ok(true);
    }
    match plan(ctx, &peer_statuses(ctx, &answers)) {
        Some(step) => execute(ctx, step).await,
        None => Ok(false),
    }
}

/// Whether this coordinator is removed according to its own catalog.
fn is_removed(ctx: &RaftContext) -> bool {
    let store_id = ctx.store.id();
    ctx.view().is_retired(store_id) && ctx.committed_members().nodes().all(|(_, peer)| peer.store_id != store_id)
}

/// Waits until the leader has applied its log: a decision on an old catalog would remove a coordinator added since.
async fn wait_applied(ctx: &RaftContext) -> Result<()> {
    let index = ctx.read_index_local(None).await?;
    let mut applied = ctx.applied.index.subscribe();
    match tokio::time::timeout(STEP_TIMEOUT, applied.wait_for(|applied| *applied >= index)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Error::unavailable("the leader has not applied its log yet")),
    }
}

/// Proposes the first command of the log: the cluster's id and ticket key.
async fn create_cluster_id(ctx: &RaftContext) -> Result<()> {
    ctx.read_index_local(None).await?;
    let id = format!("{:016x}{:016x}", random(), random());
    let ticket_key = [random(), random(), random(), random()].map(u64::to_le_bytes).concat().into();
    // The catalog refuses it if there is an id already, which is expected.
    propose(ctx, Op::FormCluster(FormCluster { id, ticket_key })).await
}

/// Records the members as the desired coordinators, in a new catalog or in one of an older version.
async fn list_coordinators(ctx: &RaftContext) -> Result<()> {
    let members = ctx.members();
    let coordinator = |(id, peer): (&u64, &RaftPeer)| CoordinatorPeer { id: *id, peer: peer.addr.clone() };
    let coordinators = members.nodes().map(coordinator).collect();
    propose(ctx, Op::NameCoordinators(NameCoordinators { coordinators })).await
}

async fn propose(ctx: &RaftContext, op: Op) -> Result<()> {
    let command = Command { now_ms: (ctx.env.clock)(), op: Some(op) };
    match tokio::time::timeout(STEP_TIMEOUT, ctx.propose_local(command)).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => {
            Err(Error::unavailable("a change of the coordinators is not committed: a majority of them must be up"))
        }
    }
}

fn plan(ctx: &RaftContext, statuses: &BTreeMap<u64, PeerStatus>) -> Option<MembershipStep> {
    let (members, lag) = {
        let metrics = ctx.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let lag: BTreeMap<u64, u64> =
            matched.filter_map(|(id, at)| Some((*id, last.saturating_sub(at.as_ref()?.index)))).collect();
        (metrics.membership_config.membership().clone(), lag)
    };
    let (desired, retired_stores) = {
        let view = ctx.view();
        let retired: BTreeSet<u64> = view.cluster().iter().flat_map(|c| c.removed_stores.iter().copied()).collect();
        (view.coordinators(), retired)
    };
    next_step(&MembershipView {
        leader: ctx.config.id,
        desired: &desired,
        members: &members,
        retired_stores: &retired_stores,
        statuses,
        lag: &lag,
    })
}

/// Executes a step; returns whether the next one may follow immediately.
async fn execute(ctx: &RaftContext, step: MembershipStep) -> Result<bool> {
    match step {
        MembershipStep::RetireStore(store) => propose(ctx, Op::RetireStore(RetireStore { store })).await?,
        MembershipStep::TransferLeadership => {
            tracing::info!("this coordinator leads and is being removed: transferring leadership");
            ctx.transfer_leadership().await;
            return Ok(false);
        }
        MembershipStep::ChangeMembers(change, why) => {
            tracing::info!(%change, "{why}");
            change_members(ctx, change).await?;
        }
        MembershipStep::Blocked(why) => return Err(Error::unavailable(why)),
    }
    Ok(true)
}

async fn change_members(ctx: &RaftContext, change: ChangeMembers<u64, RaftPeer>) -> Result<()> {
    let failed = |e: RaftError<TypeConfig, ClientWriteError<TypeConfig>>| {
        Error::unavailable(format!("cannot change the members: {e}"))
    };
    match tokio::time::timeout(STEP_TIMEOUT, ctx.raft.change_membership(change, false)).await {
        Ok(outcome) => outcome.map(drop).map_err(failed),
        Err(_) => Err(Error::unavailable(
            "changing the members takes long: a majority of coordinators that kept their data folder must be up",
        )),
    }
}

/// Logs where the configured peer list differs from the catalog's; returns whether the catalog has one.
fn check_peer_list(ctx: &RaftContext) -> bool {
    let desired = ctx.view().coordinators();
    if desired.is_empty() {
        return false;
    }
    let differences = peer_list_differences(&ctx.config.peers, &desired);
    if !differences.is_empty() {
        tracing::warn!(
            "--peers differs from the cluster's own list, which is used ({}): update --peers",
            differences.join("; ")
        );
    }
    true
}
