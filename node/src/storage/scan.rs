//! What is on disk: read at start, and when a part is verified.

use std::collections::HashMap;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Weak;

use tracing::warn;
use volley_common::PartId;

use super::layout::{Layout, PartFile};
use super::store::Entry;

/// Removes what an earlier run left half-done.
pub fn clear(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Every part below `parts/`, by the files' names. What is no part is left alone and logged.
pub fn parts(layout: &Layout) -> io::Result<HashMap<PartId, Entry>> {
    let mut index = HashMap::new();
    for table in folders(&layout.parts())? {
        for shard in folders(&table.path())? {
            for file in fs::read_dir(shard.path())? {
                add(&mut index, &shard.path(), &file?)?;
            }
        }
    }
    Ok(index)
}

fn folders(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry);
        } else {
            warn!("{} is no folder of parts: left alone", entry.path().display());
        }
    }
    Ok(folders)
}

fn add(index: &mut HashMap<PartId, Entry>, dir: &Path, file: &DirEntry) -> io::Result<()> {
    let name = file.file_name().to_str().and_then(PartFile::parse);
    match name {
        Some(name) if file.file_type()?.is_file() && !index.contains_key(&name.id) => {
            let bytes = file.metadata()?.len();
            let entry = Entry { dir: dir.to_path_buf(), bytes, checked: false, mapped: Weak::new(), name };
            index.insert(entry.name.id, entry);
        }
        _ => warn!("{} is not a part's file, or a second one of its part: left alone", file.path().display()),
    }
    Ok(())
}

/// A file's length and CRC-32C.
pub fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((bytes, crc));
        }
        bytes += count as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..count]);
    }
}
