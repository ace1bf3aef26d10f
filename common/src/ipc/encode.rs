//! Encodes single batches, such as one shortened by `limit`. Whole tables are encoded by the node's part writer.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_flight::FlightData;
use arrow_ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use bytes::Bytes;

use super::decode::{BatchDecoder, DecodedMessage};
use super::schema::{flight_header, schema_message};
use super::shrink::shrink_to_fit;
use super::split::split;
use crate::{Error, Result};

/// One IPC message: a bare flatbuffer and its body.
#[derive(Clone, Debug)]
pub struct IpcMessage {
    /// `FlightData.data_header`.
    pub header: Bytes,
    /// `FlightData.data_body`.
    pub body: Bytes,
}

impl From<EncodedData> for IpcMessage {
    fn from(data: EncodedData) -> Self {
        IpcMessage { header: data.ipc_message.into(), body: data.arrow_data.into() }
    }
}

impl From<&IpcMessage> for FlightData {
    fn from(message: &IpcMessage) -> Self {
        FlightData::new().with_data_header(message.header.clone()).with_data_body(message.body.clone())
    }
}

/// Encodes a batch: the dictionaries it needs, then the batch. Uncompressed; ids as in `schema_message`.
///
/// # Errors
/// INVALID_ARGUMENT: a schema that IPC cannot encode.
pub fn encode_batch(batch: &RecordBatch) -> Result<(Vec<IpcMessage>, IpcMessage)> {
    // Its error names the field.
    schema_message(batch.schema_ref())?;
    let (dictionaries, batch) =
        encode(&shrink_to_fit(batch)).map_err(|e| Error::internal(format!("a record batch cannot be encoded: {e}")))?;
    Ok((dictionaries.into_iter().map(IpcMessage::from).collect(), batch.into()))
}

fn encode(batch: &RecordBatch) -> Result<(Vec<EncodedData>, EncodedData), ArrowError> {
    let (generator, options) = (IpcDataGenerator {}, IpcWriteOptions::default());
    let mut tracker = DictionaryTracker::new(false);
    // Registers the dictionaries' ids with the tracker.
    generator.schema_to_bytes_with_dictionary_tracker(batch.schema_ref(), &mut tracker, &options);
    generator.encode(batch, &mut tracker, &options, &mut IpcWriteContext::default())
}

/// Batches as messages of at most about `message_bytes`: the dictionaries of each, then its rows.
///
/// # Errors
/// RESOURCE_EXHAUSTED: rows share values that would have to be repeated far too often. INTERNAL: the batch cannot be encoded.
pub fn encode_messages(batch: &RecordBatch, message_bytes: usize) -> Result<Vec<IpcMessage>> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let mut messages = Vec::new();
    for piece in split(&shrink_to_fit(batch), message_bytes) {
        let (dictionaries, rows) = encode_batch(&piece?)?;
        messages.extend(dictionaries);
        messages.push(rows);
    }
    Ok(messages)
}

/// Encodes a batch that has keys in place of its dictionaries, see [`super::dictionary_keys`]. It must own no more than its rows,
/// see [`super::shrink`]. Uncompressed.
///
/// # Errors
/// INTERNAL: it has a dictionary, or cannot be encoded.
pub fn encode_keys(keys: &RecordBatch) -> Result<IpcMessage> {
    let (mut tracker, mut context) = (DictionaryTracker::new(false), IpcWriteContext::default());
    let encoded = IpcDataGenerator {}.encode(keys, &mut tracker, &IpcWriteOptions::default(), &mut context);
    let (_, rows) = encoded.map_err(|e| Error::internal(format!("a record batch cannot be encoded: {e}")))?;
    Ok(rows.into())
}

/// The first `rows` rows of an encoded batch, as a message of the same schema (all columns: project it afterwards).
///
/// `schema` is the encapsulated schema message; `dictionaries` are all of the part's.
///
/// # Errors
/// DATA_LOSS: the stored messages cannot be decoded.
pub fn first_rows(schema: &[u8], dictionaries: &[IpcMessage], batch: &IpcMessage, rows: usize) -> Result<IpcMessage> {
    let batch = decode_stored(flight_header(schema), dictionaries, batch)?;
    Ok(encode_batch(&batch.slice(0, rows.min(batch.num_rows())))?.1)
}

/// The rows of an encoded batch from row `from` on, as a message of the same schema.
///
/// `schema_header` is the bare flatbuffer of the schema; `dictionaries` are all that come before the batch in its stream.
///
/// # Errors
/// DATA_LOSS: the messages cannot be decoded.
pub fn rows_from(
    schema_header: Bytes,
    dictionaries: &[IpcMessage],
    batch: &IpcMessage,
    from: usize,
) -> Result<IpcMessage> {
    let batch = decode_stored(schema_header, dictionaries, batch)?;
    let from = from.min(batch.num_rows());
    Ok(encode_batch(&batch.slice(from, batch.num_rows() - from))?.1)
}

fn decode_stored(schema_header: Bytes, dictionaries: &[IpcMessage], batch: &IpcMessage) -> Result<RecordBatch> {
    let lost = |e: Error| Error::data_loss(format!("a stored message cannot be decoded: {e}"));
    // No limit: stored messages were checked when they were put, and a large row makes a large message.
    let mut decoder = BatchDecoder::new(usize::MAX / 16);
    decoder.push(FlightData::new().with_data_header(schema_header)).map_err(lost)?;
    for dictionary in dictionaries {
        decoder.push(dictionary.into()).map_err(lost)?;
    }
    match decoder.push(batch.into()).map_err(lost)? {
        DecodedMessage::Batch(batch) => Ok(batch),
        _ => Err(lost(Error::invalid("it is not a record batch"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::ipc::MESSAGE_BYTES;

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn large_batch_is_sent_in_messages_of_a_mebibyte() {
        let messages = encode_messages(&batch(1 << 20), MESSAGE_BYTES).unwrap();
        assert!(messages.len() >= 8 && messages.iter().all(|message| message.body.len() <= 2 * MESSAGE_BYTES));
        assert!(encode_messages(&batch(0), MESSAGE_BYTES).unwrap().is_empty());
    }
}
