//! FlightInfo messages of read plans and listed tables.

use std::io::Write;

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Location, Ticket};
use http::Response;
use prost::{Message, encode_length_delimiter, length_delimiter_len};
use prost_types::Timestamp;
use serde_json::json;
use volley_common::grpc::PREFIX;
use volley_common::http2::{ReplyBody, grpc_message};
use volley_common::local_read::socket_hints::{self, LOCAL_KEY};
use volley_common::wire::catalog::DescriptorKind;
use volley_common::{Error, Result, TableName};

use super::limits::MAX_REPLY;
use crate::client_listener::Locations;
use crate::planner::endpoints::EndpointPlan;
use crate::service::read::{ReadPlan, TableListing};

/// The reply to GetFlightInfo of an encoded descriptor.
///
/// # Errors
/// RESOURCE_EXHAUSTED: it is too large.
pub fn reply(descriptor: &[u8], plan: &ReadPlan) -> Result<Response<ReplyBody>> {
    let mut reply = encode(descriptor, plan, PREFIX);
    let length = reply.len() - PREFIX;
    if length > MAX_REPLY {
        return Err(Error::exhausted(format!(
            "the FlightInfo of table {:?} would have {length} bytes, more than the limit of {MAX_REPLY}: the table has too many parts; put it again in larger batches",
            plan.name.join("/")
        )));
    }
    reply[1..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(grpc_message(reply.into()))
}

/// Encodes the reply to GetFlightInfo: the descriptor as it was received, and an endpoint for every stream. Leaves
/// `prefix_len` bytes free at the front.
///
/// The encoding is written by hand: with thousands of endpoints, building message structs would cost more than the rest of
/// the call.
pub fn encode(descriptor: &[u8], plan: &ReadPlan, prefix_len: usize) -> Vec<u8> {
    let endpoints = EndpointEncoder::new(plan);
    let app_metadata = endpoints.app_metadata();
    let other_fields = plan.schema.len() + descriptor.len() + app_metadata.len() + 64;
    let mut out = Vec::with_capacity(prefix_len + other_fields + endpoints.estimated_len());
    out.resize(prefix_len, 0);
    put_bytes(&mut out, 1, &plan.schema);
    put_bytes(&mut out, 2, descriptor);
    endpoints.write(&mut out);
    let totals = FlightInfo {
        total_records: plan.rows.map_or(-1, saturating_i64),
        total_bytes: plan.bytes.map_or(-1, saturating_i64),
        ordered: plan.ordered,
        app_metadata: app_metadata.into(),
        ..FlightInfo::default()
    };
    out.extend_from_slice(&totals.encode_to_vec());
    out
}

/// Encodes the endpoints of a read plan. Holds what they have in common.
struct EndpointEncoder<'a> {
    plan: &'a ReadPlan,
    /// The encoded locations of nodes, by URI index.
    node_locations: Vec<Vec<u8>>,
    /// The encoded location of this coordinator.
    own_location: Vec<u8>,
    /// Whether it replaces those of the nodes in every endpoint, and not only in those without a node.
    is_proxy: bool,
    /// The encoded expiry of every endpoint.
    common_fields: Vec<u8>,
}

impl<'a> EndpointEncoder<'a> {
    fn new(plan: &'a ReadPlan) -> Self {
        let location =
            |uri: &str| FlightEndpoint { location: vec![Location { uri: uri.into() }], ..Default::default() };
        let expiry = FlightEndpoint { expiration_time: Some(timestamp(plan.expires_ms)), ..Default::default() };
        EndpointEncoder {
            plan,
            node_locations: plan.version_plan.uris.iter().map(|uri| location(uri).encode_to_vec()).collect(),
            own_location: location(plan.listener.own_location()).encode_to_vec(),
            is_proxy: plan.listener.locations != Locations::Direct
                || !plan.version_plan.uris.iter().all(|uri| plan.listener.permits(uri)),
            common_fields: expiry.encode_to_vec(),
        }
    }

    /// The table and the version, as JSON; and the local sockets of nodes whose locations are listed, once for all endpoints.
    fn app_metadata(&self) -> String {
        let ReadPlan { name, version, version_plan, .. } = self.plan;
        let mut metadata = json!({ "table": name.join("/"), "version": version });
        if self.plan.offers_local_reads && !self.is_proxy {
            let sockets = version_plan.local_sockets.iter();
            let sockets = sockets.filter_map(|(at, socket)| Some((version_plan.uris.get(*at)?.as_str(), socket)));
            if let Some(sockets) = socket_hints::to_json(sockets) {
                metadata[LOCAL_KEY] = sockets;
            }
        }
        metadata.to_string()
    }

    fn estimated_len(&self) -> usize {
        let own_location = std::iter::once(&self.own_location);
        let location = self.node_locations.iter().chain(own_location).map(Vec::len).max().unwrap_or(0);
        let endpoint = |endpoint: &EndpointPlan| {
            let other_fields = 64 + self.common_fields.len() + endpoint.location_count().max(1) * location;
            self.plan.signer.ticket_len(&endpoint.ticket_suffix) + other_fields
        };
        self.plan.version_plan.endpoints.iter().map(endpoint).sum()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let version_plan = &self.plan.version_plan;
        let mut app_metadata = Vec::new();
        for (at, endpoint) in version_plan.endpoints.iter().enumerate() {
            app_metadata.clear();
            if self.plan.rows.is_some() {
                // Writing to a Vec cannot fail.
                let _ = write!(app_metadata, "{{\"rows\":{}}}", endpoint.rows);
            }
            let is_own = self.is_proxy || endpoint.location_count() == 0;
            let nodes = || {
                let by_health = version_plan.locations_by_health(at, self.plan.rotation, &self.plan.doubted);
                by_health.map(|uri| &self.node_locations[uri])
            };
            let own = || is_own.then_some(&self.own_location);
            let locations = || own().into_iter().chain(nodes().filter(|_| !is_own));
            let ticket_len = self.plan.signer.ticket_len(&endpoint.ticket_suffix);
            let endpoint_len = field_len(field_len(ticket_len))
                + locations().map(Vec::len).sum::<usize>()
                + self.common_fields.len()
                + bytes_len(&app_metadata);
            put_header(out, 3, endpoint_len);
            put_header(out, 1, field_len(ticket_len));
            put_header(out, 1, ticket_len);
            self.plan.signer.write(&endpoint.ticket_suffix, out);
            locations().for_each(|location| out.extend_from_slice(location));
            out.extend_from_slice(&self.common_fields);
            put_bytes(out, 4, &app_metadata);
        }
    }
}

/// The encoded length of a length-delimited field whose number is below 16.
fn field_len(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

/// The number of bytes that [`put_bytes`] writes.
fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { field_len(bytes.len()) }
}

/// Writes the tag and length of a length-delimited field.
fn put_header(out: &mut Vec<u8>, field: u8, bytes: usize) {
    out.push(field << 3 | 2);
    // Writing to a Vec cannot fail.
    let _ = encode_length_delimiter(bytes, out);
}

/// Writes a field of bytes; nothing if it is empty, as protobuf does.
fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_header(out, field, bytes.len());
        out.extend_from_slice(bytes);
    }
}

/// The FlightInfo of a table in ListFlights: with the kind of descriptor that it was created with, and a single endpoint
/// whose ticket is the table's name, so that listing needs no read plan.
pub fn listed(listed: TableListing) -> FlightInfo {
    let TableListing { table, name, kind, bytes } = listed;
    let by_name =
        FlightEndpoint { ticket: Some(Ticket { ticket: command(&name).into() }), ..FlightEndpoint::default() };
    FlightInfo {
        schema: table.schema,
        flight_descriptor: Some(match kind {
            DescriptorKind::Command => FlightDescriptor::new_cmd(command(&name)),
            DescriptorKind::Path | DescriptorKind::Unspecified => FlightDescriptor::new_path(table.name.clone()),
        }),
        endpoint: vec![by_name],
        total_records: saturating_i64(table.rows),
        total_bytes: bytes.map_or(-1, saturating_i64),
        ordered: table.spec.is_none_or(|spec| spec.shard_by.is_empty()),
        app_metadata: json!({ "table": name.to_string(), "version": table.version }).to_string().into(),
    }
}

/// A command or ticket for a table: its name, or JSON if the name could be taken for JSON.
fn command(name: &TableName) -> String {
    let name = name.to_string();
    if name.trim_start().starts_with('{') { json!({ "table": name }).to_string() } else { name }
}

fn saturating_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Converts milliseconds since 1970 to a protobuf timestamp.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp { seconds: saturating_i64(ms / 1000), nanos: (ms % 1000) as i32 * 1_000_000 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::Value;
    use volley_common::PartId;
    use volley_common::ticket::TicketKey;
    use volley_common::wire::catalog::{LocalSocket, Node, NodeState, Part, Row, Table, TableSpec, row};
    use volley_common::wire::cluster as wire;

    use super::*;
    use crate::catalog::Catalog;
    use crate::client_listener::{ClientListener, REUSE_CONNECTION};
    use crate::planner::endpoints::plan_endpoints;

    fn table(name: &str) -> Table {
        Table { name: vec![name.into()], version: 3, rows: 7, spec: Some(TableSpec::default()), ..Table::default() }
    }

    #[test]
    fn listed_table_keeps_its_kind_of_descriptor() {
        let list = |name: &str, kind| {
            listed(TableListing { table: table(name), name: name.parse().unwrap(), kind, bytes: None })
        };
        let by_path = list("t", DescriptorKind::Path);
        assert_eq!(by_path.total_bytes, -1);
        assert_eq!(by_path.flight_descriptor.unwrap().path, ["t"]);
        let by_command = list("t", DescriptorKind::Command);
        assert_eq!(&by_command.flight_descriptor.unwrap().cmd[..], b"t");
        assert_eq!(&by_command.endpoint[0].ticket.as_ref().unwrap().ticket[..], b"t");
        let odd = list("{x", DescriptorKind::Command).flight_descriptor.unwrap();
        assert_eq!(&odd.cmd[..], br#"{"table":"{x"}"#);
    }

    /// The plan of a table with this many parts on two nodes.
    fn read_plan(parts: u64) -> ReadPlan {
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
        let version_plan = plan_endpoints(&catalog, &table, 3, 99, None, catalog.live_node_ids(), "").unwrap();
        ReadPlan {
            rows: Some(version_plan.rows),
            name: vec!["a".into(), "t".into()],
            version: 3,
            schema: Bytes::from_static(b"schema"),
            version_plan: Arc::new(version_plan),
            signer: TicketKey::new(b"key").signer(&wire::Ticket { version: 3, expires_ms: 1500, ..Default::default() }),
            listener: ClientListener {
                name: "".into(),
                uri: "grpc+tcp://c:1".into(),
                is_advertised: true,
                locations: Locations::Direct,
                client_tls: false,
            },
            rotation: 1,
            doubted: Vec::new(),
            bytes: None,
            ordered: true,
            expires_ms: 1500,
            offers_local_reads: true,
        }
    }

    fn app_metadata_with(change: impl FnOnce(&mut ReadPlan)) -> Value {
        let mut plan = read_plan(2);
        let mut version_plan = (*plan.version_plan).clone();
        let socket = LocalSocket { machine: "m".into(), path: "/s".into(), uid: 7, id: 255 };
        version_plan.local_sockets = vec![(1, socket)];
        plan.version_plan = Arc::new(version_plan);
        change(&mut plan);
        let info = FlightInfo::decode(&encode(b"", &plan, 0)[..]).unwrap();
        serde_json::from_slice(&info.app_metadata).unwrap()
    }

    #[test]
    fn local_sockets_are_listed_with_the_locations_of_nodes() {
        let socket = json!({ "id": "00000000000000ff", "machine": "m", "socket": "/s", "uid": 7 });
        let with_local = json!({ "table": "a/t", "version": 3, "local": { "grpc+tcp://n2:1": socket } });
        let without = json!({ "table": "a/t", "version": 3 });
        assert_eq!(app_metadata_with(|_| {}), with_local);
        assert_eq!(app_metadata_with(|plan| plan.offers_local_reads = false), without);
        assert_eq!(app_metadata_with(|plan| plan.listener.locations = Locations::Proxy), without);
        assert_eq!(
            app_metadata_with(|plan| plan.listener.client_tls = true),
            without,
            "no address of a node is listed"
        );
    }

    #[test]
    fn encoded_read_plan_is_a_valid_flight_info() {
        let descriptor = FlightDescriptor::new_path(vec!["t".into()]);
        let bytes = encode(&descriptor.encode_to_vec(), &read_plan(2), 5);
        let info = FlightInfo::decode(&bytes[5..]).unwrap();
        assert_eq!(info.encode_to_vec(), bytes[5..], "the encoding of the structs");
        assert_eq!((info.schema.as_ref(), info.flight_descriptor), (&b"schema"[..], Some(descriptor)));
        assert_eq!((info.total_records, info.total_bytes, info.ordered), (1_000_000_000, -1, true));
        assert_eq!(info.app_metadata, r#"{"table":"a/t","version":3}"#);
        let uris = |at: usize| info.endpoint[at].location.iter().map(|l| l.uri.as_str()).collect::<Vec<_>>();
        assert_eq!(uris(0), ["grpc+tcp://n2:1", "grpc+tcp://n1:1"]);
        assert_eq!(uris(1), ["grpc+tcp://n1:1", "grpc+tcp://n2:1"]);
        for (at, endpoint) in (0..).zip(&info.endpoint) {
            let ticket = TicketKey::new(b"key").verify(&endpoint.ticket.as_ref().unwrap().ticket, 0).unwrap();
            assert_eq!((ticket.version, ticket.parts.len(), ticket.parts[0].rows), (3, 1, at * 1_000_000_000));
            assert_eq!(endpoint.app_metadata, format!("{{\"rows\":{}}}", at * 1_000_000_000));
            assert_eq!(endpoint.expiration_time.unwrap(), Timestamp { seconds: 1, nanos: 500_000_000 });
        }
    }

    /// The locations of all endpoints of a plan of two parts, changed by `change`.
    fn uris_with(change: impl FnOnce(&mut ReadPlan)) -> Vec<Vec<String>> {
        let mut plan = read_plan(2);
        change(&mut plan);
        let bytes = encode(b"", &plan, 0);
        let info = FlightInfo::decode(&bytes[..]).unwrap();
        assert_eq!(info.encode_to_vec(), bytes, "the encoding of the structs");
        info.endpoint.into_iter().map(|endpoint| endpoint.location.into_iter().map(|l| l.uri).collect()).collect()
    }

    #[test]
    fn doubted_node_is_listed_last_in_every_endpoint() {
        let uris = uris_with(|plan| plan.doubted = vec![true, false]);
        assert_eq!(uris, [["grpc+tcp://n2:1", "grpc+tcp://n1:1"]; 2]);
    }

    #[test]
    fn proxy_listener_gets_only_the_coordinators_address() {
        assert_eq!(uris_with(|plan| plan.listener.locations = Locations::Proxy), [["grpc+tcp://c:1"]; 2]);
        let without_address = uris_with(|plan| {
            plan.listener.locations = Locations::Proxy;
            plan.listener.is_advertised = false;
        });
        assert_eq!(without_address, [[REUSE_CONNECTION]; 2]);
    }

    #[test]
    fn client_with_tls_gets_no_address_without() {
        assert_eq!(uris_with(|plan| plan.listener.client_tls = true), [[REUSE_CONNECTION]; 2]);
    }

    /// A client that dials each location must find one.
    #[test]
    fn endpoint_without_a_node_gets_the_coordinators_address() {
        let nobody = uris_with(|plan| {
            let table = Table { id: 1, ..table("t") };
            plan.version_plan =
                plan_endpoints(&Catalog::default(), &table, 3, 99, None, &BTreeSet::new(), "").unwrap().into();
        });
        assert_eq!(nobody, [["grpc+tcp://c:1"]]);
    }

    #[test]
    fn filtered_read_has_no_numbers_of_rows() {
        let bytes = encode(b"", &ReadPlan { rows: None, ..read_plan(2) }, 0);
        let info = FlightInfo::decode(&bytes[..]).unwrap();
        assert_eq!(info.encode_to_vec(), bytes, "the encoding of the structs");
        assert_eq!((info.total_records, info.total_bytes, info.endpoint.len()), (-1, -1, 2));
        assert!(info.endpoint.iter().all(|endpoint| endpoint.app_metadata.is_empty()));
    }

    #[test]
    fn empty_table_has_one_endpoint() {
        let bytes = encode(b"", &read_plan(0), 0);
        let info = FlightInfo::decode(&bytes[..]).unwrap();
        assert_eq!((info.endpoint.len(), info.endpoint[0].location.len(), info.total_records), (1, 2, 0));
    }
}
