//! Headers of record batch messages, and the `app_metadata` that a part keeps in them.
//!
//! A part is a plain Arrow file, so it keeps the `app_metadata` of a batch where the format has room for it: in the custom
//! metadata of the batch's message, in base64, because values there are text. On the wire it is a field of FlightData, and
//! the header is without it.

use arrow_ipc as ipc;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::schema::verify_message;
use crate::{Error, Result};

/// The key of the `app_metadata` in a message's custom metadata.
pub const APP_METADATA_KEY: &str = "volley.app_metadata";
/// Maximum bytes of the `app_metadata` of a batch that is stored with it.
pub const MAX_APP_METADATA: usize = 1 << 20;

/// Bytes of a header without its nodes and buffers, about.
const HEADER_CAPACITY: usize = 256;

/// The content of a record batch message's header.
pub(super) struct BatchHeader<'a> {
    pub version: ipc::MetadataVersion,
    pub rows: i64,
    pub nodes: &'a [ipc::FieldNode],
    pub buffers: &'a [ipc::Buffer],
    pub variadic: &'a [i64],
    pub compression: Option<ipc::BodyCompression<'a>>,
    pub body_len: i64,
}

impl BatchHeader<'_> {
    /// The bare flatbuffer. Empty `app_metadata` is left out.
    pub(super) fn encode(&self, app_metadata: &[u8]) -> Bytes {
        let capacity = HEADER_CAPACITY + 16 * (self.nodes.len() + self.buffers.len()) + app_metadata.len() / 3 * 4;
        let mut fbb = FlatBufferBuilder::with_capacity(capacity);
        let metadata = (!app_metadata.is_empty()).then(|| {
            let (key, value) = (fbb.create_string(APP_METADATA_KEY), fbb.create_string(&STANDARD.encode(app_metadata)));
            let mut pair = ipc::KeyValueBuilder::new(&mut fbb);
            pair.add_key(key);
            pair.add_value(value);
            let pair = pair.finish();
            fbb.create_vector(&[pair])
        });
        let compression = self.compression.map(|old| {
            let mut new = ipc::BodyCompressionBuilder::new(&mut fbb);
            new.add_method(old.method());
            new.add_codec(old.codec());
            new.finish()
        });
        let buffers = fbb.create_vector(self.buffers);
        let nodes = fbb.create_vector(self.nodes);
        let variadic = (!self.variadic.is_empty()).then(|| fbb.create_vector(self.variadic));
        let mut batch = ipc::RecordBatchBuilder::new(&mut fbb);
        batch.add_length(self.rows);
        batch.add_nodes(nodes);
        batch.add_buffers(buffers);
        if let Some(compression) = compression {
            batch.add_compression(compression);
        }
        if let Some(variadic) = variadic {
            batch.add_variadicBufferCounts(variadic);
        }
        let batch = batch.finish().as_union_value();
        let mut root = ipc::MessageBuilder::new(&mut fbb);
        root.add_version(self.version);
        root.add_header_type(ipc::MessageHeader::RecordBatch);
        root.add_bodyLength(self.body_len);
        root.add_header(batch);
        if let Some(metadata) = metadata {
            root.add_custom_metadata(metadata);
        }
        let root = root.finish();
        fbb.finish(root, None);
        let (bytes, start) = fbb.collapse();
        Bytes::from(bytes).slice(start..)
    }
}

/// A record batch message's header (bare flatbuffer) with `app_metadata` as its only custom metadata.
///
/// # Errors
/// INVALID_ARGUMENT: malformed, or not a record batch.
pub fn with_app_metadata(header: &[u8], app_metadata: &[u8]) -> Result<Bytes> {
    let message = verify_message(header)?;
    let batch = message.header_as_record_batch().ok_or_else(|| Error::invalid("the message is not a record batch"))?;
    let missing = || Error::invalid("the record batch's header has no nodes or buffers");
    let nodes: Vec<_> = batch.nodes().ok_or_else(missing)?.iter().copied().collect();
    let buffers: Vec<_> = batch.buffers().ok_or_else(missing)?.iter().copied().collect();
    let variadic: Vec<i64> = batch.variadicBufferCounts().into_iter().flatten().collect();
    let header = BatchHeader {
        version: message.version(),
        rows: batch.length(),
        nodes: &nodes,
        buffers: &buffers,
        variadic: &variadic,
        compression: batch.compression(),
        body_len: message.bodyLength(),
    };
    Ok(header.encode(app_metadata))
}

/// Whether a message has `app_metadata` in its header.
pub fn has_app_metadata(message: &ipc::Message<'_>) -> bool {
    stored_metadata(message).is_some()
}

/// A stored header without its `app_metadata`, and the `app_metadata`; empty if it has none.
///
/// # Errors
/// DATA_LOSS: the header is damaged.
pub fn split_app_metadata(header: &[u8]) -> Result<(Bytes, Bytes)> {
    let lost = |why: String| Error::data_loss(format!("the header of a stored record batch is damaged: {why}"));
    let message = verify_message(header).map_err(|e| lost(e.message))?;
    let Some(text) = stored_metadata(&message) else { return Ok((Bytes::copy_from_slice(header), Bytes::new())) };
    let app_metadata = STANDARD.decode(text).map_err(|e| lost(format!("its {APP_METADATA_KEY} is no base64: {e}")))?;
    Ok((with_app_metadata(header, &[]).map_err(|e| lost(e.message))?, app_metadata.into()))
}

fn stored_metadata<'a>(message: &ipc::Message<'a>) -> Option<&'a str> {
    message.custom_metadata()?.iter().find(|pair| pair.key() == Some(APP_METADATA_KEY))?.value()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::FlightData;
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};

    use super::*;
    use crate::Code;
    use crate::ipc::decode::{BatchDecoder, DecodedMessage};
    use crate::ipc::schema::{flight_header, schema_message};
    use crate::ipc::test_data;

    #[test]
    fn app_metadata_comes_back_and_the_rest_is_unchanged() {
        let mut rng = test_data::rng(3);
        for codec in [None, Some(CompressionType::LZ4_FRAME)] {
            for (at, data_type) in test_data::types().into_iter().enumerate() {
                let batch = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), at % 7);
                let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
                let mut tracker = DictionaryTracker::new(false);
                let generator = IpcDataGenerator::default();
                generator.schema_to_bytes_with_dictionary_tracker(&batch.schema(), &mut tracker, &options);
                let mut context = IpcWriteContext::default();
                let (dictionaries, encoded) = generator.encode(&batch, &mut tracker, &options, &mut context).unwrap();
                let dictionaries: Vec<FlightData> = dictionaries.into_iter().map(Into::into).collect();
                let metadata: Vec<u8> = (0..at as u8 + 1).map(|byte| byte ^ 0xff).collect();
                let stored = with_app_metadata(&encoded.ipc_message, &metadata).unwrap();
                let (header, found) = split_app_metadata(&stored).unwrap();
                assert_eq!(found, metadata, "{data_type}");
                assert!(split_app_metadata(&header).unwrap().1.is_empty(), "{data_type}");
                for header in [stored, header] {
                    let mut decoder = BatchDecoder::new(64 << 20);
                    let schema = flight_header(&schema_message(&batch.schema()).unwrap());
                    decoder.push(FlightData::new().with_data_header(schema)).unwrap();
                    for dictionary in dictionaries.clone() {
                        decoder.push(dictionary).unwrap();
                    }
                    let body = encoded.arrow_data.clone();
                    let data = FlightData::new().with_data_header(header).with_data_body(body);
                    let DecodedMessage::Batch(back) = decoder.push(data).unwrap() else { panic!("{data_type}") };
                    assert_eq!(back.columns(), batch.columns(), "{data_type} {codec:?}");
                }
            }
        }
    }

    #[test]
    fn damaged_metadata_is_data_loss() {
        let batch = test_data::batch_of(&mut test_data::rng(4), &[], 3);
        let header = crate::ipc::encode::encode_batch(&batch).unwrap().1.header;
        let mut stored = with_app_metadata(&header, b"some metadata").unwrap().to_vec();
        let text = STANDARD.encode(b"some metadata");
        let at = stored.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
        stored[at] = b'!';
        assert_eq!(split_app_metadata(&stored).unwrap_err().code, Code::DataLoss);
        assert_eq!(split_app_metadata(&stored[..8]).unwrap_err().code, Code::DataLoss);
    }
}
