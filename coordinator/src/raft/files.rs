//! The data folder's files besides the database.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use volley_common::{Error, Result};

/// Where files are made before they are renamed.
pub const TMP: &str = "tmp";
/// Where snapshots stand.
pub const SNAPSHOTS: &str = "snapshots";

/// Makes the folder and its folders, and clears what a crash left behind. Blocks.
pub fn prepare(dir: &Path) -> Result<()> {
    let run = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let tmp = dir.join(TMP);
        if tmp.exists() {
            fs::remove_dir_all(&tmp)?;
        }
        fs::create_dir_all(&tmp)?;
        fs::create_dir_all(dir.join(SNAPSHOTS))?;
        sync_dir(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
            _ => Ok(()),
        }
    };
    run().map_err(|e| Error::precondition(format!("cannot use the data folder {}: {e}", dir.display())))
}

/// Makes a folder's entries durable. Blocks.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Renames durably. Blocks.
pub fn publish(temp: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temp, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}
