//! The JSON bodies of actions, and their replies. Unknown keys are errors that name the key.

use std::str::FromStr;

use arrow::datatypes::{DataType, Field, Schema};
use base64::Engine;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use volley_common::expectation::in_plain_words;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::options::fields::cut;
use volley_common::options::{Options, TableRequest};
use volley_common::simple_types::simple_type;
use volley_common::wire::catalog::Compression;
use volley_common::{Error, Result, TableName};

use crate::planner::table_options::TableOptions;
use crate::service::key_rotation::{KeyRotation, TicketRotation};

/// The reply to an action.
pub struct ActionReply {
    /// The results.
    pub results: Vec<arrow_flight::Result>,
    /// A cookie to set.
    pub cookie: Option<AsciiMetadataValue>,
}

impl ActionReply {
    /// A single result of these bytes.
    pub fn bytes(body: Vec<u8>) -> Self {
        ActionReply { results: vec![arrow_flight::Result { body: body.into() }], cookie: None }
    }

    /// A single result of this value.
    pub fn json(value: &Value) -> Self {
        Self::bytes(value.to_string().into_bytes())
    }
}

/// Parses a body; an empty one counts as an empty object.
///
/// # Errors
/// INVALID_ARGUMENT, naming the action and the unknown or missing key.
pub fn parse<T: DeserializeOwned>(action: &str, body: &[u8]) -> Result<T> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|e| Error::invalid(format!("the body of {action}: {}", cut(&in_plain_words(&e)))))
}

/// A body without keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyBody {}

/// `get_stats`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatsBody {
    /// The table; sums over all tables if missing.
    pub table: Option<String>,
}

/// `commit_write` and `abort_write`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteBody {
    /// The write's id.
    pub write_id: String,
    /// Why the write is aborted.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `commit_transaction` and `abort_transaction`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionBody {
    /// The transaction's id.
    pub transaction: String,
}

/// `explain`, `list_versions`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableBody {
    /// The table's name.
    table: String,
}

impl TableBody {
    /// The parsed table name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not a valid name.
    pub fn name(&self) -> Result<TableName> {
        self.table.parse()
    }
}

/// `undrain_node`, `remove_node`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeBody {
    /// The node's id, a prefix of it, or its address.
    pub node: String,
}

/// `drain_node`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainNodeBody {
    /// The node's id, a prefix of it, or its address.
    pub node: String,
    /// Begin the drain; otherwise only report its progress.
    #[serde(default = "yes")]
    pub begin: bool,
}

/// `rotate_keys`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKeysBody {
    #[serde(default)]
    revoke_sessions: bool,
    #[serde(default)]
    ticket_key: bool,
    #[serde(default)]
    revoke_tickets: bool,
}

impl RotateKeysBody {
    /// What is to be replaced. To revoke the tickets is to replace their key.
    pub fn rotation(&self) -> KeyRotation {
        let tickets = match (self.revoke_tickets, self.ticket_key) {
            (true, _) => TicketRotation::Revoke,
            (false, true) => TicketRotation::Replace,
            (false, false) => TicketRotation::Keep,
        };
        KeyRotation { revoke_sessions: self.revoke_sessions, tickets }
    }
}

/// `add_coordinator`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddCoordinatorBody {
    /// The coordinator's id.
    pub id: u64,
    /// The coordinator's peer address, HOST:PORT.
    pub peer: String,
}

/// `remove_coordinator`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorBody {
    /// The coordinator's id.
    pub id: u64,
}

/// `drop_table`: the raw name, or JSON.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DropTableBody {
    /// The table's name.
    pub table: String,
    /// Whether a missing table is accepted.
    #[serde(default)]
    pub if_exists: bool,
}

impl DropTableBody {
    /// Parses a body.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not UTF-8, or an unknown key.
    pub fn parse(body: &[u8]) -> Result<Self> {
        if body.trim_ascii_start().starts_with(b"{") {
            return parse("drop_table", body);
        }
        Ok(DropTableBody { table: TableName::from_bytes(body)?.to_string(), if_exists: false })
    }
}

/// `restore_version`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreVersionBody {
    /// The table's name.
    pub table: String,
    /// The version to restore; missing: the drop of the table is undone.
    #[serde(default)]
    pub version: Option<u64>,
}

/// `create_table`.
pub struct CreateTableBody {
    /// The table's name.
    pub name: TableName,
    /// The schema message.
    pub schema: Bytes,
    /// The layout of the table.
    pub options: TableOptions,
    /// Whether an existing table is accepted.
    pub if_not_exists: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldSpec {
    name: String,
    r#type: String,
    #[serde(default = "yes")]
    nullable: bool,
}

fn yes() -> bool {
    true
}

impl CreateTableBody {
    /// Parses a body: `table`, `schema` or `fields`, `if_not_exists`, and the options of a write.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the key.
    pub fn parse(body: &[u8], metadata: &MetadataMap) -> Result<Self> {
        let mut map: Map<String, Value> = parse("create_table", body)?;
        let schema = match (map.remove("schema"), map.remove("fields")) {
            (Some(schema), None) => decode_schema(&schema)?,
            (None, Some(fields)) => schema_of_fields(fields)?,
            _ => {
                return Err(Error::invalid(
                    "create_table needs \"schema\" (base64 of an IPC schema message) or \"fields\"",
                ));
            }
        };
        let if_not_exists = match map.remove("if_not_exists") {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                let other = cut(&other.to_string());
                return Err(Error::invalid(format!("\"if_not_exists\" is true or false, not {other}")));
            }
        };
        let rest = Value::Object(map).to_string();
        let request = TableRequest::from_command(rest.as_bytes(), metadata)?.for_create()?;
        Ok(CreateTableBody {
            name: request.name,
            schema: schema_message(&schema)?,
            options: table_options(&request.options),
            if_not_exists,
        })
    }
}

fn decode_schema(value: &Value) -> Result<Schema> {
    let text = value.as_str().ok_or_else(|| Error::invalid("\"schema\" is base64 text of an IPC schema message"))?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|e| Error::invalid(format!("\"schema\" is not base64: {e}")))?;
    Ok(parse_schema(&bytes)?.as_ref().clone())
}

fn schema_of_fields(fields: Value) -> Result<Schema> {
    let fields: Vec<FieldSpec> =
        serde_json::from_value(fields).map_err(|e| Error::invalid(format!("\"fields\": {}", cut(&e.to_string()))))?;
    let field = |spec: FieldSpec| Ok(Field::new(&spec.name, data_type(&spec)?, spec.nullable));
    Ok(Schema::new(fields.into_iter().map(field).collect::<Result<Vec<Field>>>()?))
}

fn data_type(spec: &FieldSpec) -> Result<DataType> {
    let name = spec.r#type.trim();
    if let Some(simple) = simple_type(name) {
        return Ok(simple);
    }
    check_nesting(spec)?;
    DataType::from_str(name).map_err(|_| {
        Error::invalid(format!(
            "field {:?} has the unknown type {:?}: use a simple type, such as int64, float64, string, bool, date32 or timestamp, or give the whole schema as \"schema\"",
            cut(&spec.name),
            cut(name)
        ))
    })
}

/// The deepest nesting of a type in text.
const MAX_TYPE_DEPTH: usize = 32;
/// The longest type in text, bytes.
const MAX_TYPE_BYTES: usize = 64 << 10;

/// Bounds the recursion of arrow's parser of types, which has no limit: it descends only after an opening parenthesis.
fn check_nesting(spec: &FieldSpec) -> Result<()> {
    let refused = |why: String| Err(Error::invalid(format!("field {:?}: {why}", cut(&spec.name))));
    if spec.r#type.len() > MAX_TYPE_BYTES {
        let bytes = spec.r#type.len();
        return refused(format!("its type has {bytes} bytes, more than the limit of {MAX_TYPE_BYTES}"));
    }
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in spec.r#type.bytes() {
        match byte {
            b'(' | b'<' => depth += 1,
            b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    match deepest > MAX_TYPE_DEPTH {
        true => refused(format!("its type is nested {deepest} deep, more than the limit of {MAX_TYPE_DEPTH}")),
        false => Ok(()),
    }
}

/// The options that concern the layout of a table.
pub fn table_options(options: &Options) -> TableOptions {
    TableOptions {
        shards: options.shards,
        shard_by: options.shard_by.clone().unwrap_or_default(),
        replicas: options.replicas,
        compression: options.compression.map(Compression::from),
        retention_ms: options.retention_s.map(|seconds| seconds.saturating_mul(1000)),
        ttl_ms: options.ttl_s.map(|seconds| seconds.saturating_mul(1000)),
        stats_columns: options.stats_columns.clone(),
        max_endpoints: options.max_endpoints,
        preserve_batches: options.preserve_batches,
        shareable_tickets: options.shareable_tickets,
    }
}

#[cfg(test)]
mod tests;
