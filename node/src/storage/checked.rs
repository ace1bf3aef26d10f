//! What is known of the parts' files from an earlier run: which bytes were verified when.
//!
//! The file `checked`, in the wrapping of [`super::durable`]: a byte (1: the node stopped cleanly after this was
//! written), when the scrub last came to its end, then for every part its id, when its bytes were last verified, the
//! file's [`Stamp`] then, and a byte (1: no unclean stop since). It is a memory aid: without it, or if it is damaged, every part counts as never verified.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use tracing::warn;
use volley_common::{Error, PartId, Result};

use super::control::newer;
use super::disk;
use super::durable::{self, Unreadable};
use super::layout::Layout;

const MAGIC: &[u8; 8] = b"VOLLEYCK";
/// The newest format that this program knows.
pub const FORMAT: u32 = 1;
/// Bytes of one part: its id, four numbers, a flag.
const ROW: usize = 16 + 4 * 8 + 1;
/// Bytes before the first part.
const HEAD: usize = 1 + 8;

/// What tells whether a file was touched: whoever writes into it, cuts or replaces it changes its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Length of the file.
    pub bytes: u64,
    /// When its bytes last changed, nanoseconds since 1970.
    pub modified_ns: i64,
    /// When it, its name or its rights last changed.
    pub changed_ns: i64,
}

impl Stamp {
    /// A file's stamp as it is now.
    pub fn of(file: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Stamp {
            bytes: file.len(),
            modified_ns: ns(file.mtime(), file.mtime_nsec()),
            changed_ns: ns(file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether the bytes are as they were; a name or right may have changed.
    pub fn same_bytes(&self, other: &Stamp) -> bool {
        (self.bytes, self.modified_ns) == (other.bytes, other.modified_ns)
    }
}

/// When a file's bytes were compared with their checksum, and what it looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The file's stamp before its bytes were read.
    pub stamp: Stamp,
    /// The process has not died since: the bytes need not be read again before they are served.
    pub trusted: bool,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The node stopped cleanly: what was verified in that run need not be read again.
    pub clean: bool,
    /// When the scrub last came to its end, milliseconds since 1970; 0: never.
    pub scrubbed_ms: u64,
    /// The parts that were verified.
    pub parts: HashMap<PartId, Check>,
}

impl Checked {
    /// Reads the file and makes durable that the node runs: if it dies now, the next start sees an unclean stop.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: a newer format. UNAVAILABLE: the folder cannot be read or written.
    pub fn take(layout: &Layout) -> Result<Checked> {
        let path = layout.checked();
        let failed = |e| Error::unavailable(format!("{} cannot be used: {e}", path.display()));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Checked::default()),
            Err(e) => return Err(failed(e)),
        };
        let checked = parse(&bytes).or_else(|why| match why {
            Unreadable::Newer(format) => Err(newer(format).at(path.display())),
            Unreadable::Damaged => {
                warn!("{} is damaged: every part counts as not verified", path.display());
                Ok(Checked::default())
            }
        })?;
        if checked.clean && (Checked { clean: false, ..checked.clone() }).save(layout).is_err() {
            // On a full disk a file can still be removed.
            disk::remove(&path).and_then(|()| disk::sync_dir(layout.root())).map_err(failed)?;
        }
        Ok(checked)
    }

    /// Writes the file.
    pub fn save(&self, layout: &Layout) -> std::io::Result<()> {
        durable::replace(&layout.checked(), &durable::wrap(MAGIC, FORMAT, &self.content()))
    }

    fn content(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEAD + self.parts.len() * ROW);
        content.push(u8::from(self.clean));
        content.extend_from_slice(&self.scrubbed_ms.to_le_bytes());
        for (id, check) in &self.parts {
            content.extend_from_slice(&id.0.to_le_bytes());
            content.extend_from_slice(&check.at_ms.to_le_bytes());
            content.extend_from_slice(&check.stamp.bytes.to_le_bytes());
            content.extend_from_slice(&check.stamp.modified_ns.to_le_bytes());
            content.extend_from_slice(&check.stamp.changed_ns.to_le_bytes());
            content.push(u8::from(check.trusted));
        }
        content
    }
}

fn parse(bytes: &[u8]) -> std::result::Result<Checked, Unreadable> {
    let mut content = durable::unwrap(MAGIC, FORMAT, bytes)?;
    let [clean] = take::<1>(&mut content)?;
    let scrubbed_ms = u64::from_le_bytes(take(&mut content)?);
    if clean > 1 || !content.len().is_multiple_of(ROW) {
        return Err(Unreadable::Damaged);
    }
    let mut parts = HashMap::with_capacity(content.len() / ROW);
    while !content.is_empty() {
        let id = PartId(u128::from_le_bytes(take(&mut content)?));
        let at_ms = u64::from_le_bytes(take(&mut content)?);
        let stamp = Stamp {
            bytes: u64::from_le_bytes(take(&mut content)?),
            modified_ns: i64::from_le_bytes(take(&mut content)?),
            changed_ns: i64::from_le_bytes(take(&mut content)?),
        };
        let [trusted] = take::<1>(&mut content)?;
        // After an unclean stop nothing is.
        parts.insert(id, Check { at_ms, stamp, trusted: clean == 1 && trusted == 1 });
    }
    Ok(Checked { clean: clean == 1, scrubbed_ms, parts })
}

fn take<const N: usize>(content: &mut &[u8]) -> std::result::Result<[u8; N], Unreadable> {
    let (first, rest) = content.split_first_chunk::<N>().ok_or(Unreadable::Damaged)?;
    *content = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use volley_common::error::Code;

    use super::*;

    fn random(parts: usize) -> Checked {
        let check = || Check {
            at_ms: rand::random(),
            stamp: Stamp { bytes: rand::random(), modified_ns: rand::random(), changed_ns: rand::random() },
            trusted: rand::random(),
        };
        let parts = (0..parts).map(|_| (PartId::random(), check())).collect();
        Checked { clean: true, scrubbed_ms: rand::random(), parts }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(Checked::take(&layout).unwrap(), Checked::default());
        for parts in [0, 1, 2, 100, 3000] {
            let written = random(parts);
            written.save(&layout).unwrap();
            assert_eq!(Checked::take(&layout).unwrap(), written);
        }
    }

    #[test]
    fn a_clean_stop_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut written = random(50);
        written.save(&layout).unwrap();
        assert_eq!(Checked::take(&layout).unwrap(), written);
        written.clean = false;
        written.parts.values_mut().for_each(|check| check.trusted = false);
        assert_eq!(Checked::take(&layout).unwrap(), written);
    }

    #[test]
    fn a_damaged_file_is_forgotten_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let good = durable::wrap(MAGIC, FORMAT, &random(2).content());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(layout.checked(), &bad).unwrap();
            match Checked::take(&layout) {
                Ok(read) => assert_eq!(read, Checked::default(), "byte {at}"),
                Err(error) => assert!(error.code == Code::FailedPrecondition && (8..12).contains(&at), "byte {at}"),
            }
            fs::write(layout.checked(), &good[..at]).unwrap();
            assert_eq!(Checked::take(&layout).unwrap(), Checked::default(), "cut at {at}");
        }
        let short = durable::wrap(MAGIC, FORMAT, &random(2).content()[..HEAD + ROW - 1]);
        assert_eq!(parse(&short), Err(Unreadable::Damaged));
    }
}
