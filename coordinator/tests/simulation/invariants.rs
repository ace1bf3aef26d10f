//! Invariants of every catalog, independent of the commands that were applied.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::{Table, WriteState};
use volley_coordinator::catalog::{Catalog, PartRow};

use crate::oracle::SimViolation;

/// The highest versions and ids seen so far: they only grow.
#[derive(Default)]
pub struct CatalogInvariants {
    versions: BTreeMap<u64, u64>,
    next_table: u64,
    clock_ms: u64,
}

impl CatalogInvariants {
    /// Checks a catalog that is not older than the last one checked.
    pub fn check(&mut self, catalog: &Catalog) -> Result<(), SimViolation> {
        for table in catalog.all_tables() {
            let version = self.versions.entry(table.id).or_insert(0);
            if table.version < *version {
                return Err(format!("table {} went from version {version} to {}", table.id, table.version));
            }
            *version = table.version;
            check_table(catalog, table)?;
        }
        let next_table = catalog.cluster().map_or(0, |cluster| cluster.next_table);
        if next_table < self.next_table || self.versions.keys().next_back().is_some_and(|id| *id >= next_table) {
            return Err(format!("the next table's id is {next_table}, it was {}", self.next_table));
        }
        self.next_table = next_table;
        if catalog.clock_ms() < self.clock_ms {
            return Err(format!("the catalog's time went from {} back to {}", self.clock_ms, catalog.clock_ms()));
        }
        self.clock_ms = catalog.clock_ms();
        catalog.all_parts().try_for_each(|part| check_part(catalog, part))?;
        check_writes(catalog)?;
        check_transactions(catalog)
    }
}

fn check_table(catalog: &Catalog, table: &Table) -> Result<(), SimViolation> {
    let bad = |what: &str| Err(format!("table {} (version {}): {what}: {table:?}", table.id, table.version));
    let Some(spec) = &table.spec else { return bad("has no spec") };
    if !table.placement.is_empty() && table.placement.len() != spec.shards as usize {
        return bad("does not have one placement per shard");
    }
    for holders in &table.placement {
        let distinct: BTreeSet<u64> = holders.nodes.iter().copied().collect();
        if distinct.len() != holders.nodes.len() || distinct.len() != spec.replicas as usize {
            return bad("has a shard that is not placed on as many distinct nodes as the table has replicas");
        }
    }
    if table.dropped_ms == 0 {
        let (mut rows, mut bytes) = (0, 0);
        for part in catalog.part_rows_at(table.id, table.version) {
            rows += part.rows;
            bytes += part.bytes;
        }
        if (rows, bytes) != (table.rows, table.bytes) {
            return bad(&format!("its parts have {rows} rows, {bytes} bytes"));
        }
    }
    Ok(())
}

fn check_part(catalog: &Catalog, part: &PartRow) -> Result<(), SimViolation> {
    let bad = |what: &str| Err(format!("part {} {what}: {part:?}", part.part_id()));
    let Some(table) = catalog.table(part.table) else { return bad("belongs to no table") };
    if part.holders.is_empty() {
        return bad("has no holder");
    }
    if part.added > table.version || part.shard >= table.spec.as_ref().map_or(1, |spec| spec.shards) {
        return bad("has a version or a shard that its table does not have");
    }
    match catalog.write(&part.write) {
        Some(write) if write.state() != WriteState::Committed => bad("belongs to a write that is not committed"),
        _ => Ok(()),
    }
}

/// All writes of a transaction are open, or committed, or aborted. Their ids begin with that of the transaction.
fn check_transactions(catalog: &Catalog) -> Result<(), SimViolation> {
    let mut states = BTreeMap::<String, WriteState>::new();
    for write in catalog.writes() {
        let Some((transaction, _)) = write.id.split_once('.') else { continue };
        let state = *states.entry(transaction.into()).or_insert(write.state());
        if state != write.state() {
            return Err(format!("the writes of transaction {transaction} are {state:?} and {:?}", write.state()));
        }
    }
    Ok(())
}

fn check_writes(catalog: &Catalog) -> Result<(), SimViolation> {
    let bad = catalog.writes().find(|write| {
        let committed = write.state() == WriteState::Committed;
        committed != write.outcome.is_some() || (write.state() == WriteState::Open) != (write.ended_ms == 0)
    });
    bad.map_or(Ok(()), |write| {
        Err(format!("the state and the outcome of write {} contradict each other: {write:?}", write.id))
    })
}
