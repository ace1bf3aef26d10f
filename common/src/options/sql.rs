//! Which reads only nodes can answer: those with a filter, which is SQL, and queries. Coordinators forward them whole.

use std::collections::HashMap;

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use http::HeaderMap;
use serde::de::IgnoredAny;

use crate::ticket;

/// The header with the text of a query, for clients that cannot send a command.
pub const SQL_HEADER: &str = "x-volley-sql";
/// The option `where` as a header.
pub const WHERE_HEADER: &str = "x-volley-where";
/// The header with which a node says that it has checked the filter of a read: a coordinator then plans the read. A client that
/// sends it gains nothing, because nodes check a filter again when they redeem a ticket.
pub const FILTER_CHECKED_HEADER: &str = "volley-filter-checked";
/// The header with which a coordinator forwards a call to a node that must answer it: with it, a coordinator does not forward
/// the call again, as a node of an earlier version would make it do. The node leaves the headers of the client's connection
/// ([`super::CLIENT_LISTENER_HEADER`], [`super::CLIENT_TLS_HEADER`]) as they are.
pub const SQL_FORWARDED_HEADER: &str = "volley-sql-forwarded";
/// The actions of Flight SQL. Nodes run them; those that they do not support are UNIMPLEMENTED there.
const SQL_ACTIONS: [&str; 8] = [
    "CreatePreparedStatement",
    "ClosePreparedStatement",
    "CreatePreparedSubstraitPlan",
    "BeginTransaction",
    "EndTransaction",
    "BeginSavepoint",
    "EndSavepoint",
    "CancelQuery",
];

/// What makes a read one for nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlContent {
    /// A table is read with the option `where`.
    Filter,
    /// A query, or a command of Flight SQL.
    Query,
}

/// The SQL of a descriptor with its call's headers; `None`: a read of a table without filter. What is not valid has none.
pub fn sql_of_descriptor(descriptor: &FlightDescriptor, headers: &HeaderMap) -> Option<SqlContent> {
    let is_command = descriptor.r#type == DescriptorType::Cmd as i32;
    sql_of_command(if is_command { &descriptor.cmd } else { &[] }, headers)
}

/// The SQL of the bytes of a ticket that is not signed; a signed one has none here, as options do not apply to it.
pub fn sql_of_ticket(ticket: &[u8], headers: &HeaderMap) -> Option<SqlContent> {
    if ticket::is_signed(ticket) { None } else { sql_of_command(ticket, headers) }
}

fn sql_of_command(command: &[u8], headers: &HeaderMap) -> Option<SqlContent> {
    if is_flight_sql(command) || headers.contains_key(SQL_HEADER) {
        return Some(SqlContent::Query);
    }
    let mut is_filtered = headers.contains_key(WHERE_HEADER);
    if command.trim_ascii_start().starts_with(b"{") {
        // Null counts as not given.
        let keys = serde_json::from_slice::<HashMap<String, Option<IgnoredAny>>>(command).unwrap_or_default();
        let has = |key: &str| keys.get(key).is_some_and(Option::is_some);
        if has("sql") {
            return Some(SqlContent::Query);
        }
        is_filtered |= has("where");
    }
    is_filtered.then_some(SqlContent::Filter)
}

/// Whether an action is one of Flight SQL.
pub fn is_sql_action(name: &str) -> bool {
    SQL_ACTIONS.contains(&name)
}

/// Whether the bytes of a command or a ticket are a command of Flight SQL: a protobuf `Any`, whose field 1 is its type URL.
pub fn is_flight_sql(bytes: &[u8]) -> bool {
    const URL: &[u8] = b"type.googleapis.com/arrow.flight.protocol.sql.";
    // The URL's length has one byte or two.
    let url_at = |at: usize| bytes.get(at..).is_some_and(|rest| rest.starts_with(URL));
    bytes.first() == Some(&0x0a) && (url_at(2) || url_at(3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use SqlContent::{Filter, Query};

    use super::*;
    use crate::ticket::TicketKey;
    use crate::wire::cluster::Ticket;

    const FLIGHT_SQL: &[u8] = b"\x0a\x43type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery";

    fn headers(name: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, "a > 1".parse().unwrap());
        headers
    }

    #[test]
    fn sql_of_a_command_is_found_in_every_form() {
        for (command, expected) in [
            (&b"sales"[..], None),
            (b"{\"table\": \"sales\", \"columns\": [\"where\"]}", None),
            (b"{\"table\": \"sales\", \"where\": null, \"sql\": null}", None),
            (b"{\"table\": \"sales\", \"where\": \"a > 1\"}", Some(Filter)),
            (b" {\"table\": \"sales\", \"\\u0077here\": \"a > 1\"}", Some(Filter)),
            (b"{\"table\": \"sales\", \"where\": \"a > 1\", \"where\": \"a > 1\"}", Some(Filter)),
            (b"{\"sql\": \"SELECT 1\"}", Some(Query)),
            (b"{\"sql\": \"SELECT 1\", \"where\": \"a > 1\"}", Some(Query)),
            (b"{\"sql\": ", None),
            (FLIGHT_SQL, Some(Query)),
        ] {
            let descriptor = FlightDescriptor::new_cmd(command.to_vec());
            let text = String::from_utf8_lossy(command);
            assert_eq!(sql_of_descriptor(&descriptor, &HeaderMap::new()), expected, "{text}");
            assert_eq!(sql_of_ticket(command, &HeaderMap::new()), expected, "{text}");
        }
    }

    #[test]
    fn header_makes_a_path_a_query_or_a_filter() {
        let path = FlightDescriptor::new_path(vec!["sales".into()]);
        let odd = FlightDescriptor { cmd: FLIGHT_SQL.to_vec().into(), ..path.clone() };
        assert_eq!(sql_of_descriptor(&odd, &HeaderMap::new()), None, "its type says what it is");
        assert_eq!(sql_of_descriptor(&path, &headers(WHERE_HEADER)), Some(Filter));
        assert_eq!(sql_of_descriptor(&path, &headers(SQL_HEADER)), Some(Query));
        assert_eq!(sql_of_ticket(b"sales", &headers(WHERE_HEADER)), Some(Filter));
    }

    #[test]
    fn signed_ticket_ignores_the_headers() {
        let signed = TicketKey::new(&[7; 32]).sign(&Ticket { filter: "a > 1".into(), ..Ticket::default() });
        assert_eq!(sql_of_ticket(&signed, &headers(SQL_HEADER)), None);
    }

    #[test]
    fn actions_of_flight_sql_are_known() {
        assert!(is_sql_action("CreatePreparedStatement") && is_sql_action("CancelQuery"));
        assert!(!is_sql_action("CancelFlightInfo"));
    }
}
