//! What a scan gives: batches to a query, messages to a client.

use arrow::array::{ArrayData, AsArray, RecordBatch, make_array};
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use bytes::Bytes;
use volley_common::ipc::copy_shared::copy_shared;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::decompress::uncompressed;
use volley_common::ipc::dictionary_keys::{keys_schema, replace_dictionaries};
use volley_common::ipc::encode::{IpcMessage, encode_keys};
use volley_common::{Error, Result};

use crate::get::message::EncodedMessage;
use crate::get::row_skip::ipc_message;
use crate::storage::Part;

/// One of the things that a scan gives: rows, or a dictionary of the rows that follow.
pub trait ScanOutput: Sized + Send + 'static {
    /// Decodes the messages of one part that other nodes send.
    type Decoder: Default + Send + 'static;

    /// Whether [`ScanOutput::of_messages`] takes long enough to need a thread.
    const DECODES: bool;

    /// Rows as they are joined with others.
    ///
    /// # Errors
    /// INTERNAL: the rows cannot be converted.
    fn prepare(rows: RecordBatch) -> Result<RecordBatch>;

    /// Prepared rows, without memory of `part`. They own no more than the rows.
    ///
    /// # Errors
    /// INTERNAL: the rows cannot be encoded.
    fn of_rows(rows: &RecordBatch, part: &Part) -> Result<Self>;

    /// A stored dictionary, which is not in the part's memory; `None`: it comes with the rows.
    ///
    /// # Errors
    /// DATA_LOSS: it is malformed.
    fn of_dictionary(dictionary: &IpcMessage) -> Result<Option<Self>>;

    /// Messages of another node's reply, which begins with the schema `schema_header`.
    ///
    /// # Errors
    /// INTERNAL: they are malformed.
    fn of_messages(
        decoder: &mut Self::Decoder,
        schema_header: &Bytes,
        messages: Vec<EncodedMessage>,
    ) -> Result<Vec<Self>>;

    /// How many rows it has; `None`: it is a dictionary.
    fn rows(&self) -> Option<u64>;

    /// Its bytes in memory, about.
    fn size(&self) -> usize;
}

impl ScanOutput for EncodedMessage {
    type Decoder = ();

    const DECODES: bool = false;

    /// With keys in place of dictionaries, which are messages of their own.
    fn prepare(rows: RecordBatch) -> Result<RecordBatch> {
        let schema = rows.schema();
        let keys: SchemaRef = keys_schema(&schema);
        if keys == schema {
            return Ok(rows);
        }
        let mut keys_of = |data: ArrayData| Ok(make_array(data).as_any_dictionary().keys().to_data());
        replace_dictionaries(&rows, &keys, &mut keys_of)
            .map_err(|e| Error::internal(format!("the keys of a dictionary cannot be sent: {e}")))
    }

    fn of_rows(rows: &RecordBatch, _part: &Part) -> Result<Self> {
        // The body is a copy.
        let message = encode_keys(rows)?;
        let (rows, app_metadata) = (Some(rows.num_rows() as u64), Bytes::new());
        Ok(EncodedMessage { header: message.header, body: vec![message.body], rows, app_metadata })
    }

    fn of_dictionary(dictionary: &IpcMessage) -> Result<Option<Self>> {
        let plain = uncompressed(&dictionary.header, &dictionary.body)?;
        let IpcMessage { header, body } = plain.unwrap_or_else(|| dictionary.clone());
        Ok(Some(EncodedMessage { header, body: vec![body], rows: None, app_metadata: Bytes::new() }))
    }

    fn of_messages(_: &mut (), _: &Bytes, messages: Vec<EncodedMessage>) -> Result<Vec<Self>> {
        Ok(messages)
    }

    fn rows(&self) -> Option<u64> {
        self.rows
    }

    fn size(&self) -> usize {
        EncodedMessage::size(self)
    }
}

impl ScanOutput for RecordBatch {
    /// `None` before the schema.
    type Decoder = Option<BatchDecoder>;

    const DECODES: bool = true;

    fn prepare(rows: RecordBatch) -> Result<RecordBatch> {
        Ok(rows)
    }

    fn of_rows(rows: &RecordBatch, part: &Part) -> Result<Self> {
        Ok(copy_shared(rows, &|bytes| part.range_of(bytes).is_some()))
    }

    fn of_dictionary(_: &IpcMessage) -> Result<Option<Self>> {
        Ok(None)
    }

    fn of_messages(
        decoder: &mut Option<BatchDecoder>,
        schema_header: &Bytes,
        messages: Vec<EncodedMessage>,
    ) -> Result<Vec<Self>> {
        let malformed = |e: Error| Error::internal(format!("another node sends a message that is malformed: {e}"));
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => {
                // A node stored each message, so each is within the limits.
                let mut first = BatchDecoder::new(usize::MAX / 16);
                first.push(FlightData::new().with_data_header(schema_header.clone())).map_err(malformed)?;
                decoder.insert(first)
            }
        };
        let mut batches = Vec::new();
        for message in &messages {
            if let DecodedMessage::Batch(batch) = decoder.push((&ipc_message(message)).into()).map_err(malformed)? {
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    fn rows(&self) -> Option<u64> {
        Some(self.num_rows() as u64)
    }

    fn size(&self) -> usize {
        self.get_array_memory_size()
    }
}
