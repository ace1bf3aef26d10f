//! How much the tables of a catalog hold, counted as they change.

use std::ops::{AddAssign, SubAssign};

use volley_common::wire::catalog::{Table, TableSpec};

/// Sums over tables that were not dropped; of dropped ones and of old versions only the schemas count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUsage {
    /// The number of tables.
    pub tables: u64,
    /// Shards times replicas.
    pub shard_replicas: u64,
    /// Bytes of schema messages.
    pub schema_bytes: u64,
}

impl TableUsage {
    /// What one table with this spec and schema uses.
    pub fn of(spec: &TableSpec, schema_bytes: usize) -> Self {
        let shard_replicas = u64::from(spec.shards) * u64::from(spec.replicas);
        TableUsage { tables: 1, shard_replicas, schema_bytes: schema_bytes as u64 }
    }

    /// What a table of the catalog uses.
    pub fn of_table(table: &Table) -> Self {
        match table.dropped_ms {
            0 => TableUsage::of(&table.spec.clone().unwrap_or_default(), table.schema.len()),
            _ => TableUsage::of_schema(table.schema.len()),
        }
    }

    pub(super) fn of_schema(bytes: usize) -> Self {
        TableUsage { schema_bytes: bytes as u64, ..TableUsage::default() }
    }
}

impl AddAssign for TableUsage {
    fn add_assign(&mut self, other: Self) {
        self.tables += other.tables;
        self.shard_replicas += other.shard_replicas;
        self.schema_bytes += other.schema_bytes;
    }
}

impl SubAssign for TableUsage {
    fn sub_assign(&mut self, other: Self) {
        self.tables -= other.tables;
        self.shard_replicas -= other.shard_replicas;
        self.schema_bytes -= other.schema_bytes;
    }
}
