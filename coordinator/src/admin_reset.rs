//! The way back for who has lost every administrator: the file of the setting `reset_admin_file`, one line `name:password`.
//!
//! A coordinator that starts with the setting gives the user this password and the role of administrator. Any coordinator can:
//! it proposes the change to the leader, so that a majority must be up, and nothing is lost. Who can write a file on its host
//! and restart it can also read its data folder, with all keys, so that this gives nobody a right that he did not have.
//!
//! **Invariant**: a file is applied once. The catalog remembers what was applied, by hashes, so that a file that is left in
//! place resets nothing when a coordinator restarts, after the password was changed, or after the user was removed.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use volley_common::identity::{Access, Secret, hash_password, verify_password};
use volley_common::server::audit::{AuditEvent, AuditKind, AuditLog};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{AdministratorReset, ResetAdministrator, User};
use volley_common::{Code, Error, Result, clock};

use crate::administrator_file::read_administrator;
use crate::config::CoordinatorConfig;
use crate::raft::Handle;

/// The pause before the next attempt while there is no leader.
const PAUSE: Duration = Duration::from_secs(1);
/// The same if the file cannot be used: somebody may repair it.
const FILE_PAUSE: Duration = Duration::from_secs(10);
/// The name of a reset in the audit log.
const OPERATION: &str = "reset_administrator";

/// Applies the file of the setting, if there is one: returns when it is, or was before, or when the process stops.
pub async fn run(raft: Handle, config: Arc<CoordinatorConfig>, audit: AuditLog, stop: CancellationToken) {
    let Some(path) = config.reset_admin_file.clone() else { return };
    let file = AdminResetFile::new(raft, path, audit);
    let _ = stop.run_until_cancelled(file.apply_once()).await;
}

/// The file, and what it is applied to.
struct AdminResetFile {
    raft: Handle,
    path: PathBuf,
    audit: AuditLog,
    /// What the user gets if this process applies the file. Random, and the same in each attempt: one whose outcome is not
    /// known may have had effect.
    generation: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum ResetOutcome {
    /// By this process.
    Applied { user: String },
    /// At this time, by another process.
    AppliedBefore { user: String, at_ms: u64 },
}

impl AdminResetFile {
    fn new(raft: Handle, path: PathBuf, audit: AuditLog) -> Self {
        AdminResetFile { raft, path, audit, generation: rand::random_range(1..=u64::MAX) }
    }

    async fn apply_once(self) {
        let (mut logged, mut is_waiting) = (String::new(), false);
        loop {
            let error = match self.apply().await {
                Ok(outcome) => return self.report(&outcome),
                Err(error) => error,
            };
            let is_transient = matches!(error.code, Code::Unavailable | Code::Aborted | Code::ResourceExhausted);
            if is_transient && !is_waiting {
                tracing::info!(%error, "reset_admin_file is not applied yet; trying again every second");
                is_waiting = true;
            }
            if !is_transient && logged != error.message {
                tracing::error!(%error, "reset_admin_file cannot be applied; trying again every 10 s");
                self.record(Err(&error));
                logged.clone_from(&error.message);
            }
            tokio::time::sleep(if is_transient { PAUSE } else { FILE_PAUSE }).await;
        }
    }

    /// Applies the file, unless it was before.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the file or the password cannot be used. UNAVAILABLE: no leader, or the outcome is not known.
    /// ABORTED: another coordinator applied its file at this moment. RESOURCE_EXHAUSTED: too many passwords are verified now.
    async fn apply(&self) -> Result<ResetOutcome> {
        let in_file = |error: Error| error.at(format_args!("reset_admin_file {}", self.path.display()));
        let (name, password) = read_administrator(&self.path).await.map_err(in_file)?;
        let resets = {
            let catalog = self.raft.read().await?;
            catalog.require_cluster()?;
            catalog.administrator_resets().to_vec()
        };
        for reset in resets.iter().filter(|reset| reset.user == name) {
            if reset.generation == self.generation {
                return Ok(ResetOutcome::Applied { user: name.clone() });
            }
            if is_same_password(&password, reset).await? {
                return Ok(ResetOutcome::AppliedBefore { user: name.clone(), at_ms: reset.at_ms });
            }
        }
        let password_hash = hash_password(password).await.map_err(in_file)?;
        let user = User { name: name.clone(), password_hash, generation: self.generation, ..User::default() };
        let after = resets.last().map_or(0, |reset| reset.generation);
        self.raft.propose(Op::ResetAdministrator(ResetAdministrator { user: Some(user), after })).await?;
        Ok(ResetOutcome::Applied { user: name })
    }

    fn report(&self, outcome: &ResetOutcome) {
        let file = self.path.display();
        match outcome {
            ResetOutcome::Applied { user } => {
                tracing::warn!(user, %file, "an administrator has the password of reset_admin_file now, and its sessions have ended: change the password, and remove the file and the setting");
                self.record(Ok(()));
            }
            ResetOutcome::AppliedBefore { user, at_ms } => {
                let ago = clock::span(self.raft.now_ms().saturating_sub(*at_ms));
                tracing::warn!(user, %file, ago, "reset_admin_file was applied before, and does nothing: remove the file and the setting, or write another password for another reset");
            }
        }
    }

    /// Records in the audit log how a reset ended. Nobody has proved who wrote the file, so there is no principal.
    fn record(&self, result: Result<(), &Error>) {
        self.audit.record(AuditEvent {
            access: &Access::open(),
            kind: AuditKind::Admin,
            operation: OPERATION,
            table: None,
            request_id: None,
            result,
        });
    }
}

/// Whether a reset set this password.
async fn is_same_password(password: &Secret, reset: &AdministratorReset) -> Result<bool> {
    match verify_password(password.clone(), reset.password_hash.clone()).await {
        // An unusable hash is that of no password, and must not prevent a reset.
        Err(error) if error.code == Code::Internal => Ok(false),
        result => result,
    }
}
