//! Small files that are valid as a whole or not at all.
//!
//! Format: magic (8 bytes), format version (4), length of the content (4), the content, CRC-32C of everything before it (4);
//! numbers are little-endian. A file is replaced by temp file, fsync, rename, fsync of the folder.

use std::io::{self, Write};
use std::path::Path;

use volley_common::Error;

use super::fs_ops;

/// Why a file's bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeFailure {
    /// The bytes are not those that were written.
    Damaged,
    /// The format version is newer than this program knows.
    NewerFormat(u32),
}

/// The file's bytes for this content.
pub fn encode(magic: &[u8; 8], format: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 20);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The content of a file whose format version is at most `newest`. The version is checked before the checksum, because a
/// newer format may keep its checksum elsewhere.
///
/// # Errors
/// The file is damaged, or has a newer format.
pub fn decode<'a>(magic: &[u8; 8], newest: u32, bytes: &'a [u8]) -> Result<&'a [u8], DecodeFailure> {
    let damaged = DecodeFailure::Damaged;
    let rest = bytes.strip_prefix(magic).ok_or(damaged)?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or(damaged)?;
    let format = u32::from_le_bytes(*format);
    if format > newest {
        return Err(DecodeFailure::NewerFormat(format));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(damaged)?;
    let (content, crc) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(damaged)?;
    let sum = crc32c::crc32c(&bytes[..bytes.len() - crc.len()]);
    if crc == sum.to_le_bytes() { Ok(content) } else { Err(damaged) }
}

/// The error for a data folder that a newer program has used: FAILED_PRECONDITION.
pub fn newer_format(format: u32, newest: u32) -> Error {
    Error::precondition(format!(
        "the data folder has format {format}, this program knows up to {newest}: start a newer volley-node"
    ))
}

/// Replaces a file: temp file, fsync, rename, fsync of the folder.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    // An earlier attempt may have left one.
    match fs_ops::remove(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs_ops::create(&temp)?;
    let written = file.write_all(bytes).and_then(|()| fs_ops::sync(&file, &temp));
    if let Err(error) = written.and_then(|()| fs_ops::rename(&temp, path)) {
        let _ = fs_ops::remove(&temp);
        return Err(error);
    }
    fs_ops::sync_dir(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"VOLLEYXX";

    #[test]
    fn decode_accepts_only_the_encoded_bytes() {
        for length in [0, 1, 7, 64, 1000] {
            let content: Vec<u8> = (0..length).map(|_| rand::random()).collect();
            let good = encode(MAGIC, 3, &content);
            assert_eq!(decode(MAGIC, 3, &good), Ok(content.as_slice()));
            assert_eq!(decode(MAGIC, 4, &good), Ok(content.as_slice()), "an older format");
            assert_eq!(decode(MAGIC, 2, &good), Err(DecodeFailure::NewerFormat(3)));
            assert_eq!(decode(b"VOLLEYYY", 3, &good), Err(DecodeFailure::Damaged));
            for at in (0..good.len()).filter(|at| !(8..12).contains(at)) {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                assert_eq!(decode(MAGIC, 3, &bad), Err(DecodeFailure::Damaged), "byte {at} of {length}");
                assert_eq!(decode(MAGIC, 3, &good[..at]), Err(DecodeFailure::Damaged), "truncated at {at} of {length}");
            }
            assert_eq!(decode(MAGIC, 3, &[&good[..], b"x"].concat()), Err(DecodeFailure::Damaged));
        }
    }
}
