//! Small files that must be whole: magic, format version (4 bytes), length of the content (4 bytes), the content,
//! CRC-32C of all before it; numbers are little-endian. They are replaced in one step.

use std::io::{self, Write};
use std::path::Path;

use super::disk;

/// Why a file's bytes are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not what was written.
    Damaged,
    /// Of a format that this program does not know.
    Newer(u32),
}

/// A file's bytes around its content.
pub fn wrap(magic: &[u8; 8], format: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 20);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The content of a file of format `newest` at most. The version is looked at before the checksum: a newer
/// format may keep its checksum elsewhere.
///
/// # Errors
/// It is damaged, or of a newer format.
pub fn unwrap<'a>(magic: &[u8; 8], newest: u32, bytes: &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let damaged = Unreadable::Damaged;
    let rest = bytes.strip_prefix(magic).ok_or(damaged)?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or(damaged)?;
    let format = u32::from_le_bytes(*format);
    if format > newest {
        return Err(Unreadable::Newer(format));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(damaged)?;
    let (content, crc) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(damaged)?;
    let sum = crc32c::crc32c(&bytes[..bytes.len() - crc.len()]);
    if crc == sum.to_le_bytes() { Ok(content) } else { Err(damaged) }
}

/// Writes a file in place of what is there: temp, fsync, rename, fsync of the folder.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    // An earlier attempt may have left one.
    match disk::remove(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = disk::create(&temp)?;
    let written = file.write_all(bytes).and_then(|()| disk::sync(&file, &temp));
    if let Err(error) = written.and_then(|()| disk::rename(&temp, path)) {
        let _ = disk::remove(&temp);
        return Err(error);
    }
    disk::sync_dir(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"VOLLEYXX";

    #[test]
    fn any_content_survives_and_no_other_bytes_are_taken() {
        for length in [0, 1, 7, 64, 1000] {
            let content: Vec<u8> = (0..length).map(|_| rand::random()).collect();
            let good = wrap(MAGIC, 3, &content);
            assert_eq!(unwrap(MAGIC, 3, &good), Ok(content.as_slice()));
            assert_eq!(unwrap(MAGIC, 4, &good), Ok(content.as_slice()), "an older format is known");
            assert_eq!(unwrap(MAGIC, 2, &good), Err(Unreadable::Newer(3)));
            assert_eq!(unwrap(b"VOLLEYYY", 3, &good), Err(Unreadable::Damaged));
            for at in (0..good.len()).filter(|at| !(8..12).contains(at)) {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                assert_eq!(unwrap(MAGIC, 3, &bad), Err(Unreadable::Damaged), "byte {at} of {length}");
                assert_eq!(unwrap(MAGIC, 3, &good[..at]), Err(Unreadable::Damaged), "cut at {at} of {length}");
            }
            assert_eq!(unwrap(MAGIC, 3, &[&good[..], b"x"].concat()), Err(Unreadable::Damaged));
        }
    }
}
