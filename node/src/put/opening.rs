//! The beginning of a put: descriptor, options and schema.

use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use futures::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::schema::schema_message;
use volley_common::options::TableRequest;
use volley_common::wire::catalog::{Compression, WriteMode};
use volley_common::wire::cluster::BeginWriteRequest;
use volley_common::{Code, Error, Result, TableName};

use super::results::Results;
use crate::state::Shared;

/// The client's messages; an error in it means that the client did not come to its end.
pub trait Input: Stream<Item = Result<FlightData>> + Send + Unpin {}
impl<T: Stream<Item = Result<FlightData>> + Send + Unpin> Input for T {}

/// What the client's first messages brought.
pub struct Opening {
    /// The table, and what is wanted of it.
    pub request: TableRequest,
    /// The schema as the client sent it.
    pub schema: SchemaRef,
    /// Knows the schema, and takes what follows.
    pub decoder: BatchDecoder,
}

/// Reads up to the schema.
///
/// # Errors
/// INVALID_ARGUMENT: no message, descriptor, name or schema; as [`next`].
pub async fn open(state: &Shared, headers: &MetadataMap, input: &mut impl Input, results: &Results) -> Result<Opening> {
    let first = next(input).await?.ok_or_else(|| Error::invalid("the put has no messages"))?;
    let descriptor = first.flight_descriptor.as_ref().ok_or_else(|| {
        Error::invalid("the put's first message has no descriptor: name the table by FlightDescriptor.for_path")
    })?;
    let request = TableRequest::from_descriptor(descriptor, headers)?;
    let mut decoder = BatchDecoder::new(state.config.max_message);
    let mut message = first;
    loop {
        let metadata = message.app_metadata.clone();
        match decoder.push(message)? {
            DecodedMessage::Schema(schema) => return Ok(Opening { request, schema, decoder }),
            DecodedMessage::Metadata if metadata.is_empty() => {}
            DecodedMessage::Metadata => results.acknowledge(metadata)?,
            DecodedMessage::Batch(_) | DecodedMessage::Dictionary => {
                return Err(Error::invalid("the put's schema must come before its rows"));
            }
        }
        message = next(input).await?.ok_or_else(|| {
            Error::invalid("the put ended before its schema: send the schema, also if there are no rows")
        })?;
    }
}

/// What the coordinators are asked.
///
/// # Errors
/// INVALID_ARGUMENT: a schema that cannot be written.
pub fn begin_request(state: &Shared, opening: &Opening) -> Result<(BeginWriteRequest, TableName)> {
    let options = &opening.request.options;
    let request = BeginWriteRequest {
        table: opening.request.name.components().to_vec(),
        kind: opening.request.kind.into(),
        mode: WriteMode::from(options.mode.unwrap_or_default()).into(),
        shards: options.shards,
        shard_by: options.shard_by.clone().unwrap_or_default(),
        replicas: options.replicas,
        compression: options.compression.map(|c| Compression::from(c).into()),
        schema: schema_message(&opening.schema)?,
        // Chosen here if the client did not, so that asking again is the same write.
        write_id: options.write_id.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())),
        staged: false,
        writer: state.node().0,
        writer_boot: state.store.boot(),
        attempt: rand::random(),
        retention_ms: options.retention_s.map(|s| s.saturating_mul(1000)),
    };
    Ok((request, opening.request.name.clone()))
}

/// The next message.
///
/// # Errors
/// The stream broke. RESOURCE_EXHAUSTED: a message over the limit, or no memory for it.
pub async fn next(input: &mut impl Input) -> Result<Option<FlightData>> {
    input.next().await.transpose().map_err(|error| match error.code {
        Code::ResourceExhausted => error,
        _ => error.at("the put's stream broke"),
    })
}
