//! Tables that expire: `Expire` drops each one whose time to live has passed since its last write.
//!
//! That is a drop like any other, which can be undone while the table's retention lasts. Puts, creations and restorations are writes;
//! compactions are not. A table into which a write is open stays until that has ended.

use std::collections::HashSet;

use volley_common::wire::catalog::{ExpiredTable, Table, Write, WriteMode};

use super::Catalog;

/// Maximum number of tables that one command drops. The leader proposes the next one a second later.
const MAX_DROPS: usize = 100;

/// When a table is dropped unless it is written to before, milliseconds since 1970; `None`: it does not expire.
pub fn expires_ms(table: &Table) -> Option<u64> {
    let ttl_ms = table.spec.as_ref().map_or(0, |spec| spec.ttl_ms);
    (ttl_ms != 0).then(|| table.changed_ms.saturating_add(ttl_ms))
}

/// The time to live of a table of which an older version is restored, milliseconds, from those of both versions. The longer one, so
/// that no restoration makes a table expire earlier.
pub(super) fn restored_ttl_ms(old: u64, present: u64) -> u64 {
    if old == 0 || present == 0 { 0 } else { old.max(present) }
}

impl Catalog {
    /// Tables whose time to live has passed and that nobody writes to, in the order in which it did; at most [`MAX_DROPS`].
    pub(super) fn expired_tables(&self, now: u64) -> Vec<u64> {
        let mut due = self.expiring.range(..(now, 0)).map(|(_, id)| *id).peekable();
        if due.peek().is_none() {
            return Vec::new();
        }
        let open = self.open.values().filter(|write| changes_table(write));
        let written: HashSet<&[String]> = open.map(|write| write.table.as_slice()).collect();
        let is_unused = |id: &u64| self.tables.get(id).is_some_and(|table| !written.contains(table.name.as_slice()));
        due.filter(is_unused).take(MAX_DROPS).collect()
    }

    /// Drops the expired tables.
    pub(super) fn drop_expired_tables(&mut self, now: u64) -> Vec<ExpiredTable> {
        let due = self.expired_tables(now);
        let tables: Vec<Table> = due.iter().filter_map(|id| self.tables.get(id)).cloned().collect();
        let mut dropped = Vec::with_capacity(tables.len());
        for table in tables {
            dropped.push(ExpiredTable {
                table: table.name.clone(),
                ttl_ms: table.spec.as_ref().map_or(0, |spec| spec.ttl_ms),
                version: table.version,
                rows: table.rows,
                changed_ms: table.changed_ms,
            });
            self.drop_rows(table, now);
        }
        dropped
    }
}

/// Whether an open write will change the table of its name, and not only if there is none.
fn changes_table(write: &Write) -> bool {
    match write.mode() {
        WriteMode::Append | WriteMode::Replace => true,
        WriteMode::Create | WriteMode::Compact => false,
    }
}
