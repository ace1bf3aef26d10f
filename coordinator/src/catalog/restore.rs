//! Restoring: an old version of a table becomes its newest one, and a dropped table comes back.
//!
//! A restored version has the parts of the old one. They stay where they are in the table's order; each records the versions
//! in between, which do not have it, as an absence.

use std::collections::BTreeSet;

use volley_common::wire::catalog::{Replaced, RestoreVersion, Restored, Table, TableSpec, WriteOutcome, reply};
use volley_common::{Error, PartId, Result};

use super::commit::{end_oldest, promised_ms, replaced_by};
use super::query::{no_table, readable, readable_text};
use super::time_to_live::restored_ttl_ms;
use super::{Catalog, PartRow};

/// Maximum number of versions between whose restorations a part can be absent while all are readable. Bounds the size of its row.
const MAX_ABSENCES: usize = 64;

impl Catalog {
    /// The table that an undo of the drop of `name` brings back: the one that was dropped last, while it is kept. Never the result of
    /// a query.
    pub fn dropped_table(&self, name: &[String], now_ms: u64) -> Option<&Table> {
        let aging = self.aging.iter().filter_map(|id| self.tables.get(id));
        let dropped = aging.filter(|table| table.dropped_ms != 0 && !table.query_result && table.name == name);
        let restorable = dropped.filter(|table| readable(table, table.version, now_ms));
        restorable.max_by_key(|table| (table.dropped_ms, table.id))
    }

    pub(super) fn restore_version(&mut self, op: &RestoreVersion, now: u64) -> Result<reply::Reply> {
        let table = match (self.find(&op.table), self.dropped_table(&op.table, now)) {
            (Some(table), Some(dropped)) if op.table_id == dropped.id => return Err(name_in_use(table, dropped)),
            (Some(table), _) if op.version == 0 => return Err(not_dropped(table)),
            (Some(table), _) => table,
            (None, Some(dropped)) => dropped,
            (None, None) => return Err(no_table(&op.table).at("nothing to restore")),
        };
        if (table.id, table.version) != (op.table_id, op.base_version) {
            return Err(Error::aborted(format!(
                "table {:?} was changed while the restoration of a version of it was planned: nothing was restored; look at its versions, and try again",
                op.table.join("/")
            )));
        }
        let old = self.version_to_restore(table, op, now)?;
        self.check_quota_to_restore(table, old)?;
        let mut table = table.clone();
        let undropped = table.dropped_ms != 0;
        if undropped {
            self.undo_drop(&mut table);
        }
        let replaced = table.version;
        if old != table.version {
            self.make_newest(&mut table, old, op, now);
        }
        table.changed_ms = now;
        let outcome = WriteOutcome {
            table: table.name.clone(),
            version: table.version,
            rows: table.rows,
            bytes: table.bytes,
            parts: self.part_rows_at(table.id, table.version).count() as u32,
            write: String::new(),
        };
        self.upsert_table(table);
        let replaced = if undropped { 0 } else { replaced };
        Ok(reply::Reply::Restored(Restored { outcome: Some(outcome), restored: old, replaced, undropped }))
    }

    /// Checks the version; 0 is the last one of a dropped table.
    fn version_to_restore(&self, table: &Table, op: &RestoreVersion, now: u64) -> Result<u64> {
        let (name, version) = (table.name.join("/"), if op.version == 0 { table.version } else { op.version });
        if version == table.version && table.dropped_ms == 0 {
            return Err(Error::precondition(format!("version {version} of table {name:?} is the newest already")));
        }
        if !readable(table, version, now) {
            return Err(Error::not_found(format!(
                "version {version} of table {name:?} is not kept: {}",
                readable_text(table, now)
            )));
        }
        let shards = self.layout_at(table, version).spec.map_or(0, |spec| spec.shards);
        let has_shards = |placement: usize| placement == 0 || placement == shards as usize;
        if version != table.version && op.placement.is_empty() && !has_shards(table.placement.len())
            || !has_shards(op.placement.len())
        {
            return Err(Error::invalid(format!(
                "the restoration of table {name:?} has no placement for {shards} shards"
            )));
        }
        let busy = self.part_rows_at(table.id, version).find(|part| part.absences().len() >= MAX_ABSENCES);
        match busy.filter(|_| version != table.version) {
            None => Ok(version),
            Some(_) => Err(Error::exhausted(format!(
                "the rows of version {version} of table {name:?} were restored {MAX_ABSENCES} times within the table's retention: wait until older versions have expired, or put the rows again"
            ))),
        }
    }

    /// Makes a dropped table exist again, as it was.
    fn undo_drop(&mut self, table: &mut Table) {
        table.dropped_ms = 0;
        let Some(drop) = table.replaced.pop() else { return };
        let removed: Vec<PartId> =
            self.parts.removed_by(table.id, table.version, drop.version).map(PartRow::part_id).collect();
        for part in removed {
            self.mark_restored(part, table, drop.version);
        }
    }

    /// Makes the parts of version `old` the next version.
    fn make_newest(&mut self, table: &mut Table, old: u64, op: &RestoreVersion, now: u64) {
        let layout = self.layout_at(table, old);
        let wanted: BTreeSet<PartId> = self.part_rows_at(table.id, old).map(PartRow::part_id).collect();
        let latest = table.replaced.iter().map(|end| end.until_ms).fold(promised_ms(table), u64::max);
        let end = replaced_by(table, table.version + 1, now);
        table.replaced.push(Replaced { until_ms: end.until_ms.max(latest), restored: old, ..end });
        table.version += 1;
        let present = table.spec.as_ref().map_or(0, |spec| spec.ttl_ms);
        let spec = layout.spec.map(|spec| TableSpec { ttl_ms: restored_ttl_ms(spec.ttl_ms, present), ..spec });
        (table.schema, table.spec) = (layout.schema, spec);
        if !op.placement.is_empty() {
            table.placement.clone_from(&op.placement);
        }
        self.keep_layout(table);
        end_oldest(table, now);
        let live = self.parts.up_to(table.id, u64::MAX).filter(|part| part.removed == 0);
        let unwanted: Vec<PartId> = live.map(PartRow::part_id).filter(|id| !wanted.contains(id)).collect();
        unwanted.into_iter().for_each(|id| self.mark_removed(id, table.version, now));
        (table.rows, table.bytes) = (0, 0);
        for id in wanted {
            let Some(part) = self.parts.get(id) else { continue };
            (table.rows, table.bytes) = (table.rows + part.rows, table.bytes + part.bytes);
            if part.removed != 0 {
                self.mark_restored(id, table, table.version);
            }
        }
    }

    fn mark_restored(&mut self, id: PartId, table: &Table, version: u64) {
        self.parts.set_restored(id, version, table.oldest);
        self.touched.extend(self.parts.get(id).map(PartRow::key));
    }
}

fn not_dropped(table: &Table) -> Error {
    Error::precondition(format!(
        "table {:?} exists: only a dropped table is restored without a version; name the version that is to become the newest",
        table.name.join("/")
    ))
}

fn name_in_use(table: &Table, dropped: &Table) -> Error {
    Error::exists(format!(
        "the name {:?} is in use by a table that was created after the drop (it has {} rows, the dropped one had {}): the dropped table can come back only while no table has its name",
        table.name.join("/"),
        table.rows,
        dropped.rows
    ))
}
