//! Ends a coordinator that was removed from the cluster, or superseded by a recovery of the cluster.
//!
//! Its data folder is marked: a marked folder is not opened again.

use std::io;
use std::path::PathBuf;

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

/// Ends this coordinator: it never stands for election again, its folder is marked, and watchers get the reason.
pub async fn decommission(ctx: &RaftContext, why: String) {
    if ctx.start_decommissioning() {
        return;
    }
    ctx.raft.runtime_config().elect(false);
    tracing::error!("{why}");
    let (data_dir, text) = (ctx.env.data_dir.clone(), why.clone());
    let marked = blocking(move || mark(&*data_dir, &text)).await.flatten();
    if let Err(error) = marked {
        tracing::warn!("the data folder {} cannot be marked as removed: {error}", ctx.store.dir().display());
    }
    ctx.decommissioned.send_replace(Some(Error::precondition(why)));
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
