//! The client in Rust: a process that runs one job with Volley's client library.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

use crate::jobs::{
    ClientJob, FlightInfoJob, JobOutcome, MixedLoadJob, RowSource, RustGetJob, RustPutJob, SmallCall, SmallCallsJob,
};
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
        ClientJob::Mixed(mixed) => self::mixed(mixed).await,
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
            SmallCall::Fetch => small_fetch(client, at % small.calls, small.rows).await?,
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
            SmallCall::Fetch => small_fetch(&client, call, small.rows).await?,
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

/// A get by the FlightInfo of the table, all rows by files.
async fn small_fetch(client: &Client, at: usize, rows: usize) -> Result<()> {
    let table = format!("small{at}");
    let before = client.local_reads().rows;
    let fetched = client.get_all(&name(&table)?, &Options::default()).await;
    let (_, batches) = fetched.map_err(|e| format!("getting {table}: {}", e.message))?;
    let got: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let by_files = client.local_reads().rows - before;
    if got == rows && by_files == rows as u64 {
        Ok(())
    } else {
        Err(format!("{table} has {got} rows, {by_files} of them by files, instead of {rows}"))
    }
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
    let endpoints = infos.endpoints;
    let ask = move |at: usize| {
        let (client, descriptor) = (clients[at % clients.len()].clone(), descriptor.clone());
        async move { info(client, &descriptor, endpoints).await }
    };
    let times = at_rate(infos.rate, infos.seconds, begun.at, ask).await?;
    Ok(of_calls(begun.end()?, times))
}

/// Makes calls at a fixed rate, each in a task of its own. The time of each counts from when it was due: a request that was sent late
/// has waited, too.
async fn at_rate<F>(
    rate: u32,
    seconds: u32,
    begin: Instant,
    call: impl Fn(usize) -> F + Send + 'static,
) -> Result<Vec<f64>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (calls, runtime) = (u64::from(rate * seconds), tokio::runtime::Handle::current());
    let asking = tokio::task::spawn_blocking(move || {
        let mut asked = Vec::with_capacity(calls as usize);
        for at in 0..calls {
            let due = begin + Duration::from_nanos(at * 1_000_000_000 / u64::from(rate));
            wait_until(due);
            let answer = call(at as usize);
            asked.push(runtime.spawn(async move { answer.await.map(|()| due.elapsed().as_secs_f64()) }));
        }
        asked
    });
    let mut times = Vec::with_capacity(calls as usize);
    for asked in asking.await.map_err(|e| e.to_string())? {
        times.push(asked.await.map_err(|e| e.to_string())??);
    }
    Ok(times)
}

/// Small gets at a fixed rate, while bulk gets and puts of this process run on threads of their own.
async fn mixed(mixed: MixedLoadJob) -> Result<JobOutcome> {
    let clients = try_join_all(mixed.addresses.iter().map(|address| connect(address))).await?;
    for at in 0..WARM_UP_CALLS {
        small_get(&clients[at % clients.len()], at % mixed.tables, mixed.rows).await?;
    }
    let batches = if mixed.puts.is_empty() { Vec::new() } else { batches(&mixed.source, mixed.batch_rows)? };
    // Never dropped: the process ends with the job.
    let bulk = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let bulk: &tokio::runtime::Runtime = Box::leak(Box::new(bulk));
    let (mixed, over) = (Arc::new(mixed), Arc::new(AtomicBool::new(false)));
    let begun = JobTimer::wait_for_start()?;
    let mut load = JoinSet::new();
    for at in 0..mixed.gets {
        load.spawn_on(bulk_gets(mixed.clone(), at, over.clone()), bulk.handle());
    }
    for at in 0..mixed.puts.len() {
        load.spawn_on(bulk_puts(mixed.clone(), at, batches.clone(), over.clone()), bulk.handle());
    }
    let (tables, rows) = (mixed.tables, mixed.rows);
    let ask = move |at: usize| {
        let client = clients[at % clients.len()].clone();
        async move { small_get(&client, at % tables, rows).await }
    };
    let times = at_rate(mixed.rate, mixed.seconds, begun.at, ask).await?;
    let outcome = begun.end()?;
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.map_err(|e| e.to_string())??;
    }
    Ok(of_calls(outcome, times))
}

/// Reads the table again and again.
async fn bulk_gets(mixed: Arc<MixedLoadJob>, at: usize, over: Arc<AtomicBool>) -> Result<()> {
    let client = connect(&mixed.addresses[at % mixed.addresses.len()]).await?;
    let failed = |e: volley_common::Error| format!("a bulk get: {}", e.message);
    while !over.load(Ordering::Relaxed) {
        let mut rows = client.open(arrow_flight::Ticket::new(mixed.table.clone())).await.map_err(failed)?;
        while !over.load(Ordering::Relaxed) && rows.next().await.map_err(failed)?.is_some() {}
    }
    Ok(())
}

/// Replaces a table again and again, at least once.
async fn bulk_puts(
    mixed: Arc<MixedLoadJob>,
    at: usize,
    batches: Vec<RecordBatch>,
    over: Arc<AtomicBool>,
) -> Result<()> {
    let client = connect(&mixed.addresses[at % mixed.addresses.len()]).await?;
    let (table, schema) = (name(&mixed.puts[at])?, batches.first().ok_or("nothing to put")?.schema());
    let options = Options { mode: Some(Mode::Replace), retention_s: Some(MIN_RETENTION_S), ..Options::default() };
    loop {
        let rows = stream::iter(batches.clone().into_iter().map(Ok));
        client.put(&table, &options, schema.clone(), rows).await.map_err(|e| format!("a bulk put: {}", e.message))?;
        if over.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

async fn info(channel: Channel, descriptor: &FlightDescriptor, endpoints: usize) -> Result<()> {
    let arrived = raw::endpoints(channel, descriptor.clone()).await?;
    if arrived == endpoints { Ok(()) } else { Err(format!("{arrived} endpoints arrived instead of {endpoints}")) }
}

#[allow(clippy::disallowed_methods, reason = "requests are sent at fixed times, whatever the answers do")]
fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
