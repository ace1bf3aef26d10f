//! Encodes Arrow IPC files byte for byte as arrow's `FileWriter` does, but passes each message on as slices, most of which
//! are the arrays' own memory, instead of copying it into one buffer.
//!
//! Dictionaries are different: each is written once, complete, after the batches, as the format permits. Then it has only
//! the values that the file's rows use, and needs no delta, which clients of some languages read wrongly.

use std::collections::HashMap;
use std::io;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::convert::{IpcSchemaEncoder, metadata_to_fb};
use arrow_ipc::writer::{DictionaryTracker, IpcWriteOptions, StreamEncoder};
use arrow_ipc::{Block, FooterBuilder, MessageHeader, MetadataVersion};
use flatbuffers::FlatBufferBuilder;

use super::batch_header::with_app_metadata;
use super::dictionary_keys::keys_schema;
use super::schema::{PREFIX_BYTES, encapsulate};

/// The start of a file, up to its schema. Its first six bytes are also the end of the file.
const HEAD: [u8; 64] = {
    let mut head = [0; 64];
    let mut at = 0;
    while at < MAGIC.len() {
        head[at] = MAGIC[at];
        at += 1;
    }
    head
};
const MAGIC: &[u8; 6] = b"ARROW1";

/// The destination of a file's bytes.
pub trait AppendSlices {
    /// Appends all slices, in order.
    ///
    /// # Errors
    /// The destination's own; nothing is written after one.
    fn append(&mut self, slices: &[&[u8]]) -> io::Result<()>;
}

/// Encodes one file.
pub struct FileEncoder<W> {
    output: W,
    /// Encodes batches with keys in place of dictionaries.
    encoder: StreamEncoder,
    schema: SchemaRef,
    options: IpcWriteOptions,
    /// Bytes written.
    length: u64,
    dictionaries: Vec<Block>,
    batches: Vec<Block>,
}

impl<W: AppendSlices> FileEncoder<W> {
    /// Begins a file of batches of this schema. `options` must be of metadata version 5, with the default alignment.
    ///
    /// # Errors
    /// A schema that IPC cannot encode; those of the output.
    pub fn new(mut output: W, schema: SchemaRef, options: IpcWriteOptions) -> Result<Self, ArrowError> {
        let encoder = StreamEncoder::try_new_with_options(&keys_schema(&schema), options.clone())?;
        output.append(&[&HEAD])?;
        let length = HEAD.len() as u64;
        let (dictionaries, batches) = (Vec::new(), Vec::new());
        let mut file = FileEncoder { output, encoder, schema, options, length, dictionaries, batches };
        let only_schema = StreamEncoder::try_new_with_options(&file.schema, file.options.clone())?.finish()?;
        file.append(&only_schema, MessageHeader::Schema)?;
        Ok(file)
    }

    /// Writes a batch, which has keys in place of its dictionaries, see [`super::dictionary_keys`]. Unless `app_metadata`
    /// is empty, its header has it, see [`super::batch_header`].
    ///
    /// # Errors
    /// A batch that cannot be encoded; those of the output. After one the file is invalid.
    pub fn write(&mut self, keys: &RecordBatch, app_metadata: &[u8]) -> Result<(), ArrowError> {
        let encoded = self.encoder.encode(keys)?;
        match app_metadata {
            [] => self.append(&encoded, MessageHeader::RecordBatch),
            _ => self.append_with_metadata(&encoded, app_metadata),
        }
    }

    /// Writes the dictionaries of a batch of the file's schema. Called at most once, after all batches.
    ///
    /// # Errors
    /// As [`FileEncoder::write`].
    pub fn write_dictionaries(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let encoded = StreamEncoder::try_new_with_options(&self.schema, self.options.clone())?.encode(batch)?;
        self.append(&encoded, MessageHeader::DictionaryBatch)
    }

    /// Writes the footer, with `metadata` in it.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self, metadata: &HashMap<String, String>) -> Result<W, ArrowError> {
        let mut end = StreamEncoder::try_new_with_options(&self.schema, self.options.clone())?.finish()?;
        let end_mark = end.pop().ok_or_else(|| ArrowError::IpcError("a stream without an end mark".into()))?;
        let footer = self.footer(metadata);
        let length = i32::try_from(footer.len())
            .map_err(|_| ArrowError::IpcError(format!("a footer of {} bytes is too long", footer.len())))?;
        self.output.append(&[&end_mark, &footer, &length.to_le_bytes(), MAGIC])?;
        Ok(self.output)
    }

    /// The output, to change how it is written.
    pub fn output_mut(&mut self) -> &mut W {
        &mut self.output
    }

    /// The output.
    pub fn output(&self) -> &W {
        &self.output
    }

    /// Writes those of the encoded messages that are of one kind, and records where they are.
    fn append(&mut self, encoded: &[Buffer], kind: MessageHeader) -> Result<(), ArrowError> {
        let mut slices: Vec<&[u8]> = Vec::with_capacity(encoded.len());
        let mut at = BufferCursor { buffers: encoded, offset: 0 };
        while !at.buffers.is_empty() {
            let from = at.buffers;
            let Some(message) = MessageExtent::read(&mut at)? else { break };
            if at.offset > 0 {
                return Err(ArrowError::IpcError("two encoded messages share a buffer".into()));
            }
            if message.kind == kind {
                self.record(&message);
                slices.extend(from[..from.len() - at.buffers.len()].iter().map(Buffer::as_slice));
            }
        }
        Ok(self.output.append(&slices)?)
    }

    /// Writes the record batch of the encoded messages, with another header.
    fn append_with_metadata(&mut self, encoded: &[Buffer], app_metadata: &[u8]) -> Result<(), ArrowError> {
        let mut at = BufferCursor { buffers: encoded, offset: 0 };
        while !at.buffers.is_empty() {
            let mut body = BufferCursor { ..at };
            let Some(message) = MessageExtent::read(&mut at)? else { break };
            if message.kind != MessageHeader::RecordBatch {
                continue;
            }
            body.skip(message.head as usize)?;
            let header = with_app_metadata(&message.header, app_metadata)
                .map_err(|e| ArrowError::IpcError(format!("an encoded header: {e}")))?;
            let head = encapsulate(&header);
            self.record(&MessageExtent { head: head.len() as u64, ..message });
            let buffers = &body.buffers[..body.buffers.len() - at.buffers.len()];
            let (first, rest) =
                buffers.split_first().map_or((&[][..], buffers), |(first, rest)| (&first[body.offset..], rest));
            let body = std::iter::once(first).chain(rest.iter().map(Buffer::as_slice));
            let slices: Vec<&[u8]> = std::iter::once(&head[..]).chain(body).collect();
            self.output.append(&slices)?;
        }
        Ok(())
    }

    fn record(&mut self, message: &MessageExtent) {
        let block = Block::new(self.length as i64, message.head as i32, message.body as i64);
        self.length += message.head + message.body;
        match message.kind {
            MessageHeader::DictionaryBatch => self.dictionaries.push(block),
            MessageHeader::RecordBatch => self.batches.push(block),
            _ => {}
        }
    }

    fn footer(&self, metadata: &HashMap<String, String>) -> Vec<u8> {
        let mut fbb = FlatBufferBuilder::new();
        let dictionaries = fbb.create_vector(&self.dictionaries);
        let batches = fbb.create_vector(&self.batches);
        let mut ids = DictionaryTracker::new(true);
        let schema =
            IpcSchemaEncoder::new().with_dictionary_tracker(&mut ids).schema_to_fb_offset(&mut fbb, &self.schema);
        let metadata = (!metadata.is_empty()).then(|| metadata_to_fb(&mut fbb, metadata));
        let mut footer = FooterBuilder::new(&mut fbb);
        footer.add_version(MetadataVersion::V5);
        footer.add_schema(schema);
        footer.add_dictionaries(dictionaries);
        footer.add_recordBatches(batches);
        if let Some(metadata) = metadata {
            footer.add_custom_metadata(metadata);
        }
        let footer = footer.finish();
        fbb.finish(footer, None);
        fbb.finished_data().to_vec()
    }
}

/// An encoded message: its kind and header, and the bytes of its prefix and header and of its body.
struct MessageExtent {
    kind: MessageHeader,
    header: Vec<u8>,
    head: u64,
    body: u64,
}

impl MessageExtent {
    /// Reads the message at a position and moves the position behind it; `None` for the end of a stream.
    fn read(at: &mut BufferCursor<'_>) -> Result<Option<Self>, ArrowError> {
        let mut prefix = [0; PREFIX_BYTES];
        at.read(&mut prefix)?;
        let [_, _, _, _, size @ ..] = prefix;
        let mut header = vec![0; u32::from_le_bytes(size) as usize];
        if header.is_empty() {
            return Ok(None);
        }
        at.read(&mut header)?;
        let message = arrow_ipc::root_as_message(&header).map_err(|e| ArrowError::IpcError(e.to_string()))?;
        let (kind, body) = (message.header_type(), message.bodyLength() as u64);
        at.skip(body as usize)?;
        Ok(Some(MessageExtent { kind, head: (PREFIX_BYTES + header.len()) as u64, header, body }))
    }
}

/// A position in a list of buffers.
struct BufferCursor<'a> {
    buffers: &'a [Buffer],
    /// Within the first buffer.
    offset: usize,
}

impl BufferCursor<'_> {
    fn read(&mut self, mut to: &mut [u8]) -> Result<(), ArrowError> {
        while !to.is_empty() {
            let from = &self.first()?[self.offset..];
            let count = from.len().min(to.len());
            to[..count].copy_from_slice(&from[..count]);
            to = &mut to[count..];
            self.step(count);
        }
        Ok(())
    }

    fn skip(&mut self, mut count: usize) -> Result<(), ArrowError> {
        while count > 0 {
            let step = count.min(self.first()?.len() - self.offset);
            count -= step;
            self.step(step);
        }
        Ok(())
    }

    fn first(&self) -> Result<&Buffer, ArrowError> {
        self.buffers.first().ok_or_else(|| ArrowError::IpcError("an encoded message is truncated".into()))
    }

    fn step(&mut self, count: usize) {
        self.offset += count;
        while let Some((_, rest)) = self.buffers.split_first().filter(|(first, _)| first.len() <= self.offset) {
            self.offset -= self.buffers[0].len();
            self.buffers = rest;
        }
    }
}

#[cfg(test)]
mod tests;
