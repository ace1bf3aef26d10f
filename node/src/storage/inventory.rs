//! The parts that the node holds: where each is stored, its size, and when it was last verified.

use std::collections::HashMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use volley_common::wire::cluster::HeldPart;
use volley_common::{PartId, clock};

use super::fingerprint::FileFingerprint;
use super::layout::PartFileName;
use super::verification_log::Verification;

/// One part that the node holds.
#[derive(Clone, Debug)]
pub struct PartEntry {
    /// The name of its file, which contains its id and checksum.
    pub name: PartFileName,
    /// The folder of its shard.
    pub dir: PathBuf,
    /// Length of the file, bytes.
    pub bytes: u64,
    /// When its bytes were last compared with its checksum; `None`: never, or the file changed since.
    pub verification: Option<Verification>,
}

impl PartEntry {
    /// The file's path.
    pub fn path(&self) -> PathBuf {
        self.dir.join(self.name.to_string())
    }

    /// The fingerprint under which the file may be served without being read first.
    pub fn trusted(&self) -> Option<FileFingerprint> {
        self.verification.filter(|last| last.trusted).map(|last| last.fingerprint)
    }
}

/// The parts that the node holds.
pub struct PartInventory(Mutex<HashMap<PartId, PartEntry>>);

impl PartInventory {
    /// The inventory with these parts.
    pub fn new(parts: HashMap<PartId, PartEntry>) -> Self {
        PartInventory(Mutex::new(parts))
    }

    /// Whether the node holds the part.
    pub fn contains(&self, id: PartId) -> bool {
        self.0.lock().contains_key(&id)
    }

    /// The part's entry.
    pub fn get(&self, id: PartId) -> Option<PartEntry> {
        self.0.lock().get(&id).cloned()
    }

    /// Adds a part, or replaces its entry.
    pub fn insert(&self, entry: PartEntry) {
        self.0.lock().insert(entry.name.id, entry);
    }

    /// Removes a part; its file stays.
    pub fn remove(&self, id: PartId) -> Option<PartEntry> {
        self.0.lock().remove(&id)
    }

    /// Records that the part's bytes match its checksum. `fingerprint`: the file's, before its bytes were read.
    pub fn mark_verified(&self, id: PartId, fingerprint: FileFingerprint) {
        if let Some(entry) = self.0.lock().get_mut(&id) {
            entry.verification = Some(Verification::now(fingerprint));
        }
    }

    /// The part whose verification is oldest (never: older than any), if that is longer ago than `period_ms`.
    pub fn due_for_verification(&self, period_ms: u64) -> Option<PartId> {
        let before = clock::now_ms().saturating_sub(period_ms);
        let parts = self.0.lock();
        let last = |entry: &PartEntry| entry.verification.map_or(0, |last| last.at_ms);
        let (at_ms, id) = parts.values().map(|entry| (last(entry), entry.name.id)).min()?;
        (at_ms <= before).then_some(id)
    }

    /// The last verification of every part that has one.
    pub fn verifications(&self) -> HashMap<PartId, Verification> {
        self.0.lock().iter().filter_map(|(id, entry)| Some((*id, entry.verification?))).collect()
    }

    /// Every part, as reported to the coordinators.
    pub fn list(&self) -> Vec<HeldPart> {
        let held = |entry: &PartEntry| HeldPart {
            id: Some(entry.name.id.into()),
            write: entry.name.write.clone(),
            crc32c: entry.name.crc32c,
            bytes: entry.bytes,
        };
        self.0.lock().values().map(held).collect()
    }

    /// XOR of [`PartId::digest`] over all parts, and their number.
    pub fn digest(&self) -> (u64, u64) {
        let parts = self.0.lock();
        (parts.keys().fold(0, |all, id| all ^ id.digest()), parts.len() as u64)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.0.lock().values().map(|entry| entry.bytes).sum()
    }

    /// Makes a part's verification older than it is.
    #[cfg(test)]
    pub fn age_verification(&self, id: PartId, by_ms: u64) {
        self.0.lock().get_mut(&id).unwrap().verification.as_mut().unwrap().at_ms -= by_ms;
    }
}
