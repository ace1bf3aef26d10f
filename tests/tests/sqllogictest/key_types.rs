//! Types by which tables can be sharded and joined, and columns of these types with the same keys.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};

/// A type of keys.
pub struct KeyType {
    /// Its part in names of tables.
    pub name: &'static str,
    /// The type.
    pub data_type: DataType,
}

/// All types.
pub fn key_types() -> Vec<KeyType> {
    use DataType::*;
    let dictionary = Dictionary(Box::new(Int32), Box::new(Utf8));
    let utc = Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    [
        ("int8", Int8),
        ("int32", Int32),
        ("int64", Int64),
        ("uint16", UInt16),
        ("uint64", UInt64),
        ("float32", Float32),
        ("float64", Float64),
        ("decimal", Decimal128(20, 2)),
        ("fine_decimal", Decimal128(30, 6)),
        ("large_decimal", Decimal256(50, 3)),
        ("boolean", Boolean),
        ("utf8", Utf8),
        ("large_utf8", LargeUtf8),
        ("utf8_view", Utf8View),
        ("dictionary", dictionary),
        ("binary", Binary),
        ("large_binary", LargeBinary),
        ("date", Date32),
        ("time", Time64(TimeUnit::Microsecond)),
        ("timestamp_s", Timestamp(TimeUnit::Second, None)),
        ("timestamp_ns", Timestamp(TimeUnit::Nanosecond, None)),
        ("timestamp_utc", utc),
        ("duration", Duration(TimeUnit::Millisecond)),
    ]
    .map(|(name, data_type)| KeyType { name, data_type })
    .into()
}

/// Types, by name, whose keys are equal although their types differ.
pub const EQUAL_KEYS: [(&str, &str); 11] = [
    ("int8", "int64"),
    ("int32", "uint16"),
    ("int64", "uint64"),
    ("int64", "float64"),
    ("int32", "decimal"),
    ("float32", "float64"),
    ("decimal", "fine_decimal"),
    ("utf8", "large_utf8"),
    ("utf8_view", "utf8"),
    ("dictionary", "utf8"),
    ("timestamp_s", "timestamp_ns"),
];

/// The keys as a column of this type. Of floats, key 5 is NaN and key 6 is infinite; of booleans there are two keys.
pub fn key_column(data_type: &DataType, keys: &[Option<i64>]) -> ArrayRef {
    let number = |key: i64| match key {
        5 => f64::NAN,
        6 => f64::INFINITY,
        key => key as f64,
    };
    let first: ArrayRef = match data_type {
        DataType::Float32 | DataType::Float64 => {
            Arc::new(keys.iter().map(|key| key.map(number)).collect::<Float64Array>())
        }
        DataType::Boolean => Arc::new(keys.iter().map(|key| key.map(|key| key % 2)).collect::<Int64Array>()),
        _ => Arc::new(Int64Array::from(keys.to_vec())),
    };
    // Not all types are cast from numbers; and a key is as many seconds in each unit.
    let between = match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::Dictionary(..) => Some(DataType::Utf8),
        DataType::Timestamp(..) => Some(DataType::Timestamp(TimeUnit::Second, None)),
        _ => None,
    };
    let column = match between {
        Some(between) => cast(&first, &between).unwrap(),
        None => first,
    };
    cast(&column, data_type).unwrap()
}
