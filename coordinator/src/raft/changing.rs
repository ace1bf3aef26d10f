//! Coordinators added and removed, through any coordinator: what is wanted goes into the catalog, the leader does it
//! (see `tending`), and whoever was asked waits for it.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{AddCoordinator, RemoveCoordinator};
use volley_common::{Code, Error, Result};

use super::handle::{CatalogView, Handle, Inner};
use super::members::missing_without;
use super::types::Membership;
use super::{asking, tending};

/// A change is waited for so long; then it goes on by itself.
const WAITING: Duration = Duration::from_secs(120);
/// Who does not answer yet is asked again after this, and what changed without a word is looked at again.
const AGAIN: Duration = Duration::from_millis(200);

impl Handle {
    /// Has a coordinator taken in that was started with `join` at this peer address, and waits until it votes.
    /// One that votes is there already.
    ///
    /// # Errors
    /// ALREADY_EXISTS: the id has another address, or the address another id. FAILED_PRECONDITION, PERMISSION_DENIED: who
    /// answers there cannot be taken in. UNAVAILABLE: nobody answers there, or it did not catch up in time.
    pub async fn add_coordinator(&self, id: u64, addr: &str) -> Result<()> {
        let inner = &*self.0;
        self.read_named().await?.check_new_coordinator(id, addr)?;
        if voter_at(&inner.committed_members(), id, addr) {
            return Ok(());
        }
        if id != inner.config.id {
            there(inner, id, addr).await?;
        }
        self.propose(Op::AddCoordinator(AddCoordinator { id, peer: addr.into() })).await?;
        if until(inner, |members| voter_at(members, id, addr)).await {
            return Ok(());
        }
        let why = fit(inner, id, addr).await.err().map_or("it is still catching up".into(), |error| error.message);
        Err(Error::unavailable(format!(
            "coordinator {id} does not vote after {} s: {why}. It is taken in as soon as that is possible; ask again to wait on, or remove it",
            WAITING.as_secs()
        )))
    }

    /// Has a coordinator taken out, and waits until the group is without it. One that is not there is out already.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is the last one, or too few of the others are up. UNAVAILABLE: not done in time.
    pub async fn remove_coordinator(&self, id: u64) -> Result<()> {
        let inner = &*self.0;
        self.read_named().await?.check_without_coordinator(id)?;
        let members = inner.committed_members();
        if members.voter_ids().any(|voter| voter == id) {
            let heard = asking::ask_all(inner).await;
            if let Some(missing) = missing_without(&members, &asking::answers(inner, &heard), id) {
                return Err(Error::precondition(missing));
            }
        }
        self.propose(Op::RemoveCoordinator(RemoveCoordinator { id })).await?;
        if until(inner, |members| members.get_node(&id).is_none()).await {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "coordinator {id} is not out after {} s: a majority of the others must be up. It is taken out as soon as that is possible",
            WAITING.as_secs()
        )))
    }

    /// The catalog, once the coordinators are named in it: right after the cluster was formed they are not.
    async fn read_named(&self) -> Result<CatalogView> {
        let mut applied = self.watch_applied();
        let named = async {
            while self.read().await?.coordinators().is_empty() {
                let _ = applied.changed().await;
            }
            self.read().await
        };
        let unnamed = |_| Error::unavailable("the cluster is still being formed: try again in a moment");
        tokio::time::timeout(self.0.config.deadline, named).await.map_err(unnamed)?
    }
}

/// Whether who answers at an address can be taken in as this coordinator.
async fn fit(inner: &Inner, id: u64, addr: &str) -> Result<()> {
    let theirs = asking::ask(inner, id, addr).await?;
    asking::answer(inner, &theirs).unfit.map_or(Ok(()), |why| Err(Error::precondition(why)))
}

/// As [`fit`], but gives a coordinator that was just started the time to answer.
async fn there(inner: &Inner, id: u64, addr: &str) -> Result<()> {
    let deadline = Instant::now() + inner.config.deadline;
    loop {
        match fit(inner, id, addr).await {
            Err(error) if error.code == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(AGAIN).await
            }
            Err(mut error) if error.code == Code::Unavailable => {
                error.message.push_str(": start it with --join, then add it");
                return Err(error);
            }
            outcome => return outcome,
        }
    }
}

fn voter_at(members: &Membership, id: u64, addr: &str) -> bool {
    members.get_joint_config().len() == 1
        && members.voter_ids().any(|voter| voter == id)
        && members.get_node(&id).is_some_and(|peer| peer.addr == addr)
}

/// Waits until the agreed group is so, or this coordinator is none any more; says whether it came.
async fn until(inner: &Inner, holds: impl Fn(&Membership) -> bool) -> bool {
    let mut metrics = inner.raft.metrics();
    let waiting = async {
        loop {
            let now =
                tending::has_ended(inner) || holds(metrics.borrow_watched().committed_membership_config.membership());
            // An end is no change of the metrics: look again now and then.
            match now {
                true => return true,
                false => drop(tokio::time::timeout(AGAIN, metrics.changed()).await),
            }
        }
    };
    tokio::time::timeout(WAITING, waiting).await.unwrap_or(false)
}
