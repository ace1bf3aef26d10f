//! Projects encoded messages to some of their columns without a copy: a new header for fewer ranges of the body.

use std::ops::Range;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_ipc as ipc;
use arrow_ipc::convert::IpcSchemaEncoder;
use arrow_ipc::writer::DictionaryTracker;
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::batch_header::BatchHeader;
use super::layout::{LayoutElement, child_fields, visit_dictionaries, visit_layout};
use super::schema::{ALIGNMENT, encapsulate, parse_schema, project, verify_message};
use crate::{Error, Result};

/// A record batch message with some of the columns of another.
#[derive(Clone, Debug)]
pub struct ProjectedMessage {
    /// The new bare flatbuffer: `FlightData.data_header`.
    pub header: Bytes,
    /// The ranges of the old body that make up the new one, in order.
    pub body: Vec<Range<u64>>,
    /// Bytes of the new body.
    pub body_len: u64,
}

/// Projects the record batches of one schema to some of its columns.
#[derive(Debug)]
pub struct Projector {
    schema: SchemaRef,
    columns: Vec<usize>,
    /// Where the columns are in every message of metadata version 5; `None` if that differs between messages.
    spans: Option<Vec<ColumnSpan>>,
}

impl Projector {
    /// For `columns` of `schema`, in that order.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a column that is not in the schema.
    pub fn new(schema: SchemaRef, columns: Vec<usize>) -> Result<Self> {
        if let Some(column) = columns.iter().find(|&&column| column >= schema.fields().len()) {
            let fields = schema.fields().len();
            return Err(Error::invalid(format!("column {column} is requested, the schema has {fields}")));
        }
        // Fails for types with variadic buffers: their number differs between messages.
        let spans = column_spans(&schema, false, &[]).ok().map(|all| select(&all, &columns));
        Ok(Projector { schema, columns, spans })
    }

    /// The whole schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Indexes of the columns in the schema, in the order in which they are sent.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Projects a record batch message (bare flatbuffer).
    ///
    /// # Errors
    /// DATA_LOSS: the header does not match the schema.
    pub fn project(&self, header: &[u8]) -> Result<ProjectedMessage> {
        let lost = |e: Error| Error::data_loss(format!("a stored record batch is damaged: {e}"));
        let message = verify_message(header).map_err(lost)?;
        let batch = message.header_as_record_batch().ok_or_else(|| lost(Error::invalid("it is not a record batch")))?;
        let v4 = message.version() < ipc::MetadataVersion::V5;
        let mut projection =
            ProjectionBuilder::new(&batch, message.bodyLength() as u64).ok_or_else(|| lost(too_short()))?;
        let own;
        let spans = match &self.spans {
            Some(spans) if !v4 => spans,
            _ => {
                own = select(&column_spans(&self.schema, v4, &projection.variadic_from).map_err(lost)?, &self.columns);
                &own
            }
        };
        spans.iter().try_for_each(|span| projection.add(span)).ok_or_else(|| lost(too_short()))?;
        Ok(projection.finish(&message, &batch))
    }
}

fn select(spans: &[ColumnSpan], columns: &[usize]) -> Vec<ColumnSpan> {
    columns.iter().map(|&column| spans[column].clone()).collect()
}

fn too_short() -> Error {
    Error::invalid("it has fewer nodes and buffers than its schema requires")
}

/// One column's nodes, buffers and variadic counts, as indexes into the message's.
#[derive(Clone, Debug, Default)]
struct ColumnSpan {
    nodes: Range<usize>,
    buffers: Range<usize>,
    variadic: Range<usize>,
}

/// The span of every column. `counts`: the message's variadic buffer counts.
fn column_spans(schema: &Schema, v4: bool, counts: &[i64]) -> Result<Vec<ColumnSpan>> {
    let mut spans = Vec::with_capacity(schema.fields().len());
    let (mut nodes, mut buffers, mut variadic) = (0, 0, 0);
    for field in schema.fields() {
        let start = (nodes, buffers, variadic);
        visit_layout(field.data_type(), v4, &mut |element| {
            match element {
                LayoutElement::Node => nodes += 1,
                LayoutElement::Variadic => {
                    let count = counts.get(variadic).and_then(|&count| usize::try_from(count).ok());
                    buffers += count.ok_or_else(too_short)?;
                    variadic += 1;
                }
                _ => buffers += 1,
            }
            Ok(())
        })?;
        spans.push(ColumnSpan { nodes: start.0..nodes, buffers: start.1..buffers, variadic: start.2..variadic });
    }
    Ok(spans)
}

/// Builds the new message column by column.
struct ProjectionBuilder<'a> {
    nodes_from: flatbuffers::Vector<'a, ipc::FieldNode>,
    buffers_from: flatbuffers::Vector<'a, ipc::Buffer>,
    variadic_from: Vec<i64>,
    /// Bytes of the old body.
    old_len: u64,
    nodes: Vec<ipc::FieldNode>,
    buffers: Vec<ipc::Buffer>,
    variadic: Vec<i64>,
    body: Vec<Range<u64>>,
    body_len: u64,
}

impl<'a> ProjectionBuilder<'a> {
    fn new(batch: &ipc::RecordBatch<'a>, old_len: u64) -> Option<Self> {
        let variadic_from = batch.variadicBufferCounts().into_iter().flatten().collect();
        Some(ProjectionBuilder {
            nodes_from: batch.nodes()?,
            buffers_from: batch.buffers()?,
            variadic_from,
            old_len,
            nodes: Vec::new(),
            buffers: Vec::new(),
            variadic: Vec::new(),
            body: Vec::new(),
            body_len: 0,
        })
    }

    /// Adds a column; `None` if the old message is too short for it.
    fn add(&mut self, span: &ColumnSpan) -> Option<()> {
        if span.nodes.end > self.nodes_from.len() || span.buffers.end > self.buffers_from.len() {
            return None;
        }
        self.nodes.extend(span.nodes.clone().map(|at| *self.nodes_from.get(at)));
        self.variadic.extend_from_slice(self.variadic_from.get(span.variadic.clone())?);
        for at in span.buffers.clone() {
            let old = self.buffers_from.get(at);
            let (offset, length) = (u64::try_from(old.offset()).ok()?, u64::try_from(old.length()).ok()?);
            self.buffers.push(ipc::Buffer::new(self.body_len as i64, length as i64));
            self.append(offset, length)?;
        }
        Some(())
    }

    /// Adds a buffer with its padding: extends the last range if the buffer follows it.
    fn append(&mut self, offset: u64, length: u64) -> Option<()> {
        if length == 0 {
            return Some(());
        }
        let end = offset.checked_add(length)?.checked_next_multiple_of(ALIGNMENT as u64)?;
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

    fn finish(self, message: &ipc::Message<'_>, batch: &ipc::RecordBatch<'_>) -> ProjectedMessage {
        let header = BatchHeader {
            version: message.version(),
            rows: batch.length(),
            nodes: &self.nodes,
            buffers: &self.buffers,
            variadic: &self.variadic,
            compression: batch.compression(),
            body_len: self.body_len as i64,
        };
        ProjectedMessage { header: header.encode(&[]), body: self.body, body_len: self.body_len }
    }
}

/// What becomes of a schema's own metadata (not of that of its fields) in a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaMetadata {
    /// It is kept.
    Kept,
    /// It is removed, because the reader may not see the other columns, and it may name them, as that of pandas does.
    Removed,
}

/// Projects the encapsulated schema message `message` to `columns`; dictionary ids do not change.
///
/// # Errors
/// INVALID_ARGUMENT: a malformed message, or a column that is not in it.
pub fn project_schema(message: &[u8], columns: &[usize], metadata: SchemaMetadata) -> Result<Bytes> {
    let full = parse_schema(message)?;
    if let Some(column) = columns.iter().find(|&&column| column >= full.fields().len()) {
        return Err(Error::invalid(format!("column {column} is requested, the schema has {}", full.fields().len())));
    }
    let mut schema = project(&full, columns);
    if metadata == SchemaMetadata::Removed {
        schema.metadata.clear();
    }
    let mut ids = Vec::new();
    schema.fields().iter().for_each(|field| dictionary_ids_of(field, &mut ids));
    let mut bytes = encode_schema(&schema);
    let offsets = id_offsets(&bytes);
    for (at, id) in offsets.into_iter().zip(ids) {
        bytes[at..at + 8].copy_from_slice(&id.to_le_bytes());
    }
    Ok(encapsulate(&bytes).into())
}

/// A schema message's flatbuffer whose dictionaries are numbered from 1 (flatbuffers do not store a 0).
fn encode_schema(schema: &Schema) -> Vec<u8> {
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

/// Where the flatbuffer stores the ids of its dictionaries, in the order in which arrow numbers them.
fn id_offsets(message: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let message = verify_message(message).expect("a schema that was just encoded");
    let fields = message.header_as_schema().and_then(|schema| schema.fields());
    fields.into_iter().flatten().for_each(|field| add_id_offsets(field, &mut offsets));
    offsets
}

fn add_id_offsets(field: ipc::Field<'_>, offsets: &mut Vec<usize>) {
    field.children().into_iter().flatten().for_each(|child| add_id_offsets(child, offsets));
    if let Some(dictionary) = field.dictionary() {
        let table = dictionary._tab;
        let offset = table.vtable().get(ipc::DictionaryEncoding::VT_ID);
        offsets.push(table.loc() + usize::from(offset));
    }
}

/// The ids of a field's dictionaries, in the order in which arrow numbers them.
fn dictionary_ids_of(field: &Field, ids: &mut Vec<i64>) {
    child_fields(field.data_type()).into_iter().for_each(|child| dictionary_ids_of(child, ids));
    if matches!(field.data_type(), DataType::Dictionary(_, _)) {
        #[allow(deprecated)]
        ids.push(field.dict_id().unwrap_or_default());
    }
}

/// The ids of the dictionaries that `columns` need, nested ones included, in a part of `schema`.
pub fn dictionary_ids(schema: &Schema, columns: &[usize]) -> Vec<i64> {
    let mut next = 0;
    let mut ids = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        let first = next;
        visit_dictionaries(field.data_type(), &mut || next += 1);
        if columns.contains(&at) {
            ids.extend(first..next);
        }
    }
    ids
}

#[cfg(test)]
mod tests;
