//! A run: the systems, the clients, the tables, and rounds in which the systems take turns.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use volley_common::options::MIN_RETENTION_S;
use volley_verify::Project;

use crate::args::BenchFlags;
use crate::clients::ClientProcesses;
use crate::jobs::{ActionCall, ClientJob, GetJob, PutJob, PutStream, RowSource, TicketFetch};
use crate::machine;
use crate::measure::ResourceWatch;
use crate::report::{BenchReport, Sample, Series};
use crate::systems::{BenchSystem, SystemKind, SystemOptions};

/// Bytes of a batch of a table that is put in large batches. Every server refuses batches above 2 GiB, and Volley those above
/// 512 MiB.
pub const CHUNK: u64 = 256 << 20;
/// Seconds for which a table can be read after it was dropped, and for which its tickets are valid.
const RETENTION_S: u64 = MIN_RETENTION_S;

/// A file system in memory, for puts that wait for no disk.
const MEMORY_DISK: &str = "/dev/shm";
/// Bytes that a put needs there for each byte of its table: two copies, and the one of a writing node that keeps none.
const MEMORY_DISK_FACTOR: u64 = 3;

/// A system with a job; the contenders of a case take turns.
#[derive(Clone)]
pub struct Contender {
    /// The name of its line in the report.
    pub label: String,
    /// The index that [`Bench::system`] returned.
    pub system: usize,
    /// The job of its client.
    pub plan: JobPlan,
}

/// The job of a client in every round.
#[derive(Clone)]
pub enum JobPlan {
    /// The same job each time.
    Job(ClientJob),
    /// Streams of tickets that must return the rows of `source`.
    Get { streams: Vec<Vec<TicketFetch>>, source: RowSource },
    /// All endpoints of a table's FlightInfo in this many streams, with new tickets each time. The client keeps the rows or not.
    Endpoints { table: String, source: RowSource, streams: usize, keep: bool },
    /// A put whose table is dropped afterwards.
    Put { table: String, source: RowSource, batch_rows: u64, streams: usize, options: Value },
}

impl JobPlan {
    /// Whether the client itself warms up before the measured time.
    fn is_repeated(&self) -> bool {
        let warm = matches!(self, JobPlan::Job(job) if job.is_repeated());
        warm || matches!(self, JobPlan::Get { .. } | JobPlan::Endpoints { keep: true, .. })
    }

    /// How many rows a get must return.
    fn rows(&self) -> Option<u64> {
        match self {
            JobPlan::Get { source, .. } | JobPlan::Endpoints { source, .. } => Some(source.rows()),
            JobPlan::Job(_) | JobPlan::Put { .. } => None,
        }
    }
}

/// A table that cases read.
pub struct BenchTable<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its rows.
    pub source: RowSource,
    /// Rows of a batch.
    pub batch_rows: u64,
    /// The options of its put.
    pub options: Value,
}

/// A run. When it is dropped, its processes end and its folders are removed.
pub struct Bench {
    /// The command line.
    pub flags: BenchFlags,
    /// The results so far.
    pub report: BenchReport,
    /// TPC-H lineitem, once it has been generated.
    pub lineitem: Option<RowSource>,
    project: Project,
    python: PathBuf,
    clients: ClientProcesses,
    systems: Vec<BenchSystem>,
    tables: Vec<(usize, String)>,
    data: TempDir,
    memory: Option<TempDir>,
}

impl Bench {
    /// Starts the Python client. Systems start when they are first needed.
    ///
    /// # Errors
    /// The client, or the folder for the data.
    pub fn new(flags: BenchFlags, project: Project, python: PathBuf, report: BenchReport) -> Result<Bench, String> {
        let folder = flags.data.clone().unwrap_or_else(|| project.target.clone());
        let data = TempDir::with_prefix_in("bench-", &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let packages = project.binaries("release").join("python");
        let clients = ClientProcesses::start(&python, &project.root.join("tests/bench/python/client.py"), &packages)?;
        let (systems, tables) = (Vec::new(), Vec::new());
        Ok(Bench { flags, report, lineitem: None, project, python, clients, systems, tables, data, memory: None })
    }

    /// The reference table, or this share of it.
    pub fn reference(&self, share: f64) -> RowSource {
        let bytes = (self.flags.gib * share * (1u64 << 30) as f64) as u64;
        RowSource::Floats { columns: 64, bytes: bytes / 4096 * 4096 }
    }

    /// The systems among these that the command line selects.
    pub fn kinds(&self, of: &[SystemKind]) -> Vec<SystemKind> {
        of.iter().copied().filter(|kind| self.flags.systems.contains(kind)).collect()
    }

    /// The system with its data on the disk: its index.
    pub async fn system(&mut self, kind: SystemKind) -> usize {
        let parent_folder = self.data.path().to_path_buf();
        self.system_of(kind, parent_folder, &[]).await
    }

    /// The system with its data in this folder and with more flags for its nodes, started if it does not run: its index.
    pub async fn system_of(&mut self, kind: SystemKind, parent_folder: PathBuf, node_flags: &[String]) -> usize {
        let flags = self.flags.node_flags.split_whitespace().map(String::from).chain(node_flags.iter().cloned());
        let options = SystemOptions { kind, parent_folder, node_flags: flags.collect() };
        let same =
            |system: &BenchSystem| system.options.kind == kind && (!kind.is_volley() || system.options == options);
        if let Some(at) = self.systems.iter().position(same) {
            return at;
        }
        let server = self.script("server.py");
        self.systems.push(BenchSystem::start(&options, &self.python, &server).await);
        self.systems.len() - 1
    }

    /// A running system.
    pub fn running(&self, system: usize) -> &BenchSystem {
        &self.systems[system]
    }

    /// The folders for the data of puts, each with the suffix of its line in the report: the folder on the disk, and the one in
    /// memory if that has space for tables of this many bytes.
    ///
    /// # Errors
    /// The folder in memory cannot be made.
    pub fn places(&mut self, bytes: u64) -> Result<Vec<(PathBuf, &'static str)>, String> {
        let mut places = vec![(self.data.path().to_path_buf(), "")];
        let roomy =
            machine::free_bytes(Path::new(MEMORY_DISK)).min(machine::available() / 2) > bytes * MEMORY_DISK_FACTOR;
        if self.flags.data.is_none() && roomy {
            if self.memory.is_none() {
                let made =
                    TempDir::with_prefix_in("volley-bench-", MEMORY_DISK).map_err(|e| format!("{MEMORY_DISK}: {e}"))?;
                self.memory = Some(made);
            }
            places.extend(self.memory.iter().map(|folder| (folder.path().to_path_buf(), " (tmpfs)")));
        }
        Ok(places)
    }

    /// The Python of the clients.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// A program in Python.
    pub fn script(&self, name: &str) -> PathBuf {
        self.project.root.join("tests/bench/python").join(name)
    }

    /// A folder on the disk for files of a case.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Puts a table for reading, unless it exists.
    ///
    /// # Errors
    /// Those of the put.
    pub async fn table(&mut self, system: usize, new: &BenchTable<'_>) -> Result<(), String> {
        if self.tables.contains(&(system, new.name.to_string())) {
            return Ok(());
        }
        self.tables.push((system, new.name.to_string()));
        self.add_rows(system, new).await
    }

    /// Puts rows of a table for reading.
    ///
    /// # Errors
    /// Those of the put.
    pub async fn add_rows(&mut self, system: usize, new: &BenchTable<'_>) -> Result<(), String> {
        let plan = JobPlan::Put {
            table: new.name.into(),
            source: new.source.clone(),
            batch_rows: new.batch_rows,
            streams: 1,
            options: match new.options.get("retention_s") {
                Some(_) => new.options.clone(),
                None => with(new.options.clone(), "retention_s", RETENTION_S),
            },
        };
        let job = self.job(system, &plan, false).await?;
        let put = async { self.clients.prepare(&job).await?.go().await };
        put.await.map(|_| ()).map_err(|e| format!("putting {}: {e}", new.name))
    }

    /// Drops all tables for reading if one of them has another name than these, and frees the client's copies.
    ///
    /// # Errors
    /// A system refuses the request.
    pub async fn keep_only(&mut self, names: &[&str]) -> Result<(), String> {
        if self.tables.iter().all(|(_, table)| names.contains(&table.as_str())) {
            return Ok(());
        }
        self.clients.forget().await?;
        let tables = std::mem::take(&mut self.tables);
        for (at, system) in self.systems.iter().enumerate() {
            let own: Vec<String> = tables.iter().filter(|(of, _)| *of == at).map(|(_, table)| table.clone()).collect();
            if !own.is_empty() {
                system.drop_tables(&own, 0).await?;
            }
        }
        Ok(())
    }

    /// Stops all systems and drops their data.
    ///
    /// # Errors
    /// The client has exited.
    pub async fn stop_all(&mut self) -> Result<(), String> {
        self.systems.clear();
        self.tables.clear();
        self.clients.forget().await
    }

    /// Runs the rounds of the command line; the contenders take turns in each. An unmeasured round comes first, unless all clients
    /// warm up by themselves.
    ///
    /// # Errors
    /// The error of a client or a server.
    pub async fn rounds(&mut self, contenders: &[Contender]) -> Result<Vec<Series>, String> {
        let runs = self.flags.runs;
        self.rounds_of(contenders, runs).await
    }

    /// Like [`Bench::rounds`], with this many rounds. A single round has no unmeasured one before it.
    ///
    /// # Errors
    /// The error of a client or a server.
    pub async fn rounds_of(&mut self, contenders: &[Contender], runs: usize) -> Result<Vec<Series>, String> {
        let series = |c: &Contender| Series {
            label: c.label.clone(),
            kind: self.systems[c.system].options.kind,
            samples: Vec::new(),
        };
        let mut measured: Vec<Series> = contenders.iter().map(series).collect();
        let unmeasured = usize::from(runs > 1 && !contenders.iter().all(|contender| contender.plan.is_repeated()));
        for round in 0..runs + unmeasured {
            for (contender, series) in contenders.iter().zip(&mut measured) {
                let sample = self.once(contender, round == 0).await.map_err(|e| format!("{}: {e}", contender.label))?;
                if round >= unmeasured {
                    series.samples.push(sample);
                }
            }
        }
        Ok(measured)
    }

    async fn once(&mut self, contender: &Contender, check: bool) -> Result<Sample, String> {
        let job = self.job(contender.system, &contender.plan, check).await?;
        let system = &self.systems[contender.system];
        let before = system.stored();
        let prepared = self.clients.prepare(&job).await?;
        let watch = ResourceWatch::begin(system.pids()).map_err(|e| e.to_string())?;
        let outcome = prepared.go().await?;
        let used = watch.end().await.map_err(|e| e.to_string())?;
        if let Some(rows) = contender.plan.rows().filter(|rows| *rows != outcome.rows) {
            return Err(format!("{} rows arrived instead of {rows}", outcome.rows));
        }
        system.drop_tables(&tables_put_by(&job), before).await?;
        Ok(Sample { outcome, used })
    }

    /// The job that a client gets in this round.
    async fn job(&self, system: usize, plan: &JobPlan, check: bool) -> Result<ClientJob, String> {
        let system = &self.systems[system];
        Ok(match plan {
            JobPlan::Job(job) => job.clone(),
            JobPlan::Get { streams, source } => {
                ClientJob::Get(GetJob { streams: streams.clone(), expect: check.then(|| source.clone()), sum: None })
            }
            JobPlan::Endpoints { table, source, streams, keep } => {
                let expect = (check && *keep).then(|| source.clone());
                let get = GetJob { streams: spread(system.fetches(table).await?, *streams), expect, sum: None };
                if *keep { ClientJob::Get(get) } else { ClientJob::Drain(get) }
            }
            JobPlan::Put { table, source, batch_rows, streams, options } => {
                let (streams, commit) = put_streams(system, table, *streams, options).await?;
                ClientJob::Put(PutJob { source: source.clone(), batch_rows: *batch_rows, streams, commit })
            }
        })
    }
}

/// An object with one more field.
pub fn with(mut object: Value, key: &str, value: impl Into<Value>) -> Value {
    object[key] = value.into();
    object
}

/// The tables that a job puts.
fn tables_put_by(job: &ClientJob) -> Vec<String> {
    match job {
        ClientJob::Put(put) => {
            let names = put.streams.iter().filter_map(|stream| stream.descriptor["table"].as_str());
            let mut tables: Vec<String> = names.map(String::from).collect();
            tables.dedup();
            tables
        }
        ClientJob::RustPut(put) => vec![put.table.clone()],
        ClientJob::PackagePut(put) => vec![put.table.clone()],
        ClientJob::Mixed(mixed) => mixed.puts.clone(),
        _ => Vec::new(),
    }
}

/// The streams of a put and its commit. Volley makes one table of several streams and commits it when they have ended; the other
/// servers have no such action, so each stream makes a table.
async fn put_streams(
    system: &BenchSystem,
    table: &str,
    streams: usize,
    options: &Value,
) -> Result<(Vec<PutStream>, Option<ActionCall>), String> {
    let command = with(options.clone(), "table", table);
    if streams == 1 {
        return Ok((vec![PutStream { address: system.nodes()[0].clone(), descriptor: command }], None));
    }
    if !system.options.kind.is_volley() {
        let address = &system.nodes()[0];
        let stream = |at| PutStream { address: address.clone(), descriptor: json!({"table": format!("{table}{at}")}) };
        return Ok(((0..streams).map(stream).collect(), None));
    }
    let begun = system.client().await?.action("begin_write", &command).await.map_err(|e| e.message)?;
    let nodes: Vec<&str> = begun["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let address = |at: usize| nodes[at % nodes.len()].split_once("://").map_or("", |(_, address)| address).to_string();
    let id = begun["write_id"].clone();
    let descriptor = json!({"table": table, "write_id": id});
    let streams = (0..streams).map(|at| PutStream { address: address(at), descriptor: descriptor.clone() });
    let commit = ActionCall { name: "commit_write".into(), body: json!({"write_id": id}) };
    Ok((streams.collect(), Some(commit)))
}

/// Spreads tickets over this many streams; tickets of one address share a stream as far as possible.
fn spread(mut fetches: Vec<TicketFetch>, streams: usize) -> Vec<Vec<TicketFetch>> {
    fetches.sort_by(|one, other| one.address.cmp(&other.address));
    let count = fetches.len();
    (0..streams).map(|at| fetches[count * at / streams..count * (at + 1) / streams].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_one_address_each_if_possible() {
        let fetches = ["a", "b", "a", "b"].map(|address| TicketFetch::new(address, b"t")).to_vec();
        let addresses = |streams: usize| -> Vec<Vec<String>> {
            let streams = spread(fetches.clone(), streams);
            streams.iter().map(|stream| stream.iter().map(|fetch| fetch.address.clone()).collect()).collect()
        };
        assert_eq!(addresses(2), [["a", "a"], ["b", "b"]]);
        assert_eq!(addresses(3), [vec!["a"], vec!["a"], vec!["b", "b"]]);
        assert_eq!(addresses(5).iter().map(Vec::len).sum::<usize>(), 4);
    }

    #[test]
    fn put_of_several_streams_names_each_table_once() {
        let stream = |table: &str| PutStream { address: String::new(), descriptor: json!({ "table": table }) };
        let put = |tables: &[&str]| {
            let streams = tables.iter().map(|table| stream(table)).collect();
            tables_put_by(&ClientJob::Put(PutJob {
                source: RowSource::Floats { columns: 1, bytes: 8 },
                batch_rows: 1,
                streams,
                commit: None,
            }))
        };
        assert_eq!(put(&["t", "t"]), ["t"]);
        assert_eq!(put(&["t0", "t1"]), ["t0", "t1"]);
    }
}
