//! A part that other nodes read while it is written, or before it is durable.
//!
//! Its bytes are those of the unfinished file: pages of the page cache as a rule, so that what is copied while it is written is read from
//! memory. A reader that falls behind, or begins late, finds all of them nevertheless.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;
use volley_common::wire::cluster::PartEnd;
use volley_common::{Error, PartId, Result};

/// Readers of a growing part learn of its bytes in multiples of this: each then gets a whole chunk.
pub const FOLLOWED_BYTES: u64 = 1 << 20;

/// How far a part is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartProgress {
    /// Bytes that can be read.
    pub written: u64,
    /// Length and checksum, once the last byte is written.
    pub end: Option<PartEnd>,
}

/// A part that this node writes, for those who read it meanwhile.
pub struct OpenPart {
    id: PartId,
    file: Arc<File>,
    progress: watch::Receiver<PartProgress>,
    registry: Arc<OpenParts>,
}

/// The open parts of a node.
#[derive(Default)]
pub struct OpenParts(Mutex<HashMap<PartId, Weak<OpenPart>>>);

impl OpenParts {
    /// The part, if it is open.
    pub fn get(&self, id: PartId) -> Option<Arc<OpenPart>> {
        self.0.lock().get(&id).and_then(Weak::upgrade)
    }
}

impl OpenPart {
    /// Registers a part whose bytes are appended to `file`. Its writer reports its progress; if it drops the sender before the end, the
    /// part is given up.
    pub fn register(
        registry: &Arc<OpenParts>,
        id: PartId,
        file: Arc<File>,
    ) -> (Arc<OpenPart>, watch::Sender<PartProgress>) {
        let (sender, progress) = watch::channel(PartProgress::default());
        let part = Arc::new(OpenPart { id, file, progress, registry: registry.clone() });
        registry.0.lock().insert(id, Arc::downgrade(&part));
        (part, sender)
    }

    /// How far it is written, now and from now on. The channel closes without an end if the part is given up.
    pub fn progress(&self) -> watch::Receiver<PartProgress> {
        self.progress.clone()
    }

    /// Whether its last byte is written.
    pub fn is_complete(&self) -> bool {
        self.progress.borrow().end.is_some()
    }

    /// Fills `buffer` with bytes that are written, from `at` on. Blocks.
    ///
    /// # Errors
    /// UNAVAILABLE: the file cannot be read.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let failed = |e| Error::unavailable(format!("part {} cannot be read before it is durable: {e}", self.id));
        self.file.read_exact_at(buffer, at).map_err(failed)
    }
}

impl Drop for OpenPart {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn open_part_is_found_and_read_until_it_is_dropped() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let registry = Arc::default();
        let (part, sender) = OpenPart::register(&registry, PartId(7), Arc::new(file));
        assert!(registry.get(PartId(7)).is_some() && registry.get(PartId(8)).is_none());
        let mut buffer = [0; 3];
        part.read(2, &mut buffer).unwrap();
        assert_eq!(&buffer, b"234");
        part.read(7, &mut buffer).unwrap();
        assert_eq!(&buffer, b"789");
        assert!(part.read(8, &mut buffer).is_err() && !part.is_complete());
        let end = PartEnd { bytes: 10, crc32c: 1 };
        sender.send_replace(PartProgress { written: 10, end: Some(end) });
        drop(sender);
        assert!(part.is_complete());
        drop(part);
        assert!(registry.get(PartId(7)).is_none());
    }
}
