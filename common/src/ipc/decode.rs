//! Decodes FlightData to validated record batches.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_ipc::reader::read_record_batch;
use arrow_ipc::{MessageHeader, MetadataVersion};
use bytes::Bytes;

use super::batch_validation::{buffer_place, validate_batch};
use super::dictionary_keys::has_dictionary;
use super::item_nulls::check_item_nulls;
use super::layout::child_fields;
use super::schema::{catch_panics, kind_name, schema_of, verify_message};
use super::spool::{MemoryTarget, SpoolStorage, SpoolTarget, relocate};
use super::stream_budget::StreamBudget;
use super::streamed_decompression::{batch_of, check_decompression, decompress_batch};
use super::view_lengths::{has_views, view_lengths};
use crate::{Error, Result};

/// The limit for all dictionaries of a stream together, as a multiple of the largest message.
const MAX_DICTIONARY_MESSAGES: usize = 4;
/// Offsets within a body are multiples of this, by the format.
const BODY_ALIGNMENT: usize = 8;

/// A dictionary of more bytes is kept in the spool, if there is one, and so is any that no memory can be reserved for.
const MAX_DICTIONARY_IN_MEMORY: usize = 64 << 10;
/// The largest dictionary that deltas may extend, bytes: it is copied in memory when they are joined.
const MAX_EXTENDED_DICTIONARY: usize = 16 << 20;
/// The same for a stream without [`BatchDecoder::with_cost_limit`].
const MAX_STORED_DICTIONARY: usize = 512 << 20;
/// Deltas are joined at the next batch, or before they have this many bytes or are this many.
const MAX_PENDING_BYTES: usize = 1 << 20;
const MAX_PENDING_DELTAS: usize = 1000;

/// The content of one message.
#[derive(Debug)]
pub enum DecodedMessage {
    /// The stream's schema; always first.
    Schema(SchemaRef),
    /// Validated rows.
    Batch(RecordBatch),
    /// A dictionary, or a delta, of so many bytes, which the decoder keeps for later batches.
    Dictionary(usize),
    /// No IPC message, only `app_metadata` or a descriptor.
    Metadata,
}

/// Decodes the messages of one stream in order.
pub struct BatchDecoder {
    max_message: usize,
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Bytes of each dictionary, deltas included.
    sizes: HashMap<i64, usize>,
    /// Deltas that are not yet joined to their dictionaries, and their bytes.
    deltas: Vec<(i64, ArrayRef)>,
    delta_bytes: usize,
    budget: StreamBudget,
    spool: Option<DecoderSpool>,
}

struct DecoderSpool {
    storage: Arc<dyn SpoolStorage>,
    /// The largest message that is decompressed in memory, bytes.
    max_decompressed: usize,
}

impl BatchDecoder {
    /// Rejects messages whose body, as received or decompressed, is over `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        BatchDecoder {
            max_message,
            schema: None,
            dictionaries: HashMap::new(),
            sizes: HashMap::new(),
            deltas: Vec::new(),
            delta_bytes: 0,
            budget: StreamBudget::default(),
            spool: None,
        }
    }

    /// Bounds the decoder's own memory: messages that decompress to more than `max_decompressed` bytes, and dictionaries,
    /// which live as long as the stream, are stored in `storage`. Decoding may then wait for a disk.
    pub fn with_spool(mut self, storage: Arc<dyn SpoolStorage>, max_decompressed: usize) -> Self {
        self.spool = Some(DecoderSpool { storage, max_decompressed });
        self
    }

    /// Refuses a stream that costs far more than it sent, by compression, deltas of dictionaries or views of one value: for one of
    /// a client.
    pub fn with_cost_limit(mut self) -> Self {
        self.budget.is_limited = true;
        self
    }

    /// Decodes the stream's next message. After an error the decoder must not be used again.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: malformed, or out of order. RESOURCE_EXHAUSTED: over a limit.
    pub fn push(&mut self, data: FlightData) -> Result<DecodedMessage> {
        if data.data_header.is_empty() {
            return Ok(DecodedMessage::Metadata);
        }
        let size = data.data_header.len().max(data.data_body.len());
        if size > self.max_message {
            return Err(Error::exhausted(format!(
                "a message of {size} bytes is over the limit of {}: send smaller batches",
                self.max_message
            )));
        }
        self.budget.receive(data.data_header.len() + data.data_body.len());
        let message = verify_message(&data.data_header)?;
        match message.header_type() {
            MessageHeader::Schema => self.decode_schema(&message),
            MessageHeader::RecordBatch => self.decode_batch(&message, data.data_body).map(DecodedMessage::Batch),
            MessageHeader::DictionaryBatch => self.decode_dictionary(&message, data.data_body),
            other => Err(Error::invalid(format!("an IPC message of kind {} is not supported here", kind_name(other)))),
        }
    }

    /// The stream's schema, once it was decoded.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    fn decode_schema(&mut self, message: &arrow_ipc::Message<'_>) -> Result<DecodedMessage> {
        if self.schema.is_some() {
            return Err(Error::invalid("the stream has a second schema: a stream has one schema"));
        }
        let schema = schema_of(message)?;
        self.schema = Some(Arc::clone(&schema));
        Ok(DecodedMessage::Schema(schema))
    }

    fn expected_schema(&self) -> Result<&SchemaRef> {
        let missing = || Error::invalid("the stream does not begin with a schema message");
        self.schema.as_ref().ok_or_else(missing)
    }

    fn decode_batch(&mut self, message: &arrow_ipc::Message<'_>, body: Bytes) -> Result<RecordBatch> {
        self.join_deltas()?;
        let schema = Arc::clone(self.expected_schema()?);
        let batch = message.header_as_record_batch().ok_or_else(empty_header)?;
        let body = body_of(message, body)?;
        let fields: Vec<&Field> = schema.fields().iter().map(|f| f.as_ref()).collect();
        let version = message.version();
        let size = validate_batch(&batch, version, &fields, &body, self.max_message)?;
        self.budget.decompress(size)?;
        self.read_batch("the record batch", batch, body, size, schema, version)
    }

    /// Reads a batch that was validated, and decompresses to `size` bytes.
    fn read_batch(
        &mut self,
        what: &str,
        batch: arrow_ipc::RecordBatch<'_>,
        body: Bytes,
        size: usize,
        schema: SchemaRef,
        version: MetadataVersion,
    ) -> Result<RecordBatch> {
        let place = |at| buffer_place(what, &batch, version, fields_of(&schema), at);
        let read = |batch: arrow_ipc::RecordBatch<'_>, body: &Buffer| {
            catch_panics(what, || {
                let rows = read_record_batch(body, batch, schema.clone(), &self.dictionaries, None, &version)?;
                check_item_nulls(&rows).map(|()| rows)
            })
        };
        let has_views = self.budget.is_limited && fields_of(&schema).any(|field| has_views(field.data_type()));
        if let Some(target) = self.plain_target(&batch, size, has_views)? {
            let plain = decompress_batch(&batch, &body, target, &place)?;
            let (batch, body) = (batch_of(&plain)?, aligned(plain.body.clone()));
            if has_views {
                self.budget.view(view_lengths(&batch, version, fields_of(&schema), &body))?;
            }
            return read(batch, &body);
        }
        let body = aligned(body);
        if has_views {
            self.budget.view(view_lengths(&batch, version, fields_of(&schema), &body))?;
        }
        let result = read(batch, &body);
        if result.is_err() && batch.compression().is_some() {
            // Arrow says neither which buffer it could not decompress nor in what it differs from its length.
            check_decompression(&batch, &body, &place)?;
        }
        result
    }

    /// Where a message is decompressed to before arrow reads it; `None`: it is not compressed, or arrow decompresses it.
    /// `has_views`: it has views, whose lengths must be known before.
    fn plain_target(
        &self,
        batch: &arrow_ipc::RecordBatch<'_>,
        size: usize,
        has_views: bool,
    ) -> Result<Option<Box<dyn SpoolTarget>>> {
        if batch.compression().is_none() {
            return Ok(None);
        }
        let memory: Box<dyn SpoolTarget> = match &self.spool {
            Some(spool) if size > spool.max_decompressed => return spool.storage.create(size as u64).map(Some),
            _ if !has_views => return Ok(None),
            Some(spool) => match spool.storage.reserve(size) {
                Some(reservation) => Box::new(MemoryTarget::new(reservation)),
                None => return spool.storage.create(size as u64).map(Some),
            },
            None => Box::new(MemoryTarget::new(Box::new(()))),
        };
        Ok(Some(memory))
    }

    fn decode_dictionary(&mut self, message: &arrow_ipc::Message<'_>, body: Bytes) -> Result<DecodedMessage> {
        let schema = self.expected_schema()?;
        let dictionary = message.header_as_dictionary_batch().ok_or_else(empty_header)?;
        let (id, delta) = (dictionary.id(), dictionary.isDelta());
        let what = format!("dictionary {id}");
        let body = body_of(message, body)?;
        let data = dictionary.data().ok_or_else(|| Error::invalid(format!("{what} has no values")))?;
        let values = values_of(schema.fields().iter().map(|f| f.as_ref()), id)
            .ok_or_else(|| Error::invalid(format!("{what} is not in the schema")))?;
        if delta && !self.dictionaries.contains_key(&id) {
            return Err(Error::invalid(format!("{what} is a delta without a dictionary before it")));
        }
        let version = message.version();
        let size = validate_batch(&data, version, &[&values], &body, self.max_message).map_err(|e| e.at(&what))?;
        self.limit_dictionaries(id, delta, size)?;
        self.budget.decompress(size)?;
        if has_dictionary(values.data_type()) {
            self.join_deltas()?;
        }
        let values = self.read_batch(&what, data, body, size, Arc::new(Schema::new(vec![values])), version)?;
        let values = values.column(0).clone();
        if delta {
            self.push_delta(id, values, size)?;
        } else {
            self.deltas.retain(|(of, _)| *of != id);
            self.dictionaries.insert(id, values);
            self.store_dictionary(id)?;
        }
        Ok(DecodedMessage::Dictionary(size))
    }

    /// Keeps a delta until its values are needed: joining it copies the whole dictionary.
    fn push_delta(&mut self, id: i64, values: ArrayRef, size: usize) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        if self.delta_bytes + size > MAX_PENDING_BYTES || self.deltas.len() >= MAX_PENDING_DELTAS {
            self.join_deltas()?;
        }
        // Out of the message's body, which may be larger. So few bytes are not reserved.
        let values = match self.spool {
            Some(_) => relocate(&values, Box::new(MemoryTarget::new(Box::new(()))))?,
            None => values,
        };
        self.deltas.push((id, values));
        self.delta_bytes += size;
        Ok(())
    }

    /// Extends the dictionaries by the deltas that came since the last batch.
    fn join_deltas(&mut self) -> Result<()> {
        self.delta_bytes = 0;
        let mut deltas = std::mem::take(&mut self.deltas);
        deltas.sort_by_key(|(id, _)| *id);
        for deltas in deltas.chunk_by(|(id, _), (other, _)| id == other) {
            let id = deltas[0].0;
            let size = self.sizes.get(&id).copied().unwrap_or(0);
            if size > MAX_DICTIONARY_IN_MEMORY {
                self.budget.copy(id, size)?;
            }
            let first = self.dictionaries.get(&id).into_iter();
            let values: Vec<&dyn Array> =
                first.chain(deltas.iter().map(|(_, delta)| delta)).map(AsRef::as_ref).collect();
            let joined = catch_panics(&format!("dictionary {id} with its deltas"), || concat(&values))?;
            self.dictionaries.insert(id, joined);
            self.store_dictionary(id)?;
        }
        Ok(())
    }

    /// Moves a dictionary out of its message's body, which would stay in memory as long as the stream.
    fn store_dictionary(&mut self, id: i64) -> Result<()> {
        let (Some(spool), Some(values)) = (&self.spool, self.dictionaries.get_mut(&id)) else { return Ok(()) };
        let size = self.sizes.get(&id).copied().unwrap_or(0);
        let small = (size <= MAX_DICTIONARY_IN_MEMORY).then(|| spool.storage.reserve(size)).flatten();
        let stored = match small {
            Some(reservation) => relocate(values, Box::new(MemoryTarget::new(reservation)))?,
            None => relocate(values, spool.storage.create(size as u64)?)?,
        };
        *values = stored;
        Ok(())
    }

    /// Limits the dictionaries' memory, independent of the number of deltas.
    fn limit_dictionaries(&mut self, id: i64, delta: bool, size: usize) -> Result<()> {
        let entry = self.sizes.entry(id).or_default();
        *entry = if delta { *entry + size } else { size };
        let (own, all) = (*entry, self.sizes.values().sum::<usize>());
        let most = if self.budget.is_limited { MAX_EXTENDED_DICTIONARY } else { MAX_STORED_DICTIONARY };
        if delta && own > most {
            return Err(Error::exhausted(format!(
                "dictionary {id} has {own} bytes with its deltas, the limit is {most}: send it whole"
            )));
        }
        if own > self.max_message || all > self.max_message * MAX_DICTIONARY_MESSAGES {
            return Err(Error::exhausted(format!(
                "dictionary {id} has {own} bytes, all have {all}: the limits are {} and {}",
                self.max_message,
                self.max_message * MAX_DICTIONARY_MESSAGES
            )));
        }
        Ok(())
    }
}

fn fields_of(schema: &Schema) -> impl Iterator<Item = &Field> {
    schema.fields().iter().map(|field| field.as_ref())
}

pub(super) fn empty_header() -> Error {
    Error::invalid("the IPC message's header is empty")
}

/// The body up to the length in the header (the rest is padding).
pub(super) fn body_of(message: &arrow_ipc::Message<'_>, body: Bytes) -> Result<Bytes> {
    let length = message.bodyLength();
    match usize::try_from(length) {
        Ok(length) if length <= body.len() => Ok(body.slice(..length)),
        _ => Err(Error::invalid(format!("the message says its body has {length} bytes, {} were received", body.len()))),
    }
}

/// The body at an address where arrow can read it in place. With gRPC a body can begin at any address. Arrow copies
/// most buffers that are not aligned and panics on the others (unions, list views). One copy of the whole body costs no
/// more.
pub(super) fn aligned(body: Bytes) -> Buffer {
    if body.as_ptr().align_offset(BODY_ALIGNMENT) == 0 { Buffer::from(body) } else { Buffer::from_slice_ref(&body) }
}

/// The field of the values of the first dictionary with this id.
pub(super) fn values_of<'a>(fields: impl Iterator<Item = &'a Field>, id: i64) -> Option<Field> {
    for field in fields {
        if let DataType::Dictionary(_, values) = field.data_type() {
            #[allow(deprecated)]
            if field.dict_id() == Some(id) {
                return Some(Field::new(field.name(), values.as_ref().clone(), true));
            }
        }
        if let Some(found) = values_of(child_fields(field.data_type()).into_iter(), id) {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests;
