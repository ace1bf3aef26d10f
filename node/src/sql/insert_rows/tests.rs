use arrow::array::{Float64Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, TimestampSecondType};
use volley_common::Code;

use super::*;

fn table(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

/// One column inserted into a table of one nullable column of this type.
fn insert(column: impl Array + 'static, to: DataType) -> Result<ArrayRef> {
    let schema = table(vec![Field::new("x", to, true)]);
    let given: ArrayRef = Arc::new(column);
    let batch = RecordBatch::try_from_iter_with_nullable([("anything", given, true)]).unwrap();
    let plan = InsertPlan::new(schema.clone(), None, 1)?;
    let rows = plan.conform(&batch)?;
    assert_eq!(rows.schema(), schema);
    Ok(rows.column(0).clone())
}

#[test]
fn columns_are_found_by_name_and_others_are_null() {
    let fields = ["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, name != "a"));
    let schema = table(fields.to_vec());
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let plan = InsertPlan::new(schema.clone(), Some(&names(&["c", "a"])), 2).unwrap();
    let column = |value| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("one", column(1)), ("two", column(2))]).unwrap();
    let rows = plan.conform(&batch).unwrap();
    let value = |at: usize| rows.column(at).is_valid(0).then(|| rows.column(at).as_primitive::<Int64Type>().value(0));
    assert_eq!([value(0), value(1), value(2)], [Some(2), None, Some(1)]);
    for (columns, given, why) in [
        (Some(names(&["a", "A"])), 2, "did you mean \"a\""),
        (Some(names(&["a", "a"])), 2, "twice"),
        (Some(names(&["a"])), 2, "2 values for 1 columns"),
        (Some(names(&["b"])), 1, "\"a\" cannot be null"),
        (None, 2, "2 values for 3 columns"),
    ] {
        let error = InsertPlan::new(schema.clone(), columns.as_deref(), given).err().unwrap();
        assert!(error.code == Code::InvalidArgument && error.message.contains(why), "{error}");
    }
}

#[test]
fn numbers_are_cast_only_without_loss() {
    let narrow = insert(Int64Array::from(vec![Some(7), None]), DataType::Int32).unwrap();
    assert_eq!(narrow.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(7), None]);
    insert(Float64Array::from(vec![2.0, f64::NAN]), DataType::Float32).unwrap();
    insert(Float64Array::from(vec![2.5]), DataType::Decimal128(10, 2)).unwrap();
    let cases: [(ArrayRef, DataType, &str); 5] = [
        (Arc::new(Int64Array::from(vec![1, 1 << 40])), DataType::Int32, "\"x\""),
        (Arc::new(Float64Array::from(vec![2.0, 1.5])), DataType::Int64, "1.5"),
        (Arc::new(Float64Array::from(vec![0.1])), DataType::Float32, "0.1"),
        (Arc::new(Float64Array::from(vec![2.125])), DataType::Decimal128(10, 2), "2.125"),
        (Arc::new(Int64Array::from(vec![i64::MAX])), DataType::Float64, "9223372036854775807"),
    ];
    for (column, to, why) in cases {
        let error = insert(arrow::array::make_array(column.to_data()), to).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains(why), "{error}");
        assert!(error.message.contains("\"x\""), "{error}");
    }
}

#[test]
fn text_is_parsed_if_it_spells_the_type() {
    let text = |value: &str| StringArray::from(vec![value]);
    let seconds = DataType::Timestamp(TimeUnit::Second, None);
    let parsed = insert(text("1970-01-02T00:00:01"), seconds.clone()).unwrap();
    assert_eq!(parsed.as_primitive::<TimestampSecondType>().value(0), 86_401);
    insert(text("9999-12-31"), DataType::Date32).unwrap();
    insert(text("12:30:00"), DataType::Time32(TimeUnit::Second)).unwrap();
    insert(text("true"), DataType::Boolean).unwrap();
    insert(text("a"), DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))).unwrap();
    for (value, to) in [
        ("1970-01-02T00:00:01.5", seconds),
        ("1970-01-02T10:00:00", DataType::Date32),
        ("much", DataType::Int32),
        ("1.5", DataType::Int32),
        ("1.55", DataType::Decimal128(3, 1)),
        ("1e1", DataType::Decimal128(3, 1)),
        ("1000", DataType::Decimal128(3, 1)),
        ("x", DataType::Decimal128(3, 1)),
        ("x", DataType::Binary),
    ] {
        let error = insert(text(value), to).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("\"x\""), "{value}: {error}");
    }
}

#[test]
fn text_is_a_decimal_if_no_digit_is_lost() {
    let texts = StringArray::from(vec![Some("1.5"), Some("-2.500"), Some(" 7 "), None]);
    let decimals = insert(texts, DataType::Decimal128(3, 1)).unwrap();
    let values = decimals.as_primitive::<Decimal128Type>();
    assert_eq!(values.iter().collect::<Vec<_>>(), [Some(15), Some(-25), Some(70), None]);
    assert!(insert(StringArray::from(vec!["100"]), DataType::Decimal128(3, -2)).is_err());
    let long = format!("{}.000", "9".repeat(76));
    assert!(insert(StringArray::from(vec![long]), DataType::Decimal128(3, 1)).is_err());
}

#[test]
fn elements_of_lists_are_cast_only_without_loss() {
    let list = |values: Vec<Option<i64>>| ListArray::from_iter_primitive::<Int64Type, _, _>([Some(values), None]);
    let to = |item| DataType::new_list(item, true);
    let narrow = insert(list(vec![Some(1), None]), to(DataType::Int32)).unwrap();
    let row = narrow.as_list::<i32>().value(0);
    assert_eq!(row.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), None]);
    assert!(narrow.is_null(1));
    let error = insert(list(vec![Some(1 << 40)]), to(DataType::Int32)).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("\"x\""), "{error}");
    assert!(insert(list(vec![Some(1)]), to(DataType::Utf8)).is_err());
}

#[test]
fn other_types_must_be_those_of_the_table() {
    let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let structs = StructArray::from(vec![(Arc::new(Field::new("n", DataType::Int64, true)), number.clone())]);
    let same = structs.data_type().clone();
    insert(structs.clone(), same).unwrap();
    assert!(insert(structs, DataType::Int64).is_err());
    assert!(insert(Int64Array::from(vec![1]), DataType::Utf8).is_err());
    assert!(insert(Int64Array::from(vec![1]), DataType::Date64).is_err());
}

#[test]
fn null_for_a_column_that_has_none_is_refused_by_name() {
    let schema = table(vec![Field::new("x", DataType::Int64, false)]);
    let plan = InsertPlan::new(schema, None, 1).unwrap();
    let given: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let error = plan.conform(&RecordBatch::try_from_iter([("n", given)]).unwrap()).unwrap_err();
    assert!(error.message.contains("\"x\" cannot be null"), "{error}");
}

#[test]
fn column_whose_nulls_are_large_has_no_rows_inserted() {
    let schema = table(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::FixedSizeBinary(2_000_000_000), true),
    ]);
    let error = InsertPlan::new(schema, Some(&["a".to_string()]), 1).err().unwrap();
    assert!(error.code == Code::InvalidArgument && error.message.contains("\"b\""), "{error}");
}
