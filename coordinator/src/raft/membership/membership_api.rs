//! Adding and removing coordinators, through any coordinator: the catalog records the desired state, the leader applies
//! it (see `membership_reconciler`), and the coordinator that was called waits for that.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{AddCoordinator, RemoveCoordinator};
use volley_common::{Code, Error, Result};

use super::membership_plan::quorum_loss_without;
use super::peer_identity::{peer_status, peer_statuses, query, query_all};
use crate::raft::context::RaftContext;
use crate::raft::features::CatalogFeature;
use crate::raft::storage::state_machine::CatalogView;
use crate::raft::types::RaftMembership;

/// A call waits this long for its change, which then continues in the background.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval of retries, and of checks for changes without a notification.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl RaftContext {
    /// See [`Handle::add_coordinator`](crate::raft::Handle::add_coordinator).
    pub async fn add_coordinator(&self, id: u64, addr: &str) -> Result<()> {
        self.read_with_coordinators().await?.check_new_coordinator(id, addr)?;
        if is_voter_at(&self.committed_members(), id, addr) {
            return Ok(());
        }
        if id != self.config.id {
            wait_joinable(self, id, addr).await?;
        }
        self.propose(Op::AddCoordinator(AddCoordinator { id, peer: addr.into() })).await?;
        if wait_members(self, |members| is_voter_at(members, id, addr)).await {
            return Ok(());
        }
        let why = check_joinable(self, id, addr).await.err();
        let why = why.map_or("it is still catching up".into(), |error| error.message);
        Err(Error::unavailable(format!(
            "coordinator {id} is not a voter after {} s: {why}. It becomes one as soon as that is possible; call again to wait for it, or remove it",
            CHANGE_TIMEOUT.as_secs()
        )))
    }

    /// See [`Handle::remove_coordinator`](crate::raft::Handle::remove_coordinator).
    pub async fn remove_coordinator(&self, id: u64) -> Result<()> {
        let members = self.committed_members();
        {
            let catalog = self.read_with_coordinators().await?;
            // One that only the Raft group still has is removed from there.
            if members.get_node(&id).is_none() {
                catalog.check_known_coordinator(id)?;
            }
            catalog.check_without_coordinator(id)?;
        }
        if members.voter_ids().any(|voter| voter == id) {
            let statuses = peer_statuses(self, &query_all(self).await);
            if let Some(why) = quorum_loss_without(&members, &statuses, id) {
                return Err(Error::precondition(why));
            }
        }
        self.propose(Op::RemoveCoordinator(RemoveCoordinator { id })).await?;
        if wait_members(self, |members| members.get_node(&id).is_none()).await {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "coordinator {id} is still a member after {} s: a majority of the others must be up. It is removed as soon as that is possible",
            CHANGE_TIMEOUT.as_secs()
        )))
    }

    /// The catalog, once it lists the coordinators: right after the cluster was formed it does not.
    async fn read_with_coordinators(&self) -> Result<CatalogView> {
        let mut applied = self.applied.index.subscribe();
        let listed = async {
            while self.read().await?.coordinators().is_empty() {
                let _ = applied.changed().await;
            }
            self.read().await
        };
        let unlisted = |_| Error::unavailable("the cluster is still being formed: try again in a moment");
        tokio::time::timeout(self.config.request_timeout, listed).await.map_err(unlisted)?
    }
}

/// Checks that the coordinator at an address can join under this id.
async fn check_joinable(ctx: &RaftContext, id: u64, addr: &str) -> Result<()> {
    let theirs = query(ctx, id, addr).await?;
    let unknown = |feature: &CatalogFeature| theirs.features < feature.least() && feature.is_in(&ctx.view());
    if let Some(feature) = CatalogFeature::ALL.into_iter().find(unknown) {
        return Err(Error::precondition(format!(
            "coordinator {id} at {addr} is of a version that does not know {}, which this cluster has had: upgrade it first",
            feature.name()
        )));
    }
    peer_status(ctx, &theirs).rejection.map_or(Ok(()), |why| Err(Error::precondition(why)))
}

/// [`check_joinable`], but gives a coordinator that was just started the time to answer.
async fn wait_joinable(ctx: &RaftContext, id: u64, addr: &str) -> Result<()> {
    let deadline = Instant::now() + ctx.config.request_timeout;
    loop {
        match check_joinable(ctx, id, addr).await {
            Err(error) if error.code == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(RETRY_INTERVAL).await
            }
            Err(mut error) if error.code == Code::Unavailable => {
                error.message.push_str(": start it with --join, then add it");
                return Err(error);
            }
            outcome => return outcome,
        }
    }
}

fn is_voter_at(members: &RaftMembership, id: u64, addr: &str) -> bool {
    members.get_joint_config().len() == 1
        && members.voter_ids().any(|voter| voter == id)
        && members.get_node(&id).is_some_and(|peer| peer.addr == addr)
}

/// Waits until the committed membership is as desired, or this coordinator is decommissioned; returns false after the timeout.
async fn wait_members(ctx: &RaftContext, is_desired: impl Fn(&RaftMembership) -> bool) -> bool {
    let mut metrics = ctx.raft.metrics();
    let waiting = async {
        loop {
            let done = ctx.decommissioned.borrow().is_some()
                || is_desired(metrics.borrow_watched().committed_membership_config.membership());
            // A decommission does not change the metrics: check regularly.
            match done {
                true => return true,
                false => drop(tokio::time::timeout(RETRY_INTERVAL, metrics.changed()).await),
            }
        }
    };
    tokio::time::timeout(CHANGE_TIMEOUT, waiting).await.unwrap_or(false)
}
