//! Compactions: fewer, larger parts replace small ones. The rows and their order do not change.
//!
//! The new parts take the sort keys of the first parts that they replace, one generation up, so that the order of the
//! table stays the same. The replaced parts are kept for readers of older versions, as after any other write that removes
//! parts.

use volley_common::wire::catalog::{BeginWrite, Part, Replaced, Table, Write, WriteMode, WriteOutcome};
use volley_common::{Error, NodeId, PartId, Result};

use super::commit::{committed_part, promised_ms, retention_step};
use super::{Catalog, PartRow, SortKey};

/// The facts about a part that a compaction replaces.
struct CompactionSource {
    id: PartId,
    sort_key: SortKey,
    shard: u32,
    rows: u64,
    bytes: u64,
    batches: u32,
}

impl Catalog {
    /// Checks that a compaction can begin: its node and its parts exist, and no other compaction of the table is open.
    pub(super) fn check_begin_compaction(&self, op: &BeginWrite, table: &Table) -> Result<()> {
        let name = || table.name.join("/");
        if op.staged || op.sources.len() < 2 {
            return Err(Error::invalid(format!("a compaction of table {:?} needs at least two parts", name())));
        }
        if self.node(NodeId(op.writer)).is_none_or(|node| node.boot != op.writer_boot) {
            return Err(Error::aborted(format!("the node that was to compact table {:?} has restarted", name())));
        }
        let compacts_table = |write: &&Write| write.mode() == WriteMode::Compact && write.table_id == table.id;
        if let Some(other) = self.open_writes().find(compacts_table) {
            return Err(Error::aborted(format!("write {} is already compacting table {:?}", other.id, name())));
        }
        let ids: Vec<PartId> = op.sources.iter().map(PartId::from).collect();
        self.sources(table, &ids).map(|_| ())
    }

    /// Replaces the write's sources by the compacted parts (in order), as a new version.
    pub(super) fn commit_compaction(&mut self, write: Write, parts: &[Part], now: u64) -> Result<WriteOutcome> {
        let table = self.find(&write.table).filter(|table| table.id == write.table_id).ok_or_else(|| {
            Error::aborted(format!("table {:?} was dropped during the compaction of its parts", write.table.join("/")))
        })?;
        let ids: Vec<PartId> = write.sources.iter().map(PartId::from).collect();
        let sources = self.sources(table, &ids)?;
        check_compacted(&write, &sources, parts)?;
        if table.spec.as_ref().is_some_and(|spec| spec.preserve_batches) {
            check_batches(&write, &sources, parts)?;
        }
        let mut table = table.clone();
        table.version += 1;
        table.bytes = table.bytes.saturating_sub(sources.iter().map(|source| source.bytes).sum());
        for source in &sources {
            self.mark_removed(source.id, table.version, now);
        }
        let generation =
            1 + sources.iter().map(|source| self.highest_generation(&table, source)).max().unwrap_or_default();
        for (seq, (part, source)) in parts.iter().zip(&sources).enumerate() {
            let mut row = committed_part(part, &write.id, &table, seq as u64);
            row.set_sort_key(SortKey { generation, ..source.sort_key });
            table.bytes += row.bytes;
            self.upsert_part(row);
        }
        record_replaced(&mut table, now);
        let outcome = WriteOutcome {
            table: table.name.clone(),
            version: table.version,
            rows: parts.iter().map(|part| part.rows).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            parts: parts.len() as u32,
            write: write.id.clone(),
        };
        self.upsert_table(table);
        self.record_committed(write, &outcome, now);
        Ok(outcome)
    }

    /// The highest generation at a source's position. It can be higher than the source's: if the source was compacted, and a
    /// version before that restored.
    fn highest_generation(&self, table: &Table, source: &CompactionSource) -> u32 {
        let last = SortKey { generation: u32::MAX, ..source.sort_key };
        let highest = self.parts.between(table.id, source.sort_key, last).next_back();
        highest.map_or(source.sort_key.generation, |part| part.sort_key().generation)
    }

    /// The parts to replace. They must be adjacent and not removed: within their shard if the table has keys, else within
    /// the table.
    fn sources(&self, table: &Table, ids: &[PartId]) -> Result<Vec<CompactionSource>> {
        let changed = || {
            Error::aborted(format!(
                "the parts of table {:?} that were to be compacted have changed: the table was replaced in the meantime",
                table.name.join("/")
            ))
        };
        let rows: Option<Vec<&PartRow>> = ids.iter().map(|id| self.parts.get(*id)).collect();
        let rows = rows.ok_or_else(changed)?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Err(changed()) };
        let (from, to, shard) = (first.sort_key(), last.sort_key(), first.shard);
        if first.table != table.id || last.table != table.id || from > to {
            return Err(changed());
        }
        let keyed = table.spec.as_ref().is_some_and(|spec| !spec.shard_by.is_empty());
        let live = self.parts.between(table.id, from, to).filter(|part| part.removed == 0);
        let neighbours = live.filter(|part| !keyed || part.shard == shard).map(PartRow::part_id);
        if !neighbours.eq(ids.iter().copied()) {
            return Err(changed());
        }
        Ok(rows.into_iter().map(CompactionSource::of).collect())
    }
}

impl CompactionSource {
    fn of(part: &PartRow) -> Self {
        let PartRow { shard, rows, bytes, batches, .. } = *part;
        CompactionSource { id: part.part_id(), sort_key: part.sort_key(), shard, rows, bytes, batches }
    }
}

/// Checks that a compaction keeps the row count and the shard of its sources, and does not increase the number of parts.
fn check_compacted(write: &Write, sources: &[CompactionSource], parts: &[Part]) -> Result<()> {
    let (before, after) = (sources.iter().map(|s| s.rows).sum::<u64>(), parts.iter().map(|p| p.rows).sum::<u64>());
    let shard = sources.first().map_or(0, |source| source.shard);
    if before != after || parts.len() > sources.len() || parts.iter().any(|part| part.shard != shard) {
        return Err(Error::invalid(format!(
            "compaction {:?} of table {:?} has {after} rows in {} parts, its sources have {before} in {} of shard {shard}",
            write.id,
            write.table.join("/"),
            parts.len(),
            sources.len()
        )));
    }
    Ok(())
}

/// Checks that a compaction of a table that preserves its batches did not join any. A node of an earlier version, which
/// does not know that option, does not report how many batches it wrote.
fn check_batches(write: &Write, sources: &[CompactionSource], parts: &[Part]) -> Result<()> {
    let before = sources.iter().map(|source| u64::from(source.batches)).sum::<u64>();
    let after = parts.iter().map(|part| u64::from(part.batches)).sum::<u64>();
    let known = sources.iter().all(|source| source.batches > 0);
    if parts.iter().any(|part| part.batches == 0) || (known && before != after) {
        return Err(Error::invalid(format!(
            "compaction {:?} of table {:?}, which has preserve_batches, has {after} batches, its sources have {before}",
            write.id,
            write.table.join("/")
        )));
    }
    Ok(())
}

/// Records until when the parts that the new version removed are kept: for the retention, and at least as long as the parts
/// that earlier compactions removed, because older versions need both.
fn record_replaced(table: &mut Table, now: u64) {
    let (version, retention) = (table.version, table.spec.as_ref().map_or(0, |spec| spec.retention_ms));
    let step = retention_step(table);
    let until_ms = now.saturating_add(retention).div_ceil(step).saturating_mul(step).max(promised_ms(table));
    match table.replaced.last_mut() {
        Some(last) if last.compaction && last.until_ms >= until_ms => {
            (last.version, last.at_ms) = (version, now);
        }
        _ => {
            let end = Replaced { version, until_ms, compaction: true, at_ms: now, ..Replaced::default() };
            table.replaced.push(end);
        }
    }
}
