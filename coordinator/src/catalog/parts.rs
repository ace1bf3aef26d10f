//! Parts in memory: a million of them must fit beside everything else.
//!
//! A part costs about 120 bytes in the slab (which grows by an eighth), 32 for its holders, 44 in the
//! index by id and 62 in the order: some 270 bytes. Parts of one write share its id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use volley_common::PartId;
use volley_common::wire::catalog::{CompactedPosition, Part};

use super::RowKey;

/// One part, as compact as it can be without tricks.
#[derive(Clone, Debug, PartialEq)]
pub struct PartRow {
    id: [u8; 16],
    /// The table's id.
    pub table: u64,
    /// Which shard of the table.
    pub shard: u32,
    /// CRC-32C of the file.
    pub crc32c: u32,
    /// Id of the write that made it.
    pub write: Arc<str>,
    /// Its place among the parts of the version that brought it.
    pub seq: u64,
    /// Rows in it.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Ids of nodes with a verified copy.
    pub holders: Box<[u64]>,
    /// The version that brought it.
    pub added: u64,
    /// The version that took it away; 0: still there.
    pub removed: u64,
    /// When that was.
    pub removed_ms: u64,
    /// Of a merged part: where it stands in the table's order.
    pub(super) merged: Option<Box<Place>>,
}

/// Where a part's rows stand in its table: parts come back in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The version that brought the rows.
    pub added: u64,
    /// The place among the parts of that version.
    pub seq: u64,
    /// How often they were merged since: a part that no merge made has 0. What stands at one place one after the
    /// other has ever larger ones.
    pub generation: u32,
}

impl Place {
    const LAST: Place = Place { added: u64::MAX, seq: u64::MAX, generation: u32::MAX };
}

impl PartRow {
    /// The part's id.
    pub fn part_id(&self) -> PartId {
        PartId(u128::from_be_bytes(self.id))
    }

    /// Whether it is one of a version's parts.
    pub fn is_in(&self, version: u64) -> bool {
        self.added <= version && (self.removed == 0 || self.removed > version)
    }

    /// Its row's key.
    pub fn key(&self) -> RowKey {
        RowKey::Part { table: self.table, place: self.place() }
    }

    /// Where its rows stand in the table.
    pub fn place(&self) -> Place {
        self.merged.as_deref().copied().unwrap_or(Place { added: self.added, seq: self.seq, generation: 0 })
    }

    /// Puts it where parts that it replaces stood.
    pub(super) fn set_place(&mut self, place: Place) {
        self.merged = Some(Box::new(place));
    }

    /// The message.
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
            position: self.merged.as_deref().map(|place| CompactedPosition {
                added: place.added,
                seq: place.seq,
                generation: place.generation,
            }),
        }
    }

    /// Out of the message.
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
            holders: part.holders.as_slice().into(),
            added: part.added,
            removed: part.removed,
            removed_ms: part.removed_ms,
            merged: part.position.map(|place| Box::new(Place::from(place))),
        }
    }
}

impl From<CompactedPosition> for Place {
    fn from(place: CompactedPosition) -> Self {
        Place { added: place.added, seq: place.seq, generation: place.generation }
    }
}

/// The place of a part's row, of the message.
pub fn place_of(part: &Part) -> Place {
    part.position.map_or(Place { added: part.added, seq: part.seq, generation: 0 }, Place::from)
}

/// All parts: by id, in order, and by what removed them.
#[derive(Default)]
pub(super) struct Parts {
    slots: Vec<Option<PartRow>>,
    free: Vec<u32>,
    by_id: HashMap<[u8; 16], u32>,
    /// (table, place) → slot.
    order: BTreeMap<(u64, Place), u32>,
    /// (table, the version that removed it, slot), of removed parts only.
    gone: BTreeSet<(u64, u64, u32)>,
    /// By table: what [`Parts::stamp`] gives.
    stamps: HashMap<u64, Stamp>,
}

/// Tells a state from every other one that this process has seen: what is kept of a state is good for as long as the
/// stamp is the same.
pub type Stamp = u64;

/// A stamp that was never given before.
pub(super) fn new_stamp() -> Stamp {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Parts {
    /// The state of a table's parts; 0: it has none, and had none.
    pub(super) fn stamp(&self, table: u64) -> Stamp {
        self.stamps.get(&table).copied().unwrap_or_default()
    }

    fn changed(&mut self, table: u64) {
        self.stamps.insert(table, new_stamp());
    }

    /// Forgets a table that is gone, and whose parts are.
    pub(super) fn forget(&mut self, table: u64) {
        self.stamps.remove(&table);
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: PartId) -> Option<&PartRow> {
        self.by_id.get(&id.to_bytes()).and_then(|slot| self.slot(*slot))
    }

    pub(super) fn at(&self, table: u64, place: Place) -> Option<&PartRow> {
        self.order.get(&(table, place)).and_then(|slot| self.slot(*slot))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PartRow> {
        self.order.values().filter_map(|slot| self.slot(*slot))
    }

    /// A table's parts of versions up to this one, in order, removed ones too.
    pub(super) fn up_to(&self, table: u64, version: u64) -> impl DoubleEndedIterator<Item = &PartRow> {
        let first = Place { added: 0, seq: 0, generation: 0 };
        self.between(table, first, Place { added: version, ..Place::LAST })
    }

    /// A table's parts from one place to another, both included, removed ones too.
    pub(super) fn between(&self, table: u64, first: Place, last: Place) -> impl DoubleEndedIterator<Item = &PartRow> {
        let range = self.order.range((table, first)..=(table, last));
        range.filter_map(|(_, slot)| self.slot(*slot))
    }

    /// The parts that the table's versions after `after`, up to `version`, removed.
    pub(super) fn removed_by(&self, table: u64, after: u64, version: u64) -> impl Iterator<Item = &PartRow> {
        let range = self.gone.range((table, after.saturating_add(1), 0)..=(table, version, u32::MAX));
        range.filter_map(|(_, _, slot)| self.slot(*slot))
    }

    fn slot(&self, slot: u32) -> Option<&PartRow> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    /// Puts a part in, in place of the one with its id or its place.
    pub(super) fn insert(&mut self, mut part: PartRow) {
        self.remove(part.part_id());
        self.remove_at(part.table, part.place());
        let place = (part.table, part.place());
        if let Some(neighbour) = self.order.range(..place).next_back().and_then(|(_, slot)| self.slot(*slot))
            && neighbour.write == part.write
        {
            part.write = neighbour.write.clone();
        }
        let slot = self.take_slot();
        self.by_id.insert(part.id, slot);
        self.order.insert(place, slot);
        if part.removed != 0 {
            self.gone.insert((part.table, part.removed, slot));
        }
        self.changed(part.table);
        self.slots[slot as usize] = Some(part);
    }

    fn take_slot(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 64);
        }
        self.slots.push(None);
        (self.slots.len() - 1) as u32
    }

    pub(super) fn remove_at(&mut self, table: u64, place: Place) {
        if let Some(id) = self.at(table, place).map(PartRow::part_id) {
            self.remove(id);
        }
    }

    pub(super) fn remove(&mut self, id: PartId) -> Option<PartRow> {
        let slot = self.by_id.remove(&id.to_bytes())?;
        let part = self.slots[slot as usize].take()?;
        self.order.remove(&(part.table, part.place()));
        self.gone.remove(&(part.table, part.removed, slot));
        self.free.push(slot);
        self.changed(part.table);
        Some(part)
    }

    /// Changes a part's holders; its place stays.
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
            self.gone.remove(&(part.table, part.removed, *slot));
            part.removed = version;
            part.removed_ms = now_ms;
            let table = part.table;
            self.gone.insert((table, version, *slot));
            self.changed(table);
        }
    }
}
