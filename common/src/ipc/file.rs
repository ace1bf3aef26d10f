//! Arrow IPC files, written without gathering: what arrow's `FileWriter` would write, byte for byte, but handed on as the
//! slices that a message consists of, most of which are the arrays' own memory.

use std::collections::{HashMap, HashSet};
use std::io;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::convert::{IpcSchemaEncoder, metadata_to_fb};
use arrow_ipc::writer::{DictionaryTracker, IpcWriteOptions, StreamEncoder};
use arrow_ipc::{Block, FooterBuilder, MessageHeader, MetadataVersion};
use flatbuffers::FlatBufferBuilder;

use super::schema::PREFIX_BYTES;

/// What a file begins with, up to its schema; its first six bytes end it.
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

/// Where a file's bytes go.
pub trait Sink {
    /// Appends all slices, in order.
    ///
    /// # Errors
    /// The sink's own; nothing more is written after one.
    fn append(&mut self, slices: &[&[u8]]) -> io::Result<()>;
}

/// One file.
pub struct FileEncoder<S> {
    sink: S,
    encoder: StreamEncoder,
    schema: SchemaRef,
    /// Bytes handed to the sink.
    length: u64,
    dictionaries: Vec<Block>,
    dictionary_ids: HashSet<i64>,
    batches: Vec<Block>,
}

impl<S: Sink> FileEncoder<S> {
    /// Begins a file of batches of this schema. `options` must be of metadata version 5, with the default alignment.
    ///
    /// # Errors
    /// A schema that IPC cannot carry; the sink's.
    pub fn new(mut sink: S, schema: SchemaRef, options: IpcWriteOptions) -> Result<Self, ArrowError> {
        let encoder = StreamEncoder::try_new_with_options(&schema, options)?;
        sink.append(&[&HEAD])?;
        let length = HEAD.len() as u64;
        let (dictionaries, batches) = (Vec::new(), Vec::new());
        Ok(FileEncoder { sink, encoder, schema, length, dictionaries, dictionary_ids: HashSet::new(), batches })
    }

    /// Writes a batch, after the dictionaries that it needs and that are not there yet. A dictionary must not replace an
    /// earlier one: files cannot say that.
    ///
    /// # Errors
    /// A batch that cannot be encoded, or replaces a dictionary; the sink's. After one the file must be given up.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let encoded = self.encoder.encode(batch)?;
        self.append(&encoded)
    }

    /// Ends the file: the footer, with these words about it.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self, about: &HashMap<String, String>) -> Result<S, ArrowError> {
        let encoder = std::mem::replace(&mut self.encoder, StreamEncoder::try_new(&self.schema)?);
        let mut end = encoder.finish()?;
        let mark = end.pop().ok_or_else(|| ArrowError::IpcError("a stream without an end mark".into()))?;
        // The schema is among it if no batch was written.
        self.append(&end)?;
        let footer = self.footer(about);
        let length = i32::try_from(footer.len())
            .map_err(|_| ArrowError::IpcError(format!("a footer of {} bytes is too long", footer.len())))?;
        self.sink.append(&[&mark, &footer, &length.to_le_bytes(), MAGIC])?;
        Ok(self.sink)
    }

    /// The sink.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Hands whole messages on, and notes where they are.
    fn append(&mut self, encoded: &[Buffer]) -> Result<(), ArrowError> {
        let mut at = Position { buffers: encoded, offset: 0 };
        while !at.buffers.is_empty() {
            self.note(&mut at)?;
        }
        let slices: Vec<&[u8]> = encoded.iter().map(Buffer::as_slice).collect();
        Ok(self.sink.append(&slices)?)
    }

    /// Notes the message at a position, and moves on behind it.
    fn note(&mut self, at: &mut Position<'_>) -> Result<(), ArrowError> {
        let mut prefix = [0; PREFIX_BYTES];
        at.read(&mut prefix)?;
        let [_, _, _, _, size @ ..] = prefix;
        let mut header = vec![0; u32::from_le_bytes(size) as usize];
        at.read(&mut header)?;
        let message = arrow_ipc::root_as_message(&header).map_err(|e| ArrowError::IpcError(e.to_string()))?;
        let body = message.bodyLength();
        at.skip(body as usize)?;
        let block = Block::new(self.length as i64, (PREFIX_BYTES + header.len()) as i32, body);
        self.length += (PREFIX_BYTES + header.len()) as u64 + body as u64;
        match message.header_type() {
            MessageHeader::DictionaryBatch => {
                let (id, delta) = message.header_as_dictionary_batch().map_or((0, false), |d| (d.id(), d.isDelta()));
                // Readers of a file would take the last one for all batches.
                if !self.dictionary_ids.insert(id) && !delta {
                    return Err(ArrowError::IpcError(format!("a file cannot replace its dictionary {id}")));
                }
                self.dictionaries.push(block);
            }
            MessageHeader::RecordBatch => self.batches.push(block),
            _ => {}
        }
        Ok(())
    }

    fn footer(&self, about: &HashMap<String, String>) -> Vec<u8> {
        let mut fbb = FlatBufferBuilder::new();
        let dictionaries = fbb.create_vector(&self.dictionaries);
        let batches = fbb.create_vector(&self.batches);
        let mut ids = DictionaryTracker::new(true);
        let schema =
            IpcSchemaEncoder::new().with_dictionary_tracker(&mut ids).schema_to_fb_offset(&mut fbb, &self.schema);
        let about = (!about.is_empty()).then(|| metadata_to_fb(&mut fbb, about));
        let mut footer = FooterBuilder::new(&mut fbb);
        footer.add_version(MetadataVersion::V5);
        footer.add_schema(schema);
        footer.add_dictionaries(dictionaries);
        footer.add_recordBatches(batches);
        if let Some(about) = about {
            footer.add_custom_metadata(about);
        }
        let footer = footer.finish();
        fbb.finish(footer, None);
        fbb.finished_data().to_vec()
    }
}

/// A place in buffers that follow each other.
struct Position<'a> {
    buffers: &'a [Buffer],
    /// Within the first of them.
    offset: usize,
}

impl Position<'_> {
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
        self.buffers.first().ok_or_else(|| ArrowError::IpcError("an encoded message is cut short".into()))
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Int8Array, StringArray};
    use arrow::datatypes::Int8Type;
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{DictionaryHandling, FileWriter};

    use super::*;
    use crate::ipc::compact::compact;
    use crate::ipc::samples;

    impl Sink for Vec<u8> {
        fn append(&mut self, slices: &[&[u8]]) -> io::Result<()> {
            slices.iter().for_each(|slice| self.extend_from_slice(slice));
            Ok(())
        }
    }

    fn options(codec: Option<CompressionType>) -> IpcWriteOptions {
        let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
        options.try_with_compression(codec).unwrap()
    }

    fn about() -> HashMap<String, String> {
        [("b", "2"), ("a", "1")].map(|(key, value)| (key.to_string(), value.to_string())).into()
    }

    fn ours(schema: &SchemaRef, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
        let mut file = FileEncoder::new(Vec::new(), schema.clone(), options(codec)).unwrap();
        batches.iter().for_each(|batch| file.write(batch).unwrap());
        assert_eq!(file.sink().len() as u64, file.length);
        file.finish(&about()).unwrap()
    }

    fn arrows(schema: &SchemaRef, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
        let mut file = FileWriter::try_new_with_options(Vec::new(), schema, options(codec)).unwrap();
        about().into_iter().for_each(|(key, value)| file.write_metadata(key, value));
        batches.iter().for_each(|batch| file.write(batch).unwrap());
        file.into_inner().unwrap()
    }

    /// A batch of one dictionary column, of these values in this order.
    fn words(words: &[&str]) -> RecordBatch {
        let keys = Int8Array::from_iter_values(0..words.len() as i8);
        let array = DictionaryArray::<Int8Type>::new(keys, Arc::new(StringArray::from(words.to_vec())));
        RecordBatch::try_from_iter([("d", Arc::new(array) as ArrayRef)]).unwrap()
    }

    #[test]
    fn files_of_every_type_are_byte_for_byte_arrows() {
        let mut rng = samples::rng(11);
        for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            for data_type in samples::types() {
                let batch = samples::batch_of(&mut rng, std::slice::from_ref(&data_type), 200);
                // Slices that begin at bits within a byte; nothing; one row.
                let slices = [(0, 200), (3, 77), (64, 128), (5, 0), (199, 1)];
                let batches = slices.map(|(at, rows)| compact(&batch.slice(at, rows)));
                let schema = batch.schema();
                assert_eq!(ours(&schema, &batches, codec), arrows(&schema, &batches, codec), "{data_type} {codec:?}");
            }
        }
    }

    #[test]
    fn files_without_columns_or_batches_and_dictionaries_that_grow_are_too() {
        let rows = samples::batch_of(&mut samples::rng(12), &[], 1000);
        for batches in [&[][..], std::slice::from_ref(&rows)] {
            assert_eq!(ours(&rows.schema(), batches, None), arrows(&rows.schema(), batches, None));
        }
        let batches = [words(&["a", "b"]), words(&["a", "b"]), words(&["a", "b", "c"])];
        let schema = batches[0].schema();
        assert_eq!(ours(&schema, &batches, None), arrows(&schema, &batches, None));
    }

    #[test]
    fn a_dictionary_that_would_replace_another_is_refused() {
        let mut file = FileEncoder::new(Vec::new(), words(&["a"]).schema(), options(None)).unwrap();
        file.write(&words(&["a", "b"])).unwrap();
        file.write(&words(&["c", "d"])).unwrap_err();
    }
}
