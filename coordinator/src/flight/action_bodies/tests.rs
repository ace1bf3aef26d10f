//! Bodies of actions: accepted, rejected with the cause, and hostile ones.
#![allow(clippy::unwrap_used)]

use arrow::datatypes::TimeUnit;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use serde_json::json;

use super::*;

fn create(body: &str) -> Result<CreateTableBody> {
    CreateTableBody::parse(body.as_bytes(), &MetadataMap::new())
}

#[test]
fn create_body_accepts_fields_and_options() {
    let parsed = create(
        r#"{"table": "a/t", "if_not_exists": true, "shards": 3, "shard_by": ["k"],
            "fields": [{"name": "k", "type": "int64", "nullable": false}, {"name": "v", "type": "Timestamp(ns)"}]}"#,
    )
    .unwrap();
    assert_eq!((parsed.name.to_string().as_str(), parsed.if_not_exists, parsed.options.shards), ("a/t", true, Some(3)));
    let schema = parse_schema(&parsed.schema).unwrap();
    assert_eq!(schema.field(0), &Field::new("k", DataType::Int64, false));
    assert_eq!(schema.field(1).data_type(), &DataType::Timestamp(TimeUnit::Nanosecond, None));
}

#[test]
fn create_body_accepts_an_encoded_schema() {
    let schema = Schema::new(vec![Field::new("x", DataType::Utf8, true)]);
    let text = base64::engine::general_purpose::STANDARD.encode(schema_message(&schema).unwrap());
    let parsed = create(&format!(r#"{{"table": "t", "schema": "{text}"}}"#)).unwrap();
    assert_eq!(*parse_schema(&parsed.schema).unwrap(), schema);
}

#[test]
fn invalid_bodies_are_rejected_with_the_cause() {
    for (body, word) in [
        (r#"{"table": "t"}"#, "fields"),
        (r#"{"table": "t", "fields": [], "shrads": 3}"#, "shrads"),
        (r#"{"table": "t", "fields": [{"name": "x", "type": "integerish"}]}"#, "integerish"),
        (r#"{"table": "t", "fields": [{"name": "x", "kind": "int64"}]}"#, "kind"),
        (r#"{"table": "t", "schema": "!!"}"#, "base64"),
        (r#"{"table": "t", "schema": "AAAA"}"#, ""),
        (r#"{"fields": []}"#, "names no table"),
        (r#"{"table": "t", "fields": [], "limit": 3}"#, "option \"limit\""),
        (r#"{"table": "t", "fields": [], "mode": "append"}"#, "do_put"),
        ("nonsense", "create_table"),
    ] {
        let error = create(body).err().unwrap();
        assert_eq!(error.code, volley_common::Code::InvalidArgument, "{body}");
        assert!(error.message.contains(word), "{body}: {error}");
    }
    assert!(parse::<EmptyBody>("clear", b"{\"all\": true}").err().unwrap().message.contains("all"));
}

#[test]
fn drop_body_is_a_raw_name_or_an_object() {
    let drop = |table: &str, if_exists| DropTableBody { table: table.into(), if_exists };
    assert_eq!(DropTableBody::parse(b"a/t").unwrap(), drop("a/t", false));
    assert_eq!(DropTableBody::parse(br#"{"table": "t", "if_exists": true}"#).unwrap(), drop("t", true));
    assert!(DropTableBody::parse(br#"{"table": "t", "force": true}"#).is_err());
    assert!(DropTableBody::parse(b"").is_err());
}

#[test]
fn type_nested_too_deep_is_rejected() {
    let nested = |depth: usize| format!("{}Int64{}", "List(".repeat(depth), ")".repeat(depth));
    let with_type =
        |text: &str| create(&json!({ "table": "t", "fields": [{ "name": "x", "type": text }] }).to_string());
    assert!(with_type(&nested(MAX_TYPE_DEPTH)).is_ok());
    for text in [nested(MAX_TYPE_DEPTH + 1), "List(".repeat(2000), "Struct(\"a\": ".repeat(200_000), "x".repeat(70_000)]
    {
        let error = with_type(&text).err().unwrap();
        assert_eq!(error.code, volley_common::Code::InvalidArgument);
        assert!(error.message.len() < 700 && error.message.contains("\"x\""), "{error}");
    }
}

/// Text of nested pieces, up to hundreds of thousands deep.
fn nested_text(random: &mut StdRng) -> String {
    const OPEN: [&str; 12] = [
        "[",
        "{\"a\":",
        "List(",
        "Struct(\"a\": ",
        "Map(",
        "Dictionary(Int32, ",
        "RunEndEncoded(",
        "{\"fields\":[",
        "\"",
        "List<",
        "FixedSizeList(2 x ",
        "Union(Sparse, 0: (\"a\": ",
    ];
    const CLOSE: [&str; 6] = ["]", "}", ")", "\"", ">", "Int64"];
    let depth = [3, 40, 200, 5_000, 200_000][random.random_range(0..5)];
    let pieces = random.random_range(1..4);
    let chosen: Vec<&str> = (0..pieces).map(|_| OPEN[random.random_range(0..OPEN.len())]).collect();
    let mut text: String = (0..depth).map(|at: usize| chosen[at % pieces]).collect();
    let closing = CLOSE[random.random_range(0..CLOSE.len())];
    text.extend((0..random.random_range(0..=depth)).map(|_| closing));
    text
}

#[test]
fn random_nested_bodies_end_in_a_short_error() {
    // The stack of a tokio worker.
    let hostile = || {
        let mut random = StdRng::seed_from_u64(13);
        for _ in 0..300 {
            let text = nested_text(&mut random);
            let typed = json!({ "table": "t", "fields": [{ "name": "x", "type": text }] }).to_string();
            let schema = base64::engine::general_purpose::STANDARD.encode(&text);
            let encoded = json!({ "table": "t", "schema": schema }).to_string();
            let options = [format!(r#"{{"table": "t", "shard_by": {text}"#), format!(r#"{{"table": "t", {text}"#)];
            for body in options.iter().chain([&typed, &encoded, &text]) {
                if let Err(error) = create(body) {
                    assert!(error.message.len() < 2000, "{} bytes", error.message.len());
                }
                let _ = TableRequest::from_command(body.as_bytes(), &MetadataMap::new());
                let _ = DropTableBody::parse(body.as_bytes());
                let _ = parse_schema(body.as_bytes());
            }
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(hostile).unwrap().join().unwrap();
}

#[test]
fn damaged_schema_messages_are_rejected_or_read() {
    let mut random = StdRng::seed_from_u64(7);
    let mut data_type = DataType::Int64;
    for depth in 0..20 {
        data_type = DataType::List(Field::new(format!("f{depth}"), data_type, true).into());
    }
    let good = schema_message(&Schema::new(vec![Field::new("x", data_type, true)])).unwrap();
    for _ in 0..5_000 {
        let mut message = good.to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(8..message.len());
            message[at] = random.random();
        }
        let _ = parse_schema(&message);
    }
}
