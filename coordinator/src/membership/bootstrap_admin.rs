//! The first administrator, from the file of the setting `bootstrap_admin_file`: one line `name:password`.

use std::path::Path;
use std::time::{Duration, Instant};

use volley_common::identity::hash_password;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{PutUser, PutUserMode, User};
use volley_common::{Code, Error, Result};

use super::NodeMembership;
use crate::administrator_file::read_administrator;

/// The pause between two attempts.
const RETRY: Duration = Duration::from_secs(10);

/// The attempts of this leader.
#[derive(Default)]
pub(super) struct BootstrapAttempts {
    last: Option<Instant>,
    /// The last failure that was logged.
    logged: String,
}

impl NodeMembership {
    /// Creates the first administrator, if a file names one and the cluster has neither users nor grants.
    pub(super) async fn bootstrap_administrator(&self) {
        let Some(path) = &self.config.bootstrap_admin_file else { return };
        let is_wanted = {
            let catalog = self.raft.view();
            catalog.cluster().is_some() && !catalog.has_identities()
        };
        if !is_wanted || !self.begin_bootstrap_attempt() {
            return;
        }
        match self.create_administrator(path).await {
            Ok(user) => tracing::info!(user, file = %path.display(), "the first administrator was created"),
            Err(error) if error.code == Code::FailedPrecondition && self.raft.view().has_identities() => {
                tracing::debug!(%error, "the first administrator is not needed");
            }
            Err(error) if error.code == Code::FailedPrecondition => {
                let mut state = self.state.lock();
                state.bootstrap.last = None;
                if state.bootstrap.logged != error.message {
                    tracing::warn!(%error, "the first administrator is not created yet: every coordinator must know users; waiting");
                    state.bootstrap.logged = error.message;
                }
            }
            Err(error) if error.code == Code::Unavailable => {
                tracing::debug!(%error, "the first administrator was not created; trying again");
                self.state.lock().bootstrap.last = None;
            }
            Err(error) => {
                let logged = std::mem::replace(&mut self.state.lock().bootstrap.logged, error.message.clone());
                if logged != error.message {
                    tracing::error!(%error, "the first administrator cannot be created, so that nobody can log in; trying again every 10 s");
                }
            }
        }
    }

    /// Whether another attempt is due.
    fn begin_bootstrap_attempt(&self) -> bool {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let is_due = state.bootstrap.last.is_none_or(|last| now.duration_since(last) >= RETRY);
        if is_due {
            state.bootstrap.last = Some(now);
        }
        is_due
    }

    async fn create_administrator(&self, path: &Path) -> Result<String> {
        let in_file = |error: Error| error.at(format_args!("bootstrap_admin_file {}", path.display()));
        let (name, password) = read_administrator(path).await.map_err(in_file)?;
        let password_hash = hash_password(password).await.map_err(in_file)?;
        let user = User { name: name.clone(), password_hash, generation: rand::random(), ..User::default() };
        let put = PutUser { user: Some(user), mode: PutUserMode::Bootstrap as i32 };
        self.raft.propose_if_leader(Op::PutUser(put)).await?;
        Ok(name)
    }
}
