//! Looking for damage, and what is done about it: a bad part is put aside, reported, and repaired by others.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;

use tracing::{error, warn};
use volley_common::error::Code;
use volley_common::{Error, PartId, Result, clock};

use super::checked::Checked;
use super::store::Store;
use super::{disk, scan};

impl Store {
    /// Reads the part's file again and compares its CRC-32C.
    ///
    /// # Errors
    /// NOT_FOUND: the node does not have it. DATA_LOSS: it differs, or cannot be read; the part is put aside.
    pub fn verify(&self, id: PartId) -> Result<()> {
        self.verify_slowly(id, |_| true)
    }

    /// [`Store::verify`], telling `go_on` the bytes of every step; it may take its time, and end it all.
    ///
    /// # Errors
    /// As there. CANCELLED: ended by `go_on`.
    pub fn verify_slowly(&self, id: PartId, go_on: impl FnMut(usize) -> bool) -> Result<()> {
        let held = self.0.index.lock().get_mut(&id).map(|e| (e.path(), e.name.crc32c, e.opened.let_go()));
        let (path, wanted, kept) =
            held.ok_or_else(|| Error::not_found(format!("this node does not have part {id}")))?;
        // What is mapped would be read from memory.
        drop(kept);
        let why = match scan::from_disk(&path, go_on) {
            Ok((stamp, length, crc)) if (length, crc) == (stamp.bytes, wanted) => {
                if let Some(entry) = self.0.index.lock().get_mut(&id) {
                    entry.verified(stamp);
                }
                return Ok(());
            }
            Ok((_, length, crc)) => format!("its {length} bytes have the checksum {crc:08x} instead of {wanted:08x}"),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(Error::cancelled("not read to its end")),
            Err(e) if scan::is_damage(&e) => format!("it cannot be read: {e}"),
            Err(e) => return Err(Error::unavailable(format!("{} cannot be read just now: {e}", path.display()))),
        };
        // It may have been removed just now.
        if !self.holds(id) {
            return Ok(());
        }
        let error = Error::data_loss(format!("part {id} is damaged ({}): {why}", path.display()));
        Err(self.lost(id, &path, error))
    }

    /// The part that was not verified for longest, if that is longer ago than `period_ms`.
    pub fn next_to_verify(&self, period_ms: u64) -> Option<PartId> {
        let before = clock::now_ms().saturating_sub(period_ms);
        let index = self.0.index.lock();
        let oldest = index.values().map(|entry| (entry.check.map_or(0, |check| check.at_ms), entry.name.id)).min()?;
        (oldest.0 <= before).then_some(oldest.1)
    }

    /// Every part is verified: the scrub has come to its end.
    pub fn scrubbed(&self) {
        self.0.scrubbed_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// Writes down what was verified when; `clean`: nothing is done with the store after this.
    pub fn remember(&self, clean: bool) {
        let index = self.0.index.lock();
        let parts = index.iter().filter_map(|(id, entry)| Some((*id, entry.check?))).collect();
        drop(index);
        let checked = Checked { clean, scrubbed_ms: self.0.scrubbed_ms.load(Ordering::Relaxed), parts };
        if let Err(error) = checked.save(self.layout()) {
            warn!(%error, "what was verified could not be written down: it will be verified again");
        }
    }

    /// Parts that were lost since the last call, and why the last one was.
    pub fn take_lost(&self) -> (Vec<PartId>, String) {
        std::mem::take(&mut *self.0.lost.lock())
    }

    /// Waits until there may be lost parts.
    pub async fn lost_something(&self) {
        self.0.lost_changed.notified().await;
    }

    /// Puts a damaged part aside, so that it is neither served nor counted as a copy. Other errors pass through.
    pub(super) fn lost(&self, id: PartId, path: &Path, error: Error) -> Error {
        let gone = !path.exists();
        if error.code != Code::DataLoss && !gone {
            return error;
        }
        let entry = self.0.index.lock().remove(&id);
        let Some(entry) = entry else { return Error::data_loss(error.message) };
        let folder = self.layout().damaged();
        if gone {
            error!("{error}; its file is gone, and the part is no longer held here");
        } else {
            error!("{error}; it is put aside in {}, where nobody but you removes it", folder.display());
            let aside = disk::make_dirs(&folder)
                .and_then(|()| disk::rename(path, &folder.join(path.file_name().unwrap_or_default())));
            match aside {
                Ok(()) => drop(self.0.damaged.fetch_add(1, Ordering::Relaxed)),
                Err(cause) => warn!("{} cannot be put aside: {cause}", path.display()),
            }
        }
        self.remove_empty(&entry.dir);
        self.0.health.lock().read_failed(clock::now_ms(), &error.message);
        let mut lost = self.0.lost.lock();
        lost.0.push(id);
        lost.1.clone_from(&error.message);
        drop(lost);
        self.0.lost_changed.notify_one();
        Error::data_loss(error.message)
    }
}
