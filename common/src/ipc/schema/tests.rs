#![allow(clippy::unwrap_used)]
use arrow_ipc::writer::FileWriter;

use super::*;
use crate::Code;
use crate::ipc::test_data;

#[test]
fn schema_round_trips_and_equals_the_start_of_a_file() {
    let schema = test_data::schema_of(&test_data::types());
    let message = schema_message(&schema).unwrap();
    assert_eq!(parse_schema(&message).unwrap(), schema);
    assert_eq!(schema_message(&parse_schema(&message).unwrap()).unwrap(), message);
    let file = FileWriter::try_new(Vec::new(), &schema).unwrap().into_inner().unwrap();
    assert_eq!(file[64..64 + message.len()], message);
    assert_eq!(flight_header(&message), message[8..]);
}

#[test]
fn damaged_schema_is_an_error_not_a_panic() {
    let schema = test_data::schema_of(&test_data::types()[30..60]);
    let message = schema_message(&schema).unwrap();
    for at in 0..message.len() {
        let _ = parse_schema(&message[..at]);
        for bit in [0, 3, 7] {
            let mut bad = message.to_vec();
            bad[at] ^= 1 << bit;
            if let Ok(schema) = parse_schema(&bad) {
                schema_message(&schema).unwrap();
            }
        }
    }
    assert_eq!(parse_schema(b"garbage, and more of it").unwrap_err().code, Code::InvalidArgument);
    assert!(flight_header(b"\xff\xff\xff\xff\xff\xff\xff\x7f").is_empty());
}

#[test]
fn dictionary_of_dictionary_is_rejected_by_name() {
    let inner = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let outer = DataType::Dictionary(Box::new(DataType::Int8), Box::new(inner));
    let list = DataType::new_list(outer, true);
    let error = schema_message(&Schema::new(vec![Field::new("twice", list, true)])).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("twice.item"), "{error}");
}

#[test]
fn appendable_schemas_agree_in_fields_and_extension_types() {
    let table = test_data::schema_of(&test_data::types());
    let other = Schema::new_with_metadata(table.fields().clone(), HashMap::from([("made".into(), "elsewhere".into())]));
    check_appendable(&table, &other).unwrap();
    let field = |name: &str, nullable, key: &str| {
        let field = Field::new(name, DataType::Int8, nullable);
        Schema::new(vec![
            Field::new("same", DataType::Int8, true),
            field.with_metadata(HashMap::from([(key.into(), "v".into())])),
        ])
    };
    let table = field("a", true, "x");
    check_appendable(&table, &field("a", true, "y")).unwrap();
    let short = Schema::new(vec![Field::new("same", DataType::Int8, true)]);
    for (put, word) in [
        (field("b", true, "x"), "\"a\" has the name \"b\""),
        (field("a", true, "ARROW:extension:name"), "extension"),
        (short.clone(), "\"a\" is missing"),
    ] {
        let error = check_appendable(&table, &put).unwrap_err();
        assert!(error.message.contains(word), "{error}");
    }
    check_appendable(&table, &field("a", false, "x")).unwrap();
    let error = check_appendable(&field("a", false, "x"), &table).unwrap_err();
    assert!(error.message.contains("nullability"), "{error}");
    assert!(check_appendable(&short, &table).unwrap_err().message.contains("\"a\""));
    let nested = |t: DataType| Schema::new(vec![Field::new_struct("s", vec![Field::new("deep", t, true)], true)]);
    let error = check_appendable(&nested(DataType::Int8), &nested(DataType::Int16)).unwrap_err();
    assert!(error.message.contains("s.deep"), "{error}");
}
