//! Bodies of actions: the first line is the action's name, the rest its body.

use arrow_flight::{CancelFlightInfoRequest, RenewFlightEndpointRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::COOKIE;
use prost::Message;
use serde::de::DeserializeOwned;
use tonic::metadata::MetadataMap;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::options::TableRequest;
use volley_common::session_cookie::SessionCookie;
use volley_common::{Error, Result};
use volley_coordinator::flight::action_bodies::{
    AddCoordinatorBody, CoordinatorBody, CreateTableBody, DrainNodeBody, DropTableBody, EmptyBody, NodeBody,
    RestoreVersionBody, RotateKeysBody, StatsBody, TableBody, WriteBody, parse,
};
use volley_coordinator::flight::session_options::{
    FlightSessions, SessionOption, SessionOptionMap, SessionOptionValue,
};

use crate::batches;
use crate::descriptors::check_name;
use crate::input::check_error;

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (action, body) = (&data[..line], data.get(line + 1..).unwrap_or_default());
    let Ok(action) = std::str::from_utf8(action) else { return };
    if let Err(error) = parse_body(action, body) {
        check_error(&error, data.len());
    }
}

fn parse_body(action: &str, body: &[u8]) -> Result<()> {
    let no_headers = MetadataMap::new();
    match action {
        "create_table" => CreateTableBody::parse(body, &no_headers).map(|body| check_create(&body)),
        "drop_table" => DropTableBody::parse(body).map(drop),
        "begin_write" => {
            TableRequest::from_command(body, &no_headers)?.for_put().map(|request| check_name(&request.name))
        }
        "explain" | "list_versions" => {
            check_name(&parse::<TableBody>(action, body)?.name()?);
            Ok(())
        }
        "restore_version" => parsed::<RestoreVersionBody>(action, body),
        "get_stats" => parsed::<StatsBody>(action, body),
        "commit_write" | "abort_write" => parsed::<WriteBody>(action, body),
        "drain_node" => parsed::<DrainNodeBody>(action, body),
        "undrain_node" | "remove_node" => parsed::<NodeBody>(action, body),
        "add_coordinator" => parsed::<AddCoordinatorBody>(action, body),
        "remove_coordinator" => parsed::<CoordinatorBody>(action, body),
        "rotate_keys" => parsed::<RotateKeysBody>(action, body),
        "CancelFlightInfo" => decoded::<CancelFlightInfoRequest>(body),
        "RenewFlightEndpoint" => decoded::<RenewFlightEndpointRequest>(body),
        "SetSessionOptions" => set_session(body),
        _ => parsed::<EmptyBody>("list_tables", body),
    }
}

fn parsed<T: DeserializeOwned>(action: &str, body: &[u8]) -> Result<()> {
    parse::<T>(action, body).map(drop)
}

fn decoded<T: Message + Default>(body: &[u8]) -> Result<()> {
    T::decode(body).map(drop).map_err(|e| Error::invalid(e.to_string()))
}

fn check_create(body: &CreateTableBody) {
    check_name(&body.name);
    // The schema is stored as it is, and every put and read of the table parses it.
    let schema = parse_schema(&body.schema).expect("the schema of a new table");
    assert_eq!(schema_message(&schema).as_ref(), Ok(&body.schema));
}

fn set_session(body: &[u8]) -> Result<()> {
    let sessions = FlightSessions::default();
    let (_, cookie) = sessions.set("", None, body)?;
    let cookie = cookie.expect("the cookie of a new session");
    assert!(sessions.get("", Some(&cookie)).options.len() <= 64);
    let headers = HeaderMap::from_iter([(COOKIE, cookie.to_header().parse().expect("a header"))]);
    assert_eq!(SessionCookie::of_headers(&headers).as_ref(), Some(&cookie));
    sessions.close("", Some(&cookie));
    assert!(sessions.get("", Some(&cookie)).options.is_empty());
    Ok(())
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let schema = schema_message(batches::keyed().schema_ref()).expect("a schema");
    let encoded = format!("create_table\n{{\"table\": \"t\", \"schema\": {:?}}}", STANDARD.encode(&schema));
    let option = SessionOption { value: Some(SessionOptionValue::String("x".into())) };
    let limit = SessionOption { value: Some(SessionOptionValue::String("1.5 min".into())) };
    let options = [("a".to_string(), option), ("statement_timeout".to_string(), limit)];
    let options = SessionOptionMap { options: options.into() };
    let typed = |of: &str| {
        format!(
            "create_table\n{{\"table\": \"t\", \"fields\": [{{\"name\": \"a\", \"type\": {of:?}, \"nullable\": false}}]}}"
        )
    };
    let types = [
        "int64",
        "timestamp",
        "List(Int64)",
        "LargeList(Utf8)",
        "FixedSizeList(3 x Int32)",
        "Struct(\"a\": Int64, \"b\": Utf8)",
        "Dictionary(Int8, Utf8)",
        "Timestamp(Nanosecond, Some(\"Europe/Paris\"))",
        "Decimal128(38, 10)",
        "Map(\"entries\": Struct(\"key\": Utf8, \"value\": Int32), unsorted)",
        "Union(Sparse, 0: (\"a\": Int32), 1: (\"b\": Utf8))",
        "RunEndEncoded(\"run_ends\": Int32, \"values\": Utf8)",
        "List(List(List(List(List(List(List(List(Int8))))))))",
        "Time64(Microsecond)",
        "Interval(MonthDayNano)",
        "FixedSizeBinary(16)",
    ];
    let texts = [
        encoded,
        "create_table\n{\"table\": \"t\", \"fields\": [{\"name\": \"a\", \"type\": \"int64\"}], \"if_not_exists\": true, \"shards\": 4, \"shard_by\": [\"a\"], \"replicas\": 2, \"compression\": \"lz4\"}".into(),
        "drop_table\nsales/eu".into(),
        "drop_table\n{\"table\": \"sales\", \"if_exists\": true}".into(),
        "begin_write\n{\"table\": \"t\", \"mode\": \"append\", \"write_id\": \"w\"}".into(),
        "commit_write\n{\"write_id\": \"w\"}".into(),
        "abort_write\n{\"write_id\": \"w\", \"reason\": \"no\"}".into(),
        "restore_version\n{\"table\": \"t\", \"version\": 3}".into(),
        "get_stats\n{\"table\": \"t\"}".into(),
        "explain\n{\"table\": \"t\"}".into(),
        "drain_node\n{\"node\": \"00ff\", \"begin\": false}".into(),
        "add_coordinator\n{\"id\": 4, \"peer\": \"h:1\"}".into(),
        "remove_coordinator\n{\"id\": 4}".into(),
        "rotate_keys\n{\"revoke_sessions\": true, \"ticket_key\": true}".into(),
        "list_tables\n{}".into(),
    ];
    let texts = texts.into_iter().chain(types.map(typed)).map(String::into_bytes);
    texts.chain([[&b"SetSessionOptions\n"[..], &options.encode_to_vec()].concat()]).collect()
}
