//! A file that one process at a time uses.

use std::fs::{File, TryLockError};
use std::io;

/// The lock of a file, until it is dropped.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Locks a file for this process, unless another one has it: then None.
    ///
    /// # Errors
    /// Locking fails, as on file systems without locks.
    pub fn try_new(file: File) -> io::Result<Option<FileLock>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(FileLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for FileLock {
    /// A lock ends when the last descriptor of the opened file is closed, and a process that this one is starting has copies of all
    /// descriptors until its program begins: without this, the file would stay locked for that while.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "a file could not be unlocked");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lock_ends_when_it_is_dropped_though_a_copy_is_open() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = || File::options().write(true).open(&path).unwrap();
        let lock = FileLock::try_new(open()).unwrap().unwrap();
        assert!(FileLock::try_new(open()).unwrap().is_none());
        let copy = lock.file().try_clone().unwrap();
        drop(lock);
        assert!(FileLock::try_new(open()).unwrap().is_some());
        drop(copy);
    }
}
