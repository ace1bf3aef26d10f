//! Messages with compression, for readers behind a slow link. No array is decoded, and rows stay as they are.

use std::borrow::Cow;
use std::io::{self, Write};

use arrow_ipc::{self as ipc, CompressionType};
use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::encode::IpcMessage;
use super::schema::verify_message;
use super::streamed_decompression::{NOT_COMPRESSED, dictionary_with};
use crate::{Error, Result};

/// Smaller messages are left as they are: a packet is sent in either case.
const MIN_BODY: usize = 1 << 10;
/// Larger messages are left as they are, so that the memory for compressed ones is bounded.
const MAX_BODY: usize = 4 << 20;
/// Smaller buffers are left as they are: an LZ4 frame has 15 bytes besides its data.
const MIN_BUFFER: usize = 64;
/// Buffers begin at multiples of this, by the format.
const BUFFER_ALIGNMENT: usize = 8;
/// Level of ZSTD: higher ones save little more, and take several times as long.
const ZSTD_LEVEL: i32 = 1;

/// A codec of message bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyCodec {
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl BodyCodec {
    fn of_ipc(self) -> CompressionType {
        match self {
            BodyCodec::Lz4 => CompressionType::LZ4_FRAME,
            BodyCodec::Zstd => CompressionType::ZSTD,
        }
    }
}

/// Compresses messages by one codec, whose memory it keeps from one to the next.
pub struct MessageCompressor {
    codec: BodyCodec,
    encoder: BufferEncoder,
}

enum BufferEncoder {
    /// Its writer is the body.
    Lz4(Box<FrameEncoder<Vec<u8>>>),
    Zstd {
        compressor: Compressor<'static>,
        body: Vec<u8>,
        /// One compressed buffer.
        scratch: Vec<u8>,
    },
}

impl MessageCompressor {
    /// By this codec.
    ///
    /// # Errors
    /// INTERNAL: ZSTD has no memory.
    pub fn new(codec: BodyCodec) -> Result<Self> {
        let encoder = match codec {
            BodyCodec::Lz4 => {
                let info = FrameInfo::new().block_size(BlockSize::Max64KB);
                BufferEncoder::Lz4(Box::new(FrameEncoder::with_frame_info(info, Vec::new())))
            }
            BodyCodec::Zstd => {
                let compressor = Compressor::new(ZSTD_LEVEL).map_err(failed)?;
                BufferEncoder::Zstd { compressor, body: Vec::new(), scratch: Vec::new() }
            }
        };
        Ok(MessageCompressor { codec, encoder })
    }

    /// A record batch or dictionary with a compressed body. `body`: its slices, in order. `None` if it stays as it is: it is
    /// compressed already, is very small or large, has custom metadata, or would not be shorter by a twentieth.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the message is malformed. INTERNAL: the codec fails. After an error the compressor must not be used again.
    pub fn compress(&mut self, header: &[u8], body: &[Bytes]) -> Result<Option<IpcMessage>> {
        let body = BodySlices::new(body);
        if !(MIN_BODY..=MAX_BODY).contains(&body.len) {
            return Ok(None);
        }
        let message = verify_message(header)?;
        let dictionary = message.header_as_dictionary_batch();
        let batch = dictionary.map_or_else(|| message.header_as_record_batch(), |dictionary| dictionary.data());
        let keeps_metadata = message.custom_metadata().is_some();
        let Some(batch) = batch.filter(|batch| batch.compression().is_none() && !keeps_metadata) else {
            return Ok(None);
        };
        let mut buffers = Vec::with_capacity(batch.buffers().map_or(0, |buffers| buffers.len()));
        for (at, buffer) in batch.buffers().into_iter().flatten().enumerate() {
            let bytes = body.range(buffer).ok_or_else(|| Error::invalid(format!("buffer {at} is malformed")))?;
            buffers.push(self.encoder.append(&bytes).map_err(failed)?);
        }
        let mut compressed = self.encoder.take_body();
        if compressed.len() > body.len - body.len / 20 {
            return Ok(None);
        }
        // It has grown in steps, and is in memory as long as the reader is slow.
        compressed.shrink_to_fit();
        let mut builder = FlatBufferBuilder::new();
        let values = batch_with(&mut builder, &batch, &buffers, self.codec);
        let values = match &dictionary {
            Some(dictionary) => dictionary_with(&mut builder, dictionary, values).as_union_value(),
            None => values.as_union_value(),
        };
        let args = ipc::MessageArgs {
            version: message.version(),
            header_type: message.header_type(),
            header: Some(values),
            bodyLength: compressed.len() as i64,
            custom_metadata: None,
        };
        let root = ipc::Message::create(&mut builder, &args);
        builder.finish(root, None);
        let (header, start) = builder.collapse();
        Ok(Some(IpcMessage { header: Bytes::from(header).slice(start..), body: compressed.into() }))
    }
}

/// The record batch with other buffers, which are compressed.
fn batch_with<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    batch: &ipc::RecordBatch<'_>,
    buffers: &[ipc::Buffer],
    codec: BodyCodec,
) -> WIPOffset<ipc::RecordBatch<'b>> {
    let method = ipc::BodyCompressionMethod::BUFFER;
    let compression =
        ipc::BodyCompression::create(builder, &ipc::BodyCompressionArgs { codec: codec.of_ipc(), method });
    let nodes: Vec<ipc::FieldNode> = batch.nodes().into_iter().flatten().copied().collect();
    let variadic: Option<Vec<i64>> = batch.variadicBufferCounts().map(|counts| counts.iter().collect());
    let args = ipc::RecordBatchArgs {
        length: batch.length(),
        nodes: Some(builder.create_vector(&nodes)),
        buffers: Some(builder.create_vector(buffers)),
        compression: Some(compression),
        variadicBufferCounts: variadic.map(|counts| builder.create_vector(&counts)),
    };
    ipc::RecordBatch::create(builder, &args)
}

fn failed(error: io::Error) -> Error {
    Error::internal(format!("a message cannot be compressed: {error}"))
}

impl BufferEncoder {
    fn body(&mut self) -> &mut Vec<u8> {
        match self {
            BufferEncoder::Lz4(encoder) => encoder.get_mut(),
            BufferEncoder::Zstd { body, .. } => body,
        }
    }

    fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(self.body())
    }

    /// Appends a buffer to the body: its length and its compressed bytes, or -1 and its bytes if those are no longer. Returns where
    /// it is.
    fn append(&mut self, bytes: &[u8]) -> io::Result<ipc::Buffer> {
        let start = self.body().len();
        if bytes.is_empty() {
            return Ok(ipc::Buffer::new(start as i64, 0));
        }
        let is_shorter = bytes.len() >= MIN_BUFFER && {
            self.body().extend_from_slice(&(bytes.len() as i64).to_le_bytes());
            self.append_compressed(bytes)?;
            self.body().len() - start < bytes.len()
        };
        let body = self.body();
        if !is_shorter {
            body.truncate(start);
            body.extend_from_slice(&NOT_COMPRESSED.to_le_bytes());
            body.extend_from_slice(bytes);
        }
        let length = body.len() - start;
        body.resize(body.len().next_multiple_of(BUFFER_ALIGNMENT), 0);
        Ok(ipc::Buffer::new(start as i64, length as i64))
    }

    fn append_compressed(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            BufferEncoder::Lz4(encoder) => {
                encoder.write_all(bytes)?;
                encoder.try_finish().map_err(io::Error::from)
            }
            BufferEncoder::Zstd { compressor, body, scratch } => {
                scratch.clear();
                scratch.reserve(compress_bound(bytes.len()));
                compressor.compress_to_buffer(bytes, scratch)?;
                body.extend_from_slice(scratch);
                Ok(())
            }
        }
    }
}

/// A body in slices.
struct BodySlices<'a> {
    slices: &'a [Bytes],
    /// Where each slice begins.
    starts: Vec<usize>,
    len: usize,
}

impl<'a> BodySlices<'a> {
    fn new(slices: &'a [Bytes]) -> Self {
        let mut len = 0;
        let starts = slices
            .iter()
            .map(|slice| {
                let start = len;
                len += slice.len();
                start
            })
            .collect();
        BodySlices { slices, starts, len }
    }

    /// The bytes of a buffer, copied if it lies in several slices; `None` if it is not within the body.
    fn range(&self, buffer: &ipc::Buffer) -> Option<Cow<'a, [u8]>> {
        let (offset, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
        if length == 0 {
            return Some(Cow::Borrowed(&[]));
        }
        let end = offset.checked_add(length).filter(|end| *end <= self.len)?;
        // The last slice that begins at or before the offset.
        let first = self.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        let from = offset - self.starts[first];
        if let Some(bytes) = self.slices[first].get(from..from + length) {
            return Some(Cow::Borrowed(bytes));
        }
        let mut bytes = Vec::with_capacity(length);
        for (slice, start) in self.slices[first..].iter().zip(&self.starts[first..]) {
            if *start >= end {
                break;
            }
            bytes.extend_from_slice(&slice[offset.saturating_sub(*start)..slice.len().min(end - start)]);
        }
        Some(Cow::Owned(bytes))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::slice::from_ref;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::SchemaRef;
    use arrow_flight::FlightData;
    use rand::Rng;

    use super::*;
    use crate::Code;
    use crate::ipc::decode::{BatchDecoder, DecodedMessage};
    use crate::ipc::encode::encode_batch;
    use crate::ipc::schema::{flight_header, schema_message};
    use crate::ipc::test_data;

    const CODECS: [BodyCodec; 2] = [BodyCodec::Lz4, BodyCodec::Zstd];

    fn decode(schema: &SchemaRef, messages: impl IntoIterator<Item = FlightData>) -> RecordBatch {
        let mut decoder = BatchDecoder::new(64 << 20);
        let header = flight_header(&schema_message(schema).unwrap());
        decoder.push(FlightData::new().with_data_header(header)).unwrap();
        let decoded = messages.into_iter().map(|message| decoder.push(message).unwrap()).last();
        let Some(DecodedMessage::Batch(batch)) = decoded else { panic!("the last message is no batch") };
        batch
    }

    /// The body in up to five slices, some of which may be empty.
    fn cut(body: &Bytes, rng: &mut impl Rng) -> Vec<Bytes> {
        let mut ends: Vec<usize> = (0..4).map(|_| rng.random_range(0..=body.len())).chain([body.len()]).collect();
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.clone());
        starts.zip(ends).map(|(start, end)| body.slice(start..end)).collect()
    }

    /// Rows whose columns repeat themselves.
    fn repetitive() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..10_000).map(|n| n % 7)));
        let texts: ArrayRef = Arc::new(StringArray::from_iter((0..10_000).map(|n| (n % 5 > 0).then_some("abcdefgh"))));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
    }

    #[test]
    fn compressed_messages_of_every_type_decode_to_the_same_rows() {
        let mut rng = test_data::rng(61);
        for codec in CODECS {
            let mut compressor = MessageCompressor::new(codec).unwrap();
            let batch = test_data::batch(&mut rng, 300);
            let (dictionaries, rows) = encode_batch(&batch).unwrap();
            let mut smaller = 0;
            let messages: Vec<FlightData> = (dictionaries.iter().chain([&rows]))
                .map(|message| match compressor.compress(&message.header, &cut(&message.body, &mut rng)).unwrap() {
                    None => message.into(),
                    Some(compressed) => {
                        assert!(compressed.body.len() < message.body.len());
                        let again = compressor.compress(&compressed.header, from_ref(&compressed.body)).unwrap();
                        assert!(again.is_none(), "it is compressed already");
                        smaller += 1;
                        FlightData::from(&compressed)
                    }
                })
                .collect();
            assert_eq!(decode(batch.schema_ref(), messages), batch, "{codec:?}: {smaller} messages are smaller");
        }
    }

    #[test]
    fn repetitive_rows_become_a_fraction() {
        let batch = repetitive();
        let (_, message) = encode_batch(&batch).unwrap();
        for codec in CODECS {
            let mut compressor = MessageCompressor::new(codec).unwrap();
            for _ in 0..2 {
                let compressed = compressor.compress(&message.header, from_ref(&message.body)).unwrap().unwrap();
                assert!(compressed.body.len() < message.body.len() / 2, "{codec:?}: {}", compressed.body.len());
                assert_eq!(decode(batch.schema_ref(), [FlightData::from(&compressed)]), batch);
            }
        }
    }

    #[test]
    fn random_and_small_bodies_stay_as_they_are() {
        let mut rng = test_data::rng(62);
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..10_000).map(|_| rng.random::<i64>())));
        let random = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        for batch in [random, repetitive().slice(0, 3)] {
            let (_, message) = encode_batch(&batch).unwrap();
            for codec in CODECS {
                let mut compressor = MessageCompressor::new(codec).unwrap();
                assert!(compressor.compress(&message.header, from_ref(&message.body)).unwrap().is_none(), "{codec:?}");
            }
        }
    }

    #[test]
    fn malformed_message_is_refused() {
        let (_, message) = encode_batch(&repetitive()).unwrap();
        let half = message.body.slice(..message.body.len() / 2);
        for (header, body) in [(message.header.clone(), half), (message.header.slice(..12), message.body)] {
            let mut compressor = MessageCompressor::new(BodyCodec::Lz4).unwrap();
            assert_eq!(compressor.compress(&header, from_ref(&body)).err().unwrap().code, Code::InvalidArgument);
        }
    }
}
