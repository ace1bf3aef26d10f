//! Stored messages without their compression, for clients that cannot decompress. No array is decoded.

use arrow_ipc as ipc;
use bytes::Bytes;

use super::encode::IpcMessage;
use super::schema::verify_message;
use super::spool::SpoolTarget;
use super::streamed_decompression::{BUFFER_ALIGNMENT, NOT_COMPRESSED, decompress_message};
use crate::{Error, Result};

/// A record batch or dictionary message with an uncompressed body: the same rows, as if they had been stored so. `None` if
/// it is not compressed.
///
/// # Errors
/// DATA_LOSS: the message is malformed.
pub fn uncompressed(header: &[u8], body: &[u8]) -> Result<Option<IpcMessage>> {
    let lost = |e: Error| Error::data_loss(format!("a stored message cannot be decompressed: {e}"));
    let message = verify_message(header).map_err(lost)?;
    let dictionary = message.header_as_dictionary_batch();
    let batch = dictionary.map_or_else(|| message.header_as_record_batch(), |dictionary| dictionary.data());
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else { return Ok(None) };
    let target = ExactTarget::new(plain_len(&batch, body).map_err(lost)?).map_err(lost)?;
    let plain = decompress_message(&message, body, Box::new(target)).map_err(lost)?;
    Ok(Some(IpcMessage { header: plain.header.into(), body: plain.body }))
}

/// Bytes of the uncompressed body. Checks that every buffer is within `body`.
fn plain_len(batch: &ipc::RecordBatch<'_>, body: &[u8]) -> Result<usize> {
    let malformed = |at: usize| Error::invalid(format!("buffer {at} is malformed"));
    let mut total = 0usize;
    for (at, buffer) in batch.buffers().into_iter().flatten().enumerate() {
        let length = buffer_len(buffer, body).ok_or_else(|| malformed(at))?;
        let end = length.checked_next_multiple_of(BUFFER_ALIGNMENT).and_then(|length| total.checked_add(length));
        total = end.ok_or_else(|| malformed(at))?;
    }
    Ok(total)
}

/// Uncompressed bytes of a buffer: its first eight bytes say them.
fn buffer_len(buffer: &ipc::Buffer, body: &[u8]) -> Option<usize> {
    let (offset, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
    let bytes = body.get(offset..)?.get(..length)?;
    if bytes.is_empty() {
        return Some(0);
    }
    let (declared, data) = bytes.split_first_chunk::<8>()?;
    match i64::from_le_bytes(*declared) {
        NOT_COMPRESSED => Some(data.len()),
        declared => usize::try_from(declared).ok(),
    }
}

/// Memory for a body whose length is known, so that it is allocated once.
struct ExactTarget(Vec<u8>);

impl ExactTarget {
    fn new(bytes: usize) -> Result<Self> {
        let mut memory = Vec::new();
        let none = |_| Error::invalid(format!("its body would have {bytes} bytes, which cannot be allocated"));
        memory.try_reserve_exact(bytes).map_err(none)?;
        Ok(ExactTarget(memory))
    }
}

impl SpoolTarget for ExactTarget {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// At any address: the body is only sent.
    fn map(self: Box<Self>) -> Result<Bytes> {
        Ok(Bytes::from(self.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};

    use super::*;
    use crate::Code;
    use crate::ipc::decode::{BatchDecoder, DecodedMessage};
    use crate::ipc::schema::{flight_header, schema_message};
    use crate::ipc::shrink::shrink_to_fit;
    use crate::ipc::test_data;

    /// A batch's dictionaries, then the batch.
    fn encode(batch: &arrow::array::RecordBatch, codec: Option<CompressionType>) -> Vec<IpcMessage> {
        let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
        let (generator, mut tracker) = (IpcDataGenerator {}, DictionaryTracker::new(false));
        generator.schema_to_bytes_with_dictionary_tracker(batch.schema_ref(), &mut tracker, &options);
        let mut context = IpcWriteContext::default();
        let (dictionaries, batch) = generator.encode(batch, &mut tracker, &options, &mut context).unwrap();
        dictionaries.into_iter().chain([batch]).map(IpcMessage::from).collect()
    }

    #[test]
    fn uncompressed_messages_decode_to_the_same_rows() {
        let batch = test_data::batch(&mut test_data::rng(11), 300);
        for batch in [batch.clone(), shrink_to_fit(&batch.slice(0, 0)), shrink_to_fit(&batch.slice(7, 1))] {
            let stored_plain = encode(&batch, None);
            for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
                let mut decoder = BatchDecoder::new(1 << 30);
                let schema = flight_header(&schema_message(batch.schema_ref()).unwrap());
                decoder.push(arrow_flight::FlightData::new().with_data_header(schema)).unwrap();
                let mut rows = None;
                for (message, stored_plain) in encode(&batch, Some(codec)).iter().zip(&stored_plain) {
                    let plain = uncompressed(&message.header, &message.body).unwrap().unwrap();
                    assert_eq!(plain.body.len(), stored_plain.body.len());
                    assert!(uncompressed(&plain.header, &plain.body).unwrap().is_none(), "it is compressed no more");
                    if let DecodedMessage::Batch(batch) = decoder.push((&plain).into()).unwrap() {
                        rows = Some(batch);
                    }
                }
                assert_eq!(rows.unwrap(), batch);
            }
            let unchanged = |message: &IpcMessage| uncompressed(&message.header, &message.body).unwrap().is_none();
            assert!(stored_plain.iter().all(unchanged));
        }
    }

    #[test]
    fn damaged_body_is_data_loss() {
        let batch = test_data::batch(&mut test_data::rng(12), 300);
        let message = encode(&batch, Some(CompressionType::ZSTD)).pop().unwrap();
        let absurd: Vec<u8> = std::iter::repeat_n(0x7f, message.body.len()).collect();
        for body in [&[][..], &message.body[..message.body.len() / 2], &absurd, &vec![0xff; message.body.len()]] {
            match uncompressed(&message.header, body) {
                Err(error) => assert_eq!(error.code, Code::DataLoss, "{error}"),
                // Every length is -1: stored as they are.
                Ok(plain) => assert!(body.iter().all(|byte| *byte == 0xff) && plain.is_some()),
            }
        }
        assert_eq!(uncompressed(&message.header[..20], &message.body).unwrap_err().code, Code::DataLoss);
    }
}
