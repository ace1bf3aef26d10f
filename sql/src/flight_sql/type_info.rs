//! The reply to GetXdbcTypeInfo: the types that a column can be created with, or a value cast to.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};
use volley_common::{Error, Result};

/// Most digits of a decimal number.
const DECIMAL_DIGITS: i32 = 76;

/// The schema of [`batch`].
pub(super) fn schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

/// The types with this number, or all.
pub(super) fn batch(data_type: Option<i32>) -> Result<RecordBatch> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    integers().into_iter().chain(fractions()).chain(texts()).chain(times()).for_each(|info| builder.append(info));
    builder
        .build()
        .and_then(|types| types.record_batch(data_type))
        .map_err(|e| Error::internal(format!("the reply of GetXdbcTypeInfo cannot be built: {e}")))
}

fn type_named(name: &str, data_type: XdbcDataType) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.into(),
        data_type,
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        auto_increment: Some(false),
        local_type_name: Some(name.into()),
        sql_data_type: data_type,
        ..XdbcTypeInfo::default()
    }
}

fn integers() -> Vec<XdbcTypeInfo> {
    let integer = |name, data_type, digits| XdbcTypeInfo {
        column_size: Some(digits),
        unsigned_attribute: Some(false),
        fixed_prec_scale: true,
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..type_named(name, data_type)
    };
    vec![
        XdbcTypeInfo { column_size: Some(1), ..type_named("BOOLEAN", XdbcDataType::XdbcBit) },
        integer("TINYINT", XdbcDataType::XdbcTinyint, 3),
        integer("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        integer("INTEGER", XdbcDataType::XdbcInteger, 10),
        integer("BIGINT", XdbcDataType::XdbcBigint, 19),
    ]
}

fn fractions() -> Vec<XdbcTypeInfo> {
    let float = |name, data_type, bits| XdbcTypeInfo {
        column_size: Some(bits),
        unsigned_attribute: Some(false),
        num_prec_radix: Some(2),
        ..type_named(name, data_type)
    };
    let decimal = XdbcTypeInfo {
        column_size: Some(DECIMAL_DIGITS),
        create_params: Some(vec!["precision".into(), "scale".into()]),
        unsigned_attribute: Some(false),
        minimum_scale: Some(0),
        maximum_scale: Some(DECIMAL_DIGITS),
        num_prec_radix: Some(10),
        ..type_named("DECIMAL", XdbcDataType::XdbcDecimal)
    };
    vec![float("REAL", XdbcDataType::XdbcReal, 24), float("DOUBLE", XdbcDataType::XdbcDouble, 53), decimal]
}

fn texts() -> Vec<XdbcTypeInfo> {
    let quoted = |name, data_type, prefix: &str| XdbcTypeInfo {
        column_size: Some(i32::MAX),
        literal_prefix: Some(prefix.into()),
        literal_suffix: Some("'".into()),
        ..type_named(name, data_type)
    };
    vec![
        XdbcTypeInfo { case_sensitive: true, ..quoted("VARCHAR", XdbcDataType::XdbcVarchar, "'") },
        quoted("BYTEA", XdbcDataType::XdbcVarbinary, "X'"),
    ]
}

/// Dates and times. Their sizes are the characters of `2026-01-31`, `23:59:59.123456789` and of both with a space.
fn times() -> Vec<XdbcTypeInfo> {
    let time = |name: &str, data_type, size, digits, subcode| XdbcTypeInfo {
        column_size: Some(size),
        literal_prefix: Some(format!("{name} '")),
        literal_suffix: Some("'".into()),
        minimum_scale: Some(0),
        maximum_scale: Some(digits),
        sql_data_type: XdbcDataType::XdbcDatetime,
        datetime_subcode: Some(subcode),
        ..type_named(name, data_type)
    };
    vec![
        // In ODBC this number is the subcode of a date.
        time("DATE", XdbcDataType::XdbcDate, 10, 0, XdbcDatetimeSubcode::XdbcSubcodeYear),
        time("TIME", XdbcDataType::XdbcTime, 18, 9, XdbcDatetimeSubcode::XdbcSubcodeTime),
        time("TIMESTAMP", XdbcDataType::XdbcTimestamp, 29, 9, XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int32Type;

    use super::*;

    fn names(data_type: Option<i32>) -> Vec<String> {
        let batch = batch(data_type).unwrap();
        assert_eq!(batch.schema(), schema());
        batch.column(0).as_string::<i32>().iter().map(|name| name.unwrap().to_string()).collect()
    }

    #[test]
    fn types_are_listed_in_the_order_of_their_numbers() {
        let all = batch(None).unwrap();
        assert!(all.column(1).as_primitive::<Int32Type>().values().is_sorted());
        assert_eq!(names(None).len(), 13);
        assert!(names(None).contains(&"VARCHAR".to_string()));
    }

    #[test]
    fn one_type_is_selected_by_its_number() {
        assert_eq!(names(Some(XdbcDataType::XdbcBigint as i32)), ["BIGINT"]);
        assert_eq!(names(Some(XdbcDataType::XdbcDecimal as i32)), ["DECIMAL"]);
        assert_eq!(names(Some(12345)), Vec::<String>::new());
    }
}
