//! Commands that create and end tables, versions and writes.

use volley_common::wire::catalog::{
    AbortWrite, CommitWrite, CreateTable, DropTable, Part, Replaced, Table, TableSpec, Write, WriteMode, WriteOutcome,
    WriteState, reply,
};
use volley_common::{Error, NodeId, PartId, Result, TableName};

use super::apply::{aborted, already_there, done};
use super::fencing::is_superseded;
use super::layouts::may_have_layout;
use super::query::no_table;
use super::transactions::in_transaction;
use super::{Catalog, PartRow, RowKey};

/// A table's retention is divided into this many steps. Compactions, and the replaces of a table that is replaced very
/// often, share one entry of its `replaced` list for all that expires in the same step, so that the list stays short.
const RETENTION_STEPS: u64 = 64;

impl Catalog {
    pub(super) fn commit_write(&mut self, op: &CommitWrite, now: u64) -> Result<reply::Reply> {
        if let Some(outcome) = self.recorded_outcome(op) {
            return Ok(reply::Reply::Outcome(outcome));
        }
        let write = self.open_write(&op.write)?.clone();
        if !write.transaction.is_empty() {
            return Err(in_transaction(&write));
        }
        if is_superseded(&write, op) {
            return Err(Error::aborted(format!(
                "this attempt of write {:?} was superseded by a later attempt",
                op.write
            )));
        }
        let parts = self.parts_to_commit(&write, &op.parts)?;
        if write.mode() == WriteMode::Compact {
            return Ok(reply::Reply::Outcome(self.commit_compaction(write, &parts, now)?));
        }
        if write.mode() == WriteMode::Create && self.find(&write.table).is_some() {
            return Err(created_meanwhile(&write));
        }
        let table = self.table_to_commit(&write, now)?;
        if write.query_result {
            return Ok(reply::Reply::Outcome(self.commit_query_result(write, table, &parts, now)));
        }
        self.check_quota_to_commit(&table, &parts)?;
        Ok(reply::Reply::Outcome(self.make_visible(write, table, &parts, now)))
    }

    /// The parts that become visible, in their order: those that were staged, or else those that the commit lists.
    pub(super) fn parts_to_commit(&self, write: &Write, listed: &[Part]) -> Result<Vec<Part>> {
        if write.schema.is_empty() {
            return Err(Error::precondition(format!(
                "write {:?} has no schema: put at least one stream into it before commit_write, or abort it",
                write.id
            )));
        }
        let mut parts: Vec<Part> =
            if write.staged { self.staged_parts(write).cloned().collect() } else { listed.to_vec() };
        self.check_parts(write, &parts)?;
        // Copies on nodes that were removed during the write do not count.
        parts.iter_mut().for_each(|part| part.holders.retain(|node| !self.was_removed(NodeId(*node))));
        // Sequence numbers of one version become unique, however the writer numbered its parts.
        parts.sort_by_key(|part| (part.seq, part.part_id()));
        Ok(parts)
    }

    /// The outcome of a write that is already committed: a repeated commit gets the same reply.
    fn recorded_outcome(&self, op: &CommitWrite) -> Option<WriteOutcome> {
        let write = self.finished.get(&op.write)?;
        write.outcome.filter(|_| write.state == WriteState::Committed as i32)
    }

    /// The table as it is after the write: with the new version, but without the new parts in its totals.
    pub(super) fn table_to_commit(&self, write: &Write, now: u64) -> Result<Table> {
        let mut table = match (self.find(&write.table), write.mode()) {
            (Some(_), WriteMode::Create) => return Err(already_there(&write.table)),
            (None, WriteMode::Create | WriteMode::Replace) => self.new_table(&write.table, now)?,
            (Some(table), WriteMode::Replace) => {
                let mut table = table.clone();
                table.replaced.push(replaced_by(&table, table.version + 1, now));
                table.version += 1;
                (table.rows, table.bytes) = (0, 0);
                table
            }
            // Compactions commit in `commit_compaction`; this arm only completes the match.
            (found, WriteMode::Append | WriteMode::Compact) => {
                let mut table = check_append(write, found)?.clone();
                table.version += 1;
                table
            }
        };
        if write.mode() != WriteMode::Append {
            table.kind = write.kind;
            table.spec.clone_from(&write.spec);
            table.schema.clone_from(&write.schema);
        }
        if write.mode() != WriteMode::Append || table.placement.is_empty() {
            table.placement.clone_from(&write.placement);
        }
        table.changed_ms = now;
        Ok(table)
    }

    /// A new table that is not in the catalog yet: version 1, no rows.
    fn new_table(&self, name: &[String], now: u64) -> Result<Table> {
        let cluster =
            self.cluster.as_ref().ok_or_else(|| Error::precondition("the cluster is not formed yet: try again"))?;
        Ok(Table {
            id: cluster.next_table,
            name: name.to_vec(),
            version: 1,
            created_ms: now,
            changed_ms: now,
            oldest: 1,
            ..Table::default()
        })
    }

    pub(super) fn make_visible(&mut self, write: Write, mut table: Table, parts: &[Part], now: u64) -> WriteOutcome {
        if write.mode() != WriteMode::Append {
            self.keep_layout(&mut table);
            merge_ends(&mut table);
            end_oldest(&mut table, now);
            self.remove_all_parts(table.id, table.version, now);
        }
        let mut outcome = WriteOutcome {
            table: table.name.clone(),
            version: table.version,
            parts: parts.len() as u32,
            write: write.id.clone(),
            ..WriteOutcome::default()
        };
        for (seq, part) in parts.iter().enumerate() {
            outcome.rows += part.rows;
            outcome.bytes += part.bytes;
            self.upsert_part(committed_part(part, &write.id, &table, seq as u64));
        }
        table.rows += outcome.rows;
        table.bytes += outcome.bytes;
        self.add_table(table);
        self.record_committed(write, &outcome, now);
        outcome
    }

    /// Records a committed write. Only its outcome is kept, for repeated commits.
    pub(super) fn record_committed(&mut self, mut write: Write, outcome: &WriteOutcome, now: u64) {
        self.remove_staged(&write.id);
        write.outcome = Some(outcome.clone());
        write.set_state(WriteState::Committed);
        write.ended_ms = now;
        self.upsert_write(write);
    }

    /// Stores a table. A new table uses up the next table id.
    pub(super) fn add_table(&mut self, table: Table) {
        if let Some(cluster) = self.cluster.as_mut()
            && table.id == cluster.next_table
        {
            cluster.next_table += 1;
            self.touched.insert(RowKey::Cluster);
        }
        self.upsert_table(table);
    }

    /// Marks every part of the table that no version has removed as removed by `version`.
    fn remove_all_parts(&mut self, table: u64, version: u64, now: u64) {
        let live = self.parts.up_to(table, u64::MAX).filter(|part| part.removed == 0);
        let live: Vec<PartId> = live.map(PartRow::part_id).collect();
        live.into_iter().for_each(|id| self.mark_removed(id, version, now));
    }

    /// Marks one part as removed by `version`.
    pub(super) fn mark_removed(&mut self, id: PartId, version: u64, now: u64) {
        self.parts.set_removed(id, version, now);
        self.touched.extend(self.parts.get(id).map(PartRow::key));
    }

    pub(super) fn abort_write(&mut self, op: &AbortWrite, now: u64) -> Result<reply::Reply> {
        let write = self.write(&op.write).ok_or_else(|| {
            Error::not_found(format!("there is no write {:?}: it was never begun, or it ended long ago", op.write))
        })?;
        let this_attempt = op.attempt == 0 || op.attempt == write.attempt;
        match write.state() {
            WriteState::Committed if this_attempt => {
                return Err(Error::precondition(format!(
                    "write {:?} is committed already: it cannot be aborted",
                    op.write
                )));
            }
            WriteState::Aborted if write.end_unknown => return Err(aborted(&write)),
            WriteState::Open if !write.transaction.is_empty() => return Err(in_transaction(&write)),
            WriteState::Open if this_attempt => {
                let reason = if op.reason.is_empty() { "its client asked for it" } else { &op.reason };
                self.record_aborted(&op.write, reason, now);
            }
            WriteState::Open | WriteState::Committed | WriteState::Aborted => {}
        }
        Ok(done())
    }

    /// Turns an open write into an aborted one.
    pub(super) fn record_aborted(&mut self, id: &str, reason: &str, now: u64) {
        let Some(mut write) = self.open.get(id).cloned() else { return };
        self.remove_staged(id);
        write.set_state(WriteState::Aborted);
        write.abort_reason = reason.to_string();
        write.ended_ms = now;
        self.upsert_write(write);
    }

    pub(super) fn create_table(&mut self, op: &CreateTable, now: u64) -> Result<reply::Reply> {
        TableName::from_components(&op.table)?;
        if self.find(&op.table).is_some() {
            return Err(already_there(&op.table));
        }
        self.check_quota(&op.table, 0, true)?;
        let mut table = self.new_table(&op.table, now)?;
        table.kind = op.kind;
        table.spec.clone_from(&op.spec);
        table.schema.clone_from(&op.schema);
        table.placement.clone_from(&op.placement);
        self.note_spec(op.spec.as_ref());
        self.add_table(table.clone());
        Ok(reply::Reply::Table(table))
    }

    pub(super) fn drop_table(&mut self, op: &DropTable, now: u64) -> Result<reply::Reply> {
        if let Some(table) = self.find(&op.table).cloned() {
            self.drop_rows(table, now);
        } else if !self.end_query_result(&op.table, now) {
            return Err(no_table(&op.table));
        }
        Ok(done())
    }

    /// Drops a table: its newest version is readable for its retention.
    pub(super) fn drop_rows(&mut self, mut table: Table, now: u64) {
        let after = table.version + 1;
        table.replaced.push(replaced_by(&table, after, now));
        table.dropped_ms = now.max(1);
        self.remove_all_parts(table.id, after, now);
        self.upsert_table(table);
    }

    pub(super) fn clear(&mut self) -> Result<reply::Reply> {
        let parts: Vec<PartId> = self.parts.iter().map(PartRow::part_id).collect();
        parts.into_iter().for_each(|id| self.remove_part(id));
        let tables: Vec<u64> = self.tables.keys().copied().collect();
        tables.into_iter().for_each(|id| self.remove_table(id));
        let writes: Vec<String> = self.writes().map(|write| write.id.clone()).collect();
        for id in &writes {
            self.remove_staged(id);
            self.remove_write(id);
        }
        self.drop_transactions();
        Ok(done())
    }
}

/// How long the versions before `version` stay readable when `version` removes all their parts: for the retention that
/// they were created with, and at least as long as compactions promised to the versions before them, which share parts.
pub(super) fn replaced_by(table: &Table, version: u64, now: u64) -> Replaced {
    let retention = table.spec.as_ref().map_or(0, |spec| spec.retention_ms);
    let until_ms = now.saturating_add(retention).max(promised_ms(table));
    Replaced { version, until_ms, at_ms: now, ..Replaced::default() }
}

/// A table that is replaced more often than this within its retention has fewer entries than replaced versions.
const MAX_EXACT_ENDS: usize = 64;

/// Merges the last two entries of a table that is replaced very often, if they end in the same step of its retention: the
/// table's row would grow with every replace. The versions of both stay readable until the end of the step.
fn merge_ends(table: &mut Table) {
    let is_plain = |end: &Replaced| !end.compaction && !may_have_layout(end) && end.restored == 0;
    let step = retention_step(table);
    if table.replaced.len() <= MAX_EXACT_ENDS {
        return;
    }
    let [.., before, last] = table.replaced.as_mut_slice() else { return };
    if !is_plain(before) || !is_plain(last) {
        return;
    }
    last.until_ms = last.until_ms.div_ceil(step).saturating_mul(step);
    if before.until_ms == last.until_ms {
        *before = *last;
        table.replaced.pop();
    }
}

/// Maximum number of entries of a table's `replaced` list whose retention has not passed. Its row is written with every
/// commit, and each entry may have a schema of its own.
const MAX_ENDS: usize = 1024;

/// Ends the retention of the oldest versions of a table with more entries than [`MAX_ENDS`]. Later entries keep all parts
/// that the versions after them need.
pub(super) fn end_oldest(table: &mut Table, now: u64) {
    let excess = table.replaced.len().saturating_sub(MAX_ENDS);
    table.replaced.iter_mut().take(excess).for_each(|end| end.until_ms = end.until_ms.min(now));
}

/// Ends of versions within one step of a table's retention can share an entry.
pub(super) fn retention_step(table: &Table) -> u64 {
    let retention = table.spec.as_ref().map_or(0, |spec| spec.retention_ms);
    (retention / RETENTION_STEPS).max(1)
}

/// Until when older versions need parts that the newest version has: compactions and restored versions share parts with
/// them.
pub(super) fn promised_ms(table: &Table) -> u64 {
    let last = table.replaced.last().filter(|last| last.compaction || last.restored != 0);
    last.map_or(0, |last| last.until_ms)
}

fn created_meanwhile(write: &Write) -> Error {
    Error::exists(format!(
        "table {:?} exists already: it was created after this write began; put again with mode append or create_append to add the rows, or with mode replace",
        write.table.join("/")
    ))
}

/// Checks that the table is still the one that the append was planned for.
fn check_append<'a>(write: &Write, found: Option<&'a Table>) -> Result<&'a Table> {
    let name = write.table.join("/");
    let partition =
        |spec: &Option<TableSpec>| spec.as_ref().map(|s| (s.shards, s.shard_by.clone(), s.preserve_batches));
    match found {
        Some(table) if table.id != write.table_id => Err(Error::aborted(format!(
            "table {name:?} was dropped and created again during the append: append again if the new table is meant"
        ))),
        Some(table) if table.schema != write.schema || partition(&table.spec) != partition(&write.spec) => {
            Err(Error::aborted(format!(
                "table {name:?} was replaced with another schema, other shards or another preserve_batches during the append: append again"
            )))
        }
        Some(table) => Ok(table),
        None => Err(Error::aborted(format!(
            "table {name:?} was dropped during the append: put with mode create to create it again"
        ))),
    }
}

/// The row of a part that a write adds with the table's new version.
pub(super) fn committed_part(part: &Part, write: &str, table: &Table, seq: u64) -> PartRow {
    let mut row = PartRow::from_part(part);
    row.write = write.into();
    row.table = table.id;
    row.seq = seq;
    row.added = table.version;
    (row.removed, row.removed_ms, row.rare) = (0, 0, None);
    row
}
