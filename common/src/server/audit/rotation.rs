//! The file of the audit log: `FILE` becomes `FILE.1` when it is full, `FILE.1` becomes `FILE.2`, and so on.

#[cfg(test)]
mod tests;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::writer::AuditSink;
use crate::{Error, Result};

/// Only the owner reads the log: it names users, addresses and tables.
const MODE: u32 = 0o600;

/// The file, open for appending. Several processes may write to it, and another program may rename it.
pub(super) struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    /// The largest number in the name of a renamed file.
    files: u64,
    file: File,
    /// Whether the file ends within a line, because the disk was full.
    is_torn: bool,
    /// Whether the file is full and could not be renamed.
    is_stuck: bool,
}

impl RotatingFile {
    /// Opens the file, or creates it with mode 0600.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it cannot be opened, or is no regular file.
    pub fn open(path: &Path, max_bytes: u64, files: u64) -> Result<Self> {
        let opened = open(path).and_then(|(file, is_torn)| Ok((file, is_torn, fs::canonicalize(path)?)));
        // Its real path: a link stays where it is, and a change of the working folder has no effect.
        let (file, is_torn, path) = opened.map_err(|e| cannot_open(path, &e))?;
        Ok(RotatingFile { path, max_bytes, files, file, is_torn, is_stuck: false })
    }

    /// Checks that the file can be opened, without creating it.
    ///
    /// # Errors
    /// As [`RotatingFile::open`].
    pub fn check(path: &Path) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let checked = match fs::metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from)
            }
            _ => open(path).map(drop),
        };
        checked.map_err(|e| cannot_open(path, &e))
    }

    /// Makes room for a line: opens the file again if another process renamed it, and renames it if it is full.
    fn prepare(&mut self, bytes: usize) -> io::Result<()> {
        let found = match fs::metadata(&self.path) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let own = self.file.metadata()?;
        let Some(found) = found.filter(|found| is_same(found, &own)) else { return self.reopen() };
        if found.len() == 0 || found.len().saturating_add(bytes as u64) <= self.max_bytes {
            return Ok(());
        }
        // A file that cannot be renamed grows: better than to lose lines.
        match self.rename() {
            Ok(()) => {
                self.is_stuck = false;
                self.reopen()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_stuck, true) {
                    let path = self.path.display();
                    tracing::warn!(%error, "the audit log {path} is full and cannot be renamed: it grows until it can");
                }
                Ok(())
            }
        }
    }

    /// Renames the file to `FILE.1`. What has that name moves to the next number, up to the first that is free; the last one
    /// is overwritten. After a failure the next attempt moves nothing again.
    fn rename(&self) -> io::Result<()> {
        let is_free = |number: &u64| matches!(numbered(&self.path, *number).try_exists(), Ok(false));
        let free = (1..=self.files).find(is_free).unwrap_or(self.files);
        for number in (1..free).rev() {
            fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1))?;
        }
        fs::rename(&self.path, numbered(&self.path, 1))
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.is_torn) = open(&self.path)?;
        Ok(())
    }
}

impl AuditSink for RotatingFile {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.prepare(line.len())?;
        // In one write, so that lines of several processes do not mix.
        let written = match self.is_torn {
            true => self.file.write_all(&[&b"\n"[..], line].concat()),
            false => self.file.write_all(line),
        };
        self.is_torn = written.is_err();
        written
    }
}

fn cannot_open(path: &Path, error: &io::Error) -> Error {
    Error::invalid(format!(
        "the audit log {} cannot be opened: {error}: give a file that this process can write, in a folder that exists",
        path.display()
    ))
}

/// Opens a file for appending; the flag says whether it ends within a line.
fn open(path: &Path) -> io::Result<(File, bool)> {
    // Before it is opened: the open of a pipe waits for its reader, and a device must not be renamed.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
    let len = file.metadata()?.len();
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    Ok((file, last != [b'\n']))
}

fn is_same(found: &Metadata, own: &Metadata) -> bool {
    (found.dev(), found.ino()) == (own.dev(), own.ino())
}

/// `FILE.1`, `FILE.2`, ...
fn numbered(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}
