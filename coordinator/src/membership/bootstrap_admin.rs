//! The first administrator, from the file of the setting `bootstrap_admin_file`: one line `name:password`.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use volley_common::identity::{Secret, check_principal_name, hash_password};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{PutUser, PutUserMode, User};
use volley_common::{Code, Error, Result};

use super::NodeMembership;

/// The pause between two attempts.
const RETRY: Duration = Duration::from_secs(10);
/// The longest file: a name and a password have at most 1,152 bytes.
const MAX_FILE_BYTES: u64 = 4096;

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
        let for_reading = path.to_path_buf();
        let read = tokio::task::spawn_blocking(move || read_administrator(&for_reading)).await;
        let read = read.map_err(|e| Error::internal(e.to_string())).flatten();
        let (name, password) = read.map_err(in_file)?;
        let password_hash = hash_password(password).await.map_err(in_file)?;
        let user = User { name: name.clone(), password_hash, generation: rand::random(), ..User::default() };
        let put = PutUser { user: Some(user), mode: PutUserMode::Bootstrap as i32 };
        self.raft.propose_if_leader(Op::PutUser(put)).await?;
        Ok(name)
    }
}

/// Reads the file. Blocks. No error repeats what it contains.
///
/// # Errors
/// INVALID_ARGUMENT: it cannot be read, or is not one line `name:password`.
fn read_administrator(path: &Path) -> Result<(String, Secret)> {
    let cannot_read =
        |e: std::io::Error| Error::invalid(format!("it cannot be read ({e}): check the path and its permissions"));
    // A FIFO would block the thread until somebody writes to it.
    if !std::fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(Error::invalid("it is not a file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot_read)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    parse_administrator(&bytes)
}

fn parse_administrator(bytes: &[u8]) -> Result<(String, Secret)> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::invalid(format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Error::invalid("it is not UTF-8 text"))?;
    let line = text.trim_end_matches(['\r', '\n']);
    let parts = line.split_once(':').filter(|_| !line.contains(['\r', '\n']));
    let (name, password) = parts.ok_or_else(|| Error::invalid("it is not one line \"name:password\""))?;
    // The error of a name would repeat it, and it may be a password in the wrong place.
    check_principal_name(name).map_err(|_| {
        Error::invalid("the name before the colon cannot be a user's: at most 128 bytes, no blanks around it, no control characters")
    })?;
    Ok((name.to_string(), Secret::new(password)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn administrator_is_one_line_with_a_name_and_a_password() {
        for text in ["root:pass:word ", "root:pass:word \n", "root:pass:word \r\n"] {
            let (name, password) = parse_administrator(text.as_bytes()).unwrap();
            assert_eq!((name.as_str(), password.expose()), ("root", "pass:word "));
        }
    }

    #[test]
    fn malformed_file_is_refused_without_its_content() {
        let long = format!("root:{}", "hunter2".repeat(1000));
        for text in
            ["", "\n", "hunter2", "root:hunter2\nother:hunter2", ":hunter2", " hunter2:x", "hunter2\u{1}:x", &long]
        {
            let error = parse_administrator(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(!error.message.contains("hunter2"), "{error}");
        }
        assert!(parse_administrator(b"root:\xff").unwrap_err().message.contains("UTF-8"));
    }

    #[test]
    fn missing_file_and_folder_are_named_as_such() {
        let dir = tempfile::TempDir::new().unwrap();
        assert!(read_administrator(dir.path()).unwrap_err().message.contains("not a file"));
        assert!(read_administrator(&dir.path().join("none")).unwrap_err().message.contains("cannot be read"));
        let file = dir.path().join("admin");
        std::fs::write(&file, "root:a password\n").unwrap();
        assert_eq!(read_administrator(&file).unwrap().0, "root");
    }
}
