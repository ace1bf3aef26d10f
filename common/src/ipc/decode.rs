//! FlightData → checked record batches.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow_flight::FlightData;
use arrow_ipc::MessageHeader;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use bytes::Bytes;

use super::check::check_batch;
use super::schema::{guard, name_of, root, schema_of};
use super::types::children;
use crate::{Error, Result};

/// A stream's dictionaries together may be this many times the largest message.
const DICTIONARY_MESSAGES: usize = 4;
/// Offsets within a body are multiples of this, by the format.
const BODY_ALIGNMENT: usize = 8;

/// What a message brought.
#[derive(Debug)]
pub enum Event {
    /// The stream's schema; always first.
    Schema(SchemaRef),
    /// Rows, fully validated.
    Batch(RecordBatch),
    /// A dictionary, kept for the batches to come.
    Dictionary,
    /// No IPC message, only `app_metadata` or a descriptor.
    Metadata,
}

/// Decodes one stream's messages, in their order.
pub struct Decoder {
    max_message: usize,
    schema: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Bytes of each dictionary, deltas included.
    sizes: HashMap<i64, usize>,
}

impl Decoder {
    /// A decoder that refuses messages whose body, stored or decompressed, is over `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        Decoder { max_message, schema: None, dictionaries: HashMap::new(), sizes: HashMap::new() }
    }

    /// Takes the stream's next message. After an error the decoder must not be used again.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: malformed, or out of order. RESOURCE_EXHAUSTED: over a limit.
    pub fn push(&mut self, data: FlightData) -> Result<Event> {
        if data.data_header.is_empty() {
            return Ok(Event::Metadata);
        }
        let size = data.data_header.len().max(data.data_body.len());
        if size > self.max_message {
            return Err(Error::exhausted(format!(
                "a message of {size} bytes is over the limit of {}: send smaller batches",
                self.max_message
            )));
        }
        let message = root(&data.data_header)?;
        match message.header_type() {
            MessageHeader::Schema => self.take_schema(&message),
            MessageHeader::RecordBatch => self.batch(&message, data.data_body).map(Event::Batch),
            MessageHeader::DictionaryBatch => self.dictionary(&message, data.data_body),
            other => Err(Error::invalid(format!("an IPC message of kind {} is not taken here", name_of(other)))),
        }
    }

    /// The stream's schema, once it has come.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    fn take_schema(&mut self, message: &arrow_ipc::Message<'_>) -> Result<Event> {
        if self.schema.is_some() {
            return Err(Error::invalid("the stream has a second schema: one stream is one schema"));
        }
        let schema = schema_of(message)?;
        self.schema = Some(Arc::clone(&schema));
        Ok(Event::Schema(schema))
    }

    fn wanted_schema(&self) -> Result<&SchemaRef> {
        let missing = || Error::invalid("the stream does not begin with a schema message");
        self.schema.as_ref().ok_or_else(missing)
    }

    fn batch(&self, message: &arrow_ipc::Message<'_>, body: Bytes) -> Result<RecordBatch> {
        let schema = self.wanted_schema()?;
        let batch = message.header_as_record_batch().ok_or_else(empty_header)?;
        let body = body_of(message, body)?;
        let fields: Vec<&Field> = schema.fields().iter().map(|f| f.as_ref()).collect();
        check_batch(&batch, message.version(), &fields, &body, self.max_message)?;
        let version = message.version();
        let schema = Arc::clone(schema);
        guard("the record batch", || {
            read_record_batch(&aligned(body), batch, schema, &self.dictionaries, None, &version)
        })
    }

    fn dictionary(&mut self, message: &arrow_ipc::Message<'_>, body: Bytes) -> Result<Event> {
        let schema = Arc::clone(self.wanted_schema()?);
        let dictionary = message.header_as_dictionary_batch().ok_or_else(empty_header)?;
        let (id, delta) = (dictionary.id(), dictionary.isDelta());
        let what = format!("dictionary {id}");
        let body = body_of(message, body)?;
        let data = dictionary.data().ok_or_else(|| Error::invalid(format!("{what} has no values")))?;
        let values = values_of(schema.fields().iter().map(|f| f.as_ref()), id)
            .ok_or_else(|| Error::invalid(format!("{what} is not in the schema")))?;
        if delta && !self.dictionaries.contains_key(&id) {
            return Err(Error::invalid(format!("{what} is a delta to nothing")));
        }
        let size =
            check_batch(&data, message.version(), &[&values], &body, self.max_message).map_err(|e| e.at(&what))?;
        self.account(id, delta, size)?;
        let version = message.version();
        guard(&what, || read_dictionary(&aligned(body), dictionary, &schema, &mut self.dictionaries, &version))?;
        Ok(Event::Dictionary)
    }

    /// Keeps the dictionaries' memory bounded, however many deltas come.
    fn account(&mut self, id: i64, delta: bool, size: usize) -> Result<()> {
        let entry = self.sizes.entry(id).or_default();
        *entry = if delta { *entry + size } else { size };
        let (own, all) = (*entry, self.sizes.values().sum::<usize>());
        if own > self.max_message || all > self.max_message * DICTIONARY_MESSAGES {
            return Err(Error::exhausted(format!(
                "dictionary {id} has {own} bytes, all have {all}: the limits are {} and {}",
                self.max_message,
                self.max_message * DICTIONARY_MESSAGES
            )));
        }
        Ok(())
    }
}

fn empty_header() -> Error {
    Error::invalid("the IPC message's header is empty")
}

/// The body, as long as the header says (what follows is padding).
fn body_of(message: &arrow_ipc::Message<'_>, body: Bytes) -> Result<Bytes> {
    let length = message.bodyLength();
    match usize::try_from(length) {
        Ok(length) if length <= body.len() => Ok(body.slice(..length)),
        _ => Err(Error::invalid(format!("the message says its body has {length} bytes, {} came", body.len()))),
    }
}

/// The body where arrow can read it in place. gRPC leaves bodies anywhere; arrow copies most of what is not
/// aligned, and panics over the rest (unions, list views): one copy of the whole costs no more.
fn aligned(body: Bytes) -> Buffer {
    if body.as_ptr().align_offset(BODY_ALIGNMENT) == 0 { Buffer::from(body) } else { Buffer::from_slice_ref(&body) }
}

/// The values' field of the first dictionary with this id.
fn values_of<'a>(fields: impl Iterator<Item = &'a Field>, id: i64) -> Option<Field> {
    for field in fields {
        if let DataType::Dictionary(_, values) = field.data_type() {
            #[allow(deprecated)]
            if field.dict_id() == Some(id) {
                return Some(Field::new(field.name(), values.as_ref().clone(), true));
            }
        }
        if let Some(found) = values_of(children(field.data_type()).into_iter(), id) {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests;
