//! Encodes Arrow IPC files byte for byte as arrow's `FileWriter` does, but passes each message on as slices, most of which
//! are the arrays' own memory, instead of copying it into one buffer.

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
    encoder: StreamEncoder,
    schema: SchemaRef,
    /// Bytes written.
    length: u64,
    dictionaries: Vec<Block>,
    dictionary_ids: HashSet<i64>,
    batches: Vec<Block>,
}

impl<W: AppendSlices> FileEncoder<W> {
    /// Begins a file of batches of this schema. `options` must be of metadata version 5, with the default alignment.
    ///
    /// # Errors
    /// A schema that IPC cannot encode; those of the output.
    pub fn new(mut output: W, schema: SchemaRef, options: IpcWriteOptions) -> Result<Self, ArrowError> {
        let encoder = StreamEncoder::try_new_with_options(&schema, options)?;
        output.append(&[&HEAD])?;
        let length = HEAD.len() as u64;
        let (dictionaries, batches) = (Vec::new(), Vec::new());
        Ok(FileEncoder { output, encoder, schema, length, dictionaries, dictionary_ids: HashSet::new(), batches })
    }

    /// Writes the dictionaries that the batch needs and that are not in the file yet, then the batch. A dictionary must not
    /// replace an earlier one: the file format cannot express that.
    ///
    /// # Errors
    /// A batch that cannot be encoded or replaces a dictionary; those of the output. After one the file is invalid.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let encoded = self.encoder.encode(batch)?;
        self.append(&encoded)
    }

    /// Writes the footer, with `metadata` in it.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self, metadata: &HashMap<String, String>) -> Result<W, ArrowError> {
        let encoder = std::mem::replace(&mut self.encoder, StreamEncoder::try_new(&self.schema)?);
        let mut end = encoder.finish()?;
        let end_mark = end.pop().ok_or_else(|| ArrowError::IpcError("a stream without an end mark".into()))?;
        // Includes the schema if no batch was written.
        self.append(&end)?;
        let footer = self.footer(metadata);
        let length = i32::try_from(footer.len())
            .map_err(|_| ArrowError::IpcError(format!("a footer of {} bytes is too long", footer.len())))?;
        self.output.append(&[&end_mark, &footer, &length.to_le_bytes(), MAGIC])?;
        Ok(self.output)
    }

    /// The output.
    pub fn output(&self) -> &W {
        &self.output
    }

    /// Writes complete messages and records where they are.
    fn append(&mut self, encoded: &[Buffer]) -> Result<(), ArrowError> {
        let mut at = BufferCursor { buffers: encoded, offset: 0 };
        while !at.buffers.is_empty() {
            self.record(&mut at)?;
        }
        let slices: Vec<&[u8]> = encoded.iter().map(Buffer::as_slice).collect();
        Ok(self.output.append(&slices)?)
    }

    /// Records the message at a position and moves the position behind it.
    fn record(&mut self, at: &mut BufferCursor<'_>) -> Result<(), ArrowError> {
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
                // Readers of a file use the last one for all batches.
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Int8Array, StringArray};
    use arrow::datatypes::Int8Type;
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{DictionaryHandling, FileWriter};

    use super::*;
    use crate::ipc::shrink::shrink_to_fit;
    use crate::ipc::test_data;

    impl AppendSlices for Vec<u8> {
        fn append(&mut self, slices: &[&[u8]]) -> io::Result<()> {
            slices.iter().for_each(|slice| self.extend_from_slice(slice));
            Ok(())
        }
    }

    fn options(codec: Option<CompressionType>) -> IpcWriteOptions {
        let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
        options.try_with_compression(codec).unwrap()
    }

    fn metadata() -> HashMap<String, String> {
        [("b", "2"), ("a", "1")].map(|(key, value)| (key.to_string(), value.to_string())).into()
    }

    fn encode_ours(schema: &SchemaRef, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
        let mut file = FileEncoder::new(Vec::new(), schema.clone(), options(codec)).unwrap();
        batches.iter().for_each(|batch| file.write(batch).unwrap());
        assert_eq!(file.output().len() as u64, file.length);
        file.finish(&metadata()).unwrap()
    }

    fn encode_arrows(schema: &SchemaRef, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
        let mut file = FileWriter::try_new_with_options(Vec::new(), schema, options(codec)).unwrap();
        metadata().into_iter().for_each(|(key, value)| file.write_metadata(key, value));
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
    fn file_of_every_type_equals_arrows_file() {
        let mut rng = test_data::rng(11);
        for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            for data_type in test_data::types() {
                let batch = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), 200);
                // Slices that begin within a byte of a bitmap; no rows; one row.
                let slices = [(0, 200), (3, 77), (64, 128), (5, 0), (199, 1)];
                let batches = slices.map(|(at, rows)| shrink_to_fit(&batch.slice(at, rows)));
                let schema = batch.schema();
                assert_eq!(
                    encode_ours(&schema, &batches, codec),
                    encode_arrows(&schema, &batches, codec),
                    "{data_type} {codec:?}"
                );
            }
        }
    }

    #[test]
    fn file_without_columns_or_batches_equals_arrows_file() {
        let rows = test_data::batch_of(&mut test_data::rng(12), &[], 1000);
        for batches in [&[][..], std::slice::from_ref(&rows)] {
            assert_eq!(encode_ours(&rows.schema(), batches, None), encode_arrows(&rows.schema(), batches, None));
        }
        let batches = [words(&["a", "b"]), words(&["a", "b"]), words(&["a", "b", "c"])];
        let schema = batches[0].schema();
        assert_eq!(encode_ours(&schema, &batches, None), encode_arrows(&schema, &batches, None));
    }

    #[test]
    fn dictionary_that_replaces_another_is_an_error() {
        let mut file = FileEncoder::new(Vec::new(), words(&["a"]).schema(), options(None)).unwrap();
        file.write(&words(&["a", "b"])).unwrap();
        file.write(&words(&["c", "d"])).unwrap_err();
    }
}
