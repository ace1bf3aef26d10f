//! The client against fake servers that fail on request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{AsArray, DictionaryArray, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type, Schema};
use arrow_flight::FlightInfo;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tonic::Status;

use super::fake::*;
use super::*;

mod addresses;
mod busy;
mod local;
mod parallel;
mod request_ids;
mod tickets;

const REUSE: &str = "arrow-flight-reuse-connection://?";

async fn values(client: &Client, info: FlightInfo, streams: usize) -> Result<Vec<i64>> {
    let options = FetchOptions { streams, window_bytes: 1 };
    let batches: Vec<FetchedBatch> = client.fetch(info, options)?.try_collect().await?;
    let column = |f: &FetchedBatch| f.batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    Ok(batches.iter().flat_map(column).collect())
}

fn table() -> TableName {
    "t".parse().unwrap()
}

#[tokio::test]
async fn ordered_endpoints_arrive_in_order_and_others_all_arrive() {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let ranges = [(0, 95), (95, 100), (100, 100), (100, 250), (250, 251)];
    let wanted: Vec<i64> = (0..251).collect();
    for streams in [1, 3, 9] {
        let ordered = info(&ranges, &[member.uri()], true);
        assert_eq!(values(&client, ordered, streams).await.unwrap(), wanted);
        let mut any = values(&client, info(&ranges, &[], false), streams).await.unwrap();
        any.sort_unstable();
        assert_eq!(any, wanted);
    }
}

#[tokio::test]
async fn dead_location_is_skipped() {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    for next in [member.uri(), REUSE.to_string()] {
        let info = info(&[(0, 30)], &[dead_address().await, "grpc+tls://elsewhere:1".into(), next], true);
        assert_eq!(values(&client, info, 1).await.unwrap(), (0..30).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn broken_stream_resumes_without_lost_or_repeated_rows() {
    let breaking = start_fake(|fake| (fake.rows, fake.fail_after) = (7, Some(3))).await;
    let healthy = start_fake(|fake| fake.rows = 10).await;
    let client = Client::connect(&healthy.address).await.unwrap();
    let info = info(&[(0, 95), (95, 200)], &[breaking.uri(), healthy.uri()], true);
    assert_eq!(values(&client, info, 2).await.unwrap(), (0..200).collect::<Vec<_>>());
    assert_eq!(breaking.gets.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn broken_query_is_not_continued() {
    let breaking = start_fake(|fake| (fake.rows, fake.fail_after) = (7, Some(3))).await;
    let client = Client::connect(&breaking.address).await.unwrap();
    let error = values(&client, info(&[(0, 95)], &[], true), 1).await.unwrap_err();
    assert!(error.code == Code::Unavailable && error.message.contains("run it again"), "{error}");
    assert_eq!(breaking.gets.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn failing_locations_end_in_an_error_after_bounded_attempts() {
    let failing = start_fake(|fake| fake.fail_after = Some(0)).await;
    let client = Client::connect(&failing.address).await.unwrap();
    let info = info(&[(0, 30)], &[failing.uri(), REUSE.into()], false);
    let error = values(&client, info, 4).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("endpoint 0") && error.message.contains("going down"), "{error}");
    assert!(failing.gets.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn error_other_than_unavailable_is_final() {
    let failing =
        start_fake(|fake| (fake.fail_after, fake.status) = (Some(1), Status::data_loss("bad checksum"))).await;
    let healthy = start_fake(|_| {}).await;
    let client = Client::connect(&healthy.address).await.unwrap();
    let info = info(&[(0, 30)], &[failing.uri(), healthy.uri()], true);
    let error = values(&client, info, 1).await.unwrap_err();
    assert_eq!(error.code, Code::DataLoss);
    assert_eq!(healthy.gets.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn missing_rows_are_an_error() {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let mut info = info(&[(0, 30)], &[], false);
    info.total_records = 31;
    assert_eq!(values(&client, info.clone(), 1).await.unwrap_err().code, Code::DataLoss);
    // -1 is unknown.
    info.total_records = -1;
    assert_eq!(values(&client, info, 1).await.unwrap().len(), 30);
}

#[tokio::test]
async fn stream_with_another_schema_is_an_error() {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let mut info = info(&[(0, 30)], &[], false);
    info.schema = volley_common::ipc::schema::schema_message(&Schema::empty()).unwrap();
    assert!(values(&client, info, 1).await.unwrap_err().message.contains("schema"));
}

#[tokio::test]
async fn put_arrives_complete_in_messages_of_bounded_size() {
    let mut member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let batches = stream::iter([Ok(numbers(0..1_000_000)), Ok(numbers(0..0)), Ok(numbers(1_000_000..1_000_001))]);
    let outcome = client.put(&table(), &Options::default(), schema(), batches).await.unwrap();
    assert_eq!((outcome.rows, outcome.version), (1_000_001, 1));
    let Some(ReceivedPut::Complete(seen, batches)) = member.puts.recv().await else { panic!("the put broke") };
    assert_eq!(seen, schema());
    let sizes: Vec<usize> = batches.iter().map(|b| b.num_rows() * 8).collect();
    assert!(sizes.len() > 4 && sizes.iter().all(|size| *size <= 2 << 20), "{sizes:?}");
}

#[tokio::test]
async fn replaced_dictionaries_stay_dictionaries() {
    let mut member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let batch = |words: &[&str]| {
        let words: DictionaryArray<Int32Type> = words.iter().copied().collect();
        RecordBatch::try_from_iter([("w", Arc::new(words) as arrow::array::ArrayRef)]).unwrap()
    };
    let sent = [batch(&["a", "b", "a"]), batch(&["c", "d", "d"])];
    let batches = stream::iter(sent.clone().map(Ok));
    client.put(&table(), &Options::default(), sent[0].schema(), batches).await.unwrap();
    let Some(ReceivedPut::Complete(schema, seen)) = member.puts.recv().await else { panic!("the put broke") };
    assert_eq!(schema, sent[0].schema());
    let words = |b: &RecordBatch| {
        let plain = arrow::compute::cast(b.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let plain: &StringArray = plain.as_string();
        plain.iter().flatten().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(seen.iter().flat_map(words).collect::<Vec<_>>(), ["a", "b", "a", "c", "d", "d"]);
}

#[tokio::test]
async fn failing_source_never_looks_complete() {
    let mut member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let fails = stream::iter([Ok(numbers(0..10)), Err(Error::data_loss("line 7 is bad"))]);
    let error = client.put(&table(), &Options::default(), schema(), fails).await.unwrap_err();
    assert_eq!(error, Error::data_loss("line 7 is bad"));
    assert!(matches!(member.puts.recv().await, Some(ReceivedPut::Broken)));

    let panics = stream::iter([Ok(numbers(0..10))]).chain(stream::once(async { panic!("on purpose") }));
    client.put(&table(), &Options::default(), schema(), panics).await.unwrap_err();
    assert!(matches!(member.puts.recv().await, Some(ReceivedPut::Broken)));
}

#[tokio::test]
async fn action_results_are_json_and_read_to_the_end() {
    let member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    assert_eq!(client.action("echo", &json!({"a": 1})).await.unwrap(), json!({"a": 1}));
    assert_eq!(client.action("echo", &Value::Null).await.unwrap(), Value::Null);
    assert_eq!(client.action("late_error", &Value::Null).await.unwrap_err().code, Code::Aborted);
    assert_eq!(client.action("other", &Value::Null).await.unwrap_err().code, Code::Unimplemented);
}

#[tokio::test]
async fn unreachable_server_is_unavailable_and_named() {
    let address = dead_address().await;
    let error = Client::connect(&address).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains(address.trim_start_matches("grpc+tcp://")), "{error}");
}

/// A port that accepts connections, and answers each with `reply` or not at all.
async fn start_stranger(reply: &'static [u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if !reply.is_empty() {
                    stream.write_all(reply).await.unwrap();
                }
                // Reads what comes until the client leaves.
                let mut received = Vec::new();
                let _ = stream.read_to_end(&mut received).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn silent_member_is_reported_before_the_keepalive() {
    let address = start_stranger(b"").await;
    let client = Client::connect(&address).await.unwrap();
    let (name, options) = (table(), Options::default());
    let calls = async { tokio::join!(client.status(), client.list(""), client.info(&name, &options)) };
    let answers = tokio::time::timeout(std::time::Duration::from_secs(9), calls).await;
    let (status, list, info) = answers.unwrap_or_else(|_| panic!("HTTP/2's keepalive of 15 s was waited for"));
    for error in [status.unwrap_err(), list.unwrap_err(), info.unwrap_err()] {
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains(&format!("grpc://{address} does not answer")), "{error}");
        assert!(error.message.contains("another member"), "{error}");
    }
}

#[tokio::test]
async fn port_of_another_protocol_is_named_as_no_member() {
    for reply in [&b"HTTP/1.0 400 Bad request\r\nconnection: close\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.6\r\n"] {
        let address = start_stranger(reply).await;
        let called = async { Client::connect(&address).await?.status().await };
        let error = called.await.unwrap_err();
        assert!(error.message.contains(&format!("grpc://{address}")), "{error}");
        assert!(error.message.contains("Flight port of a member") || error.message.contains("cannot reach"), "{error}");
        let layers = ["transport error", "h2 protocol error: http2 error"];
        assert!(layers.iter().all(|layer| !error.message.contains(layer)), "{error}");
    }
}
