//! Random batches of every Arrow type, for tests.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A random generator with this seed.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn nulls(rng: &mut StdRng, rows: usize) -> Option<NullBuffer> {
    (rng.random_range(0..3) > 0).then(|| NullBuffer::from_iter((0..rows).map(|_| rng.random_range(0..4) > 0)))
}

fn fixed<T: ArrowPrimitiveType>(
    rng: &mut StdRng,
    rows: usize,
    data_type: DataType,
    make: impl Fn(&mut StdRng) -> T::Native,
) -> ArrayRef {
    let values: ScalarBuffer<T::Native> = (0..rows).map(|_| make(rng)).collect();
    let nulls = nulls(rng, rows);
    Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(data_type))
}

fn word(rng: &mut StdRng) -> String {
    let length = *[0, 3, 11, 12, 13, 40].get(rng.random_range(0..6usize)).unwrap();
    (0..length).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

fn words(rng: &mut StdRng, rows: usize) -> Vec<Option<String>> {
    (0..rows).map(|_| (rng.random_range(0..5) > 0).then(|| word(rng))).collect()
}

fn with_note(field: Field) -> Field {
    field.with_metadata(HashMap::from([("note".to_string(), "kept".to_string())]))
}

/// Random rows of a type.
pub fn array(rng: &mut StdRng, data_type: &DataType, rows: usize) -> ArrayRef {
    use DataType::*;
    let own = data_type.clone();
    match data_type {
        Null => Arc::new(NullArray::new(rows)),
        Boolean => {
            let values: Vec<_> = (0..rows).map(|_| rng.random_bool(0.8).then_some(rng.random_bool(0.5))).collect();
            Arc::new(BooleanArray::from(values))
        }
        Int8 => fixed::<Int8Type>(rng, rows, own, |r| r.random()),
        Int16 => fixed::<Int16Type>(rng, rows, own, |r| r.random()),
        Int32 => fixed::<Int32Type>(rng, rows, own, |r| r.random()),
        Int64 => fixed::<Int64Type>(rng, rows, own, |r| r.random()),
        UInt8 => fixed::<UInt8Type>(rng, rows, own, |r| r.random()),
        UInt16 => fixed::<UInt16Type>(rng, rows, own, |r| r.random()),
        UInt32 => fixed::<UInt32Type>(rng, rows, own, |r| r.random()),
        UInt64 => fixed::<UInt64Type>(rng, rows, own, |r| r.random()),
        Float32 => fixed::<Float32Type>(rng, rows, own, |r| r.random()),
        Float64 => fixed::<Float64Type>(rng, rows, own, |r| r.random()),
        Decimal32(_, _) => fixed::<Decimal32Type>(rng, rows, own, |r| r.random_range(-9999..9999)),
        Decimal64(_, _) => fixed::<Decimal64Type>(rng, rows, own, |r| r.random_range(-9999..9999)),
        Decimal128(_, _) => fixed::<Decimal128Type>(rng, rows, own, |r| r.random_range(-9999..9999)),
        Decimal256(_, _) => {
            fixed::<Decimal256Type>(rng, rows, own, |r| arrow::datatypes::i256::from_i128(r.random_range(-9999..9999)))
        }
        Utf8 => Arc::new(StringArray::from_iter(words(rng, rows))),
        LargeUtf8 => Arc::new(LargeStringArray::from_iter(words(rng, rows))),
        Utf8View => Arc::new(StringViewArray::from_iter(words(rng, rows))),
        Binary => Arc::new(BinaryArray::from_iter(words(rng, rows).into_iter().map(|w| w.map(String::into_bytes)))),
        LargeBinary => {
            Arc::new(LargeBinaryArray::from_iter(words(rng, rows).into_iter().map(|w| w.map(String::into_bytes))))
        }
        BinaryView => {
            Arc::new(BinaryViewArray::from_iter(words(rng, rows).into_iter().map(|w| w.map(String::into_bytes))))
        }
        FixedSizeBinary(width) => {
            let values: Vec<u8> = (0..rows * *width as usize).map(|_| rng.random()).collect();
            Arc::new(FixedSizeBinaryArray::try_new_with_len(*width, values.into(), nulls(rng, rows), rows).unwrap())
        }
        Dictionary(keys, values) => dictionary(rng, keys, values, rows),
        Struct(fields) => {
            let columns = fields.iter().map(|f| array(rng, f.data_type(), rows)).collect::<Vec<_>>();
            match fields.is_empty() {
                true => Arc::new(StructArray::new_empty_fields(rows, nulls(rng, rows))),
                false => Arc::new(StructArray::new(fields.clone(), columns, nulls(rng, rows))),
            }
        }
        List(field) => {
            let (offsets, total) = offsets::<i32>(rng, rows);
            Arc::new(ListArray::new(field.clone(), offsets, array(rng, field.data_type(), total), nulls(rng, rows)))
        }
        LargeList(field) => {
            let (offsets, total) = offsets::<i64>(rng, rows);
            Arc::new(LargeListArray::new(
                field.clone(),
                offsets,
                array(rng, field.data_type(), total),
                nulls(rng, rows),
            ))
        }
        Map(field, sorted) => {
            let (offsets, total) = offsets::<i32>(rng, rows);
            let Struct(fields) = field.data_type() else { panic!("a map of structs") };
            let keys = Arc::new(StringArray::from_iter_values((0..total).map(|_| word(rng))));
            let entries = StructArray::new(fields.clone(), vec![keys, array(rng, fields[1].data_type(), total)], None);
            Arc::new(MapArray::new(field.clone(), offsets, entries, nulls(rng, rows), *sorted))
        }
        FixedSizeList(field, size) => {
            let values = array(rng, field.data_type(), rows * *size as usize);
            Arc::new(
                FixedSizeListArray::try_new_with_length(field.clone(), *size, values, nulls(rng, rows), rows).unwrap(),
            )
        }
        ListView(field) => list_view::<i32>(rng, field, rows),
        LargeListView(field) => list_view::<i64>(rng, field, rows),
        Union(fields, mode) => union(rng, fields, *mode, rows),
        RunEndEncoded(ends, values) => runs(rng, data_type, ends.data_type(), values.data_type(), rows),
        other => {
            // Times, dates, durations and intervals are stored as integers.
            let width = other.primitive_width().unwrap();
            let bytes: Vec<u8> = (0..rows * width).map(|at| if at % width < 2 { rng.random() } else { 0 }).collect();
            let data = ArrayData::builder(own).len(rows).add_buffer(bytes.into()).nulls(nulls(rng, rows));
            make_array(data.align_buffers(true).build().unwrap())
        }
    }
}

fn offsets<O: OffsetSizeTrait>(rng: &mut StdRng, rows: usize) -> (OffsetBuffer<O>, usize) {
    let lengths: Vec<usize> = (0..rows).map(|_| rng.random_range(0..4)).collect();
    let total = lengths.iter().sum();
    (OffsetBuffer::from_lengths(lengths), total)
}

fn list_view<O: OffsetSizeTrait>(rng: &mut StdRng, field: &FieldRef, rows: usize) -> ArrayRef {
    let total = rows * 2 + 4;
    let values = array(rng, field.data_type(), total);
    // Ranges in any order, overlapping, with gaps.
    let sizes: Vec<usize> = (0..rows).map(|_| rng.random_range(0..4)).collect();
    let offsets: ScalarBuffer<O> = sizes.iter().map(|size| O::usize_as(rng.random_range(0..=total - size))).collect();
    let sizes: ScalarBuffer<O> = sizes.iter().map(|size| O::usize_as(*size)).collect();
    Arc::new(GenericListViewArray::new(field.clone(), offsets, sizes, values, nulls(rng, rows)))
}

fn union(rng: &mut StdRng, fields: &UnionFields, mode: UnionMode, rows: usize) -> ArrayRef {
    let ids: Vec<i8> = fields.iter().map(|(id, _)| id).collect();
    let rows_ids: Vec<i8> = (0..rows).map(|_| ids[rng.random_range(0..ids.len())]).collect();
    let columns = fields.iter().map(|(_, f)| array(rng, f.data_type(), rows + 2)).collect::<Vec<_>>();
    let (offsets, columns) = match mode {
        UnionMode::Dense => (Some((0..rows).map(|_| rng.random_range(0..rows as i32 + 2)).collect()), columns),
        UnionMode::Sparse => (None, columns.iter().map(|c| c.slice(0, rows)).collect()),
    };
    Arc::new(UnionArray::try_new(fields.clone(), rows_ids.into(), offsets, columns).unwrap())
}

fn runs(rng: &mut StdRng, own: &DataType, ends: &DataType, values: &DataType, rows: usize) -> ArrayRef {
    let mut at = 0;
    let mut list = Vec::new();
    while at < rows {
        at = (at + rng.random_range(1..5)).min(rows);
        list.push(at as i64);
    }
    let values = array(rng, values, list.len());
    let list = arrow::compute::cast(&Int64Array::from(list), ends).unwrap();
    let data = ArrayData::builder(own.clone()).len(rows);
    make_array(data.add_child_data(list.to_data()).add_child_data(values.to_data()).build().unwrap())
}

fn dictionary(rng: &mut StdRng, keys: &DataType, values: &DataType, rows: usize) -> ArrayRef {
    let values = array(rng, values, 9);
    let list = Int32Array::from_iter((0..rows).map(|_| (rng.random_range(0..6) > 0).then(|| rng.random_range(0..9))));
    let list = arrow::compute::cast(&list, keys).unwrap().to_data();
    let data = list
        .into_builder()
        .data_type(DataType::Dictionary(Box::new(keys.clone()), Box::new(values.data_type().clone())));
    make_array(data.add_child_data(values.to_data()).build().unwrap())
}

fn item(data_type: DataType) -> FieldRef {
    Arc::new(with_note(Field::new("item", data_type, true)))
}

fn strings_dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))
}

fn union_of(mode: UnionMode) -> DataType {
    let fields = [
        with_note(Field::new("n", DataType::Int64, true)),
        Field::new("s", DataType::Utf8View, true),
        Field::new("d", strings_dictionary(), true),
    ];
    DataType::Union(UnionFields::try_new([3, 7, 100], fields).unwrap(), mode)
}

fn runs_of(values: DataType, ends: DataType) -> DataType {
    DataType::RunEndEncoded(Arc::new(Field::new("run_ends", ends, false)), Arc::new(Field::new("values", values, true)))
}

fn map_of(values: DataType) -> DataType {
    let fields = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", values, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields), false)), false)
}

/// Every arrow type, alone and nested.
pub fn types() -> Vec<DataType> {
    use DataType::*;
    let units = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let mut types = vec![
        Null,
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Utf8,
        LargeUtf8,
        Utf8View,
        Binary,
        LargeBinary,
        BinaryView,
        FixedSizeBinary(5),
        FixedSizeBinary(0),
        Date32,
        Date64,
        Time32(TimeUnit::Second),
        Time32(TimeUnit::Millisecond),
        Time64(TimeUnit::Microsecond),
        Time64(TimeUnit::Nanosecond),
        Interval(IntervalUnit::YearMonth),
        Interval(IntervalUnit::DayTime),
        Interval(IntervalUnit::MonthDayNano),
        Decimal32(7, 2),
        Decimal64(18, 4),
        Decimal128(30, 5),
        Decimal256(60, -3),
        Timestamp(TimeUnit::Second, Some("Europe/Berlin".into())),
    ];
    types.extend(units.iter().map(|unit| Timestamp(*unit, None)));
    types.extend(units.iter().map(|unit| Duration(*unit)));
    let inner = [
        Int32,
        Boolean,
        Null,
        Utf8View,
        strings_dictionary(),
        union_of(UnionMode::Dense),
        union_of(UnionMode::Sparse),
        runs_of(Utf8, Int32),
        ListView(item(Utf8View)),
        map_of(BinaryView),
        Struct(Fields::from(vec![Field::new("a", Utf8, true), Field::new("b", strings_dictionary(), true)])),
    ];
    for inner in inner {
        types.extend([
            List(item(inner.clone())),
            LargeList(item(inner.clone())),
            FixedSizeList(item(inner.clone()), 3),
        ]);
        types.extend([ListView(item(inner.clone())), LargeListView(item(inner.clone())), map_of(inner.clone())]);
        types.push(Struct(Fields::from(vec![
            with_note(Field::new("x", inner.clone(), true)),
            Field::new("y", Int8, true),
        ])));
        types.push(inner);
    }
    types.extend([
        Struct(Fields::empty()),
        runs_of(strings_dictionary(), Int16),
        runs_of(Utf8View, Int64),
        FixedSizeList(item(Int8), 0),
    ]);
    for empty in [FixedSizeBinary(0), FixedSizeList(item(Utf8), 0), Struct(Fields::empty())] {
        types.extend([
            List(item(empty.clone())),
            ListView(item(empty.clone())),
            FixedSizeList(item(empty.clone()), 3),
            Struct(Fields::from(vec![Field::new("x", empty.clone(), true)])),
            runs_of(empty.clone(), Int32),
            map_of(empty),
        ]);
    }
    let keys = [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64];
    types.extend(keys.into_iter().map(|key| Dictionary(Box::new(key), Box::new(LargeUtf8))));
    types.push(Dictionary(
        Box::new(Int16),
        Box::new(Struct(Fields::from(vec![Field::new("d", strings_dictionary(), true)]))),
    ));
    types.push(Dictionary(Box::new(Int16), Box::new(Utf8View)));
    types
}

/// A schema of these types, with metadata everywhere.
pub fn schema_of(types: &[DataType]) -> SchemaRef {
    let fields: Vec<_> =
        types.iter().enumerate().map(|(at, t)| with_note(Field::new(format!("c{at}"), t.clone(), true))).collect();
    Arc::new(Schema::new_with_metadata(fields, HashMap::from([("of".into(), "test data".into())])))
}

/// Random rows of every type.
pub fn batch(rng: &mut StdRng, rows: usize) -> RecordBatch {
    batch_of(rng, &types(), rows)
}

/// Random rows of these types.
pub fn batch_of(rng: &mut StdRng, types: &[DataType], rows: usize) -> RecordBatch {
    let columns = types.iter().map(|t| array(rng, t, rows)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema_of(types), columns, &options).unwrap()
}
