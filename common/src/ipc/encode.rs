//! Small messages: a batch cut short by `limit`. Whole tables are encoded by the node's part writer.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_flight::FlightData;
use arrow_ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use bytes::Bytes;

use super::compact::compact;
use super::decode::{Decoder, Event};
use super::schema::{flight_header, schema_message};
use crate::{Error, Result};

/// One IPC message: a bare flatbuffer and its body.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `FlightData.data_header`.
    pub header: Bytes,
    /// `FlightData.data_body`.
    pub body: Bytes,
}

impl From<EncodedData> for Encoded {
    fn from(data: EncodedData) -> Self {
        Encoded { header: data.ipc_message.into(), body: data.arrow_data.into() }
    }
}

impl From<&Encoded> for FlightData {
    fn from(encoded: &Encoded) -> Self {
        FlightData::new().with_data_header(encoded.header.clone()).with_data_body(encoded.body.clone())
    }
}

/// A batch's messages: the dictionaries it needs, then the batch. Uncompressed; ids as in `schema_message`.
///
/// # Errors
/// INVALID_ARGUMENT: a schema that IPC cannot carry.
pub fn encode_batch(batch: &RecordBatch) -> Result<(Vec<Encoded>, Encoded)> {
    // Refuses what cannot be encoded, naming the field.
    schema_message(batch.schema_ref())?;
    let (dictionaries, batch) =
        encode(&compact(batch)).map_err(|e| Error::internal(format!("a record batch cannot be encoded: {e}")))?;
    Ok((dictionaries.into_iter().map(Encoded::from).collect(), batch.into()))
}

fn encode(batch: &RecordBatch) -> Result<(Vec<EncodedData>, EncodedData), ArrowError> {
    let (generator, options) = (IpcDataGenerator {}, IpcWriteOptions::default());
    let mut tracker = DictionaryTracker::new(false);
    // The tracker learns the dictionaries' ids from the schema.
    generator.schema_to_bytes_with_dictionary_tracker(batch.schema_ref(), &mut tracker, &options);
    generator.encode(batch, &mut tracker, &options, &mut IpcWriteContext::default())
}

/// The first `rows` rows of an encoded batch, as a message of the same schema (all columns: project it afterwards).
///
/// `schema` is the encapsulated schema message; `dictionaries` are all of the part's, bare flatbuffer and body each.
///
/// # Errors
/// DATA_LOSS: the stored messages cannot be decoded.
pub fn first_rows(schema: &[u8], dictionaries: &[Encoded], batch: &Encoded, rows: usize) -> Result<Encoded> {
    let lost = |e: Error| Error::data_loss(format!("a stored message cannot be decoded: {e}"));
    // What is stored was checked when it was put: a large row may have made a large message.
    let mut decoder = Decoder::new(usize::MAX / 16);
    decoder.push(FlightData::new().with_data_header(flight_header(schema))).map_err(lost)?;
    for dictionary in dictionaries {
        decoder.push(dictionary.into()).map_err(lost)?;
    }
    match decoder.push(batch.into()).map_err(lost)? {
        Event::Batch(batch) => Ok(encode_batch(&batch.slice(0, rows.min(batch.num_rows())))?.1),
        _ => Err(lost(Error::invalid("a record batch is wanted"))),
    }
}
