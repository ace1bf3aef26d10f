//! Reads what an earlier run left in the data folder, when the store opens.

use std::collections::HashMap;
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use tracing::warn;
use volley_common::PartId;

use super::fingerprint::FileFingerprint;
use super::fs_ops;
use super::inventory::PartEntry;
use super::layout::{Layout, PartFileName};
use super::verification_log::VerificationLog;

/// Removes unfinished parts.
pub fn clear_tmp(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        fs_ops::remove(&entry?.path())?;
    }
    Ok(())
}

/// Removes the folder with what the queries of an earlier process left in it.
pub fn clear_spill(spill: &Path) -> io::Result<()> {
    match fs_ops::remove_tree(spill) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Every part below `parts/`, by its file name, with its last verification. Other files stay and are logged.
pub fn parts(layout: &Layout, log: &VerificationLog) -> io::Result<HashMap<PartId, PartEntry>> {
    let mut parts = HashMap::new();
    for table in folders(&layout.parts())? {
        for shard in folders(&table.path())? {
            for file in fs::read_dir(shard.path())? {
                add(&mut parts, &shard.path(), &file?, log)?;
            }
        }
    }
    Ok(parts)
}

fn folders(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry);
        } else {
            warn!("{} is not a folder of parts: ignored", entry.path().display());
        }
    }
    Ok(folders)
}

fn add(parts: &mut HashMap<PartId, PartEntry>, dir: &Path, file: &DirEntry, log: &VerificationLog) -> io::Result<()> {
    let name = file.file_name().to_str().and_then(PartFileName::parse);
    match name {
        Some(name) if file.file_type()?.is_file() && !parts.contains_key(&name.id) => {
            let fingerprint = FileFingerprint::of(&file.metadata()?);
            // A file that changed while the node was down counts as never verified.
            let verification = log.parts.get(&name.id).filter(|last| last.fingerprint == fingerprint).copied();
            let entry = PartEntry { dir: dir.to_path_buf(), bytes: fingerprint.bytes, verification, name };
            parts.insert(entry.name.id, entry);
        }
        _ => warn!("{} is not a part, or a second file of one: ignored", file.path().display()),
    }
    Ok(())
}
