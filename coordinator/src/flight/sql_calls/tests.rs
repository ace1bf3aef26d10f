//! Which calls are forwarded to nodes because of their SQL, and with which headers.
#![allow(clippy::unwrap_used)]

use http::Request;
use volley_common::Code;
use volley_common::options::sql::{SQL_HEADER, WHERE_HEADER};
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster;

use super::*;

const COMMANDS: [(&str, Option<Repeatable>); 4] = [
    ("sales", None),
    (r#"{"table": "sales", "limit": 3}"#, None),
    (r#"{"table": "sales", "where": "a > 1"}"#, Some(Repeatable::Yes)),
    (r#"{"sql": "SELECT 1"}"#, Some(Repeatable::Yes)),
];

fn descriptor(command: &str) -> Bytes {
    FlightDescriptor::new_cmd(command.to_string()).encode_to_vec().into()
}

fn ticket(bytes: impl Into<Bytes>) -> Bytes {
    arrow_flight::Ticket { ticket: bytes.into() }.encode_to_vec().into()
}

fn header(name: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("1"))])
}

#[test]
fn call_with_sql_is_for_nodes() {
    let none = HeaderMap::new();
    for (command, expected) in COMMANDS {
        for method in ["GetFlightInfo", "PollFlightInfo", "GetSchema"] {
            let is_query = command == COMMANDS[3].0;
            let expected = if is_query && method != "GetSchema" { Some(Repeatable::No) } else { expected };
            assert_eq!(forwarding_of(method, &none, &descriptor(command)), expected, "{method} {command}");
        }
        let of_ticket = forwarding_of("DoGet", &none, &ticket(command.to_string()));
        assert_eq!(of_ticket.is_some(), expected.is_some(), "{command}");
    }
    assert_eq!(forwarding_of("DoGet", &none, &ticket(COMMANDS[3].0)), Some(Repeatable::No), "it would run twice");
    for name in [SQL_HEADER, WHERE_HEADER] {
        assert!(forwarding_of("GetFlightInfo", &header(name), &descriptor("sales")).is_some(), "{name}");
        assert!(forwarding_of("DoGet", &header(name), &ticket("sales")).is_some(), "{name}");
    }
}

#[test]
fn action_of_flight_sql_is_for_nodes_once() {
    let action = |name: &str| Bytes::from(Action { r#type: name.into(), body: Bytes::new() }.encode_to_vec());
    let forwarding = |name: &str| forwarding_of("DoAction", &HeaderMap::new(), &action(name));
    assert_eq!(forwarding("CreatePreparedStatement"), Some(Repeatable::No));
    assert_eq!(forwarding("BeginTransaction"), Some(Repeatable::No));
    assert_eq!((forwarding("list_tables"), forwarding("CancelFlightInfo")), (None, None));
}

#[test]
fn checked_filter_is_planned_here() {
    let checked = header(FILTER_CHECKED_HEADER);
    let forwarding = |command: &str| forwarding_of("GetFlightInfo", &checked, &descriptor(command));
    assert_eq!(forwarding(r#"{"table": "sales", "where": "a > 1"}"#), None);
    assert_eq!(forwarding(r#"{"sql": "SELECT 1"}"#), Some(Repeatable::No), "only of a filter");
}

#[test]
fn signed_ticket_is_no_call_with_sql() {
    let signed = |ticket: &cluster::Ticket| self::ticket(TicketKey::new(&[7; 32]).sign(ticket));
    let query = cluster::Ticket { query: Some(cluster::Query::default()), ..Default::default() };
    let filtered = cluster::Ticket { filter: "a > 1".into(), ..Default::default() };
    for message in [signed(&query), signed(&filtered)] {
        assert_eq!(forwarding_of("DoGet", &header(SQL_HEADER), &message), None, "it is verified first");
    }
}

#[test]
fn garbage_is_left_to_the_method() {
    for method in ["GetFlightInfo", "DoGet", "DoAction"] {
        assert_eq!(forwarding_of(method, &HeaderMap::new(), &Bytes::from_static(b"\xff\xff")), None, "{method}");
    }
}

#[test]
fn forwarded_call_describes_the_connection_of_its_client() {
    let (mut head, ()) = Request::new(()).into_parts();
    // What the client says of itself.
    head.headers.insert(CLIENT_LISTENER_HEADER, HeaderValue::from_static("internal"));
    head.headers.insert(CLIENT_TLS_HEADER, HeaderValue::from_static("true"));
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
    head.extensions.insert(ReceivedBy { listener: "external".into(), client_tls: false });
    describe_forwarded(&mut head).unwrap();
    assert_eq!(head.headers.get(CLIENT_LISTENER_HEADER).unwrap(), "external");
    assert!(!head.headers.contains_key(CLIENT_TLS_HEADER) && !head.headers.contains_key(CONTENT_LENGTH));
    // A node of an earlier version gives it back.
    let error = describe_forwarded(&mut head).unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("upgrade all nodes"), "{error}");
}
