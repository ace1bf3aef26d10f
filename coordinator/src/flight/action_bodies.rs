//! The JSON bodies of actions, and their replies. Unknown keys are errors that name the key.

use std::str::FromStr;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use base64::Engine;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::options::{Options, TableRequest};
use volley_common::wire::catalog::Compression;
use volley_common::{Error, Result, TableName};

use crate::planner::table_options::TableOptions;

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
    serde_json::from_slice(body).map_err(|e| Error::invalid(format!("the body of {action}: {e}")))
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
            Some(other) => return Err(Error::invalid(format!("\"if_not_exists\" is true or false, not {other}"))),
        };
        let rest = Value::Object(map).to_string();
        let request = TableRequest::from_command(rest.as_bytes(), metadata)?;
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
        serde_json::from_value(fields).map_err(|e| Error::invalid(format!("\"fields\": {e}")))?;
    let field = |spec: FieldSpec| Ok(Field::new(&spec.name, data_type(&spec)?, spec.nullable));
    Ok(Schema::new(fields.into_iter().map(field).collect::<Result<Vec<Field>>>()?))
}

fn data_type(spec: &FieldSpec) -> Result<DataType> {
    let name = spec.r#type.trim();
    Ok(match name.to_ascii_lowercase().as_str() {
        "bool" | "boolean" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" | "int" => DataType::Int32,
        "int64" | "long" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" | "halffloat" => DataType::Float16,
        "float32" | "float" => DataType::Float32,
        "float64" | "double" => DataType::Float64,
        "string" | "utf8" => DataType::Utf8,
        "large_string" | "large_utf8" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "large_binary" => DataType::LargeBinary,
        "date32" | "date" => DataType::Date32,
        "date64" => DataType::Date64,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => DataType::from_str(name).map_err(|_| {
            Error::invalid(format!(
                "field {:?} has the unknown type {name:?}: use a simple type, such as int64, float64, string, bool, date32 or timestamp, or give the whole schema as \"schema\"",
                spec.name
            ))
        })?,
    })
}

/// The options that concern the layout of a table.
pub fn table_options(options: &Options) -> TableOptions {
    TableOptions {
        shards: options.shards,
        shard_by: options.shard_by.clone().unwrap_or_default(),
        replicas: options.replicas,
        compression: options.compression.map(Compression::from),
        retention_ms: options.retention_s.map(|seconds| seconds.saturating_mul(1000)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn create(body: &str) -> Result<CreateTableBody> {
        CreateTableBody::parse(body.as_bytes(), &MetadataMap::new())
    }

    #[test]
    fn create_body_accepts_fields_and_options() {
        let parsed = create(
            r#"{"table": "a/t", "if_not_exists": true, "shards": 3, "shard_by": ["k"],
                "fields": [{"name": "k", "type": "int64", "nullable": false}, {"name": "v", "type": "Timestamp(ns)"}]}"#,
        )
        .unwrap();
        assert_eq!(
            (parsed.name.to_string().as_str(), parsed.if_not_exists, parsed.options.shards),
            ("a/t", true, Some(3))
        );
        let schema = parse_schema(&parsed.schema).unwrap();
        assert_eq!(schema.field(0), &Field::new("k", DataType::Int64, false));
        assert_eq!(schema.field(1).data_type(), &DataType::Timestamp(TimeUnit::Nanosecond, None));
    }

    #[test]
    fn create_body_accepts_an_encoded_schema() {
        let schema = Schema::new(vec![Field::new("x", DataType::Utf8, true)]);
        let text = base64::engine::general_purpose::STANDARD.encode(schema_message(&schema).unwrap());
        let parsed = create(&format!(r#"{{"table": "t", "schema": "{text}"}}"#)).unwrap();
        assert_eq!(*parse_schema(&parsed.schema).unwrap(), schema);
    }

    #[test]
    fn invalid_bodies_are_rejected_with_the_cause() {
        for (body, word) in [
            (r#"{"table": "t"}"#, "fields"),
            (r#"{"table": "t", "fields": [], "shrads": 3}"#, "shrads"),
            (r#"{"table": "t", "fields": [{"name": "x", "type": "integerish"}]}"#, "integerish"),
            (r#"{"table": "t", "fields": [{"name": "x", "kind": "int64"}]}"#, "kind"),
            (r#"{"table": "t", "schema": "!!"}"#, "base64"),
            (r#"{"table": "t", "schema": "AAAA"}"#, ""),
            (r#"{"fields": []}"#, "names no table"),
            ("nonsense", "create_table"),
        ] {
            let error = create(body).err().unwrap();
            assert_eq!(error.code, volley_common::Code::InvalidArgument, "{body}");
            assert!(error.message.contains(word), "{body}: {error}");
        }
        assert!(parse::<EmptyBody>("clear", b"{\"all\": true}").err().unwrap().message.contains("all"));
    }

    #[test]
    fn drop_body_is_a_raw_name_or_an_object() {
        let drop = |table: &str, if_exists| DropTableBody { table: table.into(), if_exists };
        assert_eq!(DropTableBody::parse(b"a/t").unwrap(), drop("a/t", false));
        assert_eq!(DropTableBody::parse(br#"{"table": "t", "if_exists": true}"#).unwrap(), drop("t", true));
        assert!(DropTableBody::parse(br#"{"table": "t", "force": true}"#).is_err());
        assert!(DropTableBody::parse(b"").is_err());
    }
}
