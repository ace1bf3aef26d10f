//! Decompresses a record batch message piece by piece into a [`SpoolTarget`], for one that is too large for memory.

use std::io::Read;

use arrow_ipc::{self as ipc, CompressionType};
use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::spool::SpoolTarget;
use crate::{Error, Result};

/// Bytes that are decompressed at a time.
const STEP: usize = 64 << 10;
/// Buffers begin at multiples of this.
pub(super) const BUFFER_ALIGNMENT: usize = 64;
/// The length of a buffer that is stored as it is.
pub(super) const NOT_COMPRESSED: i64 = -1;

/// An uncompressed record batch or dictionary: a flatbuffer, whose root is its header or the message, and its body.
pub(super) struct PlainMessage {
    pub header: Vec<u8>,
    pub body: Bytes,
}

/// Where a buffer of a message is, for an error; by the buffer's position.
pub(super) type BufferPlace<'a> = &'a dyn Fn(usize) -> String;

/// The message without compression. `batch` has been validated against `body`.
///
/// # Errors
/// INVALID_ARGUMENT: the compressed bytes are malformed. Those of the target.
pub(super) fn decompress_batch(
    batch: &ipc::RecordBatch<'_>,
    body: &[u8],
    target: Box<dyn SpoolTarget>,
    place: BufferPlace<'_>,
) -> Result<PlainMessage> {
    let mut builder = FlatBufferBuilder::new();
    let (root, body) = decompress(&mut builder, batch, body, target, place)?;
    builder.finish(root, None);
    Ok(PlainMessage { header: builder.finished_data().to_vec(), body })
}

/// Decompresses every buffer and keeps nothing: which of them cannot be, and why. `batch` has been validated against `body`,
/// and is compressed.
///
/// # Errors
/// As [`decompress_batch`].
pub(super) fn check_decompression(batch: &ipc::RecordBatch<'_>, body: &[u8], place: BufferPlace<'_>) -> Result<()> {
    decompress_batch(batch, body, Box::new(DiscardTarget), place).map(drop)
}

/// Keeps nothing.
struct DiscardTarget;

impl SpoolTarget for DiscardTarget {
    fn append(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn map(self: Box<Self>) -> Result<Bytes> {
        Ok(Bytes::new())
    }
}

/// As [`decompress_batch`], for a record batch or a dictionary with its whole header: the root is the message's flatbuffer.
pub(super) fn decompress_message(
    message: &ipc::Message<'_>,
    body: &[u8],
    target: Box<dyn SpoolTarget>,
) -> Result<PlainMessage> {
    let mut builder = FlatBufferBuilder::new();
    let empty = || Error::invalid("it is neither a record batch nor a dictionary");
    let place: BufferPlace<'_> = &|at| format!("buffer {at}");
    let (header, body) = match message.header_as_dictionary_batch() {
        Some(dictionary) => {
            let values = dictionary.data().ok_or_else(empty)?;
            let (values, body) = decompress(&mut builder, &values, body, target, place)?;
            (dictionary_with(&mut builder, &dictionary, values).as_union_value(), body)
        }
        None => {
            let batch = message.header_as_record_batch().ok_or_else(empty)?;
            let (batch, body) = decompress(&mut builder, &batch, body, target, place)?;
            (batch.as_union_value(), body)
        }
    };
    let args = ipc::MessageArgs {
        version: message.version(),
        header_type: message.header_type(),
        header: Some(header),
        bodyLength: body.len() as i64,
        custom_metadata: None,
    };
    let root = ipc::Message::create(&mut builder, &args);
    builder.finish(root, None);
    Ok(PlainMessage { header: builder.finished_data().to_vec(), body })
}

/// The dictionary with other values.
pub(super) fn dictionary_with<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    dictionary: &ipc::DictionaryBatch<'_>,
    values: WIPOffset<ipc::RecordBatch<'b>>,
) -> WIPOffset<ipc::DictionaryBatch<'b>> {
    let args = ipc::DictionaryBatchArgs { id: dictionary.id(), data: Some(values), isDelta: dictionary.isDelta() };
    ipc::DictionaryBatch::create(builder, &args)
}

fn decompress<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    batch: &ipc::RecordBatch<'_>,
    body: &[u8],
    mut target: Box<dyn SpoolTarget>,
    place: BufferPlace<'_>,
) -> Result<(WIPOffset<ipc::RecordBatch<'b>>, Bytes)> {
    let codec = batch.compression().map_or(CompressionType::LZ4_FRAME, |compression| compression.codec());
    let (mut buffers, mut end) = (Vec::new(), 0);
    for (at, buffer) in batch.buffers().into_iter().flatten().enumerate() {
        let bytes = &body[buffer.offset() as usize..][..buffer.length() as usize];
        let length = decompress_buffer(codec, bytes, target.as_mut()).map_err(|e| e.at(place(at)))?;
        buffers.push(ipc::Buffer::new(end as i64, length as i64));
        let padding = length.next_multiple_of(BUFFER_ALIGNMENT) - length;
        target.append(&[0; BUFFER_ALIGNMENT][..padding])?;
        end += length + padding;
    }
    let nodes: Vec<ipc::FieldNode> = batch.nodes().into_iter().flatten().copied().collect();
    let variadic: Option<Vec<i64>> = batch.variadicBufferCounts().map(|counts| counts.iter().collect());
    let args = ipc::RecordBatchArgs {
        length: batch.length(),
        nodes: Some(builder.create_vector(&nodes)),
        buffers: Some(builder.create_vector(&buffers)),
        compression: None,
        variadicBufferCounts: variadic.map(|counts| builder.create_vector(&counts)),
    };
    let root = ipc::RecordBatch::create(builder, &args);
    Ok((root, target.map()?))
}

/// Appends one buffer's bytes; returns how many.
fn decompress_buffer(codec: CompressionType, bytes: &[u8], target: &mut dyn SpoolTarget) -> Result<usize> {
    let Some((length, data)) = bytes.split_first_chunk::<8>() else { return Ok(0) };
    let length = match i64::from_le_bytes(*length) {
        NOT_COMPRESSED => {
            target.append(data)?;
            return Ok(data.len());
        }
        length => {
            usize::try_from(length).map_err(|_| Error::invalid(format!("its uncompressed length is {length}")))?
        }
    };
    let malformed = |e: std::io::Error| Error::invalid(format!("it cannot be decompressed: {e}"));
    let mut reader: Box<dyn Read + '_> = match codec {
        CompressionType::ZSTD => Box::new(zstd::stream::read::Decoder::with_buffer(data).map_err(malformed)?),
        _ => Box::new(lz4_flex::frame::FrameDecoder::new(data)),
    };
    let mut step = vec![0; STEP];
    let mut written = 0;
    while written < length {
        let wanted = STEP.min(length - written);
        let count = reader.read(&mut step[..wanted]).map_err(malformed)?;
        if count == 0 {
            return Err(Error::invalid(format!("it decompresses to {written} bytes instead of {length}")));
        }
        target.append(&step[..count])?;
        written += count;
    }
    match reader.read(&mut step[..1]).map_err(malformed)? {
        0 => Ok(length),
        _ => Err(Error::invalid(format!("it decompresses to more than the {length} bytes that it says"))),
    }
}

/// Reads the root of a header that [`decompress_batch`] made.
pub(super) fn batch_of(message: &PlainMessage) -> Result<ipc::RecordBatch<'_>> {
    flatbuffers::root::<ipc::RecordBatch<'_>>(&message.header).map_err(|e| Error::internal(e.to_string()))
}
