//! The options by name: their types, their limits, and the requests that they belong to.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Options, TableAccess};
use crate::ipc::statistics::MAX_STATISTICS_COLUMNS;
use crate::{Error, Result};

/// Maximum number of columns that a read can request, and the most bytes of each name.
pub const MAX_COLUMNS: usize = 65_536;
/// Maximum number of key columns of a table.
pub const MAX_SHARD_BY: usize = 256;
/// Maximum bytes of a column's name in an option.
pub const MAX_COLUMN_NAME: usize = 65_536;
/// Maximum number of characters of a client's text that an error repeats.
const MAX_QUOTED: usize = 200;

/// The requests that an option belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OptionUse {
    Read,
    Put,
    /// Kept with the table: given with a put or with `create_table`.
    Table,
    /// Kept with the table, and a read can override it.
    TableAndRead,
}

impl OptionUse {
    fn includes(self, access: TableAccess) -> bool {
        match self {
            OptionUse::Read => access == TableAccess::Read,
            OptionUse::Put => access == TableAccess::Put,
            OptionUse::Table => access != TableAccess::Read,
            OptionUse::TableAndRead => true,
        }
    }

    fn requests(self) -> &'static str {
        match self {
            OptionUse::Read => "a read (get_flight_info, get_schema, do_get)",
            OptionUse::Put => "a put (do_put, begin_write)",
            OptionUse::Table => "a put (do_put, begin_write) or create_table",
            OptionUse::TableAndRead => "a read, a put or create_table",
        }
    }
}

impl Options {
    /// Checks that every given option belongs to such a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the option and where it belongs.
    pub fn check_access(&self, access: TableAccess) -> Result<()> {
        let Some((name, belongs)) = self.given().find(|(_, belongs)| !belongs.includes(access)) else { return Ok(()) };
        let request = match access {
            TableAccess::Read => "a read",
            TableAccess::Put => "a put",
            TableAccess::Create => "create_table",
        };
        Err(Error::invalid(format!(
            "the option {name:?} has no effect on {request}: leave it out; it belongs to {}",
            belongs.requests()
        )))
    }

    /// The options that are given, without the table's name.
    fn given(&self) -> impl Iterator<Item = (&'static str, OptionUse)> {
        let Options {
            table: _,
            columns,
            version,
            filter,
            limit,
            max_endpoints,
            decompress,
            mode,
            shards,
            shard_by,
            replicas,
            compression,
            write_id,
            transaction,
            retention_s,
            ttl_s,
            stats_columns,
            preserve_batches,
            shareable_tickets,
        } = self;
        let all = [
            ("columns", columns.is_some(), OptionUse::Read),
            ("version", version.is_some(), OptionUse::Read),
            ("where", filter.is_some(), OptionUse::Read),
            ("limit", limit.is_some(), OptionUse::Read),
            ("max_endpoints", max_endpoints.is_some(), OptionUse::TableAndRead),
            ("decompress", decompress.is_some(), OptionUse::Read),
            ("mode", mode.is_some(), OptionUse::Put),
            ("write_id", write_id.is_some(), OptionUse::Put),
            ("transaction", transaction.is_some(), OptionUse::Put),
            ("shards", shards.is_some(), OptionUse::Table),
            ("shard_by", shard_by.is_some(), OptionUse::Table),
            ("replicas", replicas.is_some(), OptionUse::Table),
            ("compression", compression.is_some(), OptionUse::Table),
            ("retention_s", retention_s.is_some(), OptionUse::Table),
            ("ttl_s", ttl_s.is_some(), OptionUse::Table),
            ("stats_columns", stats_columns.is_some(), OptionUse::Table),
            ("preserve_batches", preserve_batches.is_some(), OptionUse::Table),
            ("shareable_tickets", shareable_tickets.is_some(), OptionUse::Table),
        ];
        all.into_iter().filter(|(_, given, _)| *given).map(|(name, _, belongs)| (name, belongs))
    }
}

/// The options of a JSON object.
///
/// # Errors
/// INVALID_ARGUMENT, naming the option: it is unknown, has another type, or is too large.
pub(super) fn parse(map: Map<String, Value>) -> Result<Options> {
    let mut options = Options::default();
    for (name, value) in map {
        set(&mut options, &name, value)?;
    }
    Ok(options)
}

/// Whether two values of an option mean the same.
///
/// # Errors
/// As [`parse`].
pub(super) fn is_same(name: &str, one: &Value, other: &Value) -> Result<bool> {
    let parsed = |value: &Value| parse(Map::from_iter([(name.to_string(), value.clone())]));
    Ok(parsed(one)? == parsed(other)?)
}

fn set(options: &mut Options, name: &str, value: Value) -> Result<()> {
    match name {
        "table" => options.table = read(name, value)?,
        "columns" => options.columns = read_columns(name, value, MAX_COLUMNS)?,
        "version" => options.version = read(name, value)?,
        "where" => options.filter = read(name, value)?,
        "limit" => options.limit = read(name, value)?,
        "max_endpoints" => options.max_endpoints = read(name, value)?,
        "decompress" => options.decompress = read_flag(name, value)?,
        "mode" => options.mode = read(name, value)?,
        "shards" => options.shards = read(name, value)?,
        "shard_by" => options.shard_by = read_columns(name, value, MAX_SHARD_BY)?,
        "replicas" => options.replicas = read(name, value)?,
        "compression" => options.compression = read(name, value)?,
        "write_id" => options.write_id = read(name, value)?,
        "transaction" => options.transaction = read(name, value)?,
        "retention_s" => options.retention_s = read(name, value)?,
        "ttl_s" => options.ttl_s = read(name, value)?,
        "stats_columns" => options.stats_columns = read_columns(name, value, MAX_STATISTICS_COLUMNS)?,
        "preserve_batches" => options.preserve_batches = read(name, value)?,
        "shareable_tickets" => options.shareable_tickets = read_flag(name, value)?,
        _ => {
            let known = "table, columns, version, where, limit, max_endpoints, decompress, mode, shards, shard_by, replicas, compression, write_id, transaction, retention_s, ttl_s, stats_columns, preserve_batches, shareable_tickets";
            return Err(Error::invalid(format!("there is no option {:?}: the options are {known}", cut(name))));
        }
    }
    Ok(())
}

/// The value of an option; null counts as not given.
fn read<T: DeserializeOwned>(name: &str, value: Value) -> Result<Option<T>> {
    Option::<T>::deserialize(&value).map_err(|_| {
        let expected = match name {
            "table" | "write_id" | "transaction" | "where" => "a text",
            "mode" => "replace, create, append or create_append",
            "compression" => "none, lz4, zstd or auto",
            "preserve_batches" => "true or false",
            "version" | "limit" | "retention_s" | "ttl_s" => "a whole number that is not negative",
            _ => "a whole number from 1 on",
        };
        Error::invalid(format!("option {name:?}: {expected} is expected, not {}", cut(&value.to_string())))
    })
}

/// The value of an option that is true or false; null counts as not given.
pub(super) fn read_flag(name: &str, value: Value) -> Result<Option<bool>> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag)),
        other => {
            let given = cut(&other.to_string());
            Err(Error::invalid(format!("option {name:?}: true or false is expected, not {given}")))
        }
    }
}

/// The value of an option that lists columns; a text is a list of one.
fn read_columns(name: &str, value: Value, most: usize) -> Result<Option<Vec<String>>> {
    let columns = match value {
        Value::Null => return Ok(None),
        Value::String(column) => vec![column],
        Value::Array(columns) if columns.len() > most => {
            let count = columns.len();
            return Err(Error::invalid(format!("option {name:?}: {count} columns are more than the limit of {most}")));
        }
        Value::Array(columns) => columns
            .into_iter()
            .map(|column| match column {
                Value::String(column) => Ok(column),
                other => Err(not_columns(name, &other)),
            })
            .collect::<Result<_>>()?,
        other => return Err(not_columns(name, &other)),
    };
    match columns.iter().find(|column| column.len() > MAX_COLUMN_NAME) {
        None => Ok(Some(columns)),
        Some(column) => Err(Error::invalid(format!(
            "option {name:?}: the column name {:?} has {} bytes, more than the limit of {MAX_COLUMN_NAME}",
            cut(column),
            column.len()
        ))),
    }
}

fn not_columns(name: &str, value: &Value) -> Error {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::invalid(format!("option {name:?}: a column's name, or a list of names, is expected, not {kind}"))
}

/// A header's text as the JSON value of its option.
pub fn header_value(option: &str, text: &str) -> Value {
    match option {
        "columns" | "shard_by" | "stats_columns" => text.split(',').map(|s| Value::String(s.trim().into())).collect(),
        "table" | "mode" | "compression" | "write_id" | "transaction" | "where" => Value::String(text.into()),
        _ => match (text, text.parse::<u64>()) {
            ("true" | "false", _) => Value::Bool(text == "true"),
            (_, Ok(number)) => Value::from(number),
            (_, Err(_)) => Value::String(text.into()),
        },
    }
}

/// A client's text for an error: at most its first 200 characters.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_string(),
    }
}
