//! The only operations that change the data folder.
//!
//! No other code in [`super`] creates, renames, removes or syncs files. A test can therefore record every step, and
//! check for each what a power loss at that moment would leave: contents that were synced, and names whose folder was
//! synced after them.
#![allow(unsafe_code, reason = "a system call that no library has")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Creates a file to write and to read; fails if it exists.
pub fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    trace::created(path);
    Ok(file)
}

/// Creates a file in `dir` that has no name and disappears when it is closed; to read and write.
pub fn create_unnamed(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        match options.clone().custom_flags(libc::O_TMPFILE).mode(0o600).open(dir) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {}
            opened => return opened,
        }
    }
    // A file system without unnamed files: the name lives for a moment, and the next start clears what is left.
    let path = dir.join(format!("spool-{:016x}", rand::random::<u64>()));
    let file = options.create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Makes the contents of a file durable.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    trace::synced(path);
    Ok(())
}

/// A growing file is written back in steps of this many bytes.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Starts writing back a file that grew from `before` to `now` bytes, so that [`sync`] finds little left to do. Does not
/// make anything durable.
pub fn start_writeback(file: &File, before: u64, now: u64) {
    let (from, to) = (before / WRITEBACK_BYTES * WRITEBACK_BYTES, now / WRITEBACK_BYTES * WRITEBACK_BYTES);
    #[cfg(target_os = "linux")]
    if from < to {
        use std::os::fd::AsRawFd;
        // SAFETY: the call takes an open file and numbers, and changes no memory. An error here also shows in `sync`.
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), from as i64, (to - from) as i64, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
}

/// Renames a file; replaces a file that has the new name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    trace::renamed(from, to);
    Ok(())
}

/// Removes a file.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    trace::removed(path);
    Ok(())
}

/// Creates a folder and its missing parents.
pub fn create_dirs(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(dir)?;
    missing.into_iter().rev().for_each(trace::created_dir);
    Ok(())
}

/// Removes an empty folder.
pub fn remove_dir(dir: &Path) -> io::Result<()> {
    fs::remove_dir(dir)?;
    trace::removed(dir);
    Ok(())
}

/// Removes a folder with everything in it.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    fs::remove_dir_all(dir)?;
    trace::removed(dir);
    Ok(())
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    trace::synced_dir(dir);
    Ok(())
}

#[cfg(not(test))]
mod trace {
    //! Records nothing outside of tests.
    use std::path::Path;

    pub fn created(_: &Path) {}
    pub fn synced(_: &Path) {}
    pub fn renamed(_: &Path, _: &Path) {}
    pub fn removed(_: &Path) {}
    pub fn created_dir(_: &Path) {}
    pub fn synced_dir(_: &Path) {}
}

#[cfg(test)]
use super::tests::fs_trace as trace;
