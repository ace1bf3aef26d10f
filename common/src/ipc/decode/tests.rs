#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray, BinaryViewArray, ByteView, Int32Array, StringArray};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryHandling, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use rand::Rng;

use super::*;
use crate::Code;
use crate::ipc::schema::{flight_header, schema_message};
use crate::ipc::shrink::shrink_to_fit;
use crate::ipc::spool::SpoolReservation;
use crate::ipc::test_data;

const LIMIT: usize = 16 << 20;

/// A stream's messages: schema, dictionaries, batches.
fn messages(batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<FlightData> {
    encoded(batches, &IpcWriteOptions::default().try_with_compression(codec).unwrap())
}

fn encoded(batches: &[RecordBatch], options: &IpcWriteOptions) -> Vec<FlightData> {
    let schema = batches[0].schema();
    let mut tracker = DictionaryTracker::new(false);
    IpcDataGenerator {}.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, options);
    let mut out = vec![FlightData::new().with_data_header(flight_header(&schema_message(&schema).unwrap()))];
    for batch in batches {
        let (dictionaries, batch) =
            IpcDataGenerator {}.encode(&shrink_to_fit(batch), &mut tracker, options, &mut Default::default()).unwrap();
        out.extend(dictionaries.into_iter().chain([batch]).map(FlightData::from));
    }
    out
}

/// The batches, or the first error; a decoded batch must be valid.
fn decode(messages: &[FlightData]) -> Result<Vec<RecordBatch>> {
    let mut decoder = BatchDecoder::new(LIMIT);
    let mut batches = Vec::new();
    for message in messages {
        if let DecodedMessage::Batch(batch) = decoder.push(message.clone())? {
            batch.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
            batches.push(batch);
        }
    }
    Ok(batches)
}

#[test]
fn every_type_round_trips_with_every_codec() {
    let mut rng = test_data::rng(1);
    for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        for data_type in test_data::types() {
            let batches = [100, 0, 1].map(|rows| test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), rows));
            let messages = messages(&batches, codec);
            assert_eq!(decode(&messages).unwrap(), batches, "{data_type} {codec:?}");
        }
        let batch = test_data::batch(&mut rng, 50);
        assert_eq!(decode(&messages(std::slice::from_ref(&batch), codec)).unwrap(), [batch]);
    }
}

#[derive(Default)]
struct MemoryStorage {
    /// Its clones are reservations.
    reserved: Arc<()>,
    max_reserved: usize,
    spooled: AtomicUsize,
}

impl SpoolStorage for MemoryStorage {
    fn create(&self, _: u64) -> Result<Box<dyn crate::ipc::spool::SpoolTarget>> {
        self.spooled.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(MemoryTarget::new(Box::new(()))))
    }

    fn reserve(&self, _: usize) -> Option<SpoolReservation> {
        (Arc::strong_count(&self.reserved) <= self.max_reserved)
            .then(|| Box::new(self.reserved.clone()) as SpoolReservation)
    }
}

#[test]
fn every_type_round_trips_through_a_spool() {
    let mut rng = test_data::rng(3);
    for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        for data_type in test_data::types() {
            let batches = [100, 0, 1].map(|rows| test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), rows));
            let mut decoder = BatchDecoder::new(LIMIT).with_spool(Arc::<MemoryStorage>::default(), 0);
            let decoded = messages(&batches, codec).into_iter().map(|message| decoder.push(message).unwrap());
            let decoded: Vec<_> = decoded
                .filter_map(|message| match message {
                    DecodedMessage::Batch(batch) => Some(batch),
                    _ => None,
                })
                .collect();
            assert_eq!(decoded, batches, "{data_type} {codec:?}");
            decoded.iter().flat_map(RecordBatch::columns).for_each(|c| c.to_data().validate_full().unwrap());
        }
    }
}

#[test]
fn dictionary_without_reserved_memory_is_spooled() {
    let column = |word: &str| {
        let values: arrow::array::DictionaryArray<arrow::datatypes::Int32Type> =
            [word, "b", word].into_iter().collect();
        Arc::new(values) as ArrayRef
    };
    let batch =
        |word| RecordBatch::try_from_iter([("c", column(word)), ("d", column("d")), ("e", column("e"))]).unwrap();
    let storage = Arc::new(MemoryStorage { max_reserved: 2, ..MemoryStorage::default() });
    let mut decoder = BatchDecoder::new(LIMIT).with_spool(storage.clone(), LIMIT);
    for (word, spooled) in [("first", 1), ("second", 2)] {
        let batch = batch(word);
        let messages = messages(std::slice::from_ref(&batch), None);
        let rest = if word == "first" { &messages[..] } else { &messages[1..] };
        let mut decoded = None;
        for message in rest {
            decoded = Some(decoder.push(message.clone()).unwrap());
        }
        assert!(matches!(decoded, Some(DecodedMessage::Batch(rows)) if rows == batch));
        assert_eq!(Arc::strong_count(&storage.reserved), 3, "two dictionaries are in reserved memory");
        assert!(storage.spooled.load(Ordering::Relaxed) >= spooled);
    }
    drop(decoder);
    assert_eq!(Arc::strong_count(&storage.reserved), 1, "the memory is given back with the stream");
}

#[test]
fn unaligned_bodies_decode() {
    let mut rng = test_data::rng(7);
    for data_type in test_data::types() {
        let batch = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), 30);
        let mut stream = messages(std::slice::from_ref(&batch), None);
        for message in &mut stream {
            let odd = Bytes::from([b"x", &message.data_body[..]].concat());
            message.data_body = odd.slice(1..);
        }
        assert_eq!(decode(&stream).unwrap(), [batch], "{data_type}");
    }
}

#[test]
fn batch_without_columns_keeps_its_rows() {
    let batch = test_data::batch_of(&mut test_data::rng(2), &[], 1000);
    assert_eq!(decode(&messages(std::slice::from_ref(&batch), None)).unwrap()[0].num_rows(), 1000);
}

#[test]
fn messages_out_of_order_or_over_the_limit_are_errors() {
    let batch = test_data::batch(&mut test_data::rng(3), 3);
    let good = messages(&[batch], None);
    assert!(decode(&good[1..]).unwrap_err().message.contains("begin with a schema"));
    assert!(decode(&[&good[..1], &good[..1]].concat()).unwrap_err().message.contains("second schema"));
    let mut decoder = BatchDecoder::new(LIMIT);
    assert!(matches!(decoder.push(FlightData::new().with_app_metadata("x")), Ok(DecodedMessage::Metadata)));
    let error = BatchDecoder::new(10).push(good[0].clone()).unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
}

/// Damages every message of a stream in many ways: each is an error or a valid batch, never a panic.
fn check_damaged(batch: RecordBatch, codec: Option<CompressionType>, seed: u64, places: usize) {
    let mut rng = test_data::rng(seed);
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
                "a body truncated at {} of {body}",
                place - head
            );
        }
    }
}

#[test]
fn damaged_message_of_every_type_is_an_error_or_valid() {
    let mut rng = test_data::rng(4);
    for (seed, data_type) in test_data::types().into_iter().enumerate() {
        let batch = test_data::batch_of(&mut rng, &[DataType::Int32, data_type], 20);
        check_damaged(batch.clone(), None, seed as u64, 30);
        check_damaged(batch, Some(CompressionType::LZ4_FRAME), seed as u64, 30);
    }
}

#[test]
fn damaged_wide_message_is_an_error_or_valid() {
    for (seed, codec) in [None, Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME)].into_iter().enumerate() {
        check_damaged(test_data::batch(&mut test_data::rng(5), 12), codec, seed as u64, 60);
    }
}

fn one_column(array: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("c", array)]).unwrap()
}

#[test]
fn decompression_bomb_is_rejected_before_it_is_decompressed() {
    let zeros = one_column(Arc::new(Int32Array::from(vec![0; 8 << 20])));
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let bomb = messages(std::slice::from_ref(&zeros), Some(codec));
        assert!(bomb[1].data_body.len() < LIMIT);
        let error = decode(&bomb).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{codec:?}: {error}");
        // The same with a small length in its first bytes.
        let mut understated = bomb.clone();
        let mut body = understated[1].data_body.to_vec();
        body[..8].copy_from_slice(&64i64.to_le_bytes());
        understated[1].data_body = body.into();
        assert_eq!(decode(&understated).unwrap_err().code, Code::InvalidArgument);
    }
}

#[test]
fn wrong_length_of_a_compressed_buffer_names_its_column() {
    let numbers = one_column(Arc::new(Int32Array::from(vec![7; 1000])));
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let good = messages(std::slice::from_ref(&numbers), Some(codec));
        for (length, reason) in [(64i64, "more than the 64 bytes"), (4096, "4000 bytes instead of 4096")] {
            let mut body = good[1].data_body.to_vec();
            assert_eq!(body[..8], 4000i64.to_le_bytes());
            body[..8].copy_from_slice(&length.to_le_bytes());
            let message = FlightData { data_body: body.into(), ..good[1].clone() };
            for spooled in [false, true] {
                let decoder = BatchDecoder::new(LIMIT);
                let mut decoder =
                    if spooled { decoder.with_spool(Arc::<MemoryStorage>::default(), 0) } else { decoder };
                decoder.push(good[0].clone()).unwrap();
                let error = decoder.push(message.clone()).unwrap_err();
                assert_eq!(error.code, Code::InvalidArgument);
                let place = "the record batch's column \"c\", buffer 1: ";
                // The length of LZ4 is checked before it is decompressed.
                let reason = if codec == CompressionType::ZSTD { reason } else { "is not an LZ4 frame of" };
                assert!(error.message.starts_with(place) && error.message.contains(reason), "{error}");
            }
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_invalid_argument() {
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
fn stream_that_decompresses_without_bound_is_refused() {
    let zeros = one_column(Arc::new(Int32Array::from(vec![0; 3 << 20])));
    let stream = messages(&[zeros], Some(CompressionType::ZSTD));
    for (limited, refused) in [(true, true), (false, false)] {
        let decoder = BatchDecoder::new(LIMIT);
        let mut decoder = if limited { decoder.with_cost_limit() } else { decoder };
        decoder.push(stream[0].clone()).unwrap();
        let error = (0..100).find_map(|_| decoder.push(stream[1].clone()).err());
        assert_eq!(error.is_some(), refused, "{error:?}");
    }
}

/// A check of UTF-8 alone would take minutes.
#[test]
fn views_that_share_long_values_are_refused() {
    let (length, text) = (1 << 20, Buffer::from(vec![b'x'; 1 << 20]));
    let shared = |rows: usize| {
        let views = vec![ByteView::new(length, b"xxxx").as_u128(); rows];
        one_column(Arc::new(BinaryViewArray::new(views.into(), vec![text.clone()], None)))
    };
    for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        for (max_decompressed, max_reserved) in [(None, 0), (Some(0), 0), (Some(LIMIT), 0), (Some(LIMIT), 9)] {
            for (rows, is_refused) in [(40, false), (100_000, true)] {
                let batch = shared(rows);
                let stream = messages(std::slice::from_ref(&batch), codec);
                let decoder = BatchDecoder::new(LIMIT).with_cost_limit();
                let storage = Arc::new(MemoryStorage { max_reserved, ..MemoryStorage::default() });
                let mut decoder = match max_decompressed {
                    Some(max) => decoder.with_spool(storage, max),
                    None => decoder,
                };
                decoder.push(stream[0].clone()).unwrap();
                match decoder.push(stream[1].clone()) {
                    Ok(DecodedMessage::Batch(decoded)) => assert!(!is_refused && decoded == batch, "{rows} {codec:?}"),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        assert!(is_refused && error.code == Code::ResourceExhausted, "{rows} {codec:?}: {error}");
                        assert!(error.message.contains("as a dictionary"), "{error}");
                    }
                }
            }
        }
    }
}

fn words(words: &[&str], keys: Vec<i8>) -> RecordBatch {
    let values = Arc::new(StringArray::from(words.to_vec()));
    one_column(Arc::new(arrow::array::DictionaryArray::new(arrow::array::Int8Array::from(keys), values)))
}

/// A schema, a dictionary and its batch; then a delta and a batch for each further one.
fn with_deltas(batches: &[RecordBatch]) -> Vec<FlightData> {
    let stream = encoded(batches, &IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta));
    assert_eq!(stream.len(), 1 + 2 * batches.len());
    stream
}

#[test]
fn deltas_are_joined_once_at_the_next_batch() {
    let batches = [words(&["a"], vec![0]), words(&["a", "b"], vec![1, 0]), words(&["a", "b", "c"], vec![2, 1, 0])];
    let mut stream = with_deltas(&batches);
    assert_eq!(decode(&stream).unwrap(), batches);
    let last = stream.pop().unwrap();
    stream.remove(4);
    for spooled in [false, true] {
        let decoder = BatchDecoder::new(LIMIT);
        let mut decoder = if spooled { decoder.with_spool(Arc::<MemoryStorage>::default(), 0) } else { decoder };
        stream.iter().for_each(|message| drop(decoder.push(message.clone()).unwrap()));
        assert_eq!(decoder.deltas.len(), 2);
        let DecodedMessage::Batch(batch) = decoder.push(last.clone()).unwrap() else { panic!("no batch") };
        assert_eq!((batch, decoder.deltas.len()), (batches[2].clone(), 0));
    }
    // A replacement ends what came before it.
    let other = words(&["x", "y"], vec![1]);
    stream.extend_from_slice(&messages(std::slice::from_ref(&other), None)[1..]);
    assert_eq!(decode(&stream).unwrap(), [batches[0].clone(), other]);
}

#[test]
fn delta_of_a_large_dictionary_is_refused() {
    let text = "x".repeat(MAX_EXTENDED_DICTIONARY);
    let stream = with_deltas(&[words(&[&text], vec![0]), words(&[&text, "y"], vec![0, 1])]);
    let mut decoder = BatchDecoder::new(4 * LIMIT).with_cost_limit();
    stream[..3].iter().for_each(|message| drop(decoder.push(message.clone()).unwrap()));
    let error = decoder.push(stream[3].clone()).unwrap_err();
    assert!(error.code == Code::ResourceExhausted && error.message.contains("send it whole"), "{error}");
}

#[test]
fn dictionaries_can_be_replaced_and_extended() {
    let batches = [words(&["a"], vec![0, 0]), words(&["x", "y"], vec![1, 0])];
    let stream = messages(&batches, None);
    assert_eq!(stream.len(), 5);
    let back = decode(&stream).unwrap();
    assert_eq!(back, batches);
    assert_eq!(back[1].column(0).as_any_dictionary().values().as_string::<i32>().value(1), "y");
}

#[test]
fn too_many_rows_without_data_are_rejected() {
    let batch = test_data::batch_of(&mut test_data::rng(6), &[DataType::Null], (1 << 24) + 1);
    let error = decode(&messages(&[batch], None)).unwrap_err();
    assert!(error.message.contains("rows"), "{error}");
}
