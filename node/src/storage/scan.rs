//! What is on disk: read at start, and when a part is verified.

use std::collections::HashMap;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use tracing::warn;
use volley_common::PartId;

use super::checked::{Checked, Stamp};
use super::disk;
use super::layout::{Layout, PartFile};
use super::opened::Opened;
use super::store::Entry;

/// Removes what an earlier run left half-done.
pub fn clear(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        disk::remove(&entry?.path())?;
    }
    Ok(())
}

/// Every part below `parts/`, by the files' names, with what is known of its bytes. What is no part is left alone and
/// logged.
pub fn parts(layout: &Layout, known: &Checked) -> io::Result<HashMap<PartId, Entry>> {
    let mut index = HashMap::new();
    for table in folders(&layout.parts())? {
        for shard in folders(&table.path())? {
            for file in fs::read_dir(shard.path())? {
                add(&mut index, &shard.path(), &file?, known)?;
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

fn add(index: &mut HashMap<PartId, Entry>, dir: &Path, file: &DirEntry, known: &Checked) -> io::Result<()> {
    let name = file.file_name().to_str().and_then(PartFile::parse);
    match name {
        Some(name) if file.file_type()?.is_file() && !index.contains_key(&name.id) => {
            let stamp = Stamp::of(&file.metadata()?);
            // A file that was touched while nobody looked counts as never verified.
            let check = known.parts.get(&name.id).filter(|check| check.stamp == stamp).copied();
            let entry = Entry { dir: dir.to_path_buf(), bytes: stamp.bytes, check, opened: Opened::default(), name };
            index.insert(entry.name.id, entry);
        }
        _ => warn!("{} is not a part's file, or a second one of its part: left alone", file.path().display()),
    }
    Ok(())
}

/// A file's length and CRC-32C from where it stands. `go_on` is told the bytes of every step, and may take its time or
/// end it all (`Interrupted`).
pub fn checksum(mut file: &File, mut go_on: impl FnMut(usize) -> bool) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, crc)),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        bytes += count as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..count]);
        if !go_on(count) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

/// A file's stamp, length and CRC-32C as the disk has them, as far as the kernel allows: what nobody has mapped is
/// dropped from its cache before, and after, so that the scrub does not drive out what readers need.
pub fn from_disk(path: &Path, go_on: impl FnMut(usize) -> bool) -> io::Result<(Stamp, u64, u32)> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let forget = || fadvise(&file, 0, None, Advice::DontNeed);
    // It is advice: a file system that does not take it is read all the same.
    let _ = forget();
    let sum = checksum(&file, go_on);
    let _ = forget();
    sum.map(|(bytes, crc)| (stamp, bytes, crc))
}

/// Whether a failed read says something of the file, and not of the process or the moment.
pub fn is_damage(error: &io::Error) -> bool {
    let disk = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EUCLEAN, libc::EREMOTEIO];
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error().is_some_and(|code| disk.contains(&code))
}
