//! A data folder of a coordinator that was removed says so itself: it is not opened again.

use std::io;
use std::path::PathBuf;

use volley_common::{Error, Result};

use super::files::{Disk, TMP};

/// The file that says why.
const NAME: &str = "removed";
/// It is read up to here.
const LONGEST: u64 = 4096;

fn path(disk: &dyn Disk) -> PathBuf {
    disk.dir().join(NAME)
}

/// Refuses a folder that was marked. Blocks.
///
/// # Errors
/// FAILED_PRECONDITION with the sentence that it was marked with.
pub fn check(disk: &dyn Disk) -> Result<()> {
    let read = || -> io::Result<String> {
        let file = disk.open(&path(disk))?;
        let mut text = vec![0; file.length()?.min(LONGEST) as usize];
        file.read_exact_at(&mut text, 0)?;
        Ok(String::from_utf8_lossy(&text).trim().into())
    };
    match read() {
        Ok(why) => Err(Error::precondition(why)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::data_loss(format!("cannot read {}: {error}", path(disk).display()))),
    }
}

/// Marks a folder, durably. Blocks.
///
/// # Errors
/// As the disk has them.
pub fn mark(disk: &dyn Disk, why: &str) -> io::Result<()> {
    let temp = disk.dir().join(TMP).join(NAME);
    let _ = disk.remove(&temp);
    let mut file = disk.create(&temp)?;
    file.write_all(format!("{why}\n").as_bytes())?;
    file.sync()?;
    disk.rename(&temp, &path(disk))?;
    disk.sync_dir(disk.dir())
}
