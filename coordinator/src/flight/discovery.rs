//! Offers and lists as FlightInfo.

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Location, Ticket};
use prost_types::Timestamp;
use serde_json::json;
use volley_common::TableName;
use volley_common::wire::catalog::DescriptorKind;

use crate::service::read::{Endpoint, Listed, Offer};

/// What GetFlightInfo answers: the descriptor as it came, an endpoint for every stream.
pub fn info(descriptor: FlightDescriptor, offer: Offer) -> FlightInfo {
    let expires = timestamp(offer.expires_ms);
    FlightInfo {
        schema: offer.schema,
        flight_descriptor: Some(descriptor),
        endpoint: offer.endpoints.into_iter().map(|e| endpoint(e, expires)).collect(),
        total_records: count(offer.rows),
        total_bytes: offer.bytes.map_or(-1, count),
        ordered: offer.ordered,
        app_metadata: json!({ "table": offer.table.name.join("/"), "version": offer.version }).to_string().into(),
    }
}

fn endpoint(endpoint: Endpoint, expires: Timestamp) -> FlightEndpoint {
    FlightEndpoint {
        ticket: Some(Ticket { ticket: endpoint.ticket.into() }),
        location: endpoint.locations.into_iter().map(|uri| Location { uri }).collect(),
        expiration_time: Some(expires),
        app_metadata: json!({ "rows": endpoint.rows }).to_string().into(),
    }
}

/// What ListFlights answers for a table: named as it was when it was made, and cheap: one endpoint whose ticket is the
/// table's name.
pub fn listed(listed: Listed) -> FlightInfo {
    let Listed { table, name, kind } = listed;
    let by_name =
        FlightEndpoint { ticket: Some(Ticket { ticket: command(&name).into() }), ..FlightEndpoint::default() };
    FlightInfo {
        schema: table.schema,
        flight_descriptor: Some(match kind {
            DescriptorKind::Command => FlightDescriptor::new_cmd(command(&name)),
            DescriptorKind::Path | DescriptorKind::Unspecified => FlightDescriptor::new_path(table.name.clone()),
        }),
        endpoint: vec![by_name],
        total_records: count(table.rows),
        total_bytes: count(table.bytes),
        ordered: table.spec.is_none_or(|spec| spec.shard_by.is_empty()),
        app_metadata: json!({ "table": name.to_string(), "version": table.version }).to_string().into(),
    }
}

/// A command or ticket for a table: its name, unless that would be read as JSON.
fn command(name: &TableName) -> String {
    let name = name.to_string();
    if name.trim_start().starts_with('{') { json!({ "table": name }).to_string() } else { name }
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970 as protobuf has it.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp { seconds: count(ms / 1000), nanos: (ms % 1000) as i32 * 1_000_000 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::catalog::{Table, TableSpec};

    use super::*;

    fn table(name: &str) -> Table {
        Table { name: vec![name.into()], version: 3, rows: 7, spec: Some(TableSpec::default()), ..Table::default() }
    }

    #[test]
    fn a_table_is_listed_as_it_was_made() {
        let list = |name: &str, kind| listed(Listed { table: table(name), name: name.parse().unwrap(), kind });
        let by_path = list("t", DescriptorKind::Path);
        assert_eq!(by_path.flight_descriptor.unwrap().path, ["t"]);
        let by_command = list("t", DescriptorKind::Command);
        assert_eq!(&by_command.flight_descriptor.unwrap().cmd[..], b"t");
        assert_eq!(&by_command.endpoint[0].ticket.as_ref().unwrap().ticket[..], b"t");
        let odd = list("{x", DescriptorKind::Command).flight_descriptor.unwrap();
        assert_eq!(&odd.cmd[..], br#"{"table":"{x"}"#);
    }

    #[test]
    fn an_offer_becomes_a_flight_info() {
        let offer = Offer {
            table: table("t"),
            version: 3,
            schema: bytes::Bytes::new(),
            endpoints: vec![Endpoint { ticket: vec![1], locations: vec!["grpc+tcp://h:1".into()], rows: 7 }],
            rows: 7,
            bytes: None,
            ordered: true,
            expires_ms: 1500,
        };
        let info = info(FlightDescriptor::new_path(vec!["t".into()]), offer);
        let uris: Vec<&str> = info.endpoint[0].location.iter().map(|l| l.uri.as_str()).collect();
        assert_eq!(uris, ["grpc+tcp://h:1"]);
        assert_eq!((info.total_records, info.total_bytes), (7, -1));
        assert_eq!(info.endpoint[0].expiration_time.unwrap(), Timestamp { seconds: 1, nanos: 500_000_000 });
    }
}
