#![allow(clippy::unwrap_used)]
use std::io::Cursor;

use arrow_ipc::CompressionType;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;

use super::*;
use crate::ipc::dictionary_keys::{has_dictionary, replace_dictionaries};
use crate::ipc::shrink::shrink_to_fit;
use crate::ipc::test_data;

impl AppendSlices for Vec<u8> {
    fn append(&mut self, slices: &[&[u8]]) -> io::Result<()> {
        slices.iter().for_each(|slice| self.extend_from_slice(slice));
        Ok(())
    }
}

fn options(codec: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::default().try_with_compression(codec).unwrap()
}

fn metadata() -> HashMap<String, String> {
    [("b", "2"), ("a", "1")].map(|(key, value)| (key.to_string(), value.to_string())).into()
}

fn keys_of(batch: &RecordBatch) -> RecordBatch {
    let keys = |data: arrow::array::ArrayData| {
        let arrow::datatypes::DataType::Dictionary(keys, _) = data.data_type().clone() else { panic!("a dictionary") };
        data.into_builder().data_type(*keys).child_data(vec![]).build()
    };
    replace_dictionaries(batch, &keys_schema(&batch.schema()), &mut { keys }).unwrap()
}

/// A file of slices of one batch, whose dictionaries they share.
fn encode_ours(schema: &SchemaRef, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
    let mut file = FileEncoder::new(Vec::new(), schema.clone(), options(codec)).unwrap();
    batches.iter().for_each(|batch| file.write(&keys_of(batch), &[]).unwrap());
    if let Some(last) = batches.last() {
        file.write_dictionaries(last).unwrap();
    }
    assert_eq!(file.output().len() as u64, file.length);
    file.finish(&metadata()).unwrap()
}

fn encode_arrows(schema: &SchemaRef, batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
    let mut file = FileWriter::try_new_with_options(Vec::new(), schema, options(codec)).unwrap();
    metadata().into_iter().for_each(|(key, value)| file.write_metadata(key, value));
    batches.iter().for_each(|batch| file.write(batch).unwrap());
    file.into_inner().unwrap()
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
            let ours = encode_ours(&schema, &batches, codec);
            if !has_dictionary(&data_type) {
                assert_eq!(ours, encode_arrows(&schema, &batches, codec), "{data_type} {codec:?}");
                continue;
            }
            let reader = FileReader::try_new(Cursor::new(ours), None).unwrap();
            assert_eq!(reader.map(|batch| batch.unwrap()).collect::<Vec<_>>(), batches, "{data_type} {codec:?}");
        }
    }
}

#[test]
fn file_without_columns_or_batches_equals_arrows_file() {
    let rows = test_data::batch_of(&mut test_data::rng(12), &[], 1000);
    for batches in [&[][..], std::slice::from_ref(&rows)] {
        assert_eq!(encode_ours(&rows.schema(), batches, None), encode_arrows(&rows.schema(), batches, None));
    }
}

#[test]
fn arrows_reader_opens_a_file_with_app_metadata() {
    let mut rng = test_data::rng(13);
    for codec in [None, Some(CompressionType::ZSTD)] {
        for data_type in test_data::types().into_iter().filter(|data_type| !has_dictionary(data_type)) {
            let batch = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), 50);
            let mut file = FileEncoder::new(Vec::new(), batch.schema(), options(codec)).unwrap();
            let batches = [(0, 20), (20, 0), (20, 30)].map(|(at, rows)| shrink_to_fit(&batch.slice(at, rows)));
            for (batch, app_metadata) in batches.iter().zip([&b"first"[..], &[0xff; 1000], b""]) {
                file.write(&keys_of(batch), app_metadata).unwrap();
                assert_eq!((file.output().len() as u64, file.length % 64), (file.length, 0));
            }
            let reader = FileReader::try_new(Cursor::new(file.finish(&metadata()).unwrap()), None).unwrap();
            assert_eq!(reader.map(|batch| batch.unwrap()).collect::<Vec<_>>(), batches, "{data_type} {codec:?}");
        }
    }
}
