//! The parts that the node holds: where each is stored, its size, and when it was last verified.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
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

    /// When the part was last verified, milliseconds since 1970; 0: never.
    fn verified_ms(&self) -> u64 {
        self.verification.map_or(0, |last| last.at_ms)
    }

    /// The part as reported to the coordinators.
    pub fn to_held(&self) -> HeldPart {
        let PartFileName { id, write, crc32c, .. } = &self.name;
        HeldPart { id: Some((*id).into()), write: write.clone(), crc32c: *crc32c, bytes: self.bytes }
    }

    /// The fingerprint under which the file may be served without being read first.
    pub fn trusted(&self) -> Option<FileFingerprint> {
        self.verification.filter(|last| last.trusted).map(|last| last.fingerprint)
    }
}

/// The parts that the node holds. No method takes longer the more parts there are, except those that return all of them.
#[derive(Default)]
pub struct PartInventory {
    state: Mutex<InventoryState>,
    unlocked: Condvar,
}

/// The file of a part, which nobody else places or takes away until this is dropped.
#[must_use]
pub struct PartFileLock<'a> {
    inventory: &'a PartInventory,
    id: PartId,
}

#[derive(Default)]
struct InventoryState {
    parts: HashMap<PartId, Arc<PartEntry>>,
    /// The time of the last verification (0: never) and the id of every part.
    by_verification: BTreeSet<(u64, PartId)>,
    /// XOR of [`PartId::digest`] over all parts.
    digest: u64,
    bytes: u64,
    /// The parts whose files are being placed or taken away.
    locked: HashSet<PartId>,
}

impl InventoryState {
    fn insert(&mut self, entry: PartEntry) {
        let id = entry.name.id;
        self.remove(id);
        self.by_verification.insert((entry.verified_ms(), id));
        self.digest ^= id.digest();
        self.bytes += entry.bytes;
        self.parts.insert(id, Arc::new(entry));
    }

    fn remove(&mut self, id: PartId) -> Option<Arc<PartEntry>> {
        let entry = self.parts.remove(&id)?;
        self.by_verification.remove(&(entry.verified_ms(), id));
        self.digest ^= id.digest();
        self.bytes -= entry.bytes;
        Some(entry)
    }

    fn set_verification(&mut self, id: PartId, verification: Verification) {
        if let Some(entry) = self.remove(id) {
            self.insert(PartEntry { verification: Some(verification), ..Arc::unwrap_or_clone(entry) });
        }
    }
}

impl PartInventory {
    /// The inventory with these parts.
    pub fn new(parts: HashMap<PartId, PartEntry>) -> Self {
        let mut state = InventoryState::default();
        parts.into_values().for_each(|entry| state.insert(entry));
        PartInventory { state: Mutex::new(state), unlocked: Condvar::new() }
    }

    /// Waits until nobody else places or takes away the part's file. A part that is received again while its former file is removed
    /// would lose the new one, which has the same name.
    pub fn lock_file(&self, id: PartId) -> PartFileLock<'_> {
        let mut state = self.state.lock();
        self.unlocked.wait_while(&mut state, |state| !state.locked.insert(id));
        PartFileLock { inventory: self, id }
    }

    /// Whether the node holds the part.
    pub fn contains(&self, id: PartId) -> bool {
        self.state.lock().parts.contains_key(&id)
    }

    /// The part's entry.
    pub fn get(&self, id: PartId) -> Option<Arc<PartEntry>> {
        self.state.lock().parts.get(&id).cloned()
    }

    /// Adds a part, or replaces its entry.
    pub fn insert(&self, entry: PartEntry) {
        self.state.lock().insert(entry);
    }

    /// Removes a part; its file stays.
    pub fn remove(&self, id: PartId) -> Option<PartEntry> {
        self.state.lock().remove(id).map(Arc::unwrap_or_clone)
    }

    /// Records that the part's bytes match its checksum. `fingerprint`: the file's, before its bytes were read.
    pub fn mark_verified(&self, id: PartId, fingerprint: FileFingerprint) {
        self.state.lock().set_verification(id, Verification::now(fingerprint));
    }

    /// The part whose verification is oldest (never: older than any), if that is longer ago than `period_ms`.
    pub fn due_for_verification(&self, period_ms: u64) -> Option<PartId> {
        let before = clock::now_ms().saturating_sub(period_ms);
        let (at_ms, id) = self.state.lock().by_verification.first().copied()?;
        (at_ms <= before).then_some(id)
    }

    /// When the part whose verification is oldest was verified, milliseconds since 1970; 0: one never was. `None`: there is no part.
    pub fn oldest_verification_ms(&self) -> Option<u64> {
        self.state.lock().by_verification.first().map(|(at_ms, _)| *at_ms)
    }

    /// The last verification of every part that has one.
    pub fn verifications(&self) -> HashMap<PartId, Verification> {
        self.all().iter().filter_map(|entry| Some((entry.name.id, entry.verification?))).collect()
    }

    /// Every part, as reported to the coordinators.
    pub fn list(&self) -> Vec<HeldPart> {
        self.all().iter().map(|entry| entry.to_held()).collect()
    }

    /// Every part. Only references are copied under the lock.
    fn all(&self) -> Vec<Arc<PartEntry>> {
        self.state.lock().parts.values().cloned().collect()
    }

    /// XOR of [`PartId::digest`] over all parts, and their number.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.digest, state.parts.len() as u64)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Makes a part's verification older than it is.
    #[cfg(test)]
    pub fn age_verification(&self, id: PartId, by_ms: u64) {
        let mut state = self.state.lock();
        let mut verification = state.parts[&id].verification.unwrap();
        verification.at_ms -= by_ms;
        state.set_verification(id, verification);
    }
}

impl Drop for PartFileLock<'_> {
    fn drop(&mut self) {
        self.inventory.state.lock().locked.remove(&self.id);
        self.inventory.unlocked.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u128, bytes: u64, verified_ms: u64) -> PartEntry {
        let fingerprint = FileFingerprint { bytes, modified_ns: 0, changed_ns: 0 };
        let verification = Verification { at_ms: verified_ms, fingerprint, trusted: true };
        PartEntry {
            name: PartFileName { write: "w".into(), seq: 0, id: PartId(id), crc32c: 0 },
            dir: PathBuf::new(),
            bytes,
            verification: (verified_ms > 0).then_some(verification),
        }
    }

    #[test]
    fn sums_and_order_follow_every_change() {
        let inventory = PartInventory::default();
        let mut random = 7_u64;
        for _ in 0..2000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (id, value) = (u128::from(random >> 60), random >> 33);
            match (random >> 50) % 4 {
                0 => drop(inventory.remove(PartId(id))),
                1 => inventory.mark_verified(PartId(id), FileFingerprint { bytes: 1, modified_ns: 0, changed_ns: 0 }),
                _ => inventory.insert(entry(id, value % 1000, value % 5)),
            }
            let all = inventory.all();
            assert_eq!(inventory.bytes(), all.iter().map(|entry| entry.bytes).sum::<u64>());
            let digest = all.iter().fold(0, |sum, entry| sum ^ entry.name.id.digest());
            assert_eq!(inventory.digest(), (digest, all.len() as u64));
            let oldest = all.iter().map(|entry| (entry.verified_ms(), entry.name.id)).min();
            assert_eq!(inventory.due_for_verification(0), oldest.map(|(_, id)| id));
            assert_eq!(inventory.oldest_verification_ms(), oldest.map(|(at_ms, _)| at_ms));
        }
    }
}
