//! Arrow data for seeds: batches of every type as Flight messages.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow_flight::FlightData;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};

use crate::test_data;

/// All codecs.
pub const CODECS: [Option<CompressionType>; 3] = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)];

/// A small batch of each type, and one of all types together. The same ones at each call.
pub fn samples() -> Vec<RecordBatch> {
    let mut rng = test_data::rng(14);
    let mut all: Vec<RecordBatch> =
        test_data::types().into_iter().map(|of| test_data::batch_of(&mut rng, &[of], 5)).collect();
    all.push(test_data::batch(&mut rng, 3));
    all
}

/// Batches of keys, texts and words of a dictionary: what a put distributes over shards.
pub fn keyed() -> RecordBatch {
    let words = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let types = [DataType::Int64, DataType::Utf8, words];
    test_data::batch_of(&mut test_data::rng(15), &types, 40)
}

/// A batch as the messages of a stream: schema, dictionaries, rows.
///
/// # Panics
/// Arrow cannot encode it.
pub fn flight_messages(batch: &RecordBatch, codec: Option<CompressionType>) -> Vec<FlightData> {
    let options = IpcWriteOptions::default().try_with_compression(codec).expect("codecs are built in");
    let (generator, mut tracker) = (IpcDataGenerator {}, DictionaryTracker::new(false));
    let schema = generator.schema_to_bytes_with_dictionary_tracker(batch.schema_ref(), &mut tracker, &options);
    let encoded = generator.encode(batch, &mut tracker, &options, &mut IpcWriteContext::default());
    let (dictionaries, rows) = encoded.expect("a batch of the tests");
    let message =
        |data: EncodedData| FlightData::new().with_data_header(data.ipc_message).with_data_body(data.arrow_data);
    [schema].into_iter().chain(dictionaries).chain([rows]).map(message).collect()
}
