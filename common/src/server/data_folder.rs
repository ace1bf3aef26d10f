//! Whose a data folder is: it carries its role and its format, one process at a time uses it, and only its owner reads it.
//!
//! Which cluster it belongs to is part of what is in it: a node's control file, a coordinator's catalog.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::file_lock::FileLock;
use crate::{Error, Result};

/// The file with role and format, one line of text.
const MARKER: &str = "FOLDER";
/// The file that the running process locks.
const LOCK: &str = "LOCK";
/// The newest format of the folder's layout that this program knows.
const FORMAT: u32 = 1;
/// The rights of a data folder: its owner's alone, because it has keys, hashes of passwords and tables.
const FOLDER_MODE: u32 = 0o700;
/// The rights of this module's files.
const FILE_MODE: u32 = 0o600;
/// The permission bits of everybody but the owner.
const FOREIGN_BITS: u32 = 0o077;
/// Those of who is not in the group either.
const WORLD_BITS: u32 = 0o007;

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

    /// The subfolders, "" for the folder itself, whose files only the owner may read, too: they stay protected if somebody
    /// opens the folder, or copies it. A node's parts are protected by the folder.
    fn secret_folders(self) -> &'static [&'static str] {
        match self {
            FolderRole::Coordinator => &["", "snapshots"],
            FolderRole::Node => &[],
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
pub struct FolderLock(#[allow(dead_code, reason = "dropping it ends the lock")] FileLock);

/// Locks the data folder for this process, until the lock is dropped. Creates it if it does not exist; an empty one gets
/// the role. What others may read of it is taken from them, if this process owns it; a warning is logged if not. Blocks.
///
/// # Errors
/// FAILED_PRECONDITION: another process uses it, it belongs to the other role or has a newer format, or it is neither
/// empty nor a data folder; nothing in it is changed. UNAVAILABLE: it cannot be read or written.
pub fn claim(dir: &Path, role: FolderRole) -> Result<FolderLock> {
    create(dir).map_err(|e| unusable(dir, &e))?;
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
    restrict(dir, role);
    Ok(FolderLock(lock))
}

/// Creates the folder for its owner alone. Folders above it that are missing get the usual rights: others may share them.
fn create(dir: &Path) -> io::Result<()> {
    dir.parent().map_or(Ok(()), fs::create_dir_all)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        created => created,
    }
}

/// Takes the rights of others from a folder and its files, as an earlier version or an operator created them. A failure is
/// logged and does not stop the server: the folder may be a volume that belongs to root and is used by its group.
fn restrict(dir: &Path, role: FolderRole) {
    restrict_path(dir);
    for folder in role.secret_folders() {
        // The folder may not exist yet.
        for entry in fs::read_dir(dir.join(folder)).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                restrict_path(&entry.path());
            }
        }
    }
}

fn restrict_path(path: &Path) {
    let found = match fs::metadata(path) {
        Ok(found) if found.mode() & FOREIGN_BITS != 0 => found,
        // A file that was removed meanwhile needs nothing.
        Ok(_) | Err(_) => return,
    };
    let (mode, shown) = (found.mode(), path.display());
    match fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !FOREIGN_BITS)) {
        Ok(()) => tracing::info!("{shown} had the mode {:04o}: only its owner may use it from now on", mode & 0o7777),
        Err(error) if mode & WORLD_BITS != 0 => {
            let remedy = remedy(&found);
            tracing::warn!(%error, "every user of this machine may use {shown}, which has secrets (mode {:04o}), and this process cannot change that: {remedy}", mode & 0o7777);
        }
        // As a volume of Kubernetes with `fsGroup`.
        Err(error) => tracing::debug!(%error, "the group of {shown} keeps its rights"),
    }
}

/// What an operator can do about a path that this process may not restrict.
fn remedy(found: &Metadata) -> &'static str {
    match found.uid() == rustix::process::geteuid().as_raw() {
        true => "its file system has no such permissions: restrict those of the mount",
        false => "run `chmod o-rwx` on it as its owner, or give it to the user of this process",
    }
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
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(&temp)?;
    writeln!(file, "{} data folder, format {FORMAT}", role.program())?;
    file.sync_all()?;
    fs::rename(&temp, dir.join(MARKER))?;
    File::open(dir)?.sync_all()
}

fn lock(dir: &Path) -> Result<FileLock> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(&path);
    let file = file.map_err(|e| unusable(&path, &e))?;
    let lock = FileLock::try_new(file).map_err(|e| unusable(&path, &e))?;
    lock.ok_or_else(|| {
        Error::precondition(format!(
            "the data folder {} is in use by another process: stop it, or start with another --data-dir",
            dir.display()
        ))
    })
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn new_folder_is_its_owners_alone() {
        for role in [FolderRole::Node, FolderRole::Coordinator] {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
            let folder = dir.path().join("above/data");
            let _lock = claim(&folder, role).unwrap();
            assert_eq!(mode(&folder), 0o700);
            assert_eq!(mode(dir.path()), 0o755, "a folder above it belongs to others, too");
        }
    }

    #[test]
    fn folder_of_an_earlier_version_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        fs::create_dir_all(folder.join("snapshots")).unwrap();
        let files = ["catalog.redb", "snapshots/7"].map(|name| folder.join(name));
        for file in &files {
            fs::write(file, b"x").unwrap();
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o2755)).unwrap();
        assert!(refusal(&folder, FolderRole::Node).contains("belongs to"));
        assert_eq!(mode(&folder) & 0o777, 0o755, "a refused folder is left as it is");
        let _lock = claim(&folder, FolderRole::Coordinator).unwrap();
        assert_eq!(mode(&folder) & 0o777, 0o700);
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600, 0o600]);
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
