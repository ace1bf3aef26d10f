//! Whose a data folder is: it carries its role and its format, and one process at a time uses it.
//!
//! Which cluster it belongs to is part of what is in it: a node's control file, a coordinator's catalog.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// The file with role and format, one line of text.
const MARKER: &str = "FOLDER";
/// The file that the running process locks.
const LOCK: &str = "LOCK";
/// The newest format of the folder's layout that this program knows.
const FORMAT: u32 = 1;

/// The kind of server that a data folder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderRole {
    /// `volley-coordinator`.
    Coordinator,
    /// `volley-node`.
    Node,
}

impl FolderRole {
    fn program(self) -> &'static str {
        match self {
            FolderRole::Coordinator => "volley-coordinator",
            FolderRole::Node => "volley-node",
        }
    }

    /// The file by which a folder without a marker, of an earlier version, is recognized.
    fn key_file(self) -> &'static str {
        match self {
            FolderRole::Coordinator => "catalog.redb",
            FolderRole::Node => "control",
        }
    }

    /// What a first start that was interrupted may leave before the key file.
    fn first_files(self) -> &'static [&'static str] {
        match self {
            FolderRole::Coordinator => &["tmp", "snapshots", "removed"],
            FolderRole::Node => &["tmp", "parts", "control.new"],
        }
    }
}

/// What a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FolderState {
    /// It has the marker.
    Marked,
    /// An earlier version used it.
    Unmarked,
    Empty,
}

/// The lock of a data folder, until it is dropped.
#[derive(Debug)]
pub struct FolderLock(#[allow(dead_code, reason = "closing the file ends the lock")] File);

/// Locks the data folder for this process, until the lock is dropped. Creates it if it does not exist; an empty one gets
/// the role. Blocks.
///
/// # Errors
/// FAILED_PRECONDITION: another process uses it, it belongs to the other role or has a newer format, or it is neither
/// empty nor a data folder; nothing in it is changed. UNAVAILABLE: it cannot be read or written.
pub fn claim(dir: &Path, role: FolderRole) -> Result<FolderLock> {
    fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
    check(dir, role)?;
    let lock = lock(dir)?;
    // Another process may have claimed it in the meantime.
    match check(dir, role)? {
        FolderState::Marked => {}
        FolderState::Empty => mark(dir, role).map_err(|e| unusable(dir, &e))?,
        FolderState::Unmarked => {
            // A full disk does not stop a member that worked before.
            if let Err(error) = mark(dir, role) {
                tracing::warn!(%error, "the role of the data folder {} could not be recorded", dir.display());
            }
        }
    }
    Ok(FolderLock(lock))
}

fn check(dir: &Path, role: FolderRole) -> Result<FolderState> {
    let refuse = |why: String| Error::precondition(format!("the data folder {} {why}", dir.display()));
    match fs::read_to_string(dir.join(MARKER)) {
        Ok(text) => {
            let (program, format) = parse(&text).ok_or_else(|| {
                refuse(format!(
                    "has a damaged file {MARKER}: restore it, or delete it if the folder is that of {}",
                    role.program()
                ))
            })?;
            if program != role.program() {
                return Err(refuse(format!("belongs to {program}: start {} with another --data-dir", role.program())));
            }
            if format > FORMAT {
                return Err(refuse(format!(
                    "has format {format}, this program knows up to {FORMAT}: start a newer {program}"
                )));
            }
            return Ok(FolderState::Marked);
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(unusable(dir, &e)),
    }
    let has = |file: &str| dir.join(file).try_exists().map_err(|e| unusable(dir, &e));
    let is_coordinators = has(FolderRole::Coordinator.key_file())?;
    // A catalog is not a node's, even if a node has once used the folder too.
    let owner = match is_coordinators {
        true => Some(FolderRole::Coordinator),
        false => has(FolderRole::Node.key_file())?.then_some(FolderRole::Node),
    };
    match owner {
        Some(owner) if owner == role => Ok(FolderState::Unmarked),
        Some(owner) => {
            Err(refuse(format!("belongs to {}: start {} with another --data-dir", owner.program(), role.program())))
        }
        None => match foreign_file(dir, role).map_err(|e| unusable(dir, &e))? {
            None => Ok(FolderState::Empty),
            Some(file) => Err(refuse(format!(
                "is not empty and no data folder of {} (it has {file:?}): start with an empty one",
                role.program()
            ))),
        },
    }
}

/// A file that no interrupted start of `role` leaves. Hidden files, and `lost+found` of a new file system, do not count.
fn foreign_file(dir: &Path, role: FolderRole) -> io::Result<Option<String>> {
    let marker_temp = format!("{MARKER}.new");
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let expected = name.starts_with('.')
            || [LOCK, "lost+found", marker_temp.as_str()].contains(&name.as_str())
            || role.first_files().contains(&name.as_str());
        if !expected {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The program and the format in a marker.
fn parse(text: &str) -> Option<(&str, u32)> {
    let (program, format) = text.trim_end().split_once(" data folder, format ")?;
    Some((program, format.parse().ok()?))
}

fn mark(dir: &Path, role: FolderRole) -> io::Result<()> {
    let temp = dir.join(format!("{MARKER}.new"));
    let mut file = File::create(&temp)?;
    writeln!(file, "{} data folder, format {FORMAT}", role.program())?;
    file.sync_all()?;
    fs::rename(&temp, dir.join(MARKER))?;
    File::open(dir)?.sync_all()
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| unusable(&path, &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::precondition(format!(
            "the data folder {} is in use by another process: stop it, or start with another --data-dir",
            dir.display()
        ))),
        Err(e) => Err(unusable(&path, &e.into())),
    }
}

fn unusable(path: &Path, cause: &io::Error) -> Error {
    Error::unavailable(format!("the data folder {} cannot be used: {cause}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    fn refusal(dir: &Path, role: FolderRole) -> String {
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let error = claim(dir, role).unwrap_err();
        assert_eq!((error.code, names()), (Code::FailedPrecondition, before), "{error}");
        error.message
    }

    #[test]
    fn folder_is_refused_to_the_other_role_and_to_a_second_process() {
        for (role, other) in [(FolderRole::Node, FolderRole::Coordinator), (FolderRole::Coordinator, FolderRole::Node)]
        {
            let dir = tempfile::tempdir().unwrap();
            let lock = claim(&dir.path().join("new"), role).unwrap();
            let folder = dir.path().join("new");
            assert!(refusal(&folder, role).contains("in use by another process"));
            assert!(refusal(&folder, other).contains(&format!("belongs to {}", role.program())));
            drop(lock);
            claim(&folder, role).unwrap();
        }
    }

    #[test]
    fn folder_of_an_earlier_version_is_recognized_by_its_files() {
        for (role, other) in [(FolderRole::Node, FolderRole::Coordinator), (FolderRole::Coordinator, FolderRole::Node)]
        {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(role.key_file()), b"x").unwrap();
            fs::write(dir.path().join("anything"), b"x").unwrap();
            assert!(refusal(dir.path(), other).contains(role.program()));
            drop(claim(dir.path(), role).unwrap());
            assert!(dir.path().join(MARKER).exists());
        }
    }

    #[test]
    fn unrelated_files_and_newer_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), b"x").unwrap();
        assert!(refusal(dir.path(), FolderRole::Node).contains("thesis.tex"));
        fs::remove_file(dir.path().join("thesis.tex")).unwrap();
        // What a new file system and an interrupted first start leave.
        for name in ["lost+found", "tmp", ".snapshot"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("FOLDER.new"), b"vol").unwrap();
        drop(claim(dir.path(), FolderRole::Node).unwrap());
        fs::write(dir.path().join(MARKER), "volley-node data folder, format 2\n").unwrap();
        assert!(refusal(dir.path(), FolderRole::Node).contains("newer volley-node"));
        fs::write(dir.path().join(MARKER), "?").unwrap();
        assert!(refusal(dir.path(), FolderRole::Node).contains("damaged"));
    }
}
