//! `volley demo`: puts TPC-H data into a cluster of three nodes, fetches it in parallel, checks it, and fetches it again
//! without one of the nodes.

use std::collections::BTreeSet;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;
use volley_client::{Client, FetchOptions, PutOutcome};
use volley_common::options::Options;
use volley_common::{Error, Result, TableName};

use super::dev::DevCluster;
use crate::args::{DemoArgs, DevArgs};
use crate::colours::Tone;
use crate::output::{count, exact_line, line, plural, size};
use crate::threads;
use checksum::{Checksum, RowChecksum};

mod checksum;

const NODES: u16 = 3;
const SHARDS: u32 = 6;
/// Rows of a generated batch: about 1.2 MB.
const BATCH_ROWS: usize = 8192;

/// Runs the demonstration.
///
/// # Errors
/// DATA_LOSS if a check fails.
pub async fn run(demo: &DemoArgs) -> Result<()> {
    let started = Instant::now();
    explain(
        "A cluster in this process",
        "The coordinator keeps the catalog: which tables there are, and which node has which part of them. Nodes store parts and send them to clients.",
    )?;
    let dev = DevArgs { nodes: NODES, coordinators: 1, port: 0, data_dir: None, tls: false };
    let mut cluster = DevCluster::start(&dev).await?;
    step(started, format!("cluster of 1 coordinator and {NODES} nodes at {}", cluster.address))?;
    let result = steps(demo, &mut cluster).await;
    let address = cluster.address.clone();
    if result.is_ok() {
        let seconds = format!("All checks passed in {:.1} s.", started.elapsed().as_secs_f64());
        exact_line(format!("\n{}", Tone::Good.out(&seconds)))?;
        line(next_steps(&address, demo.keep))?;
        if demo.keep {
            cluster.wait().await?;
        }
    }
    cluster.shutdown().await;
    result
}

async fn steps(demo: &DemoArgs, cluster: &mut DevCluster) -> Result<()> {
    let client = Client::connect(&cluster.address).await?;
    let name: TableName = "lineitem".parse()?;
    explain(
        "A put",
        "One call with a stream of Arrow batches makes a version of a table. Rows go to shards by the hash of their key, each shard to several nodes; all become visible at once, or none.",
    )?;
    let source = put(&client, &name, demo.scale).await?;
    explain(
        "A get",
        "GetFlightInfo answers with endpoints: a ticket for each part, and the nodes that have it. The client reads them in parallel, straight from the nodes, which send their files as they are.",
    )?;
    let nodes = fetch(&client, &name, &source, "fetched").await?;

    explain(
        "A node stops",
        "Every part has copies on other nodes, which the endpoints name too: the client continues there, and no row is missing or sent twice.",
    )?;
    let stopped = nodes.into_iter().next().ok_or_else(|| Error::internal("no node sent rows"))?;
    let started = Instant::now();
    cluster.stop_node(&stopped).await?;
    step(started, format!("stopped the node at {stopped}"))?;
    let nodes = fetch(&client, &name, &source, "fetched again from the other holders").await?;
    if nodes.contains(&stopped) {
        return Err(Error::internal(format!("{stopped} sent rows although it is stopped")));
    }
    Ok(())
}

/// Generates and puts lineitem; returns the checksum of the source.
async fn put(client: &Client, name: &TableName, scale: f64) -> Result<RowChecksum> {
    let started = Instant::now();
    let (send_sum, sum) = tokio::sync::oneshot::channel();
    let batches = threads::read(move |emit| {
        let mut checksum = Checksum::new(&LineItemArrow::schema_ref())?;
        let generator = LineItemGenerator::new(scale, 1, 1);
        for batch in LineItemArrow::new(generator).with_batch_size(BATCH_ROWS) {
            let batch = batch.map_err(|e| Error::internal(format!("generating lineitem: {e}")))?;
            checksum.add(&batch)?;
            emit(batch)?;
        }
        let _ = send_sum.send(checksum.sum());
        Ok(())
    });
    let options = Options { shard_by: Some(vec!["l_orderkey".into()]), shards: Some(SHARDS), ..Options::default() };
    let outcome = client.put(name, &options, LineItemArrow::schema_ref(), batches).await?;
    let source = sum.await.map_err(|_| Error::internal("the generator panicked"))?;
    show_put(started, &source, &outcome)?;
    check("rows that were put", outcome.rows, source.rows)?;
    Ok(source)
}

fn show_put(started: Instant, source: &RowChecksum, outcome: &PutOutcome) -> Result<()> {
    let rate = rate(started, source.bytes);
    let (rows, bytes) = (count(source.rows as i64), size(outcome.bytes as i64));
    step(
        started,
        format!(
            "generated and put TPC-H lineitem: {rows} rows, {bytes} in {} by l_orderkey, {rate}, version {}",
            plural(i64::from(outcome.parts), "part"),
            outcome.version
        ),
    )
}

/// Fetches the table and compares it with the source; returns the nodes that sent it.
async fn fetch(client: &Client, name: &TableName, source: &RowChecksum, verb: &str) -> Result<BTreeSet<String>> {
    let started = Instant::now();
    let mut fetch = client.get(name, &Options::default(), FetchOptions::default()).await?;
    let endpoints = fetch.info.endpoint.len();
    let mut nodes = BTreeSet::new();
    let (queue, checksum) = checksum_thread(fetch.schema.clone());
    while let Some(fetched) = fetch.next().await {
        let fetched = fetched?;
        nodes.insert(fetched.from.to_string());
        // A closed queue means that the thread has ended: its result has the reason.
        if queue.send(fetched.batch).await.is_err() {
            break;
        }
    }
    drop(queue);
    let got = checksum.await.map_err(|_| Error::internal("the checksum's thread panicked"))??;
    let (rows, rate) = (count(got.rows as i64), rate(started, source.bytes));
    let (endpoints, from) = (plural(endpoints as i64, "endpoint"), plural(nodes.len() as i64, "node"));
    step(started, format!("{verb}: {rows} rows, {rate}, {endpoints} in parallel, {from}"))?;
    check("rows", got.rows, source.rows)?;
    check("checksums over all columns", got.sum, source.sum)?;
    line(format!("         same rows, same checksum {:016x}", got.sum))?;
    Ok(nodes)
}

type ChecksumHandle = tokio::task::JoinHandle<Result<RowChecksum>>;

/// A thread that computes the checksum, so that the fetch does not wait for it.
fn checksum_thread(schema: SchemaRef) -> (tokio::sync::mpsc::Sender<RecordBatch>, ChecksumHandle) {
    let (queue, mut queued) = tokio::sync::mpsc::channel::<RecordBatch>(8);
    let thread = tokio::task::spawn_blocking(move || {
        let mut checksum = Checksum::new(&schema)?;
        while let Some(batch) = queued.blocking_recv() {
            checksum.add(&batch)?;
        }
        Ok(checksum.sum())
    });
    (queue, thread)
}

fn check(what: &str, got: u64, expected: u64) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::data_loss(format!("{what} differ: the source has {expected}, the cluster returned {got}")))
}

/// What the next step shows.
fn explain(title: &str, text: &str) -> Result<()> {
    exact_line(format!("\n{}\n{}", Tone::Title.out(title), Tone::Aside.out(text)))
}

fn step(started: Instant, text: String) -> Result<()> {
    line(format!("{:6.2} s {text}", started.elapsed().as_secs_f64()))
}

fn rate(started: Instant, bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    format!("{megabytes:.0} MB at {:.0} MB/s", megabytes / started.elapsed().as_secs_f64().max(1e-9))
}

/// What to try next.
fn next_steps(address: &str, kept: bool) -> String {
    // The address of a cluster that has ended would be of no use.
    let (first, address) = if kept {
        ("Next: the cluster keeps running until Ctrl-C. In another terminal:", address)
    } else {
        (
            "Next: `volley demo --keep` leaves the cluster running and prints its address. With that as ADDRESS, in another terminal:",
            "ADDRESS",
        )
    };
    format!(
        r#"
{first}

    volley ls --cluster {address}
    volley info lineitem --cluster {address}
    volley sql "SELECT l_shipmode, count(*) AS n FROM lineitem GROUP BY l_shipmode" --cluster {address}
    volley get lineitem --limit 1000 -o lineitem.parquet --cluster {address}

or in Python (pip install pyarrow):

    import pyarrow.flight as flight
    client = flight.connect("{address}")
    info = client.get_flight_info(flight.FlightDescriptor.for_path("lineitem"))
    print(info.total_records, "rows at", [e.locations for e in info.endpoints])
    table = client.do_get(flight.Ticket(b'{{"table": "lineitem", "columns": ["l_orderkey", "l_comment"], "limit": 1000}}')).read_all()

`volley dev --data-dir DIR` is a cluster that keeps its tables; docs/operations.md has the way to one on several machines."#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_shown_only_of_a_cluster_that_runs() {
        let (kept, ended) = (next_steps("grpc://127.0.0.1:9", true), next_steps("grpc://127.0.0.1:9", false));
        assert!(kept.contains("flight.connect(\"grpc://127.0.0.1:9\")"), "{kept}");
        assert!(ended.contains("flight.connect(\"ADDRESS\")") && ended.contains("--keep"), "{ended}");
    }
}
