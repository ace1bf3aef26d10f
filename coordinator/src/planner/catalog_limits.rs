//! The settings that limit what the catalog holds and what one request may ask for, and their checks of a single request.
//!
//! docs/limits.md has them in one table with all other limits. What needs the catalog's sums is in [`super::capacity`].

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::fields::cut;
use volley_common::{Error, Result, TableName};

use super::table_options::MIN_RETENTION_MS;

/// What the catalog holds at most; flattened into the configuration of coordinators.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
pub struct CatalogLimits {
    /// The largest number of tables, without dropped ones.
    pub max_tables: u64,
    /// The largest number of copies of shards (shards times replicas) of all tables. Each costs some 40 bytes in every
    /// coordinator.
    pub max_shard_replicas: u64,
    /// The largest number of bytes of schemas of all tables and of the old versions that are kept.
    pub max_schema_bytes: u64,
    /// The largest number of columns of a table, nested ones included.
    pub max_columns: u64,
    /// How deep the columns of a table may be nested; 1: not at all.
    pub max_nesting_depth: u64,
    /// The longest name of a column, bytes.
    pub max_column_name_bytes: u64,
    /// The largest number of writes that are open at once.
    pub max_open_writes: u64,
    /// The largest number of parts of one write.
    pub max_parts_per_write: u64,
    /// How long a ticket lasts at most, milliseconds; 0: the retention of its table.
    pub max_ticket_ms: u64,
    /// The largest number of rows in the reply of a list.
    pub max_result_rows: u64,
    /// How many reads and actions are planned at once; further ones wait in turn.
    pub max_concurrent_plans: usize,
}

impl Default for CatalogLimits {
    fn default() -> Self {
        CatalogLimits {
            max_tables: 100_000,
            max_shard_replicas: 1_000_000,
            max_schema_bytes: 512 << 20,
            max_columns: 65_536,
            max_nesting_depth: 64,
            max_column_name_bytes: 64 << 10,
            max_open_writes: 100_000,
            max_parts_per_write: 250_000,
            max_ticket_ms: 0,
            max_result_rows: 100_000,
            max_concurrent_plans: 256,
        }
    }
}

/// The flags of these settings; flattened into the command line of coordinators.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct CatalogLimitsArgs {
    /// The largest number of tables, without dropped ones.
    #[arg(long)]
    pub max_tables: Option<u64>,
    /// The largest number of copies of shards: shards times replicas, over all tables.
    #[arg(long)]
    pub max_shard_replicas: Option<u64>,
    /// The most bytes of schemas of all tables, and of the old versions that are kept.
    #[arg(long)]
    pub max_schema_bytes: Option<u64>,
    /// The largest number of columns of a table, nested ones included.
    #[arg(long)]
    pub max_columns: Option<u64>,
    /// How deep the columns of a table may be nested; 1: not at all.
    #[arg(long)]
    pub max_nesting_depth: Option<u64>,
    /// The longest name of a column, bytes.
    #[arg(long)]
    pub max_column_name_bytes: Option<u64>,
    /// The largest number of writes that are open at once.
    #[arg(long)]
    pub max_open_writes: Option<u64>,
    /// The largest number of parts of one write.
    #[arg(long)]
    pub max_parts_per_write: Option<u64>,
    /// How many milliseconds a ticket lasts at most [default: the retention of its table].
    #[arg(long)]
    pub max_ticket_ms: Option<u64>,
    /// The largest number of rows in the reply of an action that lists.
    #[arg(long)]
    pub max_result_rows: Option<u64>,
    /// How many reads and actions are planned at once; further ones wait, those of each principal in turn.
    #[arg(long)]
    pub max_concurrent_plans: Option<usize>,
}

/// What a schema consists of.
#[derive(Default)]
struct SchemaSize {
    columns: u64,
    depth: u64,
    /// The longest name.
    name: String,
}

impl CatalogLimits {
    /// Checks the values.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: one sentence that names the wrong value.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("max_tables", self.max_tables),
            ("max_shard_replicas", self.max_shard_replicas),
            ("max_schema_bytes", self.max_schema_bytes),
            ("max_columns", self.max_columns),
            ("max_nesting_depth", self.max_nesting_depth),
            ("max_column_name_bytes", self.max_column_name_bytes),
            ("max_open_writes", self.max_open_writes),
            ("max_parts_per_write", self.max_parts_per_write),
            ("max_result_rows", self.max_result_rows),
            ("max_concurrent_plans", self.max_concurrent_plans as u64),
        ] {
            if value == 0 {
                return Err(Error::invalid(format!("{name} must be at least 1")));
            }
        }
        if self.max_ticket_ms != 0 && self.max_ticket_ms < MIN_RETENTION_MS {
            return Err(Error::invalid(format!(
                "max_ticket_ms must be at least {MIN_RETENTION_MS}, or 0 for no limit"
            )));
        }
        Ok(())
    }

    /// Checks the schema of a table. An empty one is not known yet and passes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is malformed. RESOURCE_EXHAUSTED, naming the limit.
    pub fn check_schema(&self, table: &TableName, schema: &[u8]) -> Result<()> {
        if schema.is_empty() {
            return Ok(());
        }
        let schema = parse_schema(schema).map_err(|e| e.at("the schema"))?;
        let mut size = SchemaSize::default();
        for field in schema.fields() {
            size.add(field.name(), field.data_type(), 1);
        }
        let limit = if size.columns > self.max_columns {
            format!(
                "{} columns, nested ones included, and the limit is {} (`max_columns`)",
                size.columns, self.max_columns
            )
        } else if size.depth > self.max_nesting_depth {
            format!(
                "columns nested {} deep, and the limit is {} (`max_nesting_depth`)",
                size.depth, self.max_nesting_depth
            )
        } else if size.name.len() as u64 > self.max_column_name_bytes {
            format!(
                "a column whose name {:?} has {} bytes, and the limit is {} (`max_column_name_bytes`)",
                cut(&size.name),
                size.name.len(),
                self.max_column_name_bytes
            )
        } else {
            return Ok(());
        };
        Err(Error::exhausted(format!("table {table:?} would have {limit}: put a smaller schema, or several tables")))
    }

    /// Checks that one more write may be open, beside `open` others.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, naming the limit.
    pub fn check_open_writes(&self, open: usize) -> Result<()> {
        if (open as u64) < self.max_open_writes {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "{open} writes are open in this cluster, the most that it has at once (`max_open_writes`): commit or abort those that you have begun, or try again later"
        )))
    }

    /// Checks that a write may have this many parts.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, naming the limit.
    pub fn check_parts(&self, write: &str, parts: u64) -> Result<()> {
        if parts <= self.max_parts_per_write {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "write {write:?} would have {parts} parts, and the limit is {} (`max_parts_per_write`): put fewer and larger streams, give the table fewer shards, or divide the rows into several writes",
            self.max_parts_per_write
        )))
    }

    /// Checks that a reply may have this many rows of `what`. `narrower`: how to ask for fewer.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, naming the limit and `narrower`.
    pub fn check_rows(&self, what: &str, rows: usize, narrower: &str) -> Result<()> {
        if rows as u64 <= self.max_result_rows {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "the reply would have {rows} {what}, and the limit is {} (`max_result_rows`): {narrower}",
            self.max_result_rows
        )))
    }

    /// How long a ticket lasts that would last this long by the retention of its table, milliseconds.
    pub fn ticket_ms(&self, retention_ms: u64) -> u64 {
        if self.max_ticket_ms == 0 { retention_ms } else { retention_ms.min(self.max_ticket_ms) }
    }
}

impl SchemaSize {
    /// Adds a field and all below it. Schemas are nested 64 deep at most: [`parse_schema`] refuses others.
    fn add(&mut self, name: &str, data_type: &DataType, depth: u64) {
        self.columns += 1;
        self.depth = self.depth.max(depth);
        if name.len() > self.name.len() {
            self.name = name.to_string();
        }
        self.add_children(data_type, depth + 1);
    }

    fn add_children(&mut self, data_type: &DataType, depth: u64) {
        match data_type {
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => self.add(field.name(), field.data_type(), depth),
            DataType::Struct(fields) => fields.iter().for_each(|f| self.add(f.name(), f.data_type(), depth)),
            DataType::Union(fields, _) => fields.iter().for_each(|(_, f)| self.add(f.name(), f.data_type(), depth)),
            DataType::RunEndEncoded(ends, values) => {
                [ends, values].into_iter().for_each(|f| self.add(f.name(), f.data_type(), depth));
            }
            // Its values are no field of their own.
            DataType::Dictionary(_, values) => self.add_children(values, depth),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::datatypes::{Field, Fields, Schema};
    use volley_common::Code;
    use volley_common::ipc::schema::schema_message;

    use super::*;

    fn refusal(limits: CatalogLimits, fields: Vec<Field>) -> Option<Error> {
        let schema = schema_message(&Schema::new(fields)).unwrap();
        let refusal = limits.check_schema(&"t".parse().unwrap(), &schema).err();
        assert!(
            refusal.iter().all(|e| e.code == Code::ResourceExhausted && e.message.contains("\"t\"")),
            "{refusal:?}"
        );
        refusal
    }

    fn integer(name: &str) -> Field {
        Field::new(name, DataType::Int64, true)
    }

    fn structure(name: &str, fields: Vec<Field>) -> Field {
        Field::new(name, DataType::Struct(Fields::from(fields)), true)
    }

    #[test]
    fn nested_columns_count() {
        let limits = CatalogLimits { max_columns: 4, ..CatalogLimits::default() };
        let fields =
            |more: Vec<Field>| [vec![structure("s", vec![integer("a"), integer("b")]), integer("c")], more].concat();
        assert!(refusal(limits, fields(vec![])).is_none());
        let error = refusal(limits, fields(vec![integer("d")])).unwrap();
        assert!(error.message.contains("5 columns") && error.message.contains("max_columns"), "{error}");
        assert!(refusal(CatalogLimits::default(), (0..65_536).map(|at| integer(&at.to_string())).collect()).is_none());
        assert!(refusal(CatalogLimits::default(), (0..65_537).map(|at| integer(&at.to_string())).collect()).is_some());
    }

    #[test]
    fn nesting_and_names_are_limited() {
        let limits = CatalogLimits { max_nesting_depth: 2, max_column_name_bytes: 3, ..CatalogLimits::default() };
        assert!(refusal(limits, vec![structure("s", vec![integer("abc")])]).is_none());
        let error = refusal(limits, vec![structure("s", vec![structure("s", vec![integer("a")])])]).unwrap();
        assert!(error.message.contains("3 deep") && error.message.contains("max_nesting_depth"), "{error}");
        let error = refusal(limits, vec![structure("s", vec![integer("abcd")])]).unwrap();
        assert!(error.message.contains("\"abcd\"") && error.message.contains("max_column_name_bytes"), "{error}");
        limits.check_schema(&"t".parse().unwrap(), b"").unwrap();
    }

    #[test]
    fn writes_parts_and_rows_are_limited() {
        let limits = CatalogLimits {
            max_open_writes: 2,
            max_parts_per_write: 3,
            max_result_rows: 4,
            ..CatalogLimits::default()
        };
        limits.check_open_writes(1).unwrap();
        limits.check_parts("w", 3).unwrap();
        limits.check_rows("tables", 4, "").unwrap();
        for (error, words) in [
            (limits.check_open_writes(2), ["max_open_writes", "abort"]),
            (limits.check_parts("w", 4), ["max_parts_per_write", "\"w\""]),
            (limits.check_rows("tables", 5, "give a \"prefix\""), ["5 tables", "give a \"prefix\""]),
        ] {
            let error = error.unwrap_err();
            assert_eq!(error.code, Code::ResourceExhausted);
            assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        }
    }

    #[test]
    fn ticket_lasts_no_longer_than_the_limit() {
        assert_eq!(CatalogLimits::default().ticket_ms(7_000), 7_000);
        let limits = CatalogLimits { max_ticket_ms: 5_000, ..CatalogLimits::default() };
        assert_eq!((limits.ticket_ms(7_000), limits.ticket_ms(3_000)), (5_000, 3_000));
    }

    #[test]
    fn limits_of_nothing_are_refused() {
        CatalogLimits::default().check().unwrap();
        let refused = |limits: CatalogLimits, name: &str| {
            let text = limits.check().unwrap_err().message;
            assert!(text.starts_with(name), "{text}");
        };
        refused(CatalogLimits { max_tables: 0, ..CatalogLimits::default() }, "max_tables");
        refused(CatalogLimits { max_concurrent_plans: 0, ..CatalogLimits::default() }, "max_concurrent_plans");
        refused(CatalogLimits { max_ticket_ms: 1, ..CatalogLimits::default() }, "max_ticket_ms");
    }
}
