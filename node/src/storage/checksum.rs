//! Reading a file to compute its CRC-32C.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use super::fingerprint::FileFingerprint;

/// Bytes of one read.
const BUFFER_BYTES: usize = 1 << 20;

/// A file's length and CRC-32C from its current position on. `on_read` gets the bytes of every read; it may block, and stops
/// the reading (`Interrupted`) by returning false.
pub fn checksum(mut file: &File, mut on_read: impl FnMut(usize) -> bool) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; BUFFER_BYTES];
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
        if !on_read(count) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

/// A file's fingerprint, length and CRC-32C as they are on the disk, as far as the kernel allows: pages that are not mapped
/// are dropped from the page cache before and after, so that a scrub does not evict what readers need.
pub fn checksum_on_disk(path: &Path, on_read: impl FnMut(usize) -> bool) -> io::Result<(FileFingerprint, u64, u32)> {
    let file = File::open(path)?;
    let fingerprint = FileFingerprint::of(&file.metadata()?);
    // Only advice: the read works on file systems that ignore it.
    let drop_pages = || fadvise(&file, 0, None, Advice::DontNeed);
    let _ = drop_pages();
    let sum = checksum(&file, on_read);
    let _ = drop_pages();
    sum.map(|(bytes, crc)| (fingerprint, bytes, crc))
}
