//! What one cluster's catalog may hold: every coordinator keeps all of it in memory.

use volley_common::wire::catalog::{Table, TableSpec, Write};
use volley_common::{Error, Result, TableName};

use super::catalog_limits::CatalogLimits;
use crate::catalog::{Catalog, TableUsage};

impl CatalogLimits {
    /// Checks that a table with this spec and schema fits into the catalog, in place of `old`. An empty schema is not known yet.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, naming the limit.
    pub fn check_capacity(
        &self,
        catalog: &Catalog,
        name: &TableName,
        spec: &TableSpec,
        schema: &[u8],
        old: Option<&Table>,
    ) -> Result<()> {
        let (used, wanted) = (catalog.table_usage(), TableUsage::of(spec, schema.len()));
        let mut freed = old.map(TableUsage::of_table).unwrap_or_default();
        // The schema of the old version stays, in its layout, if the new one has another.
        if old.is_some_and(|old| old.schema != schema || old.spec.as_ref() != Some(spec)) {
            freed.schema_bytes = 0;
        }
        let grows = |of: fn(&TableUsage) -> u64, most: u64| {
            let (used, wanted, freed) = (of(&used), of(&wanted), of(&freed));
            (wanted > freed && used.saturating_sub(freed) + wanted > most).then_some(most)
        };
        let limit = grows(|usage| usage.tables, self.max_tables)
            .map(|most| format!("{most} tables (`max_tables`): drop some"))
            .or_else(|| {
                let most = grows(|usage| usage.shard_replicas, self.max_shard_replicas)?;
                Some(format!(
                    "{most} copies of shards (shards times replicas, over all tables, `max_shard_replicas`): give the table fewer shards"
                ))
            })
            .or_else(|| {
                let most = grows(|usage| usage.schema_bytes, self.max_schema_bytes)?;
                Some(format!("{most} bytes of schemas (`max_schema_bytes`): drop tables, or put fewer columns"))
            });
        match limit {
            None => Ok(()),
            Some(limit) => Err(Error::exhausted(format!("table {name:?} would exceed the cluster's limit of {limit}"))),
        }
    }

    /// Checks a table's schema too, unless it is that of `old`.
    ///
    /// # Errors
    /// Those of [`CatalogLimits::check_capacity`] and [`CatalogLimits::check_schema`].
    pub fn check_table(
        &self,
        catalog: &Catalog,
        name: &TableName,
        spec: &TableSpec,
        schema: &[u8],
        old: Option<&Table>,
    ) -> Result<()> {
        if old.is_none_or(|old| old.schema != schema) {
            self.check_schema(name, schema)?;
        }
        self.check_capacity(catalog, name, spec, schema, old)
    }

    /// Checks that a write may be open beside the others, unless it is one of them.
    ///
    /// # Errors
    /// Those of [`CatalogLimits::check_open_writes`].
    pub fn check_new_write(&self, catalog: &Catalog, write: &str) -> Result<()> {
        if catalog.is_write_open(write) { Ok(()) } else { self.check_open_writes(catalog.open_write_count()) }
    }

    /// Checks that this many parts may be staged into an open write. The writes of a transaction count as one.
    ///
    /// # Errors
    /// Those of [`CatalogLimits::check_parts`].
    pub fn check_staged(&self, catalog: &Catalog, write: &Write, parts: usize) -> Result<()> {
        self.check_parts(&write.id, catalog.staged_with(write) + parts as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{Part, Row, StagedStream, WriteState, row};

    use super::*;

    fn spec(shards: u32) -> TableSpec {
        TableSpec { shards, replicas: 2, ..TableSpec::default() }
    }

    fn catalog(tables: u64, shards: u32) -> Catalog {
        let mut catalog = Catalog::default();
        for id in 1..=tables {
            let table = Table { id, name: vec![id.to_string()], spec: Some(spec(shards)), ..Table::default() };
            catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
        }
        catalog
    }

    #[test]
    fn shards_of_all_tables_are_bounded() {
        let name: TableName = "t".parse().unwrap();
        let catalog = catalog(122, 4096);
        CatalogLimits::default().check_capacity(&catalog, &name, &spec(200), b"", None).unwrap();
        let error = CatalogLimits::default().check_capacity(&catalog, &name, &spec(4096), b"", None).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.message.contains("\"t\"") && error.message.contains("shards"), "{error}");
        // A replace that needs no more than before is possible at any time.
        let old = catalog.tables().next().unwrap();
        CatalogLimits::default().check_capacity(&catalog, &name, &spec(4096), b"", Some(old)).unwrap();
    }

    #[test]
    fn replaced_schema_of_another_layout_still_counts() {
        let name: TableName = "t".parse().unwrap();
        let mut catalog = catalog(1, 1);
        let mut table = catalog.tables().next().unwrap().clone();
        table.schema = vec![1; (CatalogLimits::default().max_schema_bytes - 10) as usize].into();
        catalog.insert_row(Row { row: Some(row::Row::Table(table.clone())) });
        CatalogLimits::default().check_capacity(&catalog, &name, &spec(1), &table.schema, Some(&table)).unwrap();
        let mut other = table.schema.to_vec();
        other[0] = 2;
        let retention = TableSpec { retention_ms: 7, ..spec(1) };
        for (spec, schema) in [(spec(1), other.as_slice()), (retention, &table.schema)] {
            let error =
                CatalogLimits::default().check_capacity(&catalog, &name, &spec, schema, Some(&table)).unwrap_err();
            assert!(error.code == Code::ResourceExhausted && error.message.contains("schemas"), "{error}");
        }
        CatalogLimits::default().check_capacity(&catalog, &name, &spec(1), b"small", Some(&table)).unwrap();
    }

    #[test]
    fn tables_and_schemas_are_bounded() {
        let name: TableName = "t".parse().unwrap();
        let catalog = catalog(CatalogLimits::default().max_tables, 1);
        let error = CatalogLimits::default().check_capacity(&catalog, &name, &spec(1), b"", None).unwrap_err();
        assert!(error.message.contains("100000 tables"), "{error}");
        assert_eq!(catalog.table_usage().tables, CatalogLimits::default().max_tables);
    }

    #[test]
    fn open_writes_and_their_parts_are_bounded() {
        let limits = CatalogLimits { max_open_writes: 2, max_parts_per_write: 3, ..CatalogLimits::default() };
        let mut catalog = Catalog::default();
        for id in ["a", "b"] {
            limits.check_new_write(&catalog, id).unwrap();
            let write = Write { id: id.into(), state: WriteState::Open as i32, ..Write::default() };
            catalog.insert_row(Row { row: Some(row::Row::Write(write)) });
        }
        limits.check_new_write(&catalog, "a").expect("it is open already");
        assert_eq!(limits.check_new_write(&catalog, "c").unwrap_err().code, Code::ResourceExhausted);
        let parts = vec![Part::default(); 2];
        let staged = StagedStream { write: "a".into(), stream: 1, parts, ..StagedStream::default() };
        catalog.insert_row(Row { row: Some(row::Row::Staged(staged)) });
        let write = catalog.write("a").unwrap();
        limits.check_staged(&catalog, &write, 1).unwrap();
        let error = limits.check_staged(&catalog, &write, 2).unwrap_err();
        assert!(error.message.contains("\"a\" would have 4 parts"), "{error}");
    }
}
