//! Values of every type through a handle's stream, and streams that are not what they must be.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RunArray};
use arrow::datatypes::{DataType, Field, Int32Type};
use proptest::prelude::*;
use volley_common::Code;

use super::*;

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let columns = columns.into_iter().enumerate().map(|(at, column)| (format!("p{at}"), column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn integers(rows: i64) -> RecordBatch {
    batch(vec![Arc::new(Int64Array::from_iter_values(0..rows))])
}

fn values_of(stream: &[u8]) -> Result<Vec<ScalarValue>> {
    match parameters(stream)? {
        ParamValues::List(values) => Ok(values.into_iter().map(|value| value.value).collect()),
        ParamValues::Map(_) => panic!("values have names"),
    }
}

/// What comes out of a stream that these values were put into.
fn bound(values: &[ScalarValue]) -> Vec<ScalarValue> {
    let row = batch(values.iter().map(|value| value.to_array().unwrap()).collect());
    values_of(&encode_parameters(&[row]).unwrap()).unwrap()
}

fn every_type() -> Vec<ScalarValue> {
    let (text, bytes) = (Some("ü'x".to_string()), Some(vec![0, 255]));
    let numbers = [
        ScalarValue::Null,
        ScalarValue::Boolean(Some(true)),
        ScalarValue::Int8(Some(-1)),
        ScalarValue::Int16(Some(-2)),
        ScalarValue::Int32(Some(-3)),
        ScalarValue::Int64(Some(i64::MIN)),
        ScalarValue::UInt8(Some(1)),
        ScalarValue::UInt16(Some(2)),
        ScalarValue::UInt32(Some(3)),
        ScalarValue::UInt64(Some(u64::MAX)),
        ScalarValue::Float32(Some(0.5)),
        ScalarValue::Float64(Some(-0.25)),
        ScalarValue::Decimal128(Some(12_345), 10, 2),
    ];
    let texts = [
        ScalarValue::Utf8(text.clone()),
        ScalarValue::LargeUtf8(text.clone()),
        ScalarValue::Utf8View(text),
        ScalarValue::Binary(bytes.clone()),
        ScalarValue::LargeBinary(bytes.clone()),
        ScalarValue::BinaryView(bytes.clone()),
        ScalarValue::FixedSizeBinary(2, bytes),
    ];
    let times = [
        ScalarValue::Date32(Some(-1)),
        ScalarValue::Date64(Some(86_400_000)),
        ScalarValue::Time32Second(Some(1)),
        ScalarValue::Time32Millisecond(Some(2)),
        ScalarValue::Time64Microsecond(Some(3)),
        ScalarValue::Time64Nanosecond(Some(4)),
        ScalarValue::TimestampSecond(Some(5), None),
        ScalarValue::TimestampMillisecond(Some(6), None),
        ScalarValue::TimestampMicrosecond(Some(7), Some("UTC".into())),
        ScalarValue::TimestampNanosecond(Some(8), Some("+01:00".into())),
        ScalarValue::IntervalYearMonth(Some(9)),
        ScalarValue::DurationSecond(Some(10)),
        ScalarValue::DurationNanosecond(Some(11)),
    ];
    let list =
        ScalarValue::new_list_nullable(&[ScalarValue::Int32(Some(1)), ScalarValue::Int32(None)], &DataType::Int32);
    numbers.into_iter().chain(texts).chain(times).chain([ScalarValue::List(list)]).collect()
}

#[test]
fn values_of_every_type_come_out_as_they_went_in() {
    assert_eq!(bound(&every_type()), every_type());
}

#[test]
fn nulls_of_every_type_come_out_with_their_type() {
    let nulls: Vec<ScalarValue> =
        every_type().iter().map(|value| ScalarValue::try_from(&value.data_type()).unwrap()).collect();
    let received = bound(&nulls);
    assert_eq!(received, nulls);
    assert!(received.iter().all(ScalarValue::is_null));
}

#[test]
fn dictionaries_and_runs_are_their_values() {
    let of_dictionary = |text: Option<&str>| {
        let value = ScalarValue::Utf8(text.map(Into::into));
        bound(&[ScalarValue::Dictionary(Box::new(DataType::Int32), Box::new(value))])
    };
    assert_eq!(of_dictionary(Some("a")), [ScalarValue::Utf8(Some("a".into()))]);
    assert_eq!(of_dictionary(None), [ScalarValue::Utf8(None)]);
    let run: RunArray<Int32Type> = RunArray::try_new(&Int32Array::from(vec![1]), &Int64Array::from(vec![7])).unwrap();
    let stream = encode_parameters(&[batch(vec![Arc::new(run)])]).unwrap();
    assert_eq!(values_of(&stream).unwrap(), [ScalarValue::Int64(Some(7))]);
}

#[test]
fn exactly_one_row_can_be_bound() {
    let code = |batches: &[RecordBatch]| encode_parameters(batches).map(|_| ()).map_err(|error| error.code);
    assert_eq!(code(&[integers(1)]), Ok(()));
    assert_eq!(code(&[integers(0), integers(1), integers(0)]), Ok(()));
    assert_eq!(code(&[]), Err(Code::InvalidArgument));
    assert_eq!(code(&[integers(0)]), Err(Code::InvalidArgument));
    assert_eq!(code(&[integers(2)]), Err(Code::Unimplemented));
    assert_eq!(code(&[integers(1), integers(1)]), Err(Code::Unimplemented));
    let error = encode_parameters(&[integers(2)]).unwrap_err();
    assert!(error.message.contains("2 rows") && error.message.contains("ingest"), "{error}");
}

/// A stream as a client could make it.
fn stream_of(batches: &[RecordBatch]) -> Vec<u8> {
    let schema = integers(0).schema();
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn stream_of_none_or_several_rows_is_refused() {
    let code = |batches: &[RecordBatch]| values_of(&stream_of(batches)).map_err(|error| error.code);
    assert_eq!(code(&[integers(0), integers(1), integers(0)]), Ok(vec![ScalarValue::Int64(Some(0))]));
    assert_eq!(code(&[]), Err(Code::InvalidArgument));
    assert_eq!(code(&[integers(0)]), Err(Code::InvalidArgument));
    assert_eq!(code(&[integers(3)]), Err(Code::Unimplemented));
    assert_eq!(code(&[integers(1), integers(1)]), Err(Code::Unimplemented));
}

#[test]
fn truncated_stream_is_refused_unless_only_its_end_is_missing() {
    let stream = stream_of(&[integers(1)]);
    // The end is a message of no bytes.
    let complete = stream.len() - 8;
    for length in 0..stream.len() {
        let received = values_of(&stream[..length]);
        // Four bytes of the end are a beginning like any other.
        if length == complete || length == complete + 4 {
            assert_eq!(received.unwrap(), [ScalarValue::Int64(Some(0))]);
        } else {
            assert_eq!(received.unwrap_err().code, Code::InvalidArgument, "{length} of {}", stream.len());
        }
    }
}

#[test]
fn row_of_a_large_batch_makes_a_small_stream() {
    let stream = encode_parameters(&[integers(1 << 17).slice(5, 1)]).unwrap();
    assert!(stream.len() < 2000, "{}", stream.len());
    assert_eq!(values_of(&stream).unwrap(), [ScalarValue::Int64(Some(5))]);
}

#[test]
fn too_large_stream_is_refused() {
    let error = parameters(&vec![0; MAX_PARAMETER_BYTES + 1]).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("limit"), "{error}");
}

#[test]
fn value_of_some_mebibytes_is_accepted() {
    let value = ScalarValue::Binary(Some(vec![7; 3 << 20]));
    assert!(bound(std::slice::from_ref(&value)) == [value]);
}

#[test]
fn two_schemas_are_refused() {
    let stream = stream_of(&[integers(1)]);
    let twice = [&stream[..stream.len() - 8], &stream[..]].concat();
    assert_eq!(values_of(&twice).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn names_and_metadata_of_columns_mean_nothing() {
    let field = Field::new("$9", DataType::Int64, false).with_metadata([("k".to_string(), "v".to_string())].into());
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
    let row = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![4]))]).unwrap();
    assert_eq!(values_of(&encode_parameters(&[row]).unwrap()).unwrap(), [ScalarValue::Int64(Some(4))]);
}

proptest! {
    #[test]
    fn altered_streams_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let row = batch(every_type().iter().map(|value| value.to_array().unwrap()).collect());
        let mut stream = encode_parameters(&[row]).unwrap().to_vec();
        let at = at.index(stream.len());
        stream[at] = byte;
        let _ = parameters(&stream);
    }

    #[test]
    fn random_streams_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parameters(&bytes);
    }
}
