//! `volley bench`: puts random rows into temporary tables and gets them, by one stream and by several.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use futures::StreamExt;
use serde_json::{Value, json};
use volley_client::{Client, FetchOptions, Mode, ParallelPut};
use volley_common::options::{MIN_RETENTION_S, Options};
use volley_common::{Code, Error, Result, TableName, clock};

use super::dev;
use super::sample::SplitMix64;
use crate::args::table_commands::BenchArgs;
use crate::output::{self, count, size};
use network::NetworkLink;

mod network;

/// Rows of the batch that is put again and again: 4 MiB.
const BATCH_ROWS: usize = 65_536;
/// Columns, of 8 bytes each: one that identifies the row within its batch, and random numbers, which no compression shortens.
const COLUMNS: usize = 8;
const ROW_BYTES: u64 = 8 * COLUMNS as u64;
/// Plans that are requested one after the other.
const PLANS: usize = 200;
/// The tables are dropped after this time if the process cannot.
const TTL_S: u64 = 3_600;

/// What one step took.
#[derive(Debug)]
struct BenchFigure {
    step: String,
    rows: u64,
    took: Duration,
}

/// The figures of all steps.
#[derive(Default)]
struct BenchFigures {
    transfers: Vec<BenchFigure>,
    /// How long each plan took, sorted.
    plans: Vec<Duration>,
    /// What limits the transfers.
    link: NetworkLink,
}

/// Measures, prints the figures, and drops the tables, also after an interrupt or an error.
pub async fn run(bench: &BenchArgs, client: &Client, json: bool) -> Result<()> {
    let run = format!("{:x}", clock::now_ms());
    let name = |table: &str| -> Result<TableName> {
        match bench.prefix.as_str() {
            "/" => format!("volley_bench_{run}_{table}").parse(),
            prefix => format!("{prefix}/{run}/{table}").parse(),
        }
    };
    let tables = [name("ordered")?, name("keyed")?];
    let measured = tokio::select! {
        figures = measure(bench, client, &tables) => figures,
        interrupted = dev::interrupted() => Err(interrupted.err().unwrap_or_else(|| Error::cancelled("interrupted"))),
    };
    // A put that was given up is aborted first, so that it creates nothing afterwards.
    client.settle().await;
    for table in &tables {
        if let Err(error) = client.drop_table(table).await
            && error.code != Code::NotFound
        {
            eprintln!("volley: {table} is not dropped; it is dropped by itself within an hour: {error}");
        }
    }
    let figures = measured?;
    if json { output::json(&figures.json(bench)) } else { figures.show(bench) }
}

async fn measure(bench: &BenchArgs, client: &Client, [ordered, keyed]: &[TableName; 2]) -> Result<BenchFigures> {
    let (batch, streams) = (random_batch()?, usize::from(bench.streams));
    let mut figures = BenchFigures { link: NetworkLink::to(client.address()).await, ..BenchFigures::default() };
    figures.transfers.push(put(bench, client, ordered, None, &batch).await?);
    figures.transfers.push(put(bench, client, keyed, Some(streams), &batch).await?);
    for streams in [1, streams] {
        figures.transfers.push(get(bench, client, keyed, streams).await?);
    }
    for _ in 0..PLANS {
        let started = Instant::now();
        client.info(keyed, &Options::default()).await?;
        figures.plans.push(started.elapsed());
    }
    figures.plans.sort_unstable();
    Ok(figures)
}

/// A batch of random rows.
fn random_batch() -> Result<RecordBatch> {
    let mut random = SplitMix64(1);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..BATCH_ROWS as i64));
    let mut columns = vec![("id".to_string(), ids)];
    for at in 1..COLUMNS {
        let numbers = (0..BATCH_ROWS).map(|_| (random.next_number() >> 11) as f64 / (1_u64 << 53) as f64);
        columns.push((format!("x{at}"), Arc::new(Float64Array::from_iter_values(numbers))));
    }
    RecordBatch::try_from_iter(columns).map_err(|e| Error::internal(format!("the rows of the benchmark: {e}")))
}

/// The rows of each transfer: whole batches.
fn rows_of(bench: &BenchArgs) -> u64 {
    (bench.bytes / ROW_BYTES).div_ceil(BATCH_ROWS as u64).max(1) * BATCH_ROWS as u64
}

/// Puts all rows: by one stream into a table without keys, or by several into one with keys.
async fn put(
    bench: &BenchArgs,
    client: &Client,
    table: &TableName,
    streams: Option<usize>,
    batch: &RecordBatch,
) -> Result<BenchFigure> {
    let options = Options {
        mode: Some(Mode::Create),
        replicas: bench.replicas,
        shard_by: streams.map(|_| vec!["id".into()]),
        retention_s: Some(MIN_RETENTION_S),
        ttl_s: Some(TTL_S),
        ..Options::default()
    };
    let (rows, schema, batch) = (rows_of(bench), batch.schema(), batch.clone());
    let batches = (rows / BATCH_ROWS as u64) as usize;
    let source = futures::stream::iter(std::iter::repeat_n(batch, batches).map(Ok));
    let started = Instant::now();
    let parallel = ParallelPut { streams: streams.unwrap_or(1) };
    let outcome = client.put_parallel(table, &options, schema, source, parallel).await?;
    let took = started.elapsed();
    check("put", outcome.rows, rows)?;
    let step = match streams {
        None => "put, in order, 1 stream".to_string(),
        Some(streams) => format!("put, by key, up to {}", output::plural(streams as i64, "stream")),
    };
    Ok(BenchFigure { step, rows, took })
}

async fn get(bench: &BenchArgs, client: &Client, table: &TableName, streams: usize) -> Result<BenchFigure> {
    let started = Instant::now();
    let options = FetchOptions { streams, ..FetchOptions::default() };
    let mut fetch = client.get(table, &Options::default(), options).await?;
    let mut rows = 0;
    while let Some(fetched) = fetch.next().await {
        rows += fetched?.batch.num_rows() as u64;
    }
    let took = started.elapsed();
    check("got", rows, rows_of(bench))?;
    let step = match streams {
        1 => "get, 1 stream".to_string(),
        streams => format!("get, up to {}", output::plural(streams as i64, "stream")),
    };
    Ok(BenchFigure { step, rows, took })
}

fn check(verb: &str, found: u64, expected: u64) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::data_loss(format!("{found} rows were {verb} instead of {expected}: report this"))),
    }
}

impl BenchFigure {
    fn bytes(&self) -> u64 {
        self.rows * ROW_BYTES
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

impl BenchFigures {
    /// The time that this share of the plans did not exceed, in milliseconds.
    fn plan_ms(&self, share: f64) -> f64 {
        let at = (self.plans.len() as f64 * share) as usize;
        self.plans.get(at.min(self.plans.len().saturating_sub(1))).map_or(0.0, |took| took.as_micros() as f64 / 1e3)
    }

    fn json(&self, bench: &BenchArgs) -> Value {
        let transfers = self.transfers.iter().map(|figure| {
            json!({
                "step": figure.step,
                "rows": figure.rows,
                "bytes": figure.bytes(),
                "seconds": figure.took.as_secs_f64(),
                "bytes_per_second": figure.bytes_per_second(),
            })
        });
        let transfers: Vec<Value> = transfers.collect();
        let plans = json!({ "calls": self.plans.len(), "p50_ms": self.plan_ms(0.5), "p99_ms": self.plan_ms(0.99) });
        json!({ "streams": bench.streams, "network": self.link.json(), "transfers": transfers, "plans": plans })
    }

    fn show(&self, bench: &BenchArgs) -> Result<()> {
        let bytes = size(i64::try_from(rows_of(bench) * ROW_BYTES).unwrap_or(-1));
        output::line(format!(
            "{bytes} in each step, {COLUMNS} columns of random numbers, read and written from memory"
        ))?;
        let mut table = output::table(&["step", "rows", "seconds", "MB/s"]);
        for figure in &self.transfers {
            let (seconds, rate) = (figure.took.as_secs_f64(), figure.bytes_per_second() / 1e6);
            let rows = count(i64::try_from(figure.rows).unwrap_or(-1));
            table.add_row([figure.step.clone(), rows, format!("{seconds:.2}"), format!("{rate:.0}")]);
        }
        output::align_right(&mut table, &[1, 2, 3]);
        output::line(table)?;
        output::line(self.link.text())?;
        let (p50, p99) = (self.plan_ms(0.5), self.plan_ms(0.99));
        output::line(format!("plans, one after the other: half take {p50:.2} ms at most, 99 % {p99:.2} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(bytes: u64) -> BenchArgs {
        BenchArgs { bytes, streams: 8, replicas: None, prefix: "volley_bench".into() }
    }

    #[test]
    fn rows_are_whole_batches_of_at_least_the_bytes() {
        for (bytes, batches) in [(0, 1), (1, 1), (4 << 20, 1), ((4 << 20) + ROW_BYTES, 2), (256_000_000, 62)] {
            assert_eq!(rows_of(&bench(bytes)), batches * BATCH_ROWS as u64, "{bytes}");
        }
        let batch = random_batch().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (BATCH_ROWS, COLUMNS));
    }

    #[test]
    fn figures_are_rates_and_quantiles() {
        let figure = BenchFigure { step: "get".into(), rows: 1_000_000, took: Duration::from_millis(500) };
        assert_eq!((figure.bytes(), figure.bytes_per_second()), (64_000_000, 128_000_000.0));
        let plans = (1..=100).map(Duration::from_millis).collect();
        let figures = BenchFigures { transfers: vec![figure], plans, link: NetworkLink::ThisMachine };
        assert_eq!((figures.plan_ms(0.5), figures.plan_ms(0.99)), (51.0, 100.0));
        assert_eq!(BenchFigures::default().plan_ms(0.99), 0.0);
        let json = figures.json(&bench(1));
        assert_eq!((&json["transfers"][0]["rows"], &json["plans"]["calls"]), (&json!(1_000_000), &json!(100)));
    }
}
