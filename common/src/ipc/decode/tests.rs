#![allow(clippy::unwrap_used)]
use arrow::array::{Array, AsArray, Int32Array, StringArray};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use rand::Rng;

use super::*;
use crate::Code;
use crate::ipc::compact::compact;
use crate::ipc::samples;
use crate::ipc::schema::{flight_header, schema_message};

const LIMIT: usize = 16 << 20;

/// A stream's messages: schema, dictionaries, batches.
fn messages(batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<FlightData> {
    let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
    let schema = batches[0].schema();
    let mut tracker = DictionaryTracker::new(false);
    IpcDataGenerator {}.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, &options);
    let mut out = vec![FlightData::new().with_data_header(flight_header(&schema_message(&schema).unwrap()))];
    for batch in batches {
        let (dictionaries, batch) =
            IpcDataGenerator {}.encode(&compact(batch), &mut tracker, &options, &mut Default::default()).unwrap();
        out.extend(dictionaries.into_iter().chain([batch]).map(FlightData::from));
    }
    out
}

/// Batches, or the first error; what is accepted must be valid.
fn decode(messages: &[FlightData]) -> Result<Vec<RecordBatch>> {
    let mut decoder = Decoder::new(LIMIT);
    let mut batches = Vec::new();
    for message in messages {
        if let Event::Batch(batch) = decoder.push(message.clone())? {
            batch.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
            batches.push(batch);
        }
    }
    Ok(batches)
}

#[test]
fn every_type_comes_back_equal_under_every_codec() {
    let mut rng = samples::rng(1);
    for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        for data_type in samples::types() {
            let batches = [100, 0, 1].map(|rows| samples::batch_of(&mut rng, std::slice::from_ref(&data_type), rows));
            let messages = messages(&batches, codec);
            assert_eq!(decode(&messages).unwrap(), batches, "{data_type} {codec:?}");
        }
        let batch = samples::batch(&mut rng, 50);
        assert_eq!(decode(&messages(std::slice::from_ref(&batch), codec)).unwrap(), [batch]);
    }
}

#[test]
fn bodies_need_not_be_aligned_in_memory() {
    let mut rng = samples::rng(7);
    for data_type in samples::types() {
        let batch = samples::batch_of(&mut rng, std::slice::from_ref(&data_type), 30);
        let mut stream = messages(std::slice::from_ref(&batch), None);
        for message in &mut stream {
            let odd = Bytes::from([b"x", &message.data_body[..]].concat());
            message.data_body = odd.slice(1..);
        }
        assert_eq!(decode(&stream).unwrap(), [batch], "{data_type}");
    }
}

#[test]
fn rows_without_columns_keep_their_number() {
    let batch = samples::batch_of(&mut samples::rng(2), &[], 1000);
    assert_eq!(decode(&messages(std::slice::from_ref(&batch), None)).unwrap()[0].num_rows(), 1000);
}

#[test]
fn order_is_checked() {
    let batch = samples::batch(&mut samples::rng(3), 3);
    let good = messages(&[batch], None);
    assert!(decode(&good[1..]).unwrap_err().message.contains("begin with a schema"));
    assert!(decode(&[&good[..1], &good[..1]].concat()).unwrap_err().message.contains("second schema"));
    let mut decoder = Decoder::new(LIMIT);
    assert!(matches!(decoder.push(FlightData::new().with_app_metadata("x")), Ok(Event::Metadata)));
    let error = Decoder::new(10).push(good[0].clone()).unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
}

/// Damages every message of a stream in many ways: an error or a valid batch, never a panic past the decoder.
fn damage(batch: RecordBatch, codec: Option<CompressionType>, seed: u64, places: usize) {
    let mut rng = samples::rng(seed);
    let good = messages(&[batch], codec);
    for at in 0..good.len() {
        let (head, body) = (good[at].data_header.len(), good[at].data_body.len());
        for place in (0..head + body).step_by(1 + (head + body) / places) {
            let mut bad = good.clone();
            let mut bytes = [&good[at].data_header[..], &good[at].data_body[..]].concat();
            match rng.random_range(0..3) {
                0 => bytes[place] ^= 1 << rng.random_range(0..8),
                1 => bytes[place] = 0xff,
                _ => bytes[place..].iter_mut().take(8).for_each(|b| *b = rng.random()),
            }
            bad[at].data_header = bytes[..head].to_vec().into();
            bad[at].data_body = bytes[head..].to_vec().into();
            let _ = decode(&bad);
            let mut short = good.clone();
            short[at].data_header = good[at].data_header.slice(..place.min(head));
            short[at].data_body = good[at].data_body.slice(..place.saturating_sub(head));
            let result = decode(&short);
            assert!(
                place < head || place - head == body || result.is_err(),
                "a body cut at {} of {body}",
                place - head
            );
        }
    }
}

#[test]
fn damaged_messages_of_every_type_are_errors_or_valid() {
    let mut rng = samples::rng(4);
    for (seed, data_type) in samples::types().into_iter().enumerate() {
        let batch = samples::batch_of(&mut rng, &[DataType::Int32, data_type], 20);
        damage(batch.clone(), None, seed as u64, 30);
        damage(batch, Some(CompressionType::LZ4_FRAME), seed as u64, 30);
    }
}

#[test]
fn damaged_wide_messages_are_errors_or_valid() {
    for (seed, codec) in [None, Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME)].into_iter().enumerate() {
        damage(samples::batch(&mut samples::rng(5), 12), codec, seed as u64, 60);
    }
}

fn one_column(array: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("c", array)]).unwrap()
}

#[test]
fn decompression_bombs_are_refused_before_they_go_off() {
    let zeros = one_column(Arc::new(Int32Array::from(vec![0; 8 << 20])));
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let bomb = messages(std::slice::from_ref(&zeros), Some(codec));
        assert!(bomb[1].data_body.len() < LIMIT);
        let error = decode(&bomb).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{codec:?}: {error}");
        // The same, claiming to be small: the length field is the first thing of the body.
        let mut liar = bomb.clone();
        let mut body = liar[1].data_body.to_vec();
        body[..8].copy_from_slice(&64i64.to_le_bytes());
        liar[1].data_body = body.into();
        assert_eq!(decode(&liar).unwrap_err().code, Code::InvalidArgument);
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let good = messages(&[one_column(Arc::new(StringArray::from(vec!["abc"; 100])))], None);
    let mut bad = good.clone();
    let mut body = good[1].data_body.to_vec();
    let at = body.windows(3).position(|w| w == b"abc").unwrap();
    body[at] = 0xff;
    bad[1].data_body = body.into();
    let error = decode(&bad).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.to_lowercase().contains("utf"), "{error}");
}

#[test]
fn dictionaries_are_replaced_and_extended() {
    let batch = |words: &[&str], keys: Vec<i8>| {
        let values = Arc::new(StringArray::from(words.to_vec()));
        one_column(Arc::new(arrow::array::DictionaryArray::new(arrow::array::Int8Array::from(keys), values)))
    };
    let batches = [batch(&["a"], vec![0, 0]), batch(&["x", "y"], vec![1, 0])];
    let stream = messages(&batches, None);
    assert_eq!(stream.len(), 5);
    let back = decode(&stream).unwrap();
    assert_eq!(back, batches);
    assert_eq!(back[1].column(0).as_any_dictionary().values().as_string::<i32>().value(1), "y");
}

#[test]
fn millions_of_rows_out_of_nothing_are_refused() {
    let batch = samples::batch_of(&mut samples::rng(6), &[DataType::Null], (1 << 24) + 1);
    let error = decode(&messages(&[batch], None)).unwrap_err();
    assert!(error.message.contains("rows"), "{error}");
}
