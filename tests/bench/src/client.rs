//! The client in Rust: a process that runs one job with Volley's client library.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::FileReader;
use arrow_flight::FlightDescriptor;
use futures::future::try_join_all;
use futures::{TryStreamExt, stream};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use volley_client::{Client, FetchOptions};
use volley_common::TableName;
use volley_common::options::{MIN_RETENTION_S, Mode, Options};
use volley_tests::rows;

use crate::jobs::{ClientJob, FlightInfoJob, JobOutcome, RowSource, RustGetJob, RustPutJob, SmallCall, SmallCallsJob};
use crate::measure::{cpu_seconds, quantile};
use crate::raw;

/// Calls before the measured time, so that connections are open and code is warm.
const WARM_UP_CALLS: usize = 64;

type Result<T> = std::result::Result<T, String>;

/// Reads a job from standard input, runs it, and writes its outcome to standard output.
///
/// # Errors
/// The failure, which is also written as the outcome.
pub async fn run() -> Result<()> {
    let line = read_line()?;
    let job = serde_json::from_str(&line).map_err(|e| format!("the job {line:?}: {e}"))?;
    let outcome = match job {
        ClientJob::RustPut(put) => self::put(put).await,
        ClientJob::RustGet(get) => self::get(get).await,
        ClientJob::Small(small) => self::small(small).await,
        ClientJob::Infos(infos) => self::infos(infos).await,
        ClientJob::Put(_)
        | ClientJob::Get(_)
        | ClientJob::Drain(_)
        | ClientJob::PackagePut(_)
        | ClientJob::PackageGet(_)
        | ClientJob::Train(_)
        | ClientJob::Download(_)
        | ClientJob::Quack(_) => Err("this job is for the client in Python".into()),
    };
    match &outcome {
        Ok(outcome) => println!("{}", serde_json::to_string(outcome).map_err(|e| e.to_string())?),
        Err(error) => println!("{}", serde_json::json!({ "error": error })),
    }
    Ok(())
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|e| format!("standard input: {e}"))?;
    Ok(line)
}

/// Time and CPU of the measured part of a job.
struct JobTimer {
    at: Instant,
    cpu: f64,
}

impl JobTimer {
    /// Reports that the job is prepared, and waits for the start.
    fn wait_for_start() -> Result<JobTimer> {
        println!(r#"{{"at": "begin"}}"#);
        read_line()?;
        Ok(JobTimer { cpu: own_cpu()?, at: Instant::now() })
    }

    fn end(self) -> Result<JobOutcome> {
        Ok(JobOutcome { seconds: self.at.elapsed().as_secs_f64(), cpu: own_cpu()? - self.cpu, ..JobOutcome::default() })
    }
}

fn own_cpu() -> Result<f64> {
    cpu_seconds(std::process::id()).map_err(|e| e.to_string())
}

async fn connect(address: &str) -> Result<Client> {
    Client::connect(address).await.map_err(|e| e.message)
}

fn name(table: &str) -> Result<TableName> {
    table.parse().map_err(|e: volley_common::Error| e.message)
}

async fn put(put: RustPutJob) -> Result<JobOutcome> {
    let (client, name, bytes) = (connect(&put.address).await?, name(&put.table)?, put.source.bytes());
    let batches = batches(&put.source, put.batch_rows as usize)?;
    let schema = batches.first().ok_or("nothing to put")?.schema();
    let options = Options { retention_s: Some(MIN_RETENTION_S), ..Options::default() };
    let begun = JobTimer::wait_for_start()?;
    let put = client.put(&name, &options, schema, stream::iter(batches.into_iter().map(Ok))).await;
    let rows = put.map_err(|e| e.message)?.rows;
    Ok(JobOutcome { rows, bytes, ..begun.end()? })
}

/// The rows of a source in batches of this many; those of a file in its own batches.
fn batches(source: &RowSource, rows: usize) -> Result<Vec<RecordBatch>> {
    match source {
        RowSource::Floats { columns, .. } => {
            let schema = floats(*columns);
            let (all, mut random) = (source.rows() as usize, SmallRng::seed_from_u64(1));
            (0..all).step_by(rows).map(|from| batch_of(&schema, rows.min(all - from), &mut random)).collect()
        }
        RowSource::File { path, .. } => {
            let file = std::fs::File::open(path).map_err(|e| format!("{path}: {e}"))?;
            let reader = FileReader::try_new(file, None).map_err(|e| format!("{path}: {e}"))?;
            reader.collect::<std::result::Result<_, _>>().map_err(|e| format!("{path}: {e}"))
        }
    }
}

fn floats(columns: usize) -> SchemaRef {
    let field = |at| Field::new(format!("c{at}"), DataType::Float64, true);
    Arc::new(Schema::new((0..columns).map(field).collect::<Vec<_>>()))
}

fn batch_of(schema: &SchemaRef, rows: usize, random: &mut SmallRng) -> Result<RecordBatch> {
    let mut column =
        || -> ArrayRef { Arc::new(Float64Array::from_iter_values((0..rows).map(|_| random.random::<f64>()))) };
    let columns = schema.fields().iter().map(|_| column()).collect();
    RecordBatch::try_new(schema.clone(), columns).map_err(|e| e.to_string())
}

async fn get(get: RustGetJob) -> Result<JobOutcome> {
    let client = Client::builder().address(&get.address).compress(!get.plain).connect().await;
    let (client, name) = (client.map_err(|e| e.message)?, name(&get.table)?);
    let how = FetchOptions { streams: get.streams, ..FetchOptions::default() };
    let all = async || -> Result<Vec<RecordBatch>> {
        let fetch = client.get(&name, &Options::default(), how.clone()).await.map_err(|e| e.message)?;
        let batches: Vec<RecordBatch> =
            fetch.map_ok(|fetched| fetched.batch).try_collect().await.map_err(|e| e.message)?;
        let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if rows == get.rows { Ok(batches) } else { Err(format!("{rows} rows arrived instead of {}", get.rows)) }
    };
    drop(all().await?);
    let begun = JobTimer::wait_for_start()?;
    let batches = all().await?;
    let outcome = begun.end()?;
    let columns = batches.iter().flat_map(RecordBatch::columns);
    let bytes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0) as u64).sum();
    Ok(JobOutcome { bytes, rows: get.rows, ..outcome })
}

async fn small(small: SmallCallsJob) -> Result<JobOutcome> {
    let clients = (0..small.clients).map(|at| connect(&small.addresses[at % small.addresses.len()]));
    let clients = try_join_all(clients.collect::<Vec<_>>()).await?;
    let small = Arc::new(small);
    prepare(&small, &clients).await?;
    let begun = JobTimer::wait_for_start()?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for (at, client) in clients.into_iter().enumerate() {
        tasks.spawn(call_on(client, at, small.clone(), next.clone()));
    }
    let mut times = Vec::with_capacity(small.calls);
    while let Some(done) = tasks.join_next().await {
        times.extend(done.map_err(|e| e.to_string())??);
    }
    Ok(of_calls(begun.end()?, times))
}

/// Creates the tables that the calls need, and makes warm-up calls.
async fn prepare(small: &SmallCallsJob, clients: &[Client]) -> Result<()> {
    if small.call == SmallCall::Append {
        for (at, client) in clients.iter().enumerate() {
            small_put(client, &format!("append{at}"), Mode::Replace, small.rows).await?;
        }
    }
    for at in 0..WARM_UP_CALLS {
        let client = &clients[at % clients.len()];
        match small.call {
            SmallCall::Put => small_put(client, &format!("warm{at}"), Mode::Replace, small.rows).await?,
            SmallCall::Append => {
                small_put(client, &format!("append{}", at % clients.len()), Mode::Append, small.rows).await?
            }
            SmallCall::Get => small_get(client, at % small.calls, small.rows).await?,
        }
    }
    Ok(())
}

/// Calls until all calls are taken; the time of each.
async fn call_on(client: Client, at: usize, small: Arc<SmallCallsJob>, next: Arc<AtomicUsize>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    loop {
        let call = next.fetch_add(1, Ordering::Relaxed);
        if call >= small.calls {
            return Ok(times);
        }
        let begin = Instant::now();
        match small.call {
            SmallCall::Put => small_put(&client, &format!("small{call}"), Mode::Replace, small.rows).await?,
            SmallCall::Append => small_put(&client, &format!("append{at}"), Mode::Append, small.rows).await?,
            SmallCall::Get => small_get(&client, call, small.rows).await?,
        }
        times.push(begin.elapsed().as_secs_f64());
    }
}

async fn small_put(client: &Client, table: &str, mode: Mode, rows: usize) -> Result<()> {
    let options = Options { mode: Some(mode), ..Options::default() };
    let put = client.put(&name(table)?, &options, rows::schema(), rows::stream(0..rows as i64)).await;
    put.map(|_| ()).map_err(|e| format!("putting {table}: {}", e.message))
}

/// One DoGet with the table's name as the ticket.
async fn small_get(client: &Client, at: usize, rows: usize) -> Result<()> {
    let ticket = arrow_flight::Ticket::new(format!("small{at}"));
    let (_, batches) = client.do_get(ticket).await.map_err(|e| format!("getting small{at}: {}", e.message))?;
    let got: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if got == rows { Ok(()) } else { Err(format!("small{at} has {got} rows instead of {rows}")) }
}

fn of_calls(outcome: JobOutcome, mut times: Vec<f64>) -> JobOutcome {
    times.sort_by(f64::total_cmp);
    let at = |share| quantile(&times, share).unwrap_or(0.0);
    JobOutcome { calls: times.len() as u64, p50: at(0.5), p99: at(0.99), ..outcome }
}

async fn infos(infos: FlightInfoJob) -> Result<JobOutcome> {
    let clients = try_join_all(infos.addresses.iter().map(|address| raw::connect(address))).await?;
    let descriptor = FlightDescriptor::new_path(vec![infos.table.clone()]);
    for at in 0..WARM_UP_CALLS {
        info(clients[at % clients.len()].clone(), &descriptor, infos.endpoints).await?;
    }
    let begun = JobTimer::wait_for_start()?;
    let calls = u64::from(infos.rate * infos.seconds);
    let (runtime, begin) = (tokio::runtime::Handle::current(), begun.at);
    let asking = tokio::task::spawn_blocking(move || {
        let mut asked = Vec::with_capacity(calls as usize);
        for call in 0..calls {
            let due = begin + Duration::from_nanos(call * 1_000_000_000 / u64::from(infos.rate));
            wait_until(due);
            let (client, descriptor) = (clients[call as usize % clients.len()].clone(), descriptor.clone());
            let endpoints = infos.endpoints;
            // Measured from the due time: a request that was sent late has waited too.
            asked.push(runtime.spawn(async move {
                info(client, &descriptor, endpoints).await.map(|()| due.elapsed().as_secs_f64())
            }));
        }
        asked
    });
    let mut times = Vec::with_capacity(calls as usize);
    for asked in asking.await.map_err(|e| e.to_string())? {
        times.push(asked.await.map_err(|e| e.to_string())??);
    }
    Ok(of_calls(begun.end()?, times))
}

async fn info(channel: Channel, descriptor: &FlightDescriptor, endpoints: usize) -> Result<()> {
    let arrived = raw::endpoints(channel, descriptor.clone()).await?;
    if arrived == endpoints { Ok(()) } else { Err(format!("{arrived} endpoints arrived instead of {endpoints}")) }
}

#[allow(clippy::disallowed_methods, reason = "requests are sent at fixed times, whatever the answers do")]
fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
