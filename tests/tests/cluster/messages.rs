//! Messages that are malformed, incomplete or too large: refused with a reason, nothing stored, no member crashes.

use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow_flight::FlightData;
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use prost_types::FileDescriptorProto;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use volley_client::Client;
use volley_common::Code;
use volley_common::net::ConnectionPool;
use volley_common::options::Options;
use volley_tests::{ClusterOptions, TestCluster, raw, rows, wait_for};

async fn small() -> TestCluster {
    TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 2, ..ClusterOptions::default() }).await
}

async fn put(client: &Client, messages: Vec<FlightData>) -> Result<(), tonic::Status> {
    raw::put(client, futures::stream::iter(messages)).await.map(drop)
}

/// Strings whose bytes the tests change: the batch is message 1; its body is offsets, then data.
fn strings() -> Vec<FlightData> {
    let strings: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["first", "second", "third"]));
    let batch = RecordBatch::try_from_iter([("s", strings)]).unwrap();
    raw::messages("t", &batch.schema(), vec![batch])
}

fn body(change: impl FnOnce(&mut Vec<u8>)) -> Vec<FlightData> {
    let mut messages = strings();
    let mut body = messages[1].data_body.to_vec();
    change(&mut body);
    messages[1].data_body = body.into();
    messages
}

fn header(change: impl FnOnce(&mut Vec<u8>)) -> Vec<FlightData> {
    let mut messages = strings();
    let mut header = messages[1].data_header.to_vec();
    change(&mut header);
    messages[1].data_header = header.into();
    messages
}

/// Where the data of [`strings`] begins in the body.
fn text_at(body: &[u8]) -> usize {
    body.windows(5).position(|bytes| bytes == b"first").unwrap()
}

async fn nothing_is_stored(cluster: &mut TestCluster) {
    wait_for(Duration::from_secs(20), "no file is left on the disks", async || {
        cluster.part_files().is_empty().then_some(())
    })
    .await;
    let error = cluster.client().await.info(&rows::name("t"), &Options::default()).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    for member in cluster.members() {
        assert!(member.is_running(), "{} is gone", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_invalid_arguments() {
    let mut cluster = small().await;
    let cases: Vec<(&str, Vec<FlightData>)> = vec![
        ("no schema first", strings().split_off(1).into_iter().map(named).collect()),
        (
            "a schema that is no flatbuffer",
            vec![FlightData { data_header: Bytes::from_static(&[0xff; 64]), ..named(FlightData::new()) }],
        ),
        ("a header cut short", header(|bytes| bytes.truncate(bytes.len() / 2))),
        ("a header of noise", header(|bytes| bytes.iter_mut().for_each(|byte| *byte = !*byte))),
        ("a body cut short", body(|bytes| bytes.truncate(8))),
        ("no body", body(Vec::clear)),
        ("an offset beyond the data", body(|bytes| bytes[12..16].copy_from_slice(&1_000_000i32.to_le_bytes()))),
        ("a negative offset", body(|bytes| bytes[4..8].copy_from_slice(&(-1i32).to_le_bytes()))),
        ("offsets that go back", body(|bytes| bytes[4..8].copy_from_slice(&16i32.to_le_bytes()))),
        (
            "bytes that are no UTF-8",
            body(|bytes| {
                let at = text_at(bytes);
                bytes[at] = 0xff;
            }),
        ),
        ("a second schema", {
            let mut messages = strings();
            let again = FlightData { flight_descriptor: None, ..messages[0].clone() };
            messages.push(again);
            messages
        }),
    ];
    for member in [0, 1] {
        let member = if member == 0 { &cluster.coordinators[0] } else { &cluster.nodes[0] };
        let client = member.client().await;
        for (what, messages) in &cases {
            let (code, message) = raw::code(put(&client, messages.clone()).await);
            assert_eq!(code, Code::InvalidArgument, "{}, {what}: {message}", member.name);
            assert!(!message.contains("panicked"), "{what}: {message}");
        }
    }
    nothing_is_stored(&mut cluster).await;
}

fn named(message: FlightData) -> FlightData {
    FlightData { flight_descriptor: strings()[0].flight_descriptor.clone(), ..message }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_crash_no_member() {
    let mut cluster = small().await;
    let client = cluster.nodes[0].client().await;
    let mut random = StdRng::seed_from_u64(20_260_101);
    let intact = raw::messages("t", &rows::schema(), vec![rows::batch(0..50)]);
    for round in 0..400 {
        let mut messages = intact.clone();
        let message = &mut messages[random.random_range(0..2)];
        let in_body = random.random_bool(0.5) && !message.data_body.is_empty();
        let mut bytes = if in_body { message.data_body.to_vec() } else { message.data_header.to_vec() };
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        if in_body {
            message.data_body = bytes.into()
        } else {
            message.data_header = bytes.into()
        }
        // Some changes are harmless (a name, padding). A refusal must name the client's mistake.
        if let Err(status) = put(&client, messages).await {
            let known = matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted | Code::Unimplemented);
            assert!(known, "round {round}: {status}");
        } else {
            let outcome = client.get_all(&rows::name("t"), &Options::default()).await;
            assert!(outcome.is_ok(), "round {round}: an accepted put cannot be read: {}", outcome.unwrap_err());
        }
    }
    for member in cluster.members() {
        assert!(member.is_running(), "{} is gone", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_above_the_limit_is_refused_with_the_limit() {
    let node_flags = vec!["--max-message".into(), "1000000".into()];
    let mut cluster =
        TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 2, node_flags, ..ClusterOptions::default() })
            .await;
    let within = raw::messages("ok", &rows::schema(), vec![rows::batch(0..10_000)]);
    let above = raw::messages("t", &rows::schema(), vec![rows::batch(0..100_000)]);
    for member in [&cluster.nodes[0], &cluster.coordinators[0]] {
        let client = member.client().await;
        put(&client, within.clone()).await.unwrap();
        let (code, message) = raw::code(put(&client, above.clone()).await);
        assert_eq!(code, Code::ResourceExhausted, "{}: {message}", member.name);
        assert!(message.contains("1000000") || message.contains("1,000,000"), "{message} does not name the limit");
    }
    let client = cluster.client().await;
    assert_eq!(rows::get(&client, "ok").await.unwrap(), Vec::from_iter(0..10_000));
    let error = client.info(&rows::name("t"), &Options::default()).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_without_table_or_schema_is_refused() {
    let mut cluster = small().await;
    let client = cluster.client().await;
    let mut nameless = strings();
    nameless[0].flight_descriptor = None;
    let (code, message) = raw::code(put(&client, nameless).await);
    assert_eq!(code, Code::InvalidArgument, "{message}");
    let (code, message) = raw::code(put(&client, Vec::new()).await);
    assert_eq!(code, Code::InvalidArgument, "{message}");
    // A schema without rows makes an empty table.
    put(&client, strings()[..1].to_vec()).await.unwrap();
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    assert_eq!((info.total_records, info.endpoint.len()), (0, 1));
    let (schema, batches) = client.get_all(&rows::name("t"), &Options::default()).await.unwrap();
    assert_eq!((schema.field(0).name().as_str(), batches.len()), ("s", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_calls_of_both_servers() {
    let mut cluster = small().await;
    for member in cluster.members() {
        let mut client = ServerReflectionClient::new(ConnectionPool::new().channel(&member.address).unwrap());
        let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let symbol = |name: &str| ask(MessageRequest::FileContainingSymbol(name.into()));
        let asked = [
            ask(MessageRequest::ListServices(String::new())),
            symbol("arrow.flight.protocol.FlightService.PollFlightInfo"),
            symbol("no.such.Service"),
        ];
        let answers = client.server_reflection_info(futures::stream::iter(asked)).await.unwrap().into_inner();
        let answers: Vec<_> = answers.take(3).map(|answer| answer.map(|a| a.message_response)).collect().await;
        let Ok(Some(MessageResponse::ListServicesResponse(list))) = &answers[0] else { panic!("{answers:?}") };
        for service in ["arrow.flight.protocol.FlightService", "grpc.health.v1.Health"] {
            assert!(list.service.iter().any(|known| known.name == service), "{}: {list:?}", member.name);
        }
        let Ok(Some(MessageResponse::FileDescriptorResponse(file))) = &answers[1] else { panic!("{answers:?}") };
        let files = file.file_descriptor_proto.iter().map(|file| FileDescriptorProto::decode(&file[..]).unwrap());
        let methods = files.flat_map(|file| file.service).flat_map(|service| service.method);
        let poll = methods.into_iter().find(|method| method.name() == "PollFlightInfo").unwrap();
        assert_eq!(poll.input_type(), ".arrow.flight.protocol.FlightDescriptor", "{}", member.name);
        assert!(!matches!(&answers[2], Ok(Some(MessageResponse::FileDescriptorResponse(_)))), "{answers:?}");
    }
}
