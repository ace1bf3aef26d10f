//! Results of queries: tables that only the tickets of a FlightInfo name.
//!
//! The commit that makes one drops it at once. So no name leads to it, no list shows it, and expiry removes it as every dropped
//! table, whatever has become of the node that wrote it.

use volley_common::wire::catalog::{Part, Table, Write, WriteOutcome};

use super::Catalog;

impl Catalog {
    /// The result of a query by its table's name, while it is kept.
    pub fn query_result(&self, name: &[String]) -> Option<&Table> {
        self.query_results().find(|table| table.name == name)
    }

    fn query_results(&self) -> impl Iterator<Item = &Table> {
        let aging = self.aging.iter().filter_map(|id| self.tables.get(id));
        aging.filter(|table| table.query_result)
    }

    /// Commits the write of a result; `table` is new.
    pub(super) fn commit_query_result(&mut self, write: Write, table: Table, parts: &[Part], now: u64) -> WriteOutcome {
        let id = table.id;
        let outcome = self.make_visible(write, Table { query_result: true, ..table }, parts, now);
        if let Some(table) = self.tables.get(&id).cloned() {
            self.drop_rows(table, now);
        }
        outcome
    }

    /// Ends the retention of a result now; false: there is none of this name.
    pub(super) fn end_query_result(&mut self, name: &[String], now: u64) -> bool {
        let Some(mut table) = self.query_result(name).cloned() else { return false };
        table.replaced.iter_mut().for_each(|end| end.until_ms = end.until_ms.min(now));
        table.pins.clear();
        self.upsert_table(table);
        true
    }
}
