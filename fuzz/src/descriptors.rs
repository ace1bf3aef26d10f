//! Descriptors, commands, unsigned tickets, and headers with options, or with what excludes parts.
//!
//! The first byte chooses between a command, a ticket and a descriptor in protobuf; header lines may precede it, with an empty
//! line after them.

use arrow_flight::FlightDescriptor;
use http::HeaderMap;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::ipc::statistics::{BoundFilter, BoundOperator, part_may_match};
use volley_common::options::part_filter::{PART_FILTER_HEADER, from_headers, header_value};
use volley_common::options::sql::{sql_of_descriptor, sql_of_ticket};
use volley_common::options::{
    MAX_REPLICAS, MAX_SHARDS, TableAccess, TableRequest, TicketRequest, check_filter, check_retention, check_ttl,
    check_write_id, decompress_header,
};
use volley_common::wire::cluster::PartFilter;
use volley_common::wire::statistics::PartBounds;
use volley_common::{Code, Result, TableName, name};

use crate::input::{check_error, header_map, split_head};

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (head, body) = split_head(rest);
    let headers = MetadataMap::from_headers(header_map(head));
    if let Err(error) = decompress_header(&headers) {
        check_error(&error, rest.len());
    }
    check_part_filter(headers.as_ref(), body);
    // A read with a filter is never one without SQL: a coordinator would plan it unchecked.
    let sql = match kind % 3 {
        0 => sql_of_descriptor(&FlightDescriptor::new_cmd(body.to_vec()), headers.as_ref()),
        1 => sql_of_ticket(body, headers.as_ref()),
        _ => FlightDescriptor::decode(body).ok().and_then(|found| sql_of_descriptor(&found, headers.as_ref())),
    };
    let request = match kind % 3 {
        0 => TableRequest::from_command(body, &headers),
        1 => match TicketRequest::from_ticket(body, &headers) {
            Ok(TicketRequest::Table(request)) => Ok(request),
            Ok(TicketRequest::Signed(_)) => return,
            Err(error) => Err(error),
        },
        _ => match FlightDescriptor::decode(body) {
            Ok(descriptor) => TableRequest::from_descriptor(&descriptor, &headers),
            Err(_) => return,
        },
    };
    if let Ok(request) = &request {
        assert!(request.options.filter.is_none() || sql.is_some(), "a filter without SQL");
    }
    check_request(request, rest.len());
}

/// What the headers say excludes parts is evaluated for any bounds. What is sent again holds wherever it does.
fn check_part_filter(headers: &HeaderMap, bounds: &[u8]) {
    let Some(PartFilter { condition: Some(condition), .. }) = from_headers(headers) else { return };
    let Some(filter) = BoundFilter::from_wire(&condition) else { return };
    let sent = filter.to_wire().and_then(|sent| BoundFilter::from_wire(&sent));
    if part_may_match(&filter, bounds) {
        assert!(sent.is_none_or(|sent| part_may_match(&sent, bounds)), "{filter:?}");
    }
}

fn check_request(request: Result<TableRequest>, input: usize) {
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            assert!(matches!(error.code, Code::InvalidArgument | Code::Unimplemented), "{:?}: {error}", error.code);
            return check_error(&error, input);
        }
    };
    check_name(&request.name);
    let options = &request.options;
    assert!(options.shards.is_none_or(|shards| (1..=MAX_SHARDS).contains(&shards)));
    assert!(options.replicas.is_none_or(|replicas| (1..=MAX_REPLICAS).contains(&replicas)));
    assert!(options.max_endpoints != Some(0));
    assert!(options.filter.as_deref().is_none_or(|filter| check_filter(filter).is_ok()));
    assert!(options.write_id.as_deref().is_none_or(|id| check_write_id(id).is_ok()));
    assert!(options.retention_s.is_none_or(|seconds| check_retention(seconds).is_ok()));
    assert!(options.ttl_s.is_none_or(|seconds| check_ttl(seconds).is_ok()));
    for access in [TableAccess::Read, TableAccess::Put, TableAccess::Create] {
        if let Err(error) = request.clone().with_access(access) {
            check_error(&error, input);
        }
    }
}

/// A name is the same after a way through text, and has no part that a path could be led astray by: control characters, or
/// nothing. `.` and `..` are names: no part of a name is a path.
pub fn check_name(table: &TableName) {
    let text = table.to_string();
    assert_eq!(text.parse::<TableName>().as_ref(), Ok(table));
    assert_eq!(TableName::from_components(table.components()).as_ref(), Ok(table));
    assert!((1..=name::MAX_BYTES).contains(&text.len()) && table.components().len() <= name::MAX_COMPONENTS);
    for component in table.components() {
        assert!(!component.is_empty() && !component.contains('/') && !component.chars().any(char::is_control));
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let path = FlightDescriptor::new_path(vec!["sales".into(), "eu/west".into()]);
    let command = FlightDescriptor::new_cmd(b"{\"table\": \"sales\"}".to_vec());
    let sql = b"\x0a\x37type.googleapis.com/arrow.flight.protocol.sql.CommandX";
    let all = r#"{"table": "sales/eu", "columns": ["a", "b"], "version": 3, "limit": 10, "max_endpoints": 4,
        "where": "a > 1", "decompress": true, "mode": "append", "shards": 4, "shard_by": ["a"], "replicas": 2, "compression": "zstd",
        "write_id": "w-1", "retention_s": 60, "ttl_s": 60, "stats_columns": ["a"], "preserve_batches": false}"#;
    vec![
        part_filter_seed(),
        b"\0sales/eu".to_vec(),
        [&b"\0"[..], all.as_bytes()].concat(),
        b"\0{\"table\": \"a\", \"columns\": \"x,y\", \"columns\": [\"z\"]}".to_vec(),
        b"\0x-volley-shards: 4\nx-volley-shard-by: a,b\nx-volley-compression: lz4\n\nsales".to_vec(),
        b"\0x-volley-limit: 5\nx-volley-decompress: true\n\n{\"table\": \"sales\", \"limit\": 5}".to_vec(),
        b"\0../../etc/passwd".to_vec(),
        b"\0x-volley-where: a > 1\n\nsales".to_vec(),
        b"\0{\"sql\": \"SELECT 1\"}".to_vec(),
        b"\x01{\"table\": \"sales\", \"\\u0077here\": \"a > 1\"}".to_vec(),
        [&b"\0"[..], sql].concat(),
        b"\x01{\"table\": \"sales\", \"limit\": 1}".to_vec(),
        b"\x01\x01VOLLEY1".to_vec(),
        [&b"\x02"[..], &path.encode_to_vec()].concat(),
        [&b"\x02"[..], &command.encode_to_vec()].concat(),
        [&b"\x02x-volley-mode: create\n\n"[..], &path.encode_to_vec()].concat(),
    ]
}

/// A header with a condition, and the bounds of a part.
fn part_filter_seed() -> Vec<u8> {
    let condition = BoundFilter::any(vec![
        BoundFilter::Compare { column: 7, operator: BoundOperator::Less, value: b"m".to_vec().into() },
        BoundFilter::all(vec![BoundFilter::IsNull(0), BoundFilter::IsNotNull(7)]),
    ]);
    let value = header_value(&PartFilter { schema: 1, condition: condition.to_wire() }).expect("a short header");
    let bounds = PartBounds {
        columns: vec![7, 0],
        nulls: vec![0, 3],
        minimum_lengths: vec![1, 254].into(),
        minimums: b"a".to_vec().into(),
        maximum_lengths: vec![255, 254].into(),
        maximums: Vec::new().into(),
    };
    let header = format!("{PART_FILTER_HEADER}: ");
    [&b"\0"[..], header.as_bytes(), value.as_bytes(), b"\n\n", &bounds.encode_to_vec()].concat()
}
