//! The memory and the threads of a node while many puts run, or large ones; the promise is in docs/guarantees.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::{Code, Status, Streaming};
use volley_client::Client;
use volley_common::options::Options;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, raw, rows, wait_for};

const MIB: u64 = 1 << 20;
/// What a node uses without puts, and what one stream may take beside the budget.
const BASE: u64 = 64 * MIB;

async fn one_node(flags: &[&str]) -> TestCluster {
    let node_flags = flags.iter().map(|flag| flag.to_string()).collect();
    TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 1, node_flags, ..ClusterOptions::default() }).await
}

/// The number in a line of /proc/PID/status.
fn status_of(node: &ServerProcess, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The node's anonymous memory, bytes.
fn anonymous(node: &ServerProcess) -> u64 {
    status_of(node, "RssAnon:") << 10
}

/// Maximum number of anonymous memory and threads of a node during a call.
async fn peak<T>(node: &ServerProcess, call: impl Future<Output = T>) -> (T, u64, u64) {
    let (stop, bytes, threads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let sample = async {
        while !stop.load(Ordering::Relaxed) {
            bytes.fetch_max(anonymous(node), Ordering::Relaxed);
            threads.fetch_max(status_of(node, "Threads:"), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let began = Instant::now();
    let call = async {
        let outcome = call.await;
        stop.store(true, Ordering::Relaxed);
        outcome
    };
    let (outcome, ()) = tokio::join!(call, sample);
    let (bytes, threads) = (bytes.into_inner(), threads.into_inner());
    eprintln!("peak: {} MiB anonymous, {threads} threads, {:.1} s", bytes / MIB, began.elapsed().as_secs_f64());
    (outcome, bytes, threads)
}

/// `k`, and a fixed number of bytes for each row.
fn batch(from: i64, rows: i64, width: i32) -> RecordBatch {
    let bytes: Vec<u8> = (0..rows * i64::from(width)).map(|at| (at * 31 % 251) as u8).collect();
    let values = FixedSizeBinaryArray::new(width, Buffer::from(bytes), None);
    let columns: [(&str, ArrayRef); 2] =
        [("k", Arc::new(Int64Array::from_iter_values(from..from + rows))), ("v", Arc::new(values))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The messages of a put with these options.
fn messages(command: &str, batches: &[RecordBatch]) -> Vec<FlightData> {
    let mut messages = raw::messages("t", &batches[0].schema(), batches.to_vec());
    messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(command.to_string()));
    messages
}

fn keyed(table: usize) -> String {
    format!(r#"{{"table": "t{table}", "shard_by": ["k"], "shards": 8, "replicas": 1}}"#)
}

fn unkeyed(table: usize) -> String {
    format!(r#"{{"table": "t{table}", "replicas": 1}}"#)
}

async fn put(client: &Client, messages: Vec<FlightData>) -> Result<(), Status> {
    raw::put(client, stream::iter(messages)).await.map(drop)
}

/// Begins a put and sends these messages; it stays open until the end is requested.
async fn open(client: &Client, messages: Vec<FlightData>) -> (Streaming<PutResult>, tokio::sync::oneshot::Sender<()>) {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let wait = stream::once(async move {
        // Dropped without a value, the put stays open for ever.
        if ended.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let input = stream::iter(messages).chain(wait.filter_map(|()| std::future::ready(None)));
    (client.flight().do_put(input).await.unwrap().into_inner(), end)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_pausing_puts_stay_within_the_budget() {
    const PUTS: usize = 100;
    let cluster = one_node(&["--put-memory-bytes", "33554432"]).await;
    let node = &cluster.nodes[0];
    let client = node.client().await;
    let paused = async {
        let mut open_puts = Vec::new();
        for table in 0..PUTS {
            let batches: Vec<_> = (0..4).map(|at| batch(at * 512, 512, 1016)).collect();
            let (mut acks, end) = open(&client, messages(&keyed(table), &batches)).await;
            for _ in 0..batches.len() {
                acks.next().await.unwrap().unwrap();
            }
            open_puts.push((acks, end));
        }
        open_puts
    };
    // They hold 200 MiB of rows, which their clients may add to for hours.
    let (open_puts, bytes, threads) = peak(node, paused).await;
    assert!(bytes < 32 * MIB + BASE, "{} MiB", bytes / MIB);
    assert!(threads < 60, "{threads} threads");
    for (acks, end) in open_puts {
        end.send(()).unwrap();
        let outcome: Vec<_> = acks.try_collect().await.unwrap();
        let outcome: serde_json::Value = serde_json::from_slice(&outcome.last().unwrap().app_metadata).unwrap();
        assert_eq!(outcome["rows"], 2048);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_take_no_anonymous_memory() {
    let cluster = one_node(&["--put-memory-bytes", "33554432"]).await;
    let node = &cluster.nodes[0];
    let client = node.client().await;
    let rows = 1 << 10;
    let whole = batch(0, rows, 64 << 10);
    let large = |table| messages(&unkeyed(table), std::slice::from_ref(&whole));
    assert!(large(0)[1].data_body.len() as u64 > 64 * MIB);
    let puts = (0..3).map(|table| put(&client, large(table)));
    let (outcome, bytes, _) = peak(node, futures::future::try_join_all(puts)).await;
    outcome.unwrap();
    assert!(bytes < 32 * MIB + BASE, "{} MiB", bytes / MIB);
    for table in 0..3 {
        let name = rows::name(&format!("t{table}"));
        let (schema, batches) = client.get_all(&name, &Options::default()).await.unwrap();
        assert_eq!(arrow::compute::concat_batches(&schema, &batches).unwrap().columns(), whole.columns());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_message_takes_no_memory_for_what_it_declares() {
    let cluster = one_node(&["--put-memory-bytes", "33554432"]).await;
    let node = &cluster.nodes[0];
    let client = node.client().await;
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 8 << 20]));
    let zeros = RecordBatch::try_from_iter([("n", zeros)]).unwrap();
    let zstd = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
    let encode = |mode: &str| {
        let command = format!(r#"{{"table": "t", "mode": "{mode}", "replicas": 1, "compression": "zstd"}}"#);
        let encoder = FlightDataEncoderBuilder::new()
            .with_options(zstd.clone())
            .with_max_flight_data_size(usize::MAX)
            .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command)));
        encoder.build(stream::iter([Ok(zeros.clone())])).try_collect::<Vec<_>>()
    };
    put(&client, encode("create").await.unwrap()).await.unwrap();
    let bomb = encode("append").await.unwrap();
    assert!(bomb[1].data_body.len() < 100_000, "64 MiB of zeros");
    let puts = (0..3).map(|_| put(&client, bomb.clone()));
    let (outcome, bytes, _) = peak(node, futures::future::try_join_all(puts)).await;
    outcome.unwrap();
    assert!(bytes < 32 * MIB + BASE, "{} MiB", bytes / MIB);
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    assert_eq!(info.total_records, 4 * (8 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_puts_take_no_thread() {
    let cluster = one_node(&[]).await;
    let node = &cluster.nodes[0];
    let client = node.client().await;
    let before = status_of(node, "Threads:");
    let begin = (0..400).map(|table| open(&client, messages(&keyed(table), &[batch(0, 0, 8)])[..1].to_vec()));
    let (_open, _, threads) = peak(node, begin.collect::<FuturesUnordered<_>>().collect::<Vec<_>>()).await;
    assert!(threads < before + 60, "{before} threads, then {threads}");
    tokio::time::timeout(Duration::from_secs(10), put(&client, messages(&keyed(1000), &[batch(0, 9, 8)])))
        .await
        .expect("another put goes on")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn put_beyond_the_limit_is_refused_at_once_with_a_hint() {
    let cluster = one_node(&["--max-concurrent-puts", "2"]).await;
    let client = cluster.nodes[0].client().await;
    let schema_of = |table| messages(&keyed(table), &[batch(0, 0, 8)])[..1].to_vec();
    let (first, end) = open(&client, schema_of(0)).await;
    let (_second, _keep) = open(&client, schema_of(1)).await;
    let waiting: std::pin::Pin<Box<dyn Stream<Item = FlightData> + Send>> = Box::pin(stream::pending());
    let refused = tokio::time::timeout(Duration::from_secs(2), client.flight().do_put(waiting)).await.unwrap();
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("max_concurrent_puts"), "{status}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status:?}");
    // Volley's own client waits for its turn.
    let turn = tokio::spawn({
        let client = client.clone();
        async move { rows::put(&client, "turn", &Options::default(), 0..1000).await }
    });
    wait_for(Duration::from_secs(10), "the client is refused", async || {
        let (_, metrics) = cluster.nodes[0].http("/metrics").await?;
        let refused =
            metrics.lines().find_map(|line| line.strip_prefix("volley_puts_refused_total{scope=\"all\"} "))?;
        (refused.parse::<f64>().ok()? >= 2.0).then_some(())
    })
    .await;
    end.send(()).unwrap();
    first.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(turn.await.unwrap().unwrap().rows, 1000);
}

/// The promise for this many puts with the default budget: 256 MiB, and for each stream 4 MiB twice.
fn check_promise(bytes: u64, puts: usize) {
    let most = 256 * MIB + BASE + puts as u64 * 8 * MIB;
    assert!(bytes < most, "{} MiB are more than {} MiB", bytes / MIB, most / MIB);
}

/// The full cases, which are too heavy for each run: `VOLLEY_PUT_MEMORY=CASE`, with `--nocapture` for the figures.
#[tokio::test(flavor = "multi_thread")]
async fn full_cases_on_request() {
    let Ok(case) = std::env::var("VOLLEY_PUT_MEMORY") else { return };
    let cluster = one_node(&[]).await;
    let node = &cluster.nodes[0];
    let client = node.client().await;
    let keyed_puts = async |count: usize, batches: Vec<RecordBatch>| {
        let puts = (0..count).map(|table| put(&client, messages(&keyed(table), &batches)));
        let (outcome, bytes, _) = peak(node, puts.collect::<FuturesUnordered<_>>().try_collect::<Vec<_>>()).await;
        outcome.unwrap();
        check_promise(bytes, count);
    };
    match case.as_str() {
        "150-keyed" => keyed_puts(150, (0..16).map(|at| batch(at * 1024, 1024, 1016)).collect()).await,
        "1000-keyed" => keyed_puts(1000, (0..8).map(|at| batch(at * 64, 64, 1016)).collect()).await,
        "32-of-16" => keyed_puts(32, (0..4).map(|at| batch(at * 16384, 16384, 1016)).collect()).await,
        "8-of-1g" => {
            let large = messages(&unkeyed(0), &[batch(0, 16 << 10, 65_528)]);
            let flight = client.flight().max_encoding_message_size(usize::MAX);
            let puts = (0..8).map(|table| {
                let (mut flight, mut large) = (flight.clone(), large.clone());
                large[0].flight_descriptor = Some(FlightDescriptor::new_cmd(unkeyed(table)));
                async move { flight.do_put(stream::iter(large)).await?.into_inner().try_collect::<Vec<_>>().await }
            });
            let (outcome, bytes, _) = peak(node, futures::future::try_join_all(puts)).await;
            outcome.unwrap();
            check_promise(bytes, 8);
        }
        "2000-silent" => {
            let schema = messages(&keyed(0), &[batch(0, 0, 8)])[..1].to_vec();
            let begin = (0..2000).map(|_| open(&client, schema.clone()));
            drop(peak(node, begin.collect::<FuturesUnordered<_>>().collect::<Vec<_>>()).await);
        }
        other => panic!("no case {other}"),
    }
}
