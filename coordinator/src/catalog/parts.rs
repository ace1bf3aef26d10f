//! The in-memory index of parts, sized for a million parts.
//!
//! A part costs about 144 bytes in the slab (which grows by an eighth), 32 for its holders, 44 in the index by id and 62
//! in the sort order: some 300 bytes, and up to 256 for its statistics. Parts of one write share the string of the write's id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use volley_common::PartId;
use volley_common::wire::catalog::{Absence, CompactedPosition, Part};

use super::rows::{RowKey, SortKey};

/// The compact in-memory form of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct PartRow {
    id: [u8; 16],
    /// The table's id.
    pub table: u64,
    /// The shard number.
    pub shard: u32,
    /// CRC-32C of the file.
    pub crc32c: u32,
    /// Id of the write that created the part.
    pub write: Arc<str>,
    /// Sequence number among the parts that the same version added.
    pub seq: u64,
    /// Rows of the part.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Record batches of the file; 0: unknown.
    pub batches: u32,
    /// Bounds of its columns, as [`volley_common::ipc::statistics::part_may_match`] reads them; empty: unknown.
    pub statistics: Box<[u8]>,
    /// Ids of nodes with a verified copy.
    pub holders: Box<[u64]>,
    /// The version that added the part.
    pub added: u64,
    /// The version that removed the part; 0 if none did.
    pub removed: u64,
    /// The time of the removal, milliseconds since 1970.
    pub removed_ms: u64,
    /// `None` for most parts.
    pub(super) rare: Option<Box<RarePartFields>>,
}

/// What only few parts have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RarePartFields {
    /// The sort key of a part that a compaction created; `None` for any other part.
    sort_key: Option<SortKey>,
    /// Versions from `added` on that do not have the part, because a later version restored it; oldest first.
    absences: Vec<Absence>,
}

impl PartRow {
    /// The part's id.
    pub fn part_id(&self) -> PartId {
        PartId(u128::from_be_bytes(self.id))
    }

    /// Whether the part belongs to a version.
    pub fn is_in(&self, version: u64) -> bool {
        let is_absent = |absence: &Absence| (absence.from..absence.until).contains(&version);
        self.added <= version && (self.removed == 0 || self.removed > version) && !self.absences().iter().any(is_absent)
    }

    /// Versions between `added` and `removed` that do not have the part, oldest first.
    pub fn absences(&self) -> &[Absence] {
        self.rare.as_deref().map_or(&[], |rare| &rare.absences)
    }

    /// The key of the part's row.
    pub fn key(&self) -> RowKey {
        RowKey::Part { table: self.table, sort_key: self.sort_key() }
    }

    /// The position of the part's rows in the table.
    pub fn sort_key(&self) -> SortKey {
        let compacted = self.rare.as_deref().and_then(|rare| rare.sort_key);
        compacted.unwrap_or(SortKey { added: self.added, seq: self.seq, generation: 0 })
    }

    /// Moves a compacted part to the position of the parts that it replaces.
    pub(super) fn set_sort_key(&mut self, sort_key: SortKey) {
        self.rare.get_or_insert_default().sort_key = Some(sort_key);
    }

    /// Converts to the protobuf message.
    pub fn to_part(&self) -> Part {
        Part {
            id: Some(self.part_id().into()),
            table: self.table,
            shard: self.shard,
            write: self.write.to_string(),
            seq: self.seq,
            rows: self.rows,
            bytes: self.bytes,
            crc32c: self.crc32c,
            holders: self.holders.to_vec(),
            added: self.added,
            removed: self.removed,
            removed_ms: self.removed_ms,
            position: self.rare.as_deref().and_then(|rare| rare.sort_key).map(|sort_key| CompactedPosition {
                added: sort_key.added,
                seq: sort_key.seq,
                generation: sort_key.generation,
            }),
            absences: self.absences().to_vec(),
            batches: self.batches,
            statistics: Bytes::copy_from_slice(&self.statistics),
        }
    }

    /// Converts from the protobuf message.
    pub fn from_part(part: &Part) -> Self {
        PartRow {
            id: part.part_id().to_bytes(),
            table: part.table,
            shard: part.shard,
            crc32c: part.crc32c,
            write: part.write.as_str().into(),
            seq: part.seq,
            rows: part.rows,
            bytes: part.bytes,
            batches: part.batches,
            statistics: Box::from(&part.statistics[..]),
            holders: part.holders.as_slice().into(),
            added: part.added,
            removed: part.removed,
            removed_ms: part.removed_ms,
            rare: RarePartFields::of(part),
        }
    }
}

impl RarePartFields {
    fn of(part: &Part) -> Option<Box<Self>> {
        let rare = RarePartFields { sort_key: part.position.map(SortKey::from), absences: part.absences.clone() };
        (rare != RarePartFields::default()).then(|| Box::new(rare))
    }
}

/// All parts: by id, in sort order, and by the version that removed them.
#[derive(Default)]
pub(super) struct PartIndex {
    slots: Vec<Option<PartRow>>,
    free: Vec<u32>,
    by_id: HashMap<[u8; 16], u32>,
    /// (table, sort key) → slot.
    order: BTreeMap<(u64, SortKey), u32>,
    /// (table, removing version, slot) of removed parts only.
    removed: BTreeSet<(u64, u64, u32)>,
    /// The current revision of each table's parts.
    revisions: HashMap<u64, Revision>,
    /// How many parts have statistics.
    with_statistics: usize,
}

/// Identifies one state of a part of the catalog within this process: a cached result stays valid while the revision is
/// the same. Revisions are neither replicated nor stored.
pub type Revision = u64;

/// A revision that this process has not used yet.
pub(super) fn next_revision() -> Revision {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl PartIndex {
    /// The revision of a table's parts; 0 if the table never had any.
    pub(super) fn revision(&self, table: u64) -> Revision {
        self.revisions.get(&table).copied().unwrap_or_default()
    }

    fn changed(&mut self, table: u64) {
        self.revisions.insert(table, next_revision());
    }

    /// Drops the revision of a table that has been purged with all its parts.
    pub(super) fn forget_table(&mut self, table: u64) {
        self.revisions.remove(&table);
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many parts have statistics.
    pub(super) fn with_statistics(&self) -> usize {
        self.with_statistics
    }

    pub(super) fn get(&self, id: PartId) -> Option<&PartRow> {
        self.by_id.get(&id.to_bytes()).and_then(|slot| self.slot(*slot))
    }

    pub(super) fn at(&self, table: u64, sort_key: SortKey) -> Option<&PartRow> {
        self.order.get(&(table, sort_key)).and_then(|slot| self.slot(*slot))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PartRow> {
        self.order.values().filter_map(|slot| self.slot(*slot))
    }

    /// The parts after a position, or all parts, by table and sort key.
    pub(super) fn after(&self, last: Option<(u64, SortKey)>) -> impl Iterator<Item = &PartRow> {
        let first = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.order.range((first, Bound::Unbounded)).filter_map(|(_, slot)| self.slot(*slot))
    }

    /// A table's parts that versions up to `version` added, in order, including removed ones.
    pub(super) fn up_to(&self, table: u64, version: u64) -> impl DoubleEndedIterator<Item = &PartRow> {
        let first = SortKey { added: 0, seq: 0, generation: 0 };
        self.between(table, first, SortKey { added: version, ..SortKey::LAST })
    }

    /// A table's parts from one sort key to another, both inclusive, including removed parts.
    pub(super) fn between(
        &self,
        table: u64,
        first: SortKey,
        last: SortKey,
    ) -> impl DoubleEndedIterator<Item = &PartRow> {
        let range = self.order.range((table, first)..=(table, last));
        range.filter_map(|(_, slot)| self.slot(*slot))
    }

    /// The parts that the table's versions after `after`, up to and including `version`, removed.
    pub(super) fn removed_by(&self, table: u64, after: u64, version: u64) -> impl Iterator<Item = &PartRow> {
        let range = self.removed.range((table, after.saturating_add(1), 0)..=(table, version, u32::MAX));
        range.filter_map(|(_, _, slot)| self.slot(*slot))
    }

    fn slot(&self, slot: u32) -> Option<&PartRow> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    /// Inserts a part; replaces the part with the same id or the same sort key.
    pub(super) fn insert(&mut self, mut part: PartRow) {
        self.remove(part.part_id());
        self.remove_at(part.table, part.sort_key());
        let position = (part.table, part.sort_key());
        if let Some(neighbour) = self.order.range(..position).next_back().and_then(|(_, slot)| self.slot(*slot))
            && neighbour.write == part.write
        {
            part.write = neighbour.write.clone();
        }
        let slot = self.allocate_slot();
        self.by_id.insert(part.id, slot);
        self.order.insert(position, slot);
        if part.removed != 0 {
            self.removed.insert((part.table, part.removed, slot));
        }
        self.changed(part.table);
        self.with_statistics += usize::from(!part.statistics.is_empty());
        self.slots[slot as usize] = Some(part);
    }

    fn allocate_slot(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 64);
        }
        self.slots.push(None);
        (self.slots.len() - 1) as u32
    }

    pub(super) fn remove_at(&mut self, table: u64, sort_key: SortKey) {
        if let Some(id) = self.at(table, sort_key).map(PartRow::part_id) {
            self.remove(id);
        }
    }

    pub(super) fn remove(&mut self, id: PartId) -> Option<PartRow> {
        let slot = self.by_id.remove(&id.to_bytes())?;
        let part = self.slots[slot as usize].take()?;
        self.order.remove(&(part.table, part.sort_key()));
        self.removed.remove(&(part.table, part.removed, slot));
        self.free.push(slot);
        self.with_statistics -= usize::from(!part.statistics.is_empty());
        self.changed(part.table);
        Some(part)
    }

    /// Replaces a part's holders.
    pub(super) fn set_holders(&mut self, id: PartId, holders: Vec<u64>) {
        if let Some(slot) = self.by_id.get(&id.to_bytes())
            && let Some(part) = self.slots[*slot as usize].as_mut()
        {
            part.holders = holders.into();
            let table = part.table;
            self.changed(table);
        }
    }

    /// Marks a part as removed by a version.
    pub(super) fn set_removed(&mut self, id: PartId, version: u64, now_ms: u64) {
        if let Some(slot) = self.by_id.get(&id.to_bytes())
            && let Some(part) = self.slots[*slot as usize].as_mut()
        {
            self.removed.remove(&(part.table, part.removed, *slot));
            part.removed = version;
            part.removed_ms = now_ms;
            let table = part.table;
            self.removed.insert((table, version, *slot));
            self.changed(table);
        }
    }

    /// Makes a removed part belong to `version` and later ones again. Absences that end with `oldest` or before are dropped.
    pub(super) fn set_restored(&mut self, id: PartId, version: u64, oldest: u64) {
        if let Some(slot) = self.by_id.get(&id.to_bytes())
            && let Some(part) = self.slots[*slot as usize].as_mut()
        {
            self.removed.remove(&(part.table, part.removed, *slot));
            let absence = Absence { from: part.removed, until: version };
            (part.removed, part.removed_ms) = (0, 0);
            let rare = part.rare.get_or_insert_default();
            rare.absences.retain(|absence| absence.until > oldest);
            rare.absences.extend((absence.from < absence.until).then_some(absence));
            let table = part.table;
            self.changed(table);
        }
    }
}
