#![allow(clippy::unwrap_used)]
use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use rand::Rng;

use super::*;
use crate::ipc::decode::{BatchDecoder, DecodedMessage};
use crate::ipc::encode::{IpcMessage, encode_batch, first_rows};
use crate::ipc::schema::{flight_header, schema_message};
use crate::ipc::shrink::shrink_to_fit;
use crate::ipc::test_data;

fn encode(batch: &RecordBatch, codec: Option<CompressionType>) -> (Vec<IpcMessage>, IpcMessage) {
    let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
    let mut tracker = DictionaryTracker::new(false);
    IpcDataGenerator {}.schema_to_bytes_with_dictionary_tracker(batch.schema_ref(), &mut tracker, &options);
    let (dictionaries, batch) =
        IpcDataGenerator {}.encode(&shrink_to_fit(batch), &mut tracker, &options, &mut Default::default()).unwrap();
    (dictionaries.into_iter().map(IpcMessage::from).collect(), batch.into())
}

/// The batch that a client decodes from the projected stream.
fn projected(batch: &RecordBatch, columns: &[usize], codec: Option<CompressionType>) -> RecordBatch {
    let message = schema_message(batch.schema_ref()).unwrap();
    let schema = parse_schema(&message).unwrap();
    let (dictionaries, encoded) = encode(batch, codec);
    let mut decoder = BatchDecoder::new(64 << 20);
    let header = flight_header(&project_schema(&message, columns, SchemaMetadata::Kept).unwrap());
    decoder.push(FlightData::new().with_data_header(header)).unwrap();
    let wanted = dictionary_ids(&schema, columns);
    for dictionary in &dictionaries {
        let id = verify_message(&dictionary.header).unwrap().header_as_dictionary_batch().unwrap().id();
        if wanted.contains(&id) {
            decoder.push(dictionary.into()).unwrap();
        }
    }
    let projected = Projector::new(schema.clone(), columns.to_vec()).unwrap().project(&encoded.header).unwrap();
    let body: Vec<u8> =
        projected.body.iter().flat_map(|r| encoded.body[r.start as usize..r.end as usize].to_vec()).collect();
    assert_eq!(body.len() as u64, projected.body_len);
    let data = FlightData::new().with_data_header(projected.header).with_data_body(body);
    match decoder.push(data).unwrap() {
        DecodedMessage::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn projection_of_any_columns_equals_arrows() {
    let mut rng = test_data::rng(1);
    let batch = test_data::batch(&mut rng, 77);
    let all = batch.num_columns();
    for codec in [None, Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME)] {
        for column in 0..all {
            assert_eq!(projected(&batch, &[column], codec), batch.project(&[column]).unwrap(), "column {column}");
        }
        for _ in 0..30 {
            let columns: Vec<_> = (0..rng.random_range(0..12)).map(|_| rng.random_range(0..all)).collect();
            assert_eq!(projected(&batch, &columns, codec), batch.project(&columns).unwrap(), "columns {columns:?}");
        }
        let reversed: Vec<_> = (0..all).rev().collect();
        assert_eq!(projected(&batch, &reversed, codec), batch.project(&reversed).unwrap());
    }
}

#[test]
fn adjacent_columns_are_one_range() {
    let batch = test_data::batch_of(&mut test_data::rng(2), &[const { DataType::Int64 }; 10], 100);
    let (_, encoded) = encode(&batch, None);
    let projector = |columns: &[usize]| Projector::new(batch.schema(), columns.to_vec()).unwrap();
    let ranges = |columns: &[usize]| projector(columns).project(&encoded.header).unwrap().body.len();
    assert_eq!((ranges(&[2, 3, 4]), ranges(&[2, 5]), ranges(&[])), (1, 2, 0));
}

#[test]
fn unknown_column_or_damaged_header_is_an_error() {
    let batch = test_data::batch(&mut test_data::rng(3), 9);
    let (_, encoded) = encode(&batch, None);
    let schema = batch.schema();
    let past = [batch.num_columns()];
    assert_eq!(Projector::new(schema.clone(), past.to_vec()).unwrap_err().code, crate::Code::InvalidArgument);
    assert!(project_schema(&schema_message(&schema).unwrap(), &past, SchemaMetadata::Kept).is_err());
    let projector = Projector::new(schema, (0..batch.num_columns()).collect()).unwrap();
    for at in (0..encoded.header.len()).step_by(3) {
        let mut bad = encoded.header.to_vec();
        bad[at] ^= 0xff;
        let _ = projector.project(&bad);
        assert!(projector.project(&encoded.header[..at]).is_err());
    }
}

#[test]
fn ids_stay_with_their_columns() {
    let batch = test_data::batch(&mut test_data::rng(4), 1);
    let message = schema_message(batch.schema_ref()).unwrap();
    let all: Vec<_> = (0..batch.num_columns()).collect();
    assert_eq!(parse_schema(&project_schema(&message, &all, SchemaMetadata::Kept).unwrap()).unwrap(), batch.schema());
    let schema = parse_schema(&message).unwrap();
    for column in all {
        let projected = parse_schema(&project_schema(&message, &[column], SchemaMetadata::Kept).unwrap()).unwrap();
        let mut ids = Vec::new();
        dictionary_ids_of(projected.field(0), &mut ids);
        assert_eq!(ids, dictionary_ids(&schema, &[column]));
    }
}

#[test]
fn first_rows_of_a_message_are_the_first_of_its_batch() {
    let batch = test_data::batch(&mut test_data::rng(5), 60);
    let schema = schema_message(batch.schema_ref()).unwrap();
    let (dictionaries, encoded) = encode_batch(&batch).unwrap();
    for rows in [0, 1, 33, 60] {
        let cut = first_rows(&schema, &dictionaries, &encoded, rows).unwrap();
        let mut decoder = BatchDecoder::new(64 << 20);
        let header = flight_header(&schema);
        decoder.push(FlightData::new().with_data_header(header)).unwrap();
        dictionaries.iter().for_each(|d| drop(decoder.push(d.into()).unwrap()));
        match decoder.push((&cut).into()).unwrap() {
            DecodedMessage::Batch(back) => assert_eq!(back, batch.slice(0, rows)),
            other => panic!("{other:?}"),
        }
    }
}
