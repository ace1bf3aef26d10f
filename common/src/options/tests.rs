//! Options from commands and headers, and what is refused.

use super::*;
use crate::Code;

fn command(text: &str) -> Result<TableRequest> {
    TableRequest::from_command(text.as_bytes(), &MetadataMap::new())
}

#[test]
fn name_path_and_object_name_the_same_table() {
    let path = FlightDescriptor::new_path(vec!["a".into(), "b".into()]);
    let by_path = TableRequest::from_descriptor(&path, &MetadataMap::new()).unwrap();
    assert_eq!(by_path.kind, DescriptorKind::Path);
    assert_eq!(by_path.name, command("a/b").unwrap().name);
    assert_eq!(by_path.name, command(r#"{"table": "a/b", "limit": 3}"#).unwrap().name);
}

#[test]
fn option_with_two_values_is_refused_by_name() {
    let request = |object: &str, given: &[(&'static str, &str)]| {
        let mut headers = MetadataMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        TableRequest::from_command(object.as_bytes(), &headers)
    };
    let object = r#"{"table": "t", "limit": 3, "shard_by": ["a", "b"], "limit": 3, "mode": null}"#;
    let same = [("x-volley-limit", "3"), ("x-volley-shard-by", "a, b"), ("x-volley-mode", "append")];
    let options = request(object, &same).unwrap().options;
    assert_eq!((options.limit, options.mode), (Some(3), Some(Mode::Append)));
    assert_eq!(options.shard_by, Some(vec!["a".into(), "b".into()]));
    for (object, given, word) in [
        (r#"{"table": "t", "limit": 3}"#, &[("x-volley-limit", "7")][..], "limit"),
        (r#"{"table": "t", "mode": "append"}"#, &[("x-volley-mode", "create")], "mode"),
        ("t", &[("x-volley-limit", "3"), ("x-volley-limit", "4")], "limit"),
        ("t", &[("x-volley-table", "q")], "table"),
        (r#"{"table": "t", "limit": 3, "limit": 4}"#, &[], "limit"),
    ] {
        let error = request(object, given).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains(word), "{object}: {error}");
    }
    let path = FlightDescriptor::new_path(vec!["a".into(), "b".into()]);
    let named = |name: &str| {
        let mut headers = MetadataMap::new();
        headers.insert("x-volley-table", name.parse().unwrap());
        TableRequest::from_descriptor(&path, &headers)
    };
    assert!(named("a/b").is_ok() && named("q").unwrap_err().message.contains("table"));
}

#[test]
fn retention_is_bounded_on_both_sides() {
    let with = |seconds: u64| command(&format!(r#"{{"table": "t", "retention_s": {seconds}}}"#));
    assert!(with(MIN_RETENTION_S).is_ok() && with(MAX_RETENTION_S).is_ok());
    for seconds in [0, 1, MAX_RETENTION_S + 1, 1 << 63] {
        let error = with(seconds).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("retention_s"), "{error}");
    }
}

#[test]
fn time_to_live_may_be_none_and_is_bounded() {
    let with = |seconds: u64| command(&format!(r#"{{"table": "t", "ttl_s": {seconds}}}"#));
    for seconds in [0, 1, MAX_TTL_S] {
        assert_eq!(with(seconds).unwrap().options.ttl_s, Some(seconds));
    }
    let error = with(MAX_TTL_S + 1).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("ttl_s"), "{error}");
    let error = command(r#"{"table": "t", "ttl_s": -1}"#).unwrap_err();
    assert!(error.message.contains("not negative"), "{error}");
}

#[test]
fn client_listener_header_is_not_an_option() {
    let mut headers = MetadataMap::new();
    headers.insert(CLIENT_LISTENER_HEADER, "external".parse().unwrap());
    headers.insert(CLIENT_TLS_HEADER, "true".parse().unwrap());
    assert!(TableRequest::from_command(b"t", &headers).is_ok());
    for header in [CLIENT_LISTENER_HEADER, CLIENT_TLS_HEADER] {
        assert!(!header.starts_with(HEADER_PREFIX), "earlier coordinators reject unknown options");
    }
}

#[test]
fn invalid_command_is_rejected_by_name() {
    for (text, word) in [
        (r#"{"table": "t", "colums": []}"#, "colums"),
        (r#"{"limit": 1}"#, "names no table"),
        (
            r#"{"table": "t", "mode": "upsert"}"#,
            "option \"mode\": replace, create, append or create_append is expected, not \"upsert\"",
        ),
        (
            r#"{"table": "t", "mode": 7}"#,
            "option \"mode\": replace, create, append or create_append is expected, not 7",
        ),
        (r#"{"table": "t", "shards": 0}"#, "shards"),
        (
            r#"{"table": "t", "shards": "many"}"#,
            "option \"shards\": a whole number from 1 on is expected, not \"many\"",
        ),
        (r#"{"table": "t", "shard_by": 7}"#, "option \"shard_by\": a column's name, or a list"),
        (r#"{"table": "t", "columns": ["a", 7]}"#, "option \"columns\": a column's name, or a list"),
        (r#"{"table": "t", "decompress": "yes"}"#, "option \"decompress\": true or false is expected, not \"yes\""),
        (r#"{"table": "t", "decompress": 1}"#, "option \"decompress\": true or false is expected, not 1"),
        (r#"{"table": "t", "shareable_tickets": 1}"#, "option \"shareable_tickets\": true or false is expected, not 1"),
        (r#"{"table": 7}"#, "option \"table\""),
        (r#"{"table": "t", "where": 7}"#, "option \"where\": a text is expected, not 7"),
        (r#"{"table": "t", "where": " "}"#, "option \"where\" is empty"),
        (r#"{"table": "t", "write_id": "../x"}"#, "../x"),
        (r#"{"table": "t", "transaction": "w"}"#, "transaction id"),
        (r#"{"table": "t", "transaction": 7}"#, "option \"transaction\": a text is expected"),
        (r#"{"table": "t""#, "JSON"),
        ("", "empty"),
    ] {
        let error = command(text).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains(word), "{text}: {error}");
    }
    let mut headers = MetadataMap::new();
    headers.insert("x-volley-colums", "a".parse().unwrap());
    assert!(TableRequest::from_command(b"t", &headers).unwrap_err().message.contains("colums"));
}

#[test]
fn error_of_an_option_in_a_ticket_is_no_error_of_the_ticket() {
    let error = |ticket: &[u8]| TicketRequest::from_ticket(ticket, &MetadataMap::new()).unwrap_err().message;
    assert!(error(br#"{"table": "t", "limit": "x"}"#).starts_with("option \"limit\""));
    assert!(error(b"a//b").starts_with("the ticket is neither signed nor a table's name"));
}

#[test]
fn transaction_and_write_id_exclude_each_other() {
    let id = TransactionId::new(7).to_string();
    let object = format!(r#"{{"table": "t", "mode": "create_append", "transaction": "{id}"}}"#);
    let options = command(&object).unwrap().options;
    assert_eq!((options.transaction, options.mode), (Some(id.clone()), Some(Mode::CreateAppend)));
    let error = command(&format!(r#"{{"table": "t", "write_id": "w", "transaction": "{id}"}}"#)).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("exclude"), "{error}");
}

#[test]
fn single_column_needs_no_list() {
    let options = command(r#"{"table": "t", "shard_by": "k, l", "columns": null}"#).unwrap().options;
    assert_eq!((options.shard_by, options.columns), (Some(vec!["k, l".into()]), None));
}

#[test]
fn header_texts_keep_the_type_of_their_option() {
    let mut headers = MetadataMap::new();
    headers.insert("x-volley-write-id", "123".parse().unwrap());
    headers.insert("x-volley-replicas", "2".parse().unwrap());
    headers.insert("x-volley-where", "true".parse().unwrap());
    let options = TableRequest::from_command(b"t", &headers).unwrap().options;
    assert_eq!((options.write_id.as_deref(), options.replicas), (Some("123"), Some(2)));
    assert_eq!(options.filter.as_deref(), Some("true"), "a condition, and no flag");
}

#[test]
fn decompress_is_an_option_and_a_header() {
    assert_eq!(command(r#"{"table": "t", "decompress": true}"#).unwrap().options.decompress, Some(true));
    assert_eq!(command(r#"{"table": "t", "decompress": null}"#).unwrap().options.decompress, None);
    assert!(!decompress_header(&MetadataMap::new()).unwrap());
    let mut headers = MetadataMap::new();
    for (text, flag) in [("true", Some(true)), ("false", Some(false)), ("1", None), ("yes", None), ("", None)] {
        headers.insert(DECOMPRESS_HEADER, text.parse().unwrap());
        let option = TableRequest::from_command(b"t", &headers).map(|request| request.options.decompress);
        match flag {
            Some(flag) => assert_eq!((option.unwrap(), decompress_header(&headers).unwrap()), (Some(flag), flag)),
            None => {
                let errors = [option.unwrap_err(), decompress_header(&headers).unwrap_err()];
                assert!(errors.iter().all(|e| e.code == Code::InvalidArgument && e.message.contains("decompress")));
            }
        }
    }
    headers.insert(DECOMPRESS_HEADER, "true".parse().unwrap());
    let both = |json: &str| TableRequest::from_command(json.as_bytes(), &headers).map(|request| request.options);
    assert_eq!(both(r#"{"table": "t", "decompress": true}"#).unwrap().decompress, Some(true));
    let error = both(r#"{"table": "t", "decompress": false}"#).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("decompress"), "{error}");
}

#[test]
fn option_of_another_request_is_refused_by_name() {
    use TableAccess::{Create, Put, Read};
    for (option, accesses) in [
        (r#""limit": 3"#, &[Read][..]),
        (r#""where": "a > 1""#, &[Read]),
        (r#""columns": ["a"]"#, &[Read]),
        (r#""version": 1"#, &[Read]),
        (r#""max_endpoints": 1"#, &[Read, Put, Create]),
        (r#""decompress": true"#, &[Read]),
        (r#""mode": "append""#, &[Put]),
        (r#""write_id": "w""#, &[Put]),
        (r#""transaction": "tx00000000000700000000000000000000000000000009""#, &[Put]),
        (r#""shards": 3"#, &[Put, Create]),
        (r#""shard_by": ["k"]"#, &[Put, Create]),
        (r#""replicas": 2"#, &[Put, Create]),
        (r#""compression": "lz4""#, &[Put, Create]),
        (r#""retention_s": 19"#, &[Put, Create]),
        (r#""ttl_s": 60"#, &[Put, Create]),
        (r#""stats_columns": ["k"]"#, &[Put, Create]),
        (r#""preserve_batches": true"#, &[Put, Create]),
        (r#""shareable_tickets": true"#, &[Put, Create]),
    ] {
        let request = command(&format!(r#"{{"table": "a/t", {option}}}"#)).unwrap();
        let name = option.split('"').nth(1).unwrap();
        for access in [Read, Put, Create] {
            let checked = request.clone().with_access(access);
            assert_eq!(checked.is_ok(), accesses.contains(&access), "{name}: {access:?}");
            if let Err(error) = checked {
                let says = |text: &str| error.message.contains(text);
                assert!(error.code == Code::InvalidArgument && says("a/t") && says(name), "{error}");
                assert!(says("do_put") || says("get_flight_info"), "{error}");
            }
        }
    }
}

#[test]
fn long_values_are_cut_in_errors_and_bounded() {
    let long = "x".repeat(100_000);
    for text in [
        format!(r#"{{"table": "t", "{long}": 1}}"#),
        format!(r#"{{"table": "t", "shards": "{long}"}}"#),
        format!(r#"{{"table": "t", "mode": "{long}"}}"#),
        format!(r#"{{"table": "t", "write_id": "{long}"}}"#),
        format!(r#"{{"table": "t", "transaction": "{long}"}}"#),
        format!(r#"{{"table": "t", "where": "{long}"}}"#),
        format!(r#"{{"table": "t", "shard_by": "{long}"}}"#),
        format!(r#"{{"table": "t", "stats_columns": "{long}"}}"#),
        format!(r#"{{"table": "t", "stats_columns": [{}"k"]}}"#, r#""k","#.repeat(64)),
        format!(r#"{{"table": "t", "columns": ["{long}"]}}"#),
        format!(r#"{{"table": "{long}"}}"#),
        format!(r#"{{"table": "t", "shard_by": [{}"k"]}}"#, r#""k","#.repeat(1000)),
        format!(r#"{{"table": "t", "columns": [{}"k"]}}"#, r#""k","#.repeat(100_000)),
    ] {
        let error = command(&text).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.message.len() < 600, "{} bytes", error.message.len());
    }
}

#[test]
fn flight_sql_is_unimplemented() {
    let mut any = vec![0x0a, 50];
    any.extend_from_slice(b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery");
    let error = TableRequest::from_command(&any, &MetadataMap::new()).unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
}
