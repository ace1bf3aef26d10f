//! The layouts (schema and spec) of old versions. Only a replace can change a table's layout; the old one is kept in a row
//! of its own, which all versions that had it share, as long as one of them may be readable.

use std::collections::BTreeSet;

use prost::Message;
use volley_common::wire::catalog::{Replaced, Table, TableLayout};
use volley_common::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::{Catalog, RowKey, TableUsage};

impl Catalog {
    /// The schema and the spec of a version of a table.
    pub fn layout_at(&self, table: &Table, version: u64) -> TableLayout {
        let mut later = table.replaced.iter().filter(|end| end.version > version && end.layout != 0);
        let old = later.next().and_then(|end| self.layouts.get(&(table.id, end.layout)));
        old.cloned().unwrap_or_else(|| layout_of(table))
    }

    /// The layout of a version that is to become the newest one.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the version may have another layout than the one after it, and its end was recorded by a build
    /// that did not keep layouts.
    pub fn layout_to_restore(&self, table: &Table, version: u64) -> Result<TableLayout> {
        let is_drop = |end: &Replaced| table.dropped_ms != 0 && end.version > table.version;
        let ends = table.replaced.iter().filter(|end| end.version > version && !is_drop(end));
        // The first entry with a layout says what the versions before it have.
        let unknown = ends.take_while(|end| end.layout == 0).find(|end| may_have_layout(end));
        match unknown {
            None => Ok(self.layout_at(table, version)),
            Some(end) => Err(Error::precondition(format!(
                "version {version} of table {:?} cannot be restored: version {} replaced it before the coordinators were upgraded, and its columns were not recorded: put its rows again",
                table.name.join("/"),
                end.version
            ))),
        }
    }

    /// Keeps the layout that the versions before the newest one had, if the newest one, which removes all their parts, has
    /// another. The last entry of `table.replaced` is that of the newest version.
    pub(super) fn keep_layout(&mut self, table: &mut Table) {
        let Some(before) = self.tables.get(&table.id).map(layout_of) else { return };
        let Some(end) = table.replaced.last_mut().filter(|end| end.version == table.version) else { return };
        if (&before.schema, &before.spec) != (&table.schema, &table.spec) {
            end.layout = self.upsert_layout(before);
        }
    }

    /// Stores a layout, unless the table has it already; returns its id.
    fn upsert_layout(&mut self, mut layout: TableLayout) -> u64 {
        layout.id = xxh3_64(&layout.encode_to_vec()).max(1);
        // Another layout of the table with the same hash.
        while self.layouts.get(&(layout.table, layout.id)).is_some_and(|other| *other != layout) {
            layout.id = layout.id.wrapping_add(1).max(1);
        }
        let (table, id) = (layout.table, layout.id);
        if !self.layouts.contains_key(&(table, id)) {
            self.touched.insert(RowKey::Layout { table, id });
            self.index_layout(layout);
        }
        id
    }

    pub(super) fn index_layout(&mut self, layout: TableLayout) {
        self.unindex_layout(layout.table, layout.id);
        self.usage += TableUsage::of_schema(layout.schema.len());
        self.layouts.insert((layout.table, layout.id), layout);
    }

    pub(super) fn unindex_layout(&mut self, table: u64, id: u64) {
        if let Some(old) = self.layouts.remove(&(table, id)) {
            self.usage -= TableUsage::of_schema(old.schema.len());
        }
    }

    /// Removes a table's layouts but those with these ids.
    pub(super) fn remove_layouts(&mut self, table: u64, but: &BTreeSet<u64>) {
        let ids = self.layouts.range((table, 0)..=(table, u64::MAX)).map(|((_, id), _)| *id);
        for id in ids.filter(|id| !but.contains(id)).collect::<Vec<_>>() {
            self.unindex_layout(table, id);
            self.touched.insert(RowKey::Layout { table, id });
        }
    }
}

/// Whether the versions before this entry may have another layout than those after it. Earlier builds recorded neither the
/// layout nor the time of an entry.
pub(super) fn may_have_layout(end: &Replaced) -> bool {
    end.layout != 0 || (end.at_ms == 0 && !end.compaction)
}

/// The layout of a table's newest version.
fn layout_of(table: &Table) -> TableLayout {
    TableLayout { table: table.id, id: 0, schema: table.schema.clone(), spec: table.spec.clone() }
}
