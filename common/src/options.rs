//! The options of a request, from a descriptor, a ticket or `x-volley-*` headers.
//!
//! Every option has one name in all three places, and belongs to reads, to puts, or to the table, which keeps it; `fields`
//! has the list. An unknown option is an error, and so is one that has no effect on the request.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use serde::Deserialize;
use serde_json::{Map, Value};
use tonic::metadata::MetadataMap;

use crate::wire::catalog::{Compression, DescriptorKind, WriteMode};
use crate::{Error, Result, TableName, TransactionId, ticket};
use sources::options_from;

mod durations;
pub mod fields;
pub mod part_filter;
mod sources;
pub mod sql;

pub use durations::{MAX_RETENTION_S, MAX_TTL_S, MIN_RETENTION_S, check_retention, check_ttl};
pub use sources::UnambiguousMap;
pub use sql::is_flight_sql;

/// The prefix of headers that carry options: `x-volley-shard-by: a,b`.
pub const HEADER_PREFIX: &str = "x-volley-";
/// The header with which a client requests the addresses of another listener than the one it is connected to.
pub const LISTENER_HEADER: &str = "x-volley-listener";
/// The header with which a node that proxies a call names the listener that the client is connected to. Without the
/// prefix of options: coordinators of earlier versions reject options that they do not know.
pub const CLIENT_LISTENER_HEADER: &str = "volley-came-by";
/// The header with which a node that proxies a call says that the client's connection has TLS. It only makes the reply
/// stricter, so coordinators believe it from everyone.
pub const CLIENT_TLS_HEADER: &str = "volley-client-tls";
/// The option `decompress` as a header. Unlike the other options it also applies to the DoGet of a signed ticket.
pub const DECOMPRESS_HEADER: &str = "x-volley-decompress";
/// Headers with the prefix that are not options, without it.
const NON_OPTION_HEADERS: [&str; 3] = ["listener", "leader", "relayed"];

/// A header that is given once, or several times with the same value.
///
/// # Errors
/// INVALID_ARGUMENT: it has two values, or is not ASCII.
pub fn header_text<'a>(headers: &'a http::HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.any(|other| Some(other) != first) {
        return Err(Error::invalid(format!("the header {name} has two values: leave one out")));
    }
    let text = first.map(|value| value.to_str());
    text.transpose().map_err(|_| Error::invalid(format!("the header {name} is not ASCII")))
}

/// All options of a request for a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The table's name, components joined by `/`.
    pub table: Option<String>,
    /// Reading: the top-level columns to send, in this order.
    pub columns: Option<Vec<String>>,
    /// Reading: this version instead of the newest.
    pub version: Option<u64>,
    /// Reading: a condition in SQL, the option `where`: only rows for which it is true are sent.
    pub filter: Option<String>,
    /// Reading: the most rows to send.
    pub limit: Option<u64>,
    /// Reading: the most endpoints; 1 gives the whole table as one stream. Writing: the same for readers that request no
    /// number.
    pub max_endpoints: Option<u32>,
    /// Reading: message bodies are sent uncompressed, whatever the table's compression.
    pub decompress: Option<bool>,
    /// Writing: replace (the default), create, append or create_append.
    pub mode: Option<Mode>,
    /// Writing: partitions of a new table.
    pub shards: Option<u32>,
    /// Writing: columns whose hash determines a row's shard.
    pub shard_by: Option<Vec<String>>,
    /// Writing: copies of every part.
    pub replicas: Option<u32>,
    /// Writing: how parts are compressed at rest and on the wire.
    pub compression: Option<Codec>,
    /// Writing: an id for this write; a write repeated with it takes effect once.
    pub write_id: Option<String>,
    /// Writing: the transaction that the put belongs to: its rows become visible with the transaction.
    pub transaction: Option<String>,
    /// Writing: seconds for which replaced rows remain readable.
    pub retention_s: Option<u64>,
    /// Writing: seconds after its last write at which the table is dropped; 0: never.
    pub ttl_s: Option<u64>,
    /// Writing: the columns of which parts have statistics; none: the first ones with an order.
    pub stats_columns: Option<Vec<String>>,
    /// Writing: whether batches are kept as they are put, each with its `app_metadata`.
    pub preserve_batches: Option<bool>,
    /// Writing: whether any principal may redeem the table's tickets, not only the one that planned them.
    pub shareable_tickets: Option<bool>,
}

/// What a put does to the table's present rows.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The put's rows replace all rows. The table is created if it does not exist.
    #[default]
    Replace,
    /// The table must not exist.
    Create,
    /// The put's rows are added after the present ones. The table must exist.
    Append,
    /// The put's rows are added after the present ones. The table is created if it does not exist.
    #[serde(rename = "create_append")]
    CreateAppend,
}

impl From<Mode> for WriteMode {
    /// That of [`Mode::CreateAppend`] is the one for a table that does not exist.
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Replace => WriteMode::Replace,
            Mode::Create | Mode::CreateAppend => WriteMode::Create,
            Mode::Append => WriteMode::Append,
        }
    }
}

/// Compression of record batch bodies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Uncompressed: served without a copy.
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
    /// LZ4 for parts that it makes much smaller, none for others.
    Auto,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Compression::None,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
            Codec::Auto => Compression::Auto,
        }
    }
}

/// A table, how the request names it, and the options.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRequest {
    /// The table.
    pub name: TableName,
    /// Whether it is named by a path or a command.
    pub kind: DescriptorKind,
    /// The options.
    pub options: Options,
}

/// What a DoGet requests.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one for each call, for a moment")]
pub enum TicketRequest {
    /// A signed ticket, not yet verified.
    Signed(Vec<u8>),
    /// A table by name, with options.
    Table(TableRequest),
}

impl TableRequest {
    /// Reads a descriptor and the call's headers.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a missing or invalid name, an unknown option or an invalid value. UNIMPLEMENTED: Flight SQL.
    pub fn from_descriptor(descriptor: &FlightDescriptor, headers: &MetadataMap) -> Result<Self> {
        match DescriptorType::try_from(descriptor.r#type) {
            Ok(DescriptorType::Path) => Ok(TableRequest {
                name: TableName::from_components(&descriptor.path)?,
                kind: DescriptorKind::Path,
                options: path_options(&descriptor.path, headers)?,
            }),
            Ok(DescriptorType::Cmd) => Self::from_command(&descriptor.cmd, headers),
            Ok(DescriptorType::Unknown) | Err(_) => Err(Error::invalid(
                "the descriptor is neither a path nor a command: name the table by FlightDescriptor.for_path or for_command",
            )),
        }
    }

    /// Reads a command or an unsigned ticket: a table's name, or a JSON object.
    ///
    /// # Errors
    /// As [`TableRequest::from_descriptor`].
    pub fn from_command(bytes: &[u8], headers: &MetadataMap) -> Result<Self> {
        if is_flight_sql(bytes) {
            return Err(Error::unimplemented(
                "this call takes no command of Flight SQL: name a table, as in FlightDescriptor.for_path(\"my_table\")",
            ));
        }
        let mut map = Map::new();
        if bytes.trim_ascii_start().starts_with(b"{") {
            let object: UnambiguousMap = serde_json::from_slice(bytes).map_err(|e| {
                Error::invalid(format!("the command is not a valid JSON object: {}", fields::cut(&e.to_string())))
            })?;
            map = object.0;
        } else {
            let name = TableName::from_bytes(bytes)?;
            map.insert("table".into(), Value::String(name.to_string()));
        }
        let options = options_from(map, headers)?;
        let name = match &options.table {
            Some(name) => name.parse()?,
            None => return Err(Error::invalid("the command names no table: add \"table\": \"NAME\"")),
        };
        Ok(TableRequest { name, kind: DescriptorKind::Command, options })
    }
}

/// What a request does with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableAccess {
    /// `get_flight_info`, `get_schema`, `do_get`.
    Read,
    /// `do_put`, `begin_write`.
    Put,
    /// `create_table`.
    Create,
}

impl TableRequest {
    /// Checks that every option has an effect on a request of this kind.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the option and where it belongs.
    pub fn with_access(self, access: TableAccess) -> Result<Self> {
        self.options.check_access(access).map_err(|e| e.at(format_args!("table {:?}", self.name)))?;
        Ok(self)
    }

    /// [`TableRequest::with_access`] for a read.
    pub fn for_read(self) -> Result<Self> {
        self.with_access(TableAccess::Read)
    }

    /// [`TableRequest::with_access`] for a put.
    pub fn for_put(self) -> Result<Self> {
        self.with_access(TableAccess::Put)
    }

    /// [`TableRequest::with_access`] for the creation of a table.
    pub fn for_create(self) -> Result<Self> {
        self.with_access(TableAccess::Create)
    }
}

impl TicketRequest {
    /// Reads a ticket's bytes and the call's headers.
    ///
    /// # Errors
    /// As [`TableRequest::from_descriptor`].
    pub fn from_ticket(bytes: &[u8], headers: &MetadataMap) -> Result<Self> {
        if ticket::is_signed(bytes) {
            return Ok(TicketRequest::Signed(bytes.to_vec()));
        }
        if bytes.is_empty() {
            return Err(Error::invalid("the ticket is empty: use one from get_flight_info, or a table's name"));
        }
        TableRequest::from_command(bytes, headers).map(TicketRequest::Table).map_err(|e| {
            match bytes.trim_ascii_start().starts_with(b"{") || TableName::from_bytes(bytes).is_ok() {
                // The table is named: an option is wrong.
                true => e,
                false => e.at("the ticket is neither signed nor a table's name"),
            }
        })
    }
}

impl Options {
    /// Checks the ranges of values.
    fn check(&self) -> Result<()> {
        let at_least_one = |name: &str, value: Option<u32>| match value {
            Some(0) => Err(Error::invalid(format!("option {name:?} must be at least 1"))),
            _ => Ok(()),
        };
        at_least_one("shards", self.shards)?;
        at_least_one("replicas", self.replicas)?;
        at_least_one("max_endpoints", self.max_endpoints)?;
        if self.shards.is_some_and(|n| n > MAX_SHARDS) {
            return Err(Error::invalid(format!("option \"shards\" must be at most {MAX_SHARDS}")));
        }
        if self.replicas.is_some_and(|n| n > MAX_REPLICAS) {
            return Err(Error::invalid(format!("option \"replicas\" must be at most {MAX_REPLICAS}")));
        }
        if let Some(id) = &self.write_id {
            check_write_id(id)?;
        }
        if let Some(id) = &self.transaction {
            id.parse::<TransactionId>()?;
            if self.write_id.is_some() {
                return Err(Error::invalid(
                    "the options \"transaction\" and \"write_id\" exclude each other: the write of a transaction has an id of its own",
                ));
            }
        }
        if let Some(filter) = &self.filter {
            check_filter(filter)?;
        }
        self.retention_s.map_or(Ok(()), check_retention)?;
        self.ttl_s.map_or(Ok(()), check_ttl)
    }
}

/// Most shards of a table.
pub const MAX_SHARDS: u32 = 4096;
/// Most copies of a table's parts.
pub const MAX_REPLICAS: u32 = 16;

/// Most bytes of a filter.
pub const MAX_FILTER: usize = 64 << 10;

/// Checks the length of a filter, not what it says.
///
/// # Errors
/// INVALID_ARGUMENT: it is empty or too long.
pub fn check_filter(filter: &str) -> Result<()> {
    if filter.trim().is_empty() {
        return Err(Error::invalid(
            "option \"where\" is empty: give a condition, such as \"price > 10\", or leave it out",
        ));
    }
    if filter.len() > MAX_FILTER {
        return Err(Error::invalid(format!(
            "option \"where\" has {} bytes, more than the limit of {MAX_FILTER}: put the values into a table and join it in a query",
            filter.len()
        )));
    }
    Ok(())
}

/// Checks a write id, which is used in file names: 1 to 64 letters, digits, `_`, `.` and `-`, not beginning with a dot.
///
/// # Errors
/// INVALID_ARGUMENT: another id.
pub fn check_write_id(id: &str) -> Result<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.is_empty() || id.len() > 64 || id.starts_with('.') || !id.chars().all(valid) {
        return Err(Error::invalid(format!(
            "the write id {:?} must be 1 to 64 letters, digits, _, - or . and not begin with a dot",
            fields::cut(id)
        )));
    }
    Ok(())
}

/// The options of the headers of a request that names its table by a path.
fn path_options(path: &[String], headers: &MetadataMap) -> Result<Options> {
    let name = Value::String(TableName::from_components(path)?.to_string());
    let options = options_from(Map::from_iter([("table".into(), name)]), headers)?;
    Ok(Options { table: None, ..options })
}

/// Whether [`DECOMPRESS_HEADER`] requests uncompressed bodies.
///
/// # Errors
/// INVALID_ARGUMENT: its value is neither `true` nor `false`.
pub fn decompress_header(headers: &MetadataMap) -> Result<bool> {
    let Some(value) = headers.get(DECOMPRESS_HEADER) else { return Ok(false) };
    let text = value.to_str().map_err(|_| Error::invalid(format!("the header {DECOMPRESS_HEADER} is not text")))?;
    Ok(fields::read_flag("decompress", fields::header_value("decompress", text))?.unwrap_or(false))
}

#[cfg(test)]
mod tests;
