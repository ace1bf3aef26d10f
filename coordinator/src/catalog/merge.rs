//! Merges: small parts of a table become fewer, the rows stay what they were, in their order.
//!
//! What a merge makes stands at the places of the first parts that it replaces, one generation up: behind what was
//! before them, before what came after. The parts that it replaces stay for the readers of older versions, as after
//! any other write that takes parts away.

use volley_common::wire::catalog::{BeginWrite, Part, Replaced, Table, Write, WriteMode, WriteOutcome};
use volley_common::{Error, NodeId, PartId, Result};

use super::commit::committed_part;
use super::{Catalog, PartRow, Place};

/// A table's retention in as many steps: merges whose parts go in the same step share one entry of the table's
/// `replaced`, so that a table that is merged every second does not grow a list of thousands.
const STEPS: u64 = 64;

/// What is to be known of a part that a merge replaces.
struct Source {
    id: PartId,
    place: Place,
    shard: u32,
    rows: u64,
    bytes: u64,
}

impl Catalog {
    /// Whether a merge can begin now: its node is there, its parts are, and no other one of the table is under way.
    pub(super) fn check_begin_merge(&self, op: &BeginWrite, table: &Table) -> Result<()> {
        let name = || table.name.join("/");
        if op.staged || op.sources.len() < 2 {
            return Err(Error::invalid(format!("a merge of table {:?} needs at least two parts", name())));
        }
        if self.node(NodeId(op.writer)).is_none_or(|node| node.boot != op.writer_boot) {
            return Err(Error::aborted(format!("the node that was to merge table {:?} was restarted", name())));
        }
        let merges = |write: &&Write| write.mode() == WriteMode::Compact && write.table_id == table.id;
        if let Some(other) = self.open_writes().find(merges) {
            return Err(Error::aborted(format!("table {:?} is being merged already, by write {}", name(), other.id)));
        }
        let ids: Vec<PartId> = op.sources.iter().map(PartId::from).collect();
        self.sources(table, &ids).map(|_| ())
    }

    /// Puts the merged parts (in order) in the place of the write's sources, as a new version.
    pub(super) fn commit_merge(&mut self, write: Write, parts: &[Part], now: u64) -> Result<WriteOutcome> {
        let table = self.find(&write.table).filter(|table| table.id == write.table_id).ok_or_else(|| {
            Error::aborted(format!("table {:?} was dropped during the merge of its parts", write.table.join("/")))
        })?;
        let ids: Vec<PartId> = write.sources.iter().map(PartId::from).collect();
        let sources = self.sources(table, &ids)?;
        check_merged(&write, &sources, parts)?;
        let mut table = table.clone();
        table.version += 1;
        table.bytes = table.bytes.saturating_sub(sources.iter().map(|source| source.bytes).sum());
        for source in &sources {
            self.remove_at_version(source.id, table.version, now);
        }
        let generation = 1 + sources.iter().map(|source| source.place.generation).max().unwrap_or_default();
        for (seq, (part, source)) in parts.iter().zip(&sources).enumerate() {
            let mut row = committed_part(part, &write.id, &table, seq as u64);
            row.set_place(Place { generation, ..source.place });
            table.bytes += row.bytes;
            self.put_part(row);
        }
        note_replaced(&mut table, now);
        let outcome = WriteOutcome {
            table: table.name.clone(),
            version: table.version,
            rows: parts.iter().map(|part| part.rows).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            parts: parts.len() as u32,
            write: write.id.clone(),
        };
        self.put_table(table);
        self.finish_write(write, &outcome, now);
        Ok(outcome)
    }

    /// The parts to replace, checked to be live neighbours: of their shard in a table with keys, else of the table.
    fn sources(&self, table: &Table, ids: &[PartId]) -> Result<Vec<Source>> {
        let gone = || {
            Error::aborted(format!(
                "the parts of table {:?} that were to be merged are no longer what they were: it was replaced meanwhile",
                table.name.join("/")
            ))
        };
        let rows: Option<Vec<&PartRow>> = ids.iter().map(|id| self.parts.get(*id)).collect();
        let rows = rows.ok_or_else(gone)?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Err(gone()) };
        let (from, to, shard) = (first.place(), last.place(), first.shard);
        if first.table != table.id || last.table != table.id || from > to {
            return Err(gone());
        }
        let keyed = table.spec.as_ref().is_some_and(|spec| !spec.shard_by.is_empty());
        let live = self.parts.between(table.id, from, to).filter(|part| part.removed == 0);
        let neighbours = live.filter(|part| !keyed || part.shard == shard).map(PartRow::part_id);
        if !neighbours.eq(ids.iter().copied()) {
            return Err(gone());
        }
        Ok(rows.into_iter().map(Source::of).collect())
    }
}

impl Source {
    fn of(part: &PartRow) -> Self {
        let PartRow { shard, rows, bytes, .. } = *part;
        Source { id: part.part_id(), place: part.place(), shard, rows, bytes }
    }
}

/// A merge changes no row: it has as many rows as its sources, of their shard, in no more parts.
fn check_merged(write: &Write, sources: &[Source], parts: &[Part]) -> Result<()> {
    let (before, after) = (sources.iter().map(|s| s.rows).sum::<u64>(), parts.iter().map(|p| p.rows).sum::<u64>());
    let shard = sources.first().map_or(0, |source| source.shard);
    if before != after || parts.len() > sources.len() || parts.iter().any(|part| part.shard != shard) {
        return Err(Error::invalid(format!(
            "merge {:?} of table {:?} has {after} rows in {} parts, its sources have {before} in {} of shard {shard}",
            write.id,
            write.table.join("/"),
            parts.len(),
            sources.len()
        )));
    }
    Ok(())
}

/// Until when what the new version took away is kept: no shorter than the retention, and no shorter than what
/// merges before it took away, for older versions need both.
fn note_replaced(table: &mut Table, now: u64) {
    let (version, retention) = (table.version, table.spec.as_ref().map_or(0, |spec| spec.retention_ms));
    let step = (retention / STEPS).max(1);
    let until_ms = now.saturating_add(retention).div_ceil(step).saturating_mul(step);
    match table.replaced.last_mut() {
        Some(last) if last.compaction && last.until_ms >= until_ms => last.version = version,
        _ => table.replaced.push(Replaced { version, until_ms, compaction: true }),
    }
}
