//! TPC-H lineitem over links of 15 Gb/s, 1 Gb/s and 100 Mb/s: sent plain, compressed on the way, and as it is stored; beside the C++
//! server, Parquet over HTTP, and DuckDB's Quack.
//!
//! The links are one: the loopback of a network namespace, whose packets from and to the ports of the data `tc` shapes. The traffic
//! between members is not shaped.

use std::process::Command;

use serde::Deserialize;
use serde_json::json;

use super::gets::ROWS_64K;
use super::shapes::generated;
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::clients::ClientPipe;
use crate::jobs::{ClientJob, DownloadJob, QuackJob, RowSource, RustGetJob};
use crate::measure::median;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// How the case is run.
const HOW: &str = "unshare --net -- sh -c 'ip link set lo up && cargo bench-flight thin'";
/// The table, and the same with `compression: auto`.
const PLAIN: &str = "lineitem";
const STORED: &str = "lineitem-auto";
const STREAMS: usize = 4;
/// The most rounds: a get over the slowest link takes minutes.
const MAX_RUNS: usize = 3;
/// Where the servers of other systems listen.
const PARQUET_PORT: u16 = 18_080;
const QUACK_PORT: u16 = 19_494;
/// Labels of contenders.
const CPP: &str = "cpp";
const SENT_PLAIN: &str = "volley1: plain";
const COMPRESSED: &str = "volley1: compressed on the way";
const AS_STORED: &str = "volley1: stored by auto";
const PARQUET: &str = "parquet over http";
const QUACK: &str = "duckdb quack";
/// The share of a link that plain rows must use.
const LINK_USE: f64 = 0.9;

/// A link.
struct ShapedLink {
    name: &'static str,
    /// As `tc` has it.
    rate: &'static str,
    /// Bytes a second.
    bytes: f64,
    /// The delay of a packet, as `tc` has it: half of what a round trip takes.
    delay: Option<&'static str>,
}

const LINKS: [ShapedLink; 3] = [
    ShapedLink { name: "15 Gb/s", rate: "15gbit", bytes: 15e9 / 8.0, delay: None },
    ShapedLink { name: "1 Gb/s", rate: "1gbit", bytes: 1e9 / 8.0, delay: None },
    ShapedLink { name: "100 Mb/s, 20 ms", rate: "100mbit", bytes: 100e6 / 8.0, delay: Some("10ms") },
];

/// What the other servers say when they are ready.
#[derive(Deserialize)]
struct OtherServers {
    /// Where the Parquet file is.
    parquet: String,
    /// The address of Quack; none without its packages.
    quack: Option<String>,
}

pub(super) async fn get(bench: &mut Bench) -> Result<(), String> {
    if !is_own_namespace() {
        println!("\nthin: not run, because it would shape the traffic of this machine: {HOW}");
        return Ok(());
    }
    let source = generated(bench)?;
    let (mut contenders, mut ports) = (Vec::new(), vec![PARQUET_PORT, QUACK_PORT]);
    bench.keep_only(&[PLAIN, STORED]).await?;
    for kind in bench.kinds(&[SystemKind::Cpp, SystemKind::Volley1]) {
        let system = bench.system(kind).await;
        contenders.extend(flight_contenders(bench, system, kind, &source).await?);
        let running = bench.running(system);
        ports.extend(running.coordinators().iter().chain(&running.nodes()).filter_map(|address| port_of(address)));
    }
    let (mut pipe, others) = start_others(bench, &source).await?;
    contenders.extend(other_contenders(&contenders, &others, &source));
    for link in &LINKS {
        let delay = shape(link, &ports)?;
        let runs = bench.flags.runs.min(MAX_RUNS);
        let measured = bench.rounds_of(&contenders, runs).await;
        tc(&["qdisc", "del", "dev", "lo", "root"])?;
        bench.report.add(report_of(link, delay, &source, measured?));
    }
    pipe.ask("end").await.map(|_| ())
}

/// The table of a Flight server, read by Volley's client.
async fn flight_contenders(
    bench: &mut Bench,
    system: usize,
    kind: SystemKind,
    source: &RowSource,
) -> Result<Vec<Contender>, String> {
    let tables = match kind {
        SystemKind::Cpp => &[(CPP, PLAIN, true)][..],
        _ => &[(SENT_PLAIN, PLAIN, true), (COMPRESSED, PLAIN, false), (AS_STORED, STORED, false)],
    };
    let mut contenders = Vec::new();
    for (label, table, plain) in tables.iter().copied() {
        let options = if table == STORED { json!({"compression": "auto"}) } else { json!({}) };
        let new = BenchTable { name: table, source: source.clone(), batch_rows: ROWS_64K, options };
        bench.table(system, &new).await?;
        let address = bench.running(system).coordinators()[0].clone();
        let job = RustGetJob { address, table: table.into(), streams: STREAMS, rows: source.rows(), plain };
        let plan = JobPlan::Job(ClientJob::RustGet(job));
        contenders.push(Contender { label: label.into(), system, plan });
    }
    Ok(contenders)
}

/// Starts the servers of other systems: Parquet over HTTP, and Quack if its packages are installed.
async fn start_others(bench: &Bench, source: &RowSource) -> Result<(ClientPipe, OtherServers), String> {
    let RowSource::File { path, .. } = source else { return Err("lineitem is a file".into()) };
    let mut command = tokio::process::Command::new(bench.python());
    command.arg(bench.script("thin_servers.py")).args([path.clone(), PARQUET_PORT.to_string(), QUACK_PORT.to_string()]);
    command.arg(bench.folder());
    let mut pipe = ClientPipe::start(command)?;
    let ready = pipe.ask("start").await?;
    let others: OtherServers = serde_json::from_value(ready).map_err(|e| format!("thin_servers.py: {e}"))?;
    if others.quack.is_none() {
        println!("thin: without Quack: pip install -r tests/bench/python/requirements.txt");
    }
    Ok((pipe, others))
}

/// The same rows from other systems. Their servers are no process of a measured system, so their CPU is not counted.
fn other_contenders(flight: &[Contender], others: &OtherServers, source: &RowSource) -> Vec<Contender> {
    let Some(system) = flight.first().map(|contender| contender.system) else { return Vec::new() };
    let (rows, bytes) = (source.rows(), source.bytes());
    let parquet = ClientJob::Download(DownloadJob { url: others.parquet.clone(), rows, bytes });
    let quack = others.quack.clone().map(|uri| ClientJob::Quack(QuackJob { uri, rows, bytes }));
    let jobs = [(PARQUET, Some(parquet)), (QUACK, quack)];
    let contender = |(label, job): (&str, Option<ClientJob>)| {
        Some(Contender { label: label.into(), system, plan: JobPlan::Job(job?) })
    };
    jobs.into_iter().filter_map(contender).collect()
}

fn report_of(link: &ShapedLink, delay: &str, source: &RowSource, series: Vec<crate::report::Series>) -> CaseReport {
    let (rows, gb) = (source.rows(), source.bytes() as f64 / 1e9);
    let about = format!("TPC-H lineitem, {rows} rows, {gb:.2} GB over {}{delay}; {STREAMS} streams", link.name);
    let mut case = CaseReport::new(&format!("thin {}", link.rate), about, series);
    if link.bytes <= 1e9 / 8.0 {
        let plain = case.of(SENT_PLAIN).and_then(|series| median(&series.rates()));
        let share = plain.map(|rate| rate * 1e9 / link.bytes);
        case.goal(Goal::at_least("volley1: plain: share of the link", share, LINK_USE));
    }
    for other in [CPP, SENT_PLAIN, PARQUET, QUACK] {
        let ratio = case.rate_ratio(COMPRESSED, other);
        case.goal(Goal::at_least(&format!("{COMPRESSED}: × rows/s of {other}"), ratio, 1.0));
    }
    case
}

/// Shapes packets from and to these ports. Returns what is missing.
fn shape(link: &ShapedLink, ports: &[u16]) -> Result<&'static str, String> {
    tc(&["qdisc", "replace", "dev", "lo", "root", "handle", "1:", "htb", "default", "0"])?;
    // Packets of the loopback have up to 64 KiB.
    let class = ["class", "add", "dev", "lo", "parent", "1:", "classid", "1:10", "htb", "rate", link.rate];
    tc(&[&class[..], &["burst", "256kb", "cburst", "256kb", "mtu", "65536", "quantum", "65536"]].concat())?;
    let queue = ["qdisc", "add", "dev", "lo", "parent", "1:10", "handle", "10:"];
    let delayed = link.delay.map(|delay| tc(&[&queue[..], &["netem", "delay", delay, "limit", "1000"]].concat()));
    let missing = match delayed {
        None | Some(Ok(())) => "",
        Some(Err(_)) => " (without the delay: this kernel has no netem)",
    };
    if !matches!(delayed, Some(Ok(()))) {
        tc(&[&queue[..], &["pfifo", "limit", "64"]].concat())?;
    }
    for port in ports {
        for direction in ["sport", "dport"] {
            let port = port.to_string();
            let filter = ["filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", "prio", "1", "u32"];
            tc(&[&filter[..], &["match", "ip", direction, &port, "0xffff", "flowid", "1:10"]].concat())?;
        }
    }
    Ok(missing)
}

/// Whether this process has a network of its own, in which there is only the loopback.
fn is_own_namespace() -> bool {
    let links = Command::new("ip").args(["-o", "link"]).output();
    links.is_ok_and(|links| {
        let text = String::from_utf8_lossy(&links.stdout);
        text.lines().count() == 1 && text.contains(": lo:")
    })
}

fn tc(arguments: &[&str]) -> Result<(), String> {
    let what = arguments.join(" ");
    let ran = Command::new("tc").args(arguments).output().map_err(|e| format!("tc {what}: {e}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!("tc {what}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}
