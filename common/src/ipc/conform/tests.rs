#![allow(clippy::unwrap_used)]
//! Every pair of types is either refused, or its values come back unchanged.

use std::collections::HashMap;

use arrow::array::*;
use arrow::compute::{can_cast_types, cast, take};
use arrow::datatypes::*;

use super::super::widen::holds;
use super::*;
use crate::ipc::schema::check_appendable;
use crate::ipc::test_data;

fn schema(data_type: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("c", data_type, true)]))
}

fn widened(array: ArrayRef, to: DataType) -> crate::Result<ArrayRef> {
    let batch = RecordBatch::try_new(schema(array.data_type().clone()), vec![array]).unwrap();
    conform(&batch, &schema(to)).map(|batch| batch.column(0).clone())
}

fn refused(array: ArrayRef, to: DataType) -> String {
    widened(array, to).unwrap_err().message
}

/// The least, the greatest and some other values of integers.
fn extremes() -> Vec<ArrayRef> {
    vec![
        Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        Arc::new(UInt8Array::from(vec![Some(0), None, Some(u8::MAX)])),
        Arc::new(UInt16Array::from(vec![Some(0), None, Some(u16::MAX)])),
        Arc::new(UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])),
        Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)])),
    ]
}

fn numbers() -> Vec<DataType> {
    use DataType::*;
    let mut types: Vec<DataType> = extremes().iter().map(|array| array.data_type().clone()).collect();
    types.extend([Float16, Float32, Float64, Decimal32(9, 0), Decimal64(18, 2), Decimal128(20, 0)]);
    types.extend([Decimal128(38, 18), Decimal256(76, 0)]);
    types
}

#[test]
fn integers_widen_exactly_or_are_refused() {
    let mut held = 0;
    for array in extremes() {
        for to in numbers() {
            match widened(array.clone(), to.clone()) {
                Ok(wide) => {
                    assert_eq!(&cast(&wide, array.data_type()).unwrap(), &array, "{} to {to}", array.data_type());
                    held += 1;
                }
                Err(e) => assert!(e.message.contains("field \"c\" has type"), "{e}"),
            }
        }
    }
    // 8 to themselves, 18 to wider integers, 14 to floats, 32 to decimals.
    assert_eq!(held, 8 + 18 + 14 + 32);
}

#[test]
fn every_allowed_pair_of_types_keeps_its_values() {
    let (mut rng, types) = (test_data::rng(5), test_data::types());
    let mut pairs = 0;
    for from in &types {
        let array = test_data::array(&mut rng, from, 20);
        for to in types
            .iter()
            .filter(|to| *to != from && check_appendable(&schema((*to).clone()), &schema(from.clone())).is_ok())
        {
            let wide = widened(array.clone(), to.clone()).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
            assert_eq!(wide.data_type(), to);
            assert_eq!(wide.logical_null_count(), array.logical_null_count(), "{from} to {to}");
            let encoded = matches!(from, DataType::Dictionary(_, _) | DataType::RunEndEncoded(_, _));
            let plain = !encoded && *from != DataType::Null && !from.is_nested();
            if plain && can_cast_types(to, from) {
                assert_eq!(&cast(&wide, from).unwrap(), &array, "{from} to {to}");
            }
            pairs += 1;
        }
    }
    assert!(pairs > 300, "{pairs}");
}

#[test]
fn finer_units_are_checked_for_overflow() {
    use DataType::*;
    use TimeUnit::*;
    let far: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(253_402_300_799_000_000), None]));
    assert!(refused(far.clone(), Timestamp(Nanosecond, None)).contains("\"c\""));
    let near: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(-7), None]));
    let wide = widened(near, Timestamp(Nanosecond, None)).unwrap();
    assert_eq!(wide.as_primitive::<TimestampNanosecondType>().value(0), -7_000_000_000);
    assert!(refused(far.clone(), Timestamp(Second, None)).contains("has type"));
    assert!(refused(far, Timestamp(Microsecond, Some("UTC".into()))).contains("has type"));
    let last_day: ArrayRef = Arc::new(Date32Array::from(vec![Some(i32::MAX), None]));
    assert!(refused(last_day, Timestamp(Microsecond, None)).contains("\"c\""));
    let day: ArrayRef = Arc::new(Date32Array::from(vec![Some(90_000_000), None]));
    let wide = widened(day, Timestamp(Millisecond, None)).unwrap();
    assert_eq!(wide.as_primitive::<TimestampMillisecondType>().value(0), 90_000_000 * 86_400_000);
    let times: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![Some(i64::MAX / 10), None]));
    assert!(refused(times.clone(), Time64(Nanosecond)).contains("\"c\""));
    // The same within a list of another layout, and in a dictionary.
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([2]);
    let list: ArrayRef = Arc::new(ListArray::new(item(Time64(Microsecond)), offsets, times.clone(), None));
    assert!(refused(list, LargeList(item(Time64(Nanosecond)))).contains("\"item\""));
    let words: ArrayRef = Arc::new(DictionaryArray::<Int8Type>::new(Int8Array::from(vec![0, 1]), times));
    assert!(refused(words, Time64(Nanosecond)).contains("\"c\""));
}

#[test]
fn types_that_would_change_values_are_refused() {
    use DataType::*;
    for (wide, narrow) in [
        (Float32, Int32),
        (Float64, Int64),
        (Int64, UInt64),
        (UInt64, Int8),
        (Float32, Float64),
        (Utf8, Binary),
        (Binary, Utf8),
        (Boolean, Int8),
        (Int8, Boolean),
        (Decimal128(10, 2), Decimal128(10, 3)),
        (Decimal128(10, 4), Decimal128(10, 2)),
        (Decimal128(19, 0), UInt64),
        (Utf8, Int8),
        (Dictionary(Box::new(Int32), Box::new(Utf8)), Utf8),
        (Dictionary(Box::new(Int8), Box::new(Utf8)), Dictionary(Box::new(Int32), Box::new(Utf8))),
        (Timestamp(TimeUnit::Nanosecond, Some("Europe/Paris".into())), Timestamp(TimeUnit::Nanosecond, None)),
        (FixedSizeBinary(3), FixedSizeBinary(2)),
    ] {
        assert!(!holds(&wide, &narrow), "{narrow} to {wide}");
    }
}

#[test]
fn table_that_is_not_nullable_refuses_nulls() {
    let table = Schema::new(vec![Field::new("c", DataType::Int64, false)]);
    assert!(check_appendable(&table, &schema(DataType::Null)).unwrap_err().message.contains("nullability"));
}

/// The field without metadata, at any depth.
fn without_metadata(field: &Field) -> Field {
    let child = |field: &Field| Arc::new(without_metadata(field));
    let data_type = match field.data_type() {
        DataType::List(f) => DataType::List(child(f)),
        DataType::ListView(f) => DataType::ListView(child(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(child(f), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| without_metadata(f)).collect()),
        other => other.clone(),
    };
    field.clone().with_data_type(data_type).with_metadata(HashMap::new())
}

#[test]
fn conform_replaces_metadata_at_every_depth_but_no_types() {
    let batch = test_data::batch(&mut test_data::rng(1), 40);
    let fields: Vec<Field> = batch.schema().fields().iter().map(|f| without_metadata(f)).collect();
    let table = Arc::new(Schema::new(fields));
    let conformed = conform(&batch, &table).unwrap();
    assert_eq!(conformed.schema(), table);
    assert_eq!(conform(&conformed, &batch.schema()).unwrap(), batch);
    let other = ["c0", "c1"].map(|name| Field::new(name, DataType::Int8, true));
    let error = conform(&batch, &Arc::new(Schema::new(other.to_vec()))).unwrap_err();
    assert!(error.message.contains("c1"), "{error}");
}

#[test]
fn conform_widens_only_the_children_that_differ() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("kept"), None]));
    let fields = |n| vec![Arc::new(Field::new("n", n, true)), Arc::new(Field::new("t", DataType::Utf8, true))];
    let narrow = StructArray::new(
        fields(DataType::Int32).into(),
        vec![Arc::new(Int32Array::from(vec![Some(-1), None])), texts.clone()],
        None,
    );
    let batch = RecordBatch::try_from_iter([("s", Arc::new(narrow) as ArrayRef)]).unwrap();
    let table = Schema::new(vec![Field::new("s", DataType::Struct(fields(DataType::Int64).into()), true)]);
    let wide = conform(&batch, &Arc::new(table)).unwrap();
    let wide = wide.column(0).as_struct();
    assert_eq!(wide.column(0).as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(-1), None]));
    let buffer = |array: &ArrayRef| array.to_data().buffers()[1].as_ptr();
    assert_eq!(buffer(wide.column(1)), buffer(&texts), "equal children are not copied");
}

/// `rows` views of one value.
fn shared_views(value: &str, rows: usize) -> ArrayRef {
    // A builder would check the whole text again for each row, which takes a minute for a million.
    let one: ArrayRef = Arc::new(StringViewArray::from(vec![value]));
    take(&one, &UInt32Array::from_value(0, rows), None).unwrap()
}

/// `rows` rows of the only value.
fn shared_word<K: ArrowDictionaryKeyType>(values: ArrayRef, rows: usize) -> ArrayRef {
    let keys = PrimitiveArray::<K>::from_value(K::default_value(), rows);
    Arc::new(DictionaryArray::<K>::new(keys, values))
}

#[test]
fn widening_that_repeats_shared_values_is_refused() {
    use DataType::*;
    let text = "x".repeat(1 << 20);
    let large: ArrayRef = Arc::new(LargeStringArray::from(vec![text.as_str()]));
    let views = shared_views(&text, 1_000_000);
    let item = Arc::new(Field::new("item", Int8, true));
    let bytes: ArrayRef = Arc::new(Int8Array::from(vec![0; 1 << 20]));
    let (starts, sizes) = (vec![0i32; 1_000_000], vec![1i32 << 20; 1_000_000]);
    let lists: ArrayRef = Arc::new(ListViewArray::new(item.clone(), starts.into(), sizes.into(), bytes, None));
    let dictionary = |keys, values| Dictionary(Box::new(keys), Box::new(values));
    for (array, to) in [
        (views.clone(), Utf8),
        (views.clone(), LargeUtf8),
        (shared_word::<Int32Type>(large.clone(), 1_000_000), LargeUtf8),
        (shared_word::<Int8Type>(views.clone(), 1), dictionary(Int16, Utf8)),
        (shared_word::<Int8Type>(views, 1), dictionary(Int8, Utf8)),
        (lists.clone(), List(item.clone())),
        (lists, LargeList(item)),
        (Arc::new(NullArray::new(1 << 20)), FixedSizeBinary(1 << 20)),
    ] {
        let from = array.data_type().clone();
        let error = widened(array, to.clone()).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{from} to {to}: {error}");
        assert!(error.message.contains("field \"c\"") && error.message.contains("fewer rows"), "{error}");
    }
    // The same types with few rows.
    assert_eq!(widened(shared_views(&text, 3), Utf8).unwrap().len(), 3);
    assert_eq!(widened(shared_word::<Int32Type>(large, 60), LargeUtf8).unwrap().len(), 60);
    assert_eq!(widened(Arc::new(NullArray::new(1 << 20)), Int64).unwrap().null_count(), 1 << 20);
}

#[test]
fn conform_split_keeps_all_rows_and_their_order() {
    let texts: Vec<String> = ["a", "b"].iter().map(|text| text.repeat(1 << 20)).collect();
    let keys = Int8Array::from_iter_values((0..200).map(|row| i8::from(row >= 50)));
    let words: ArrayRef = Arc::new(DictionaryArray::<Int8Type>::new(keys, Arc::new(StringArray::from(texts))));
    let batch = RecordBatch::try_from_iter([("c", words)]).unwrap();
    let (mut rows, mut batches) = (0, 0);
    for batch in conform_split(&batch, &schema(DataType::Utf8)) {
        let batch = batch.unwrap();
        for text in batch.column(0).as_string::<i32>().iter().flatten() {
            assert_eq!(&text[..1], if rows < 50 { "a" } else { "b" });
            rows += 1;
        }
        batches += 1;
    }
    assert_eq!((rows, batches > 1), (200, true));
}
