//! Ends a coordinator that was removed from the cluster, or superseded by a recovery of the cluster.
//!
//! Its data folder is marked: a marked folder is not opened again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use volley_common::{Error, Result};

use crate::raft::context::RaftContext;
use crate::raft::runtime::blocking;
use crate::raft::storage::files::{DataDir, TMP, rename_durably};

/// The file that marks a folder. It holds the reason, one sentence.
const MARK: &str = "removed";
/// Maximum bytes of the mark that are read.
const MAX_MARK_BYTES: u64 = 4096;

fn mark_path(data_dir: &dyn DataDir) -> PathBuf {
    data_dir.dir().join(MARK)
}

/// Checks that a folder is not marked. Blocks.
///
/// # Errors
/// FAILED_PRECONDITION: it is marked; the message is the mark's. DATA_LOSS: the mark cannot be read.
pub fn check(data_dir: &dyn DataDir) -> Result<()> {
    let read = || -> io::Result<String> {
        let file = data_dir.open(&mark_path(data_dir))?;
        let mut text = vec![0; file.length()?.min(MAX_MARK_BYTES) as usize];
        file.read_exact_at(&mut text, 0)?;
        Ok(String::from_utf8_lossy(&text).trim().into())
    };
    match read() {
        Ok(why) => Err(Error::precondition(why)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::data_loss(format!("cannot read {}: {error}", mark_path(data_dir).display()))),
    }
}

/// Ends this coordinator: it never stands for election again, its folder is marked, and watchers get the reason. The last two
/// happen even if the caller stops waiting: it may be the call of a client, for which the other coordinators were asked.
pub async fn decommission(ctx: &RaftContext, why: String) {
    if ctx.start_decommissioning() {
        return;
    }
    ctx.raft.runtime_config().elect(false);
    tracing::error!("{why}");
    mark_and_notify(ctx.env.data_dir.clone(), ctx.decommissioned.clone(), why).await;
}

/// Marks the folder, then gives the reason to `watchers`. A caller that stops waiting does not interrupt it.
async fn mark_and_notify(data_dir: Arc<dyn DataDir>, watchers: watch::Sender<Option<Error>>, why: String) {
    let ended = blocking(move || {
        if let Err(error) = mark(&*data_dir, &why) {
            tracing::warn!("the data folder {} cannot be marked as removed: {error}", data_dir.dir().display());
        }
        watchers.send_replace(Some(Error::precondition(why)));
    });
    if let Err(error) = ended.await {
        tracing::error!("this coordinator was not ended: {error}");
    }
}

/// Marks a folder durably. Blocks.
fn mark(data_dir: &dyn DataDir, why: &str) -> io::Result<()> {
    let temp = data_dir.dir().join(TMP).join(MARK);
    let _ = data_dir.remove(&temp);
    let mut file = data_dir.create(&temp)?;
    file.write_all(format!("{why}\n").as_bytes())?;
    file.sync()?;
    rename_durably(data_dir, &temp, &mark_path(data_dir))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::raft::storage::files::LocalDataDir;

    #[tokio::test]
    async fn coordinator_ends_although_the_caller_stops_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = Arc::new(LocalDataDir(dir.path().to_path_buf()));
        data_dir.prepare().unwrap();
        let watchers = watch::Sender::new(None);
        let mut ended = watchers.subscribe();
        // Polled once, then dropped.
        let _ = mark_and_notify(data_dir.clone(), watchers.clone(), "a test".into()).now_or_never();
        let ended = tokio::time::timeout(Duration::from_secs(60), ended.wait_for(Option::is_some));
        assert_eq!(ended.await.unwrap().unwrap().as_ref().unwrap().message, "a test");
        assert_eq!(check(&*data_dir).unwrap_err().message, "a test");
    }
}
