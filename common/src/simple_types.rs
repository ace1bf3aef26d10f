//! Arrow types by their common names, as users write them.

use arrow::datatypes::{DataType, TimeUnit};

/// The type without parameters that has this name, in letters of either case; `None`: no such type has it.
pub fn simple_type(name: &str) -> Option<DataType> {
    Some(match name.to_ascii_lowercase().as_str() {
        "bool" | "boolean" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" | "int" => DataType::Int32,
        "int64" | "long" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" | "halffloat" => DataType::Float16,
        "float32" | "float" => DataType::Float32,
        "float64" | "double" => DataType::Float64,
        "string" | "utf8" => DataType::Utf8,
        "large_string" | "large_utf8" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "large_binary" => DataType::LargeBinary,
        "date32" | "date" => DataType::Date32,
        "date64" => DataType::Date64,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_names_in_either_case() {
        assert_eq!(simple_type("Long"), Some(DataType::Int64));
        assert_eq!(simple_type("utf8"), Some(DataType::Utf8));
        for other in ["", "int64 ", "decimal(9, 2)", "List(Int64)"] {
            assert_eq!(simple_type(other), None, "{other:?}");
        }
    }
}
