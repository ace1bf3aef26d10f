//! Tables that preserve batches: each batch comes back as it was put, with its `app_metadata`.

use std::time::Duration;

use arrow::array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch};
use arrow::datatypes::Int32Type;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, PutResult, Ticket};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt, TryStreamExt};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use volley_client::Client;
use volley_common::Code;
use volley_common::ipc::encode::encode_batch;
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::options::{Mode, Options};
use volley_tests::{ClusterOptions, TestCluster, raw, rows, wait_for};

async fn small() -> TestCluster {
    TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 2, ..ClusterOptions::default() }).await
}

fn preserving() -> Options {
    Options { preserve_batches: Some(true), ..Options::default() }
}

fn append() -> Options {
    Options { mode: Some(Mode::Append), ..Options::default() }
}

/// Batches of a number and a dictionary, which differs from batch to batch: one without rows, one over 4 MiB.
fn varied() -> Vec<RecordBatch> {
    let batch = |(at, rows): (usize, &i64)| {
        let numbers: ArrayRef = std::sync::Arc::new(Int64Array::from_iter_values(0..*rows));
        let words = (0..*rows).map(|row| format!("word {at} {}", row % 5)).collect::<Vec<_>>();
        let words: DictionaryArray<Int32Type> = words.iter().map(|word| Some(word.as_str())).collect();
        RecordBatch::try_from_iter([("n", numbers), ("w", std::sync::Arc::new(words))]).unwrap()
    };
    [7, 0, 1, 1_000_000, 13].iter().enumerate().map(batch).collect()
}

/// The messages of each batch: its dictionaries, then its rows, which alone have metadata: the number of the batch.
fn numbered_messages(batches: &[RecordBatch]) -> (FlightData, Vec<Vec<FlightData>>) {
    let number = |(at, batch): (usize, &RecordBatch)| {
        let (dictionaries, rows) = encode_batch(batch).unwrap();
        let mut messages: Vec<FlightData> = dictionaries.iter().chain([&rows]).map(FlightData::from).collect();
        messages.last_mut().unwrap().app_metadata = at.to_string().into();
        messages
    };
    let schema = flight_header(&schema_message(&batches[0].schema()).unwrap());
    (FlightData::new().with_data_header(schema), batches.iter().enumerate().map(number).collect())
}

async fn next_result(results: &mut tonic::Streaming<PutResult>) -> Option<PutResult> {
    tokio::time::timeout(Duration::from_secs(30), results.next()).await.unwrap().transpose().unwrap()
}

/// The first half of Arrow's integration scenario `default`: a put without options, in lockstep.
async fn upload(address: &str, path: &str, batches: &[RecordBatch]) {
    let (mut schema, of_batches) = numbered_messages(batches);
    schema.flight_descriptor = Some(FlightDescriptor::new_path(vec![path.into()]));
    let (mut send, receive) = mpsc::channel(16);
    send.send(schema).await.unwrap();
    let mut of_batches = of_batches.into_iter().enumerate();
    let (_, first) = of_batches.next().unwrap();
    for message in first {
        send.send(message).await.unwrap();
    }
    let mut client = connect(address).await;
    let mut results = client.do_put(receive).await.unwrap().into_inner();
    assert_eq!(next_result(&mut results).await.unwrap().app_metadata, "0");
    for (at, messages) in of_batches {
        for message in messages {
            send.send(message).await.unwrap();
        }
        assert_eq!(next_result(&mut results).await.unwrap().app_metadata, at.to_string());
    }
    drop(send);
    assert_eq!(next_result(&mut results).await, None, "one result for each batch, and no other");
}

/// The second half: every location of every endpoint has all batches.
async fn verify(address: &str, path: &str, batches: &[RecordBatch]) {
    let descriptor = FlightDescriptor::new_path(vec![path.into()]);
    let info = connect(address).await.get_flight_info(descriptor).await.unwrap().into_inner();
    assert!(!info.endpoint.is_empty());
    for endpoint in info.endpoint {
        assert!(!endpoint.location.is_empty());
        for location in endpoint.location {
            let address = location.uri.strip_prefix("grpc+tcp://").unwrap();
            let found = read(connect(address).await, endpoint.ticket.clone().unwrap()).await;
            let numbers: Vec<String> = (0..batches.len()).map(|at| at.to_string()).collect();
            assert_eq!(found.iter().map(|(_, metadata)| metadata.clone()).collect::<Vec<_>>(), numbers);
            assert!(found.iter().map(|(batch, _)| batch).eq(batches), "{address}");
        }
    }
}

async fn connect(address: &str) -> FlightServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", address.trim_start_matches("grpc+tcp://"))).unwrap();
    FlightServiceClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(64 << 20)
}

/// The batches that a ticket gives, each with its metadata as text.
async fn read(mut client: FlightServiceClient<Channel>, ticket: Ticket) -> Vec<(RecordBatch, String)> {
    let messages = client.do_get(ticket).await.unwrap().into_inner();
    let mut decoder = FlightDataDecoder::new(messages.map_err(|status| FlightError::Tonic(Box::new(status))));
    let mut found = Vec::new();
    while let Some(message) = decoder.next().await {
        let message = message.unwrap();
        if let DecodedPayload::RecordBatch(batch) = message.payload {
            found.push((batch, String::from_utf8(message.inner.app_metadata.to_vec()).unwrap()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn integration_scenario_default_passes_at_every_member() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let (same, varied) = (rows::batches(0..35_000), varied());
    let members: Vec<String> = cluster.members().map(|member| member.address.clone()).collect();
    for (table, batches) in [("same.json", &same), ("dir/varied.json", &varied)] {
        let options = Options { max_endpoints: Some(1), ..preserving() };
        let none = futures::stream::empty();
        client.put(&rows::name(table), &options, batches[0].schema(), none).await.unwrap();
        for address in &members {
            upload(address, table, batches).await;
            verify(address, table, batches).await;
        }
        let stats = client.action("get_stats", &json!({ "table": table })).await.unwrap();
        assert_eq!(stats["batches"], batches.len(), "{stats}");
        assert_eq!(stats["preserve_batches"], true);
    }
}

/// Puts one batch with its number as metadata.
async fn append_batch(client: &Client, at: i64) {
    let mut messages = raw::messages("t", &rows::schema(), vec![rows::batch(at..at + at % 3)]);
    let command = json!({ "table": "t", "mode": "append" }).to_string();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(command));
    messages[1].app_metadata = at.to_string().into();
    raw::put(client, futures::stream::iter(messages)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_batches_survive_compaction() {
    let mut cluster = small().await;
    let client = cluster.client().await;
    let options = Options { shards: Some(2), ..preserving() };
    rows::put(&client, "t", &options, 0..0).await.unwrap();
    for at in 0..24 {
        append_batch(&client, at).await;
    }
    let info = async || client.info(&rows::name("t"), &Options::default()).await.unwrap();
    wait_for(Duration::from_secs(60), "the parts are compacted", async || {
        (info().await.endpoint.len() < 8).then_some(())
    })
    .await;
    let whole = Ticket { ticket: r#"{"table": "t"}"#.into() };
    for member in [&cluster.coordinators[0], &cluster.nodes[0], &cluster.nodes[1]] {
        let found = read(connect(&member.address).await, whole.clone()).await;
        let expected: Vec<_> = (0..24).map(|at| (rows::batch(at..at + at % 3), at.to_string())).collect();
        assert_eq!(found, expected, "{}", member.name);
    }
    let stats = client.action("get_stats", &json!({ "table": "t" })).await.unwrap();
    assert_eq!((&stats["batches"], &stats["rows"]), (&json!(24), &json!(24)), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preserve_batches_follows_the_rules_of_table_options() {
    let mut cluster = small().await;
    let client = cluster.client().await;
    let keyed = Options { shard_by: Some(vec!["id".into()]), ..preserving() };
    let error = rows::put(&client, "t", &keyed, 0..5).await.unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("shard_by"), "{error}");
    assert!(error.message.contains("\"t\"") && error.message.contains("preserve_batches"), "{error}");

    rows::put(&client, "t", &Options::default(), 0..5).await.unwrap();
    let error = rows::put(&client, "t", &Options { preserve_batches: Some(true), ..append() }, 5..6).await.unwrap_err();
    assert!(error.message.contains("preserve_batches = false"), "{error}");
    // A replace changes it; the next one keeps it.
    for options in [preserving(), Options::default()] {
        rows::put(&client, "t", &options, 0..25_000).await.unwrap();
        let stats = client.action("get_stats", &json!({ "table": "t" })).await.unwrap();
        assert_eq!((&stats["preserve_batches"], &stats["batches"]), (&json!(true), &json!(3)), "{stats}");
    }
    let off = Options { preserve_batches: Some(false), ..Options::default() };
    rows::put(&client, "t", &off, 0..25_000).await.unwrap();
    let stats = client.action("get_stats", &json!({ "table": "t" })).await.unwrap();
    assert_eq!((&stats["preserve_batches"], &stats["batches"]), (&json!(false), &json!(1)), "joined: {stats}");
    let (_, batches) = client.get_all(&rows::name("t"), &Options::default()).await.unwrap();
    assert_eq!(rows::ids(&batches), Vec::from_iter(0..25_000));
}
