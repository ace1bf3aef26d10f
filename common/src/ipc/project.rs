//! Columns of an encoded message, without a copy: a new header over fewer slices.

use std::ops::Range;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_ipc as ipc;
use arrow_ipc::convert::IpcSchemaEncoder;
use arrow_ipc::writer::DictionaryTracker;
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::schema::{PREFIX_BYTES, parse_schema, project, root};
use super::types::children;
use super::walk::{Item, walk, walk_dictionaries};
use crate::{Error, Result};

/// Every buffer of a body begins at a multiple of this.
const ALIGNMENT: u64 = 64;

/// Bytes of a record batch message's header but for its nodes and buffers, about.
const HEADER_ROOM: usize = 256;

/// A record batch message of fewer columns.
#[derive(Clone, Debug)]
pub struct Projected {
    /// The new bare flatbuffer: `FlightData.data_header`.
    pub header: Bytes,
    /// The ranges of the old body that make up the new one, in order.
    pub body: Vec<Range<u64>>,
    /// Bytes of the new body.
    pub body_len: u64,
}

/// Columns to be cut out of the messages of one schema.
#[derive(Debug)]
pub struct Projector {
    schema: SchemaRef,
    columns: Vec<usize>,
    /// Where the columns lie in every message of version 5; `None` if each message has to tell.
    spans: Option<Vec<Span>>,
}

impl Projector {
    /// For `columns` of `schema`, in that order.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a column that is not in the schema.
    pub fn new(schema: SchemaRef, columns: Vec<usize>) -> Result<Self> {
        if let Some(column) = columns.iter().find(|&&column| column >= schema.fields().len()) {
            let fields = schema.fields().len();
            return Err(Error::invalid(format!("column {column} is asked for, the schema has {fields}")));
        }
        // Without a single count this fails where there are variadic buffers.
        let spans = spans(&schema, false, &[]).ok().map(|all| chosen(&all, &columns));
        Ok(Projector { schema, columns, spans })
    }

    /// The whole schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Indexes into the schema, in the order in which they are sent.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// A record batch message (bare flatbuffer) cut down to the columns.
    ///
    /// # Errors
    /// DATA_LOSS: a header that does not fit the schema.
    pub fn project(&self, header: &[u8]) -> Result<Projected> {
        let lost = |e: Error| Error::data_loss(format!("a stored record batch is damaged: {e}"));
        let message = root(header).map_err(lost)?;
        let batch =
            message.header_as_record_batch().ok_or_else(|| lost(Error::invalid("it is another kind of message")))?;
        let v4 = message.version() < ipc::MetadataVersion::V5;
        let mut out = Columns::new(&batch, message.bodyLength() as u64).ok_or_else(|| lost(short()))?;
        let own;
        let spans = match &self.spans {
            Some(spans) if !v4 => spans,
            _ => {
                own = chosen(&spans(&self.schema, v4, &out.from.2).map_err(lost)?, &self.columns);
                &own
            }
        };
        spans.iter().try_for_each(|span| out.add(span)).ok_or_else(|| lost(short()))?;
        Ok(out.finish(&message, &batch))
    }
}

fn chosen(spans: &[Span], columns: &[usize]) -> Vec<Span> {
    columns.iter().map(|&column| spans[column].clone()).collect()
}

fn short() -> Error {
    Error::invalid("it holds fewer nodes and buffers than its schema asks for")
}

/// One column's nodes, buffers and variadic counts, as indexes into the message's.
#[derive(Clone, Debug, Default)]
struct Span {
    nodes: Range<usize>,
    buffers: Range<usize>,
    variadic: Range<usize>,
}

/// Every column's span. `counts`: the message's variadic ones.
fn spans(schema: &Schema, v4: bool, counts: &[i64]) -> Result<Vec<Span>> {
    let mut spans = Vec::with_capacity(schema.fields().len());
    let (mut nodes, mut buffers, mut variadic) = (0, 0, 0);
    for field in schema.fields() {
        let start = (nodes, buffers, variadic);
        walk(field.data_type(), v4, &mut |item| {
            match item {
                Item::Node => nodes += 1,
                Item::Variadic => {
                    let count = counts.get(variadic).and_then(|&count| usize::try_from(count).ok());
                    buffers += count.ok_or_else(short)?;
                    variadic += 1;
                }
                _ => buffers += 1,
            }
            Ok(())
        })?;
        spans.push(Span { nodes: start.0..nodes, buffers: start.1..buffers, variadic: start.2..variadic });
    }
    Ok(spans)
}

/// The new message, as columns are added.
struct Columns<'a> {
    from: (flatbuffers::Vector<'a, ipc::FieldNode>, flatbuffers::Vector<'a, ipc::Buffer>, Vec<i64>),
    old_len: u64,
    nodes: Vec<ipc::FieldNode>,
    buffers: Vec<ipc::Buffer>,
    variadic: Vec<i64>,
    body: Vec<Range<u64>>,
    body_len: u64,
}

impl<'a> Columns<'a> {
    fn new(batch: &ipc::RecordBatch<'a>, old_len: u64) -> Option<Self> {
        let variadic = batch.variadicBufferCounts().into_iter().flatten().collect();
        Some(Columns {
            from: (batch.nodes()?, batch.buffers()?, variadic),
            old_len,
            nodes: Vec::new(),
            buffers: Vec::new(),
            variadic: Vec::new(),
            body: Vec::new(),
            body_len: 0,
        })
    }

    fn add(&mut self, span: &Span) -> Option<()> {
        if span.nodes.end > self.from.0.len() || span.buffers.end > self.from.1.len() {
            return None;
        }
        self.nodes.extend(span.nodes.clone().map(|at| *self.from.0.get(at)));
        self.variadic.extend_from_slice(self.from.2.get(span.variadic.clone())?);
        for at in span.buffers.clone() {
            let old = self.from.1.get(at);
            let (offset, length) = (u64::try_from(old.offset()).ok()?, u64::try_from(old.length()).ok()?);
            self.buffers.push(ipc::Buffer::new(self.body_len as i64, length as i64));
            self.append(offset, length)?;
        }
        Some(())
    }

    /// Adds a buffer with its padding, to the last range if it follows it.
    fn append(&mut self, offset: u64, length: u64) -> Option<()> {
        if length == 0 {
            return Some(());
        }
        let end = offset.checked_add(length)?.checked_next_multiple_of(ALIGNMENT)?;
        if end > self.old_len {
            return None;
        }
        self.body_len += end - offset;
        match self.body.last_mut() {
            Some(last) if last.end == offset => last.end = end,
            _ => self.body.push(offset..end),
        }
        Some(())
    }

    fn finish(self, message: &ipc::Message<'_>, batch: &ipc::RecordBatch<'_>) -> Projected {
        let mut fbb = FlatBufferBuilder::with_capacity(HEADER_ROOM + 16 * (self.nodes.len() + self.buffers.len()));
        let compression = batch.compression().map(|old| {
            let mut new = ipc::BodyCompressionBuilder::new(&mut fbb);
            new.add_method(old.method());
            new.add_codec(old.codec());
            new.finish()
        });
        let buffers = fbb.create_vector(&self.buffers);
        let nodes = fbb.create_vector(&self.nodes);
        let variadic = (!self.variadic.is_empty()).then(|| fbb.create_vector(&self.variadic));
        let mut new = ipc::RecordBatchBuilder::new(&mut fbb);
        new.add_length(batch.length());
        new.add_nodes(nodes);
        new.add_buffers(buffers);
        if let Some(compression) = compression {
            new.add_compression(compression);
        }
        if let Some(variadic) = variadic {
            new.add_variadicBufferCounts(variadic);
        }
        let new = new.finish().as_union_value();
        let mut root = ipc::MessageBuilder::new(&mut fbb);
        root.add_version(message.version());
        root.add_header_type(ipc::MessageHeader::RecordBatch);
        root.add_bodyLength(self.body_len as i64);
        root.add_header(new);
        let root = root.finish();
        fbb.finish(root, None);
        let (bytes, start) = fbb.collapse();
        let header = Bytes::from(bytes).slice(start..);
        Projected { header, body: self.body, body_len: self.body_len }
    }
}

/// The encapsulated schema message `message` cut down to `columns`; dictionary ids stay as they are.
///
/// # Errors
/// INVALID_ARGUMENT: a malformed message, or a column that is not in it.
pub fn project_schema(message: &[u8], columns: &[usize]) -> Result<Bytes> {
    let whole = parse_schema(message)?;
    if let Some(column) = columns.iter().find(|&&column| column >= whole.fields().len()) {
        return Err(Error::invalid(format!("column {column} is asked for, the schema has {}", whole.fields().len())));
    }
    let schema = project(&whole, columns);
    let mut ids = Vec::new();
    schema.fields().iter().for_each(|field| ids_of(field, &mut ids));
    let mut bytes = encode(&schema);
    let places = id_places(&bytes);
    for (place, id) in places.into_iter().zip(ids) {
        bytes[place..place + 8].copy_from_slice(&id.to_le_bytes());
    }
    let mut out = Vec::with_capacity(PREFIX_BYTES + bytes.len());
    let padded = (PREFIX_BYTES + bytes.len()).next_multiple_of(ALIGNMENT as usize) - PREFIX_BYTES;
    out.extend_from_slice(&[0xff; 4]);
    out.extend_from_slice(&(padded as i32).to_le_bytes());
    out.extend_from_slice(&bytes);
    out.resize(PREFIX_BYTES + padded, 0);
    Ok(out.into())
}

/// A schema message's flatbuffer whose dictionaries are numbered from 1 (a 0 would not be written down).
fn encode(schema: &Schema) -> Vec<u8> {
    let mut tracker = DictionaryTracker::new(true);
    tracker.next_dict_id();
    let mut fbb = FlatBufferBuilder::new();
    let header = IpcSchemaEncoder::new().with_dictionary_tracker(&mut tracker).schema_to_fb_offset(&mut fbb, schema);
    let mut message = ipc::MessageBuilder::new(&mut fbb);
    message.add_version(ipc::MetadataVersion::V5);
    message.add_header_type(ipc::MessageHeader::Schema);
    message.add_bodyLength(0);
    message.add_header(header.as_union_value());
    let root = message.finish();
    fbb.finish(root, None);
    fbb.finished_data().to_vec()
}

/// Where the flatbuffer holds the ids of its dictionaries, in the order in which they were numbered.
fn id_places(message: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let message = root(message).expect("a schema that was just encoded");
    let fields = message.header_as_schema().and_then(|schema| schema.fields());
    fields.into_iter().flatten().for_each(|field| add_places(field, &mut places));
    places
}

fn add_places(field: ipc::Field<'_>, places: &mut Vec<usize>) {
    field.children().into_iter().flatten().for_each(|child| add_places(child, places));
    if let Some(dictionary) = field.dictionary() {
        let table = dictionary._tab;
        let offset = table.vtable().get(ipc::DictionaryEncoding::VT_ID);
        places.push(table.loc() + usize::from(offset));
    }
}

fn ids_of(field: &Field, ids: &mut Vec<i64>) {
    children(field.data_type()).into_iter().for_each(|child| ids_of(child, ids));
    if matches!(field.data_type(), DataType::Dictionary(_, _)) {
        #[allow(deprecated)]
        ids.push(field.dict_id().unwrap_or_default());
    }
}

/// The ids of the dictionaries that `columns` need, nested ones included, in a part of `schema`.
pub fn dictionary_ids(schema: &Schema, columns: &[usize]) -> Vec<i64> {
    let mut next = 0;
    let mut wanted = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        let first = next;
        walk_dictionaries(field.data_type(), &mut || next += 1);
        if columns.contains(&at) {
            wanted.extend(first..next);
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
