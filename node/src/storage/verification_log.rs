//! When each part was last verified, kept across restarts.
//!
//! The file `checked`, in the format of [`super::checksummed_file`]: a byte (1: the node stopped cleanly after this was
//! written), the end of the last scrub, then for every part its id, the time of its last verification, the file's
//! [`FileFingerprint`] at that time, and a byte (1: no unclean stop since). The file only saves work: if it is missing or
//! damaged, every part counts as never verified.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;

use tracing::warn;
use volley_common::{Error, PartId, Result, clock};

use super::checksummed_file::{self, DecodeFailure, newer_format};
use super::fingerprint::FileFingerprint;
use super::fs_ops;
use super::layout::Layout;

const MAGIC: &[u8; 8] = b"VOLLEYCK";
/// The newest format version that this program knows.
const FORMAT: u32 = 1;
/// Bytes per part: its id, four numbers, a flag.
const ROW: usize = 16 + 4 * 8 + 1;
/// Bytes before the first part.
const HEADER: usize = 1 + 8;

/// A successful comparison of a part's bytes with its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The file's fingerprint before its bytes were read.
    pub fingerprint: FileFingerprint,
    /// There was no unclean stop since: the part may be served without being read first.
    pub trusted: bool,
}

impl Verification {
    /// A verification that has just succeeded.
    pub fn now(fingerprint: FileFingerprint) -> Self {
        Verification { at_ms: clock::now_ms(), fingerprint, trusted: true }
    }
}

/// The contents of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerificationLog {
    /// The node stopped cleanly: verifications of that run stay trusted.
    pub clean: bool,
    /// End of the last complete scrub, milliseconds since 1970; 0: never.
    pub last_scrub_ms: u64,
    /// The verified parts.
    pub parts: HashMap<PartId, Verification>,
}

impl VerificationLog {
    /// Reads the file and durably clears its clean flag, so that a crash from now on counts as an unclean stop.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: a newer format. UNAVAILABLE: the folder cannot be read or written.
    pub fn load(layout: &Layout) -> Result<VerificationLog> {
        let path = layout.verification_log();
        let failed = |e| Error::unavailable(format!("{} cannot be used: {e}", path.display()));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(VerificationLog::default()),
            Err(e) => return Err(failed(e)),
        };
        let log = decode(&bytes).or_else(|why| match why {
            DecodeFailure::NewerFormat(format) => Err(newer_format(format, FORMAT).at(path.display())),
            DecodeFailure::Damaged => {
                warn!("{} is damaged: every part counts as never verified", path.display());
                Ok(VerificationLog::default())
            }
        })?;
        if log.clean && (VerificationLog { clean: false, ..log.clone() }).save(layout).is_err() {
            // On a full disk the file can still be removed.
            fs_ops::remove(&path).and_then(|()| fs_ops::sync_dir(layout.root())).map_err(failed)?;
        }
        Ok(log)
    }

    /// Writes the file.
    pub fn save(&self, layout: &Layout) -> std::io::Result<()> {
        checksummed_file::replace(&layout.verification_log(), &checksummed_file::encode(MAGIC, FORMAT, &self.encode()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEADER + self.parts.len() * ROW);
        content.push(u8::from(self.clean));
        content.extend_from_slice(&self.last_scrub_ms.to_le_bytes());
        for (id, last) in &self.parts {
            content.extend_from_slice(&id.0.to_le_bytes());
            content.extend_from_slice(&last.at_ms.to_le_bytes());
            content.extend_from_slice(&last.fingerprint.bytes.to_le_bytes());
            content.extend_from_slice(&last.fingerprint.modified_ns.to_le_bytes());
            content.extend_from_slice(&last.fingerprint.changed_ns.to_le_bytes());
            content.push(u8::from(last.trusted));
        }
        content
    }
}

fn decode(bytes: &[u8]) -> std::result::Result<VerificationLog, DecodeFailure> {
    let mut content = checksummed_file::decode(MAGIC, FORMAT, bytes)?;
    let [clean] = take::<1>(&mut content)?;
    let last_scrub_ms = u64::from_le_bytes(take(&mut content)?);
    if clean > 1 || !content.len().is_multiple_of(ROW) {
        return Err(DecodeFailure::Damaged);
    }
    let mut parts = HashMap::with_capacity(content.len() / ROW);
    while !content.is_empty() {
        let id = PartId(u128::from_le_bytes(take(&mut content)?));
        let at_ms = u64::from_le_bytes(take(&mut content)?);
        let fingerprint = FileFingerprint {
            bytes: u64::from_le_bytes(take(&mut content)?),
            modified_ns: i64::from_le_bytes(take(&mut content)?),
            changed_ns: i64::from_le_bytes(take(&mut content)?),
        };
        let [trusted] = take::<1>(&mut content)?;
        // After an unclean stop nothing is trusted.
        parts.insert(id, Verification { at_ms, fingerprint, trusted: clean == 1 && trusted == 1 });
    }
    Ok(VerificationLog { clean: clean == 1, last_scrub_ms, parts })
}

fn take<const N: usize>(content: &mut &[u8]) -> std::result::Result<[u8; N], DecodeFailure> {
    let (first, rest) = content.split_first_chunk::<N>().ok_or(DecodeFailure::Damaged)?;
    *content = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use volley_common::error::Code;

    use super::*;

    fn random(parts: usize) -> VerificationLog {
        let verification = || Verification {
            at_ms: rand::random(),
            fingerprint: FileFingerprint {
                bytes: rand::random(),
                modified_ns: rand::random(),
                changed_ns: rand::random(),
            },
            trusted: rand::random(),
        };
        let parts = (0..parts).map(|_| (PartId::random(), verification())).collect();
        VerificationLog { clean: true, last_scrub_ms: rand::random(), parts }
    }

    #[test]
    fn saved_log_loads_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(VerificationLog::load(&layout).unwrap(), VerificationLog::default());
        for parts in [0, 1, 2, 100, 3000] {
            let written = random(parts);
            written.save(&layout).unwrap();
            assert_eq!(VerificationLog::load(&layout).unwrap(), written);
        }
    }

    #[test]
    fn clean_flag_is_cleared_by_load() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut written = random(50);
        written.save(&layout).unwrap();
        assert_eq!(VerificationLog::load(&layout).unwrap(), written);
        written.clean = false;
        written.parts.values_mut().for_each(|last| last.trusted = false);
        assert_eq!(VerificationLog::load(&layout).unwrap(), written);
    }

    #[test]
    fn damaged_log_counts_as_empty_and_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let good = checksummed_file::encode(MAGIC, FORMAT, &random(2).encode());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(layout.verification_log(), &bad).unwrap();
            match VerificationLog::load(&layout) {
                Ok(read) => assert_eq!(read, VerificationLog::default(), "byte {at}"),
                Err(error) => assert!(error.code == Code::FailedPrecondition && (8..12).contains(&at), "byte {at}"),
            }
            fs::write(layout.verification_log(), &good[..at]).unwrap();
            assert_eq!(VerificationLog::load(&layout).unwrap(), VerificationLog::default(), "truncated at {at}");
        }
        let short = checksummed_file::encode(MAGIC, FORMAT, &random(2).encode()[..HEADER + ROW - 1]);
        assert_eq!(decode(&short), Err(DecodeFailure::Damaged));
    }
}
