//! Offers and lists as FlightInfo.

use std::io::Write;

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Location, Ticket};
use prost::{Message, encode_length_delimiter, length_delimiter_len};
use prost_types::Timestamp;
use serde_json::json;
use volley_common::TableName;
use volley_common::wire::catalog::DescriptorKind;

use crate::plan::{EndpointPlan, REUSE_CONNECTION};
use crate::service::read::{Listed, Offer};
use crate::service::via::Locations;

/// What GetFlightInfo answers, encoded: the descriptor as it came, an endpoint for every stream. `before` bytes are left
/// free at the front.
///
/// Written by hand: with thousands of endpoints the messages' structs would cost more than all the rest of the call.
pub fn info(descriptor: &[u8], offer: &Offer, before: usize) -> Vec<u8> {
    let about = json!({ "table": offer.name.join("/"), "version": offer.version }).to_string();
    let endpoints = Endpoints::new(offer);
    let small = offer.schema.len() + descriptor.len() + about.len() + 64;
    let mut out = Vec::with_capacity(before + small + endpoints.len());
    out.resize(before, 0);
    put_bytes(&mut out, 1, &offer.schema);
    put_bytes(&mut out, 2, descriptor);
    endpoints.write(&mut out);
    let totals = FlightInfo {
        total_records: count(offer.plan.rows),
        total_bytes: offer.bytes.map_or(-1, count),
        ordered: offer.ordered,
        app_metadata: about.into(),
        ..FlightInfo::default()
    };
    out.extend_from_slice(&totals.encode_to_vec());
    out
}

/// The endpoints of an offer, and what is the same in all of them.
struct Endpoints<'a> {
    offer: &'a Offer,
    /// Encoded, by the index of its URI.
    locations: Vec<Vec<u8>>,
    /// Encoded, if it stands in place of the nodes': this coordinator.
    own: Option<Vec<u8>>,
    /// Encoded: the last location, and until when the ticket is good.
    rest: Vec<u8>,
}

impl<'a> Endpoints<'a> {
    fn new(offer: &'a Offer) -> Self {
        let location =
            |uri: &str| FlightEndpoint { location: vec![Location { uri: uri.into() }], ..Default::default() };
        let last = FlightEndpoint { expiration_time: Some(timestamp(offer.expires_ms)), ..location(REUSE_CONNECTION) };
        let locations = offer.plan.uris.iter().map(|uri| location(uri).encode_to_vec()).collect();
        let own = (offer.via.locations != Locations::Direct).then(|| location(&offer.via.own).encode_to_vec());
        Endpoints { offer, locations, own, rest: last.encode_to_vec() }
    }

    /// About how many bytes they take.
    fn len(&self) -> usize {
        let location = self.locations.iter().chain(&self.own).map(Vec::len).max().unwrap_or(0);
        let endpoint = |plan: &EndpointPlan| {
            let small = 64 + self.rest.len() + plan.location_count().max(1) * location;
            self.offer.signer.ticket_len(&plan.tail) + small
        };
        self.offer.plan.endpoints.iter().map(endpoint).sum()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut about = Vec::new();
        for (at, endpoint) in self.offer.plan.endpoints.iter().enumerate() {
            about.clear();
            // A Vec takes everything.
            let _ = write!(about, "{{\"rows\":{}}}", endpoint.rows);
            let nodes = || match self.own {
                Some(_) => None,
                None => Some(self.offer.plan.locations(at, self.offer.rotation).map(|uri| &self.locations[uri])),
            };
            let locations = || self.own.iter().chain(nodes().into_iter().flatten());
            let ticket = self.offer.signer.ticket_len(&endpoint.tail);
            let length = field_len(field_len(ticket))
                + locations().map(Vec::len).sum::<usize>()
                + self.rest.len()
                + field_len(about.len());
            put_head(out, 3, length);
            put_head(out, 1, field_len(ticket));
            put_head(out, 1, ticket);
            self.offer.signer.write(&endpoint.tail, out);
            locations().for_each(|location| out.extend_from_slice(location));
            out.extend_from_slice(&self.rest);
            put_bytes(out, 4, &about);
        }
    }
}

/// Length of a field with so many bytes; its number is below 16.
fn field_len(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

/// The head of a length-delimited field.
fn put_head(out: &mut Vec<u8>, field: u8, bytes: usize) {
    out.push(field << 3 | 2);
    // A Vec has room.
    let _ = encode_length_delimiter(bytes, out);
}

/// A field of bytes; none if there are none, as protobuf has it.
fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_head(out, field, bytes.len());
        out.extend_from_slice(bytes);
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
    use std::sync::Arc;

    use bytes::Bytes;
    use volley_common::PartId;
    use volley_common::ticket::TicketKey;
    use volley_common::wire::catalog::{Node, NodeState, Part, Row, Table, TableSpec, row};
    use volley_common::wire::cluster as wire;

    use super::*;
    use crate::catalog::Catalog;
    use crate::plan::plan;
    use crate::service::read::live_ids;
    use crate::service::via::Via;

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

    /// Two parts on two nodes, or none.
    fn offer(parts: u64) -> Offer {
        let mut catalog = Catalog::default();
        let mut put = |row| catalog.insert_row(Row { row: Some(row) });
        for id in [1, 2] {
            let (flight_uri, state) = (format!("grpc+tcp://n{id}:1"), NodeState::Alive as i32);
            put(row::Row::Node(Node { id, flight_uri, state, ..Node::default() }));
        }
        for seq in 0..parts {
            let (id, holders, rows) = (Some(PartId(7 + u128::from(seq)).into()), vec![1, 2], seq * 1_000_000_000);
            put(row::Row::Part(Part { id, seq, table: 1, added: 3, rows, holders, ..Part::default() }));
        }
        let table = Table { id: 1, ..table("t") };
        let plan = plan(&catalog, &table, 3, 99, None, &live_ids(&catalog), "").unwrap();
        Offer {
            name: vec!["a".into(), "t".into()],
            version: 3,
            schema: Bytes::from_static(b"schema"),
            plan: Arc::new(plan),
            signer: TicketKey::new(b"key").signer(&wire::Ticket { version: 3, expires_ms: 1500, ..Default::default() }),
            via: Via { listener: "".into(), locations: Locations::Direct, own: "grpc+tcp://c:1".into() },
            rotation: 1,
            bytes: None,
            ordered: true,
            expires_ms: 1500,
        }
    }

    #[test]
    fn an_offer_becomes_a_flight_info() {
        let descriptor = FlightDescriptor::new_path(vec!["t".into()]);
        let bytes = info(&descriptor.encode_to_vec(), &offer(2), 5);
        let info = FlightInfo::decode(&bytes[5..]).unwrap();
        assert_eq!(info.encode_to_vec(), bytes[5..], "as it would be written from structs");
        assert_eq!((info.schema.as_ref(), info.flight_descriptor), (&b"schema"[..], Some(descriptor)));
        assert_eq!((info.total_records, info.total_bytes, info.ordered), (1_000_000_000, -1, true));
        assert_eq!(info.app_metadata, r#"{"table":"a/t","version":3}"#);
        let uris = |at: usize| info.endpoint[at].location.iter().map(|l| l.uri.as_str()).collect::<Vec<_>>();
        assert_eq!(uris(0), ["grpc+tcp://n2:1", "grpc+tcp://n1:1", REUSE_CONNECTION]);
        assert_eq!(uris(1), ["grpc+tcp://n1:1", "grpc+tcp://n2:1", REUSE_CONNECTION]);
        for (at, endpoint) in (0..).zip(&info.endpoint) {
            let ticket = TicketKey::new(b"key").verify(&endpoint.ticket.as_ref().unwrap().ticket, 0).unwrap();
            assert_eq!((ticket.version, ticket.parts.len(), ticket.parts[0].rows), (3, 1, at * 1_000_000_000));
            assert_eq!(endpoint.app_metadata, format!("{{\"rows\":{}}}", at * 1_000_000_000));
            assert_eq!(endpoint.expiration_time.unwrap(), Timestamp { seconds: 1, nanos: 500_000_000 });
        }
    }

    #[test]
    fn behind_a_proxy_only_the_coordinator_is_told() {
        let mut offer = offer(2);
        offer.via.locations = Locations::Proxy;
        let bytes = info(b"", &offer, 0);
        let info = FlightInfo::decode(&bytes[..]).unwrap();
        assert_eq!(info.encode_to_vec(), bytes, "as it would be written from structs");
        for endpoint in info.endpoint {
            let uris: Vec<&str> = endpoint.location.iter().map(|l| l.uri.as_str()).collect();
            assert_eq!(uris, ["grpc+tcp://c:1", REUSE_CONNECTION]);
        }
    }

    #[test]
    fn an_empty_table_has_one_endpoint() {
        let bytes = info(b"", &offer(0), 0);
        let info = FlightInfo::decode(&bytes[..]).unwrap();
        assert_eq!((info.endpoint.len(), info.endpoint[0].location.len(), info.total_records), (1, 3, 0));
    }
}
