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

/// The flatbuffer of a schema whose fields share one name.
fn schema_with_shared_name(fields: usize, name: &str) -> Vec<u8> {
    use arrow_ipc::{FieldBuilder, IntBuilder, MessageBuilder, SchemaBuilder, Type};
    let mut fb = flatbuffers::FlatBufferBuilder::new();
    let name = fb.create_string(name);
    let none = fb.create_vector::<flatbuffers::ForwardsUOffset<arrow_ipc::Field<'_>>>(&[]);
    let fields: Vec<_> = (0..fields)
        .map(|_| {
            let mut int = IntBuilder::new(&mut fb);
            int.add_bitWidth(32);
            let int = int.finish();
            let mut field = FieldBuilder::new(&mut fb);
            field.add_name(name);
            field.add_type_type(Type::Int);
            field.add_type_(int.as_union_value());
            field.add_children(none);
            field.finish()
        })
        .collect();
    let fields = fb.create_vector(&fields);
    let mut schema = SchemaBuilder::new(&mut fb);
    schema.add_fields(fields);
    let schema = schema.finish();
    let mut message = MessageBuilder::new(&mut fb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::Schema);
    message.add_header(schema.as_union_value());
    let message = message.finish();
    fb.finish(message, None);
    fb.finished_data().to_vec()
}

#[test]
fn shared_texts_cannot_multiply_a_schema() {
    let message = schema_with_shared_name(8_000, &"x".repeat(60_000));
    assert!(message.len() < 600_000, "{}", message.len());
    let error = verify_message(&message).unwrap_err();
    assert!(error.message.contains("many times its size"), "{error}");
    let sound = schema_with_shared_name(8_000, "x");
    assert_eq!(schema_of(&verify_message(&sound).unwrap()).unwrap().fields().len(), 8_000);
    let long = schema_with_shared_name(1, &"x".repeat(70_000));
    let error = schema_of(&verify_message(&long).unwrap()).unwrap_err();
    assert!(error.message.contains("70000 bytes") && error.message.len() < 500, "{error}");
}

/// With paths made at each level this took minutes.
#[test]
fn wide_struct_with_a_long_name_is_cheap() {
    let children: Vec<_> = (0..200_000).map(|at| Field::new(format!("c{at}"), DataType::Int32, true)).collect();
    let schema = Schema::new(vec![Field::new_struct("n".repeat(64 << 10), children, true)]);
    let start = std::time::Instant::now();
    let parsed = parse_schema(&schema_message(&schema).unwrap()).unwrap();
    check_appendable(&schema, &parsed).unwrap();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn nesting_of_schemas_is_bounded() {
    let nested = |depth| {
        let mut data_type = DataType::Int8;
        for _ in 0..depth {
            data_type = DataType::new_list(data_type, true);
        }
        schema_message(&Schema::new(vec![Field::new("deep", data_type, true)])).unwrap()
    };
    parse_schema(&nested(50)).unwrap();
    for depth in [64, 1_000] {
        let error = parse_schema(&nested(depth)).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("nested"), "{error}");
    }
}

#[test]
fn text_that_is_not_utf8_is_named() {
    let pair = |key: &str| HashMap::from([(key.to_string(), "VALUE".to_string())]);
    let inner = Field::new("inner", DataType::Int8, true).with_metadata(pair("the key"));
    let outer = Field::new_struct("outer", vec![Field::new("first", DataType::Int8, true), inner], true);
    let schema = Schema::new(vec![Field::new("zero", DataType::Int8, true), outer]);
    let with_pair = schema.clone().with_metadata(pair("of all"));
    for (schema, broken, words) in [
        (&schema, "VALUE", vec!["\"outer.inner\"", "\"the key\"", "value", "UTF-8"]),
        (&with_pair.project(&[0]).unwrap(), "VALUE", vec!["the schema's", "\"of all\"", "value", "UTF-8"]),
        (&schema, "the key", vec!["\"outer.inner\"", "key", "he key", "UTF-8"]),
        (&schema, "inner", vec!["outer", "nner", "name", "UTF-8"]),
    ] {
        let mut message = schema_message(schema).unwrap().to_vec();
        let at = message.windows(broken.len()).position(|bytes| bytes == broken.as_bytes()).unwrap();
        message[at] = 0xff;
        let error = parse_schema(&message).unwrap_err();
        assert!(words.iter().all(|word| error.message.contains(word)), "{broken}: {error}");
    }
}
