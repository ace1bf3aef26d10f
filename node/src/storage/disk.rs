//! The few ways in which the data folder is changed.
//!
//! Nothing else in [`super`] changes a name or syncs. So a test can write down every step, and ask of each what a loss of
//! power right then would leave: contents that were synced, and names whose folder was synced after them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// A file that was not there.
pub fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    record::created(path);
    Ok(file)
}

/// Makes the contents of a file durable.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    record::synced(path);
    Ok(())
}

/// Bytes after which the system is told to write a growing file out.
const BEGIN_BYTES: u64 = 8 << 20;

/// To be called as a file grows from `before` to `now` bytes: has the system begin to write it out now and then, so that
/// [`sync`] finds little left to do. Promises nothing.
pub fn grown(file: &File, before: u64, now: u64) {
    let (from, to) = (before / BEGIN_BYTES * BEGIN_BYTES, now / BEGIN_BYTES * BEGIN_BYTES);
    #[cfg(target_os = "linux")]
    if from < to {
        use std::os::fd::AsRawFd;
        // SAFETY: it takes an open file and numbers, and changes no memory. What fails here fails in the sync too.
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), from as i64, (to - from) as i64, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
}

/// Gives a file another name, in place of the file that may have it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    record::renamed(from, to);
    Ok(())
}

/// Removes a file.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    record::removed(path);
    Ok(())
}

/// Makes a folder, and those above it that are missing.
pub fn make_dirs(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(dir)?;
    missing.into_iter().rev().for_each(record::made_dir);
    Ok(())
}

/// Removes a folder, if nothing is in it.
pub fn remove_dir(dir: &Path) -> io::Result<()> {
    fs::remove_dir(dir)?;
    record::removed(dir);
    Ok(())
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    record::synced_dir(dir);
    Ok(())
}

#[cfg(not(test))]
mod record {
    //! Nobody watches.
    use std::path::Path;

    pub fn created(_: &Path) {}
    pub fn synced(_: &Path) {}
    pub fn renamed(_: &Path, _: &Path) {}
    pub fn removed(_: &Path) {}
    pub fn made_dir(_: &Path) {}
    pub fn synced_dir(_: &Path) {}
}

#[cfg(test)]
use super::power_tests::record;
