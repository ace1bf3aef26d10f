//! Puts on nodes that run in this process.

mod audited;
pub(crate) mod cluster;
mod copies;
mod preserved;
mod safety;
mod streaming;

use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::DataType;
use arrow_flight::FlightData;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Status};
use volley_common::identity::Access;
use volley_common::ipc::statistics::comparison::{ValueComparison, compare};
use volley_common::ipc::statistics::part_may_match;
use volley_common::net::ConnectionPool;
use volley_common::server::serve::{self, ServerLimits};
use volley_common::wire::catalog::WriteState;
use volley_common::{Error, TransactionId};

use crate::put::PutTarget;
use crate::router::NodeRouter;
use cluster::{InProcessCluster, batch, megabytes, messages};

#[tokio::test(flavor = "multi_thread")]
async fn put_is_committed_with_the_holders_of_each_part() {
    let cluster = InProcessCluster::start(3, &[&[0, 1], &[1, 2]], 2).await;
    let input = messages("t", megabytes(4)).await;
    let count = input.len() - 1;
    let acks = cluster.put(stream::iter(input)).await.unwrap();
    assert_eq!(acks.len(), count + 1, "one for each message with rows, and the outcome");
    let outcome: serde_json::Value = serde_json::from_slice(acks.last().unwrap()).unwrap();
    assert_eq!((&outcome["table"], &outcome["version"], &outcome["rows"]), (&"t".into(), &1.into(), &524_288.into()));
    let write = cluster.write();
    assert_eq!(write.parts.len() as u64, outcome["parts"].as_u64().unwrap());
    for part in &write.parts {
        let mut holders = part.holders.clone();
        let mut placed = write.placement[part.shard as usize].nodes.clone();
        holders.sort_unstable();
        placed.sort_unstable();
        assert_eq!(holders, placed, "part {} of shard {}", part.seq, part.shard);
    }
    let of_shard = |shard| write.parts.iter().filter(|p| p.shard == shard).count();
    cluster.settles(&[of_shard(0), of_shard(0) + of_shard(1), of_shard(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_committed_with_their_bounds() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    cluster.put(stream::iter(messages("t", megabytes(4)).await)).await.unwrap();
    let parts = cluster.write().parts;
    assert!(parts.len() > 1, "{} parts", parts.len());
    let parts_with = |number: i64| {
        let equal = compare(0, &DataType::Int64, ValueComparison::Equal, &Int64Array::from(vec![number])).unwrap();
        parts.iter().filter(|part| part_may_match(&equal, &part.statistics)).count()
    };
    assert_eq!([-1, 0, 300_000, 524_287, 524_288].map(parts_with), [0, 1, 1, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_input_stream_rolls_the_put_back() {
    let cluster = InProcessCluster::start(2, &[&[0, 1]], 2).await;
    let (wait, input) = (CancellationToken::new(), messages("t", megabytes(6)).await);
    let breaks = wait.clone();
    let end = stream::once(async move {
        breaks.cancelled().await;
        Err(Error::unavailable("reset"))
    });
    let input = Box::pin(stream::iter(input).chain(end));
    let put = tokio::spawn({
        let context = cluster.nodes[0].context.put.clone();
        async move {
            let slot = context.resources.admit().unwrap();
            crate::put::put(context, MetadataMap::new(), Access::open(), input, slot).try_collect::<Vec<_>>().await
        }
    });
    while cluster.held(1) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    wait.cancel();
    assert!(put.await.unwrap().unwrap_err().message.contains("broke"));
    cluster.settles(&[0, 0]).await;
    assert_eq!(cluster.write().state(), WriteState::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_result_stream_rolls_the_put_back() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let input = stream::iter(messages("t", megabytes(2)).await).chain(stream::pending());
    let context = cluster.nodes[0].context.put.clone();
    let slot = context.resources.admit().unwrap();
    let mut results = crate::put::put(context, MetadataMap::new(), Access::open(), Box::pin(input), slot);
    results.next().await.unwrap().unwrap();
    drop(results);
    cluster.nodes[0].context.put.tasks.close();
    cluster.nodes[0].context.put.tasks.wait().await;
    cluster.settles(&[0]).await;
    assert_eq!(cluster.write().state(), WriteState::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_holder_is_replaced_by_a_substitute() {
    let cluster = InProcessCluster::start(3, &[&[0, 1]], 2).await;
    cluster.nodes[1].stop.cancel();
    while tokio::net::TcpStream::connect(&cluster.nodes[1].context.addresses.peer_addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let expected = vec![cluster.id(0).0, cluster.id(2).0];
    assert!(cluster.write().parts.iter().all(|p| p.holders == expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_copies_fail_the_put_and_roll_it_back() {
    let cluster = InProcessCluster::start(2, &[&[0, 1]], 2).await;
    cluster.nodes[1].stop.cancel();
    while tokio::net::TcpStream::connect(&cluster.nodes[1].context.addresses.peer_addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap_err();
    assert_eq!(error.code, tonic::Code::Unavailable);
    assert!(error.message.contains("only 1 of the 2 copies"), "{error}");
    cluster.settles(&[0, 0]).await;
    assert_eq!(cluster.write().state(), WriteState::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_without_a_placed_shard_keeps_no_part() {
    let cluster = InProcessCluster::start(3, &[&[1, 2]], 2).await;
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let parts = cluster.write().parts.len();
    cluster.settles(&[0, parts, parts]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_commit_rolls_the_put_back() {
    let cluster = InProcessCluster::start(2, &[&[0, 1]], 2).await;
    cluster.coordinator.state.lock().refuse_commit = Some(Error::aborted("the table was dropped"));
    let error = cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (tonic::Code::Aborted, "the table was dropped"));
    cluster.settles(&[0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_write_id_returns_the_first_outcome() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let command = r#"{"table": "t", "write_id": "once"}"#;
    let first = cluster.put(stream::iter(messages(command, megabytes(2)).await)).await.unwrap();
    let parts = cluster.held(0);
    let again = cluster.put(stream::iter(messages(command, megabytes(2)).await)).await.unwrap();
    let outcome = |acks: &[bytes::Bytes]| serde_json::from_slice::<serde_json::Value>(acks.last().unwrap()).unwrap();
    let (mut first, again) = (outcome(&first), outcome(&again));
    assert!(first["repeated"].is_null(), "{first}");
    first["repeated"] = true.into();
    assert_eq!(first, again);
    assert_eq!(cluster.held(0), parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_a_staged_write_is_staged() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    cluster.coordinator.state.lock().staged = true;
    let command = r#"{"table": "t", "write_id": "many"}"#;
    let acks = cluster.put(stream::iter(messages(command, megabytes(2)).await)).await.unwrap();
    let outcome: serde_json::Value = serde_json::from_slice(acks.last().unwrap()).unwrap();
    assert_eq!(outcome["staged"], true);
    let staged = cluster.coordinator.state.lock().staged_parts.clone();
    assert_eq!(staged.len(), 1);
    assert_eq!(staged[0].parts.iter().map(|p| p.rows).sum::<u64>(), 262_144);
    assert_eq!((cluster.write().state(), cluster.write().attempt), (WriteState::Open, staged[0].begun));
}

#[tokio::test(flavor = "multi_thread")]
async fn put_in_a_transaction_is_staged_by_the_plan_of_its_write() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let put = async |mode: &str| {
        let transaction = TransactionId::new(7);
        let command = format!(r#"{{"table": "t", "mode": "{mode}", "transaction": "{transaction}"}}"#);
        cluster.put(stream::iter(messages(&command, vec![batch(0, 5)]).await)).await
    };
    let refused = put("append").await.unwrap_err();
    assert!(refused.code == Code::FailedPrecondition && refused.message.contains("earlier version"), "{refused}");
    assert!(cluster.coordinator.state.lock().writes.values().all(|write| write.staged), "no put is committed");
    cluster.coordinator.state.lock().knows_transactions = true;
    for (at, (mode, only_first)) in
        [("append", false), ("create_append", false), ("create", true), ("replace", true)].into_iter().enumerate()
    {
        let acks = put(mode).await.unwrap();
        let outcome: serde_json::Value = serde_json::from_slice(acks.last().unwrap()).unwrap();
        assert_eq!((&outcome["staged"], &outcome["rows"]), (&true.into(), &5.into()));
        let state = cluster.coordinator.state.lock();
        let staged = &state.staged_parts[at];
        assert_eq!(staged.only_first, only_first, "{mode}");
        assert_eq!(staged.attempt, state.writes[&staged.write].attempt);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_table_options_need_coordinators_that_know_them() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let put = async |target, command: &str| {
        cluster.put_into(target, stream::iter(messages(command, vec![batch(0, 5)]).await)).await
    };
    let expiring = r#"{"table": "t", "ttl_s": 60}"#;
    let named = r#"{"table": "t", "stats_columns": "n"}"#;
    let puts =
        [(PutTarget::Table, expiring), (PutTarget::TemporaryTable, r#"{"table": "t"}"#), (PutTarget::Table, named)];
    for (target, command) in puts {
        let refused = put(target, command).await.unwrap_err();
        assert!(refused.code == Code::FailedPrecondition && refused.message.contains("upgrade"), "{refused}");
    }
    assert!(cluster.coordinator.state.lock().writes.values().all(|write| write.parts.is_empty()), "nothing is stored");
    put(PutTarget::Table, r#"{"table": "t", "ttl_s": 0, "stats_columns": []}"#).await.unwrap();
    let ttls = async |target, command| {
        cluster.coordinator.state.lock().writes.clear();
        put(target, command).await.unwrap();
        cluster.write().spec.unwrap().ttl_ms
    };
    cluster.coordinator.state.lock().knows_table_options = true;
    assert_eq!(ttls(PutTarget::Table, expiring).await, 60_000);
    assert_eq!(ttls(PutTarget::TemporaryTable, r#"{"table": "t"}"#).await, 3_600_000);
    assert_eq!(ttls(PutTarget::TemporaryTable, expiring).await, 60_000);
    assert_eq!(ttls(PutTarget::Table, r#"{"table": "t"}"#).await, 0);
    assert_eq!(ttls(PutTarget::Table, named).await, 0);
    assert_eq!(cluster.write().spec.unwrap().stats_columns, ["n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_uses_all_shards_if_it_or_the_plan_says_so() {
    let cluster = InProcessCluster::start(1, &[&[0], &[0]], 1).await;
    // Four batches of 512 KiB, in blocks of 1 MiB or from 512 KiB on.
    for (command, spreads, parts) in
        [(r#"{"table": "t"}"#, false, 2), (r#"{"table": "t"}"#, true, 3), (r#"{"table": "t", "shards": 2}"#, false, 3)]
    {
        cluster.coordinator.state.lock().spreads = spreads;
        let batches = (0..4).map(|at| batch(at * 65_536, 65_536)).collect();
        let acks = cluster.put(stream::iter(messages(command, batches).await)).await.unwrap();
        let outcome: serde_json::Value = serde_json::from_slice(acks.last().unwrap()).unwrap();
        assert_eq!(outcome["parts"], parts, "{command} {spreads}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_without_rows_creates_an_empty_table() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    for rows in [vec![], vec![batch(0, 0), batch(0, 0)]] {
        let acks = cluster.put(stream::iter(messages("t", rows).await)).await.unwrap();
        let outcome: serde_json::Value = serde_json::from_slice(acks.last().unwrap()).unwrap();
        assert_eq!((&outcome["rows"], &outcome["parts"]), (&0.into(), &0.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_descriptor_or_schema_is_invalid() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let error = cluster.put(stream::iter(vec![])).await.unwrap_err();
    assert!(error.message.contains("no messages"));
    let mut input = messages("t", megabytes(1)).await;
    input[0].as_mut().unwrap().flight_descriptor = None;
    let error = cluster.put(stream::iter(input)).await.unwrap_err();
    assert!(error.message.contains("descriptor"));
    let mut input = messages("t", megabytes(1)).await;
    let descriptor = input[0].as_mut().unwrap().flight_descriptor.take();
    input.remove(0).unwrap();
    input[0].as_mut().unwrap().flight_descriptor = descriptor;
    assert_eq!(cluster.put(stream::iter(input)).await.unwrap_err().code, tonic::Code::InvalidArgument);
}

/// One HTTP/2 frame of stream 1 (`SETTINGS`: of the connection).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags, 0, 0, 0, u8::from(kind != 4)]);
    out.extend(payload);
    out
}

/// The bytes by which a client begins a put: preface, settings, headers (HPACK literals), messages.
fn begin_by_hand(messages: Vec<volley_common::Result<FlightData>>) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "volley"),
        (":path", "/arrow.flight.protocol.FlightService/DoPut"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        headers.extend([0, name.len() as u8]);
        headers.extend(name.as_bytes());
        headers.push(value.len() as u8);
        headers.extend(value.as_bytes());
    }
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(4, 0, &[]));
    out.extend(frame(1, 4, &headers));
    for message in messages {
        let bytes = message.unwrap().encode_to_vec();
        let mut data = vec![0];
        data.extend((bytes.len() as u32).to_be_bytes());
        data.extend(bytes);
        out.extend(frame(0, 0, &data));
    }
    out
}

/// Serves Flight calls at a cluster's first node; returns its address.
async fn serve(cluster: &InProcessCluster) -> String {
    let context = &cluster.nodes[0].context;
    let listener = serve::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let service = crate::flight::service(context.config.max_message, context.callers.clone());
    let router = NodeRouter::new(context, Routes::new(service), "");
    tokio::spawn(serve::serve(listener, router, CancellationToken::new(), ServerLimits::default()));
    addr
}

/// Calls DoPut with these bytes; returns the length of the reply's body and the status.
async fn call(addr: &str, encoding: &str, body: Vec<u8>) -> (usize, Status) {
    let request = http::Request::post("/arrow.flight.protocol.FlightService/DoPut")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", encoding)
        .body(bytes::Bytes::from(body));
    let (response, _lease) = ConnectionPool::new().send(addr, request.unwrap()).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (0, status);
    }
    let reply = response.into_body().collect().await.unwrap();
    let status = reply.trailers().and_then(Status::from_header_map).unwrap();
    (reply.to_bytes().len(), status)
}

fn framed(messages: Vec<volley_common::Result<FlightData>>) -> Vec<u8> {
    let frame = |message: FlightData| {
        let bytes = message.encode_to_vec();
        [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
    };
    messages.into_iter().flat_map(|message| frame(message.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_input_is_refused_and_rolled_back() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let addr = serve(&cluster).await;
    let good = framed(messages("t", vec![batch(0, 10)]).await);
    let with = |end: &[u8]| [&good[..], end].concat();
    for (what, encoding, body, code) in [
        ("a codec", "deflate", good.clone(), Code::Unimplemented),
        ("a compressed message", "identity", with(&[1, 0, 0, 0, 0]), Code::Unimplemented),
        ("a message that is no gzip", "gzip", with(&[1, 0, 0, 0, 1, 7]), Code::InvalidArgument),
        ("a message cut short", "identity", good[..good.len() - 1].to_vec(), Code::InvalidArgument),
        ("noise", "identity", with(&[0, 0, 0, 0, 2, 0x12, 0x05]), Code::InvalidArgument),
        ("a large message", "identity", with(&[0, 0xff, 0, 0, 0]), Code::ResourceExhausted),
    ] {
        let (_, status) = call(&addr, encoding, body).await;
        assert_eq!(status.code(), code, "{what}: {status:?}");
    }
    cluster.settles(&[0]).await;
    let (reply_len, status) = call(&addr, "identity", good).await;
    assert_eq!((status.code(), cluster.held(0)), (Code::Ok, 1), "{status:?}");
    assert!(reply_len > 10, "a result for the batch, and the outcome");
}

/// Libraries treat a reset with CANCEL or NO_ERROR as the end of the stream; the put is incomplete nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn reset_stream_is_not_committed() {
    for reason in [8u32, 0] {
        let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
        let mut client = tokio::net::TcpStream::connect(serve(&cluster).await).await.unwrap();
        client.write_all(&begin_by_hand(messages("t", vec![batch(0, 10)]).await)).await.unwrap();
        while cluster.coordinator.state.lock().writes.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.write_all(&frame(3, 0, &reason.to_be_bytes())).await.unwrap();
        while cluster.write().state() == WriteState::Open {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(cluster.write().state(), WriteState::Aborted, "reset with {reason}");
        cluster.settles(&[0]).await;
    }
}
