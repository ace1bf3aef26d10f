//! A run: the systems, the clients, the tables that are there, and rounds in which the systems take turns.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use volley_verify::Project;

use crate::args::Flags;
use crate::clients::Clients;
use crate::jobs::{Call, Fetch, Get, Job, Put, PutStream, Source};
use crate::machine;
use crate::measure::Watch;
use crate::report::{Report, Sample, Series};
use crate::systems::{Kind, System, Wanted};

/// Bytes of the batches of a table that is put in large chunks. One batch of all of it is refused by every server above
/// 2 GiB, and by Volley above 512 MiB.
pub const CHUNK: u64 = 256 << 20;
/// Seconds for which a table that is read can be read after it was dropped, and for which its tickets are good.
const READABLE_S: u64 = 5;

/// Where tables can be put into memory as if it were a disk.
const MEMORY: &str = "/dev/shm";
/// The room that a put needs there, for each byte of its table: two copies, and the one of a writing node that keeps none.
const ROOM: u64 = 3;

/// One of those that take turns.
#[derive(Clone)]
pub struct Contender {
    /// What its line is called.
    pub label: String,
    /// By [`Bench::system`].
    pub system: usize,
    /// What its client does.
    pub plan: Plan,
}

/// What a client does in every round.
#[derive(Clone)]
pub enum Plan {
    /// The same job each time.
    Job(Job),
    /// Streams of tickets, by which the rows of `source` must come.
    Get { streams: Vec<Vec<Fetch>>, source: Source },
    /// All endpoints of a table's FlightInfo in so many streams; tickets are new each time. What comes is kept, or not.
    Endpoints { table: String, source: Source, streams: usize, keep: bool },
    /// A put, whose table is dropped afterwards.
    Put { table: String, source: Source, batch_rows: u64, streams: usize, options: Value },
}

impl Plan {
    /// Whether the client does it, or the like of it, before the time begins.
    fn is_repeated(&self) -> bool {
        let warm = matches!(self, Plan::Job(Job::RustGet(_) | Job::Infos(_)));
        warm || matches!(self, Plan::Get { .. } | Plan::Endpoints { keep: true, .. })
    }

    /// How many rows must come, of a get.
    fn rows(&self) -> Option<u64> {
        match self {
            Plan::Get { source, .. } | Plan::Endpoints { source, .. } => Some(source.rows()),
            Plan::Job(_) | Plan::Put { .. } => None,
        }
    }
}

/// A table that is put to be read.
pub struct NewTable<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its rows.
    pub source: Source,
    /// Rows of a batch.
    pub batch_rows: u64,
    /// How Volley is to keep it: options of the put.
    pub options: Value,
}

/// A run. When it is dropped its processes end, and then its folders go.
pub struct Bench {
    /// What was asked for.
    pub flags: Flags,
    /// What has been measured.
    pub report: Report,
    /// TPC-H lineitem, once it has been generated.
    pub lineitem: Option<Source>,
    project: Project,
    python: PathBuf,
    clients: Clients,
    systems: Vec<System>,
    tables: Vec<(usize, String)>,
    data: TempDir,
    memory: Option<TempDir>,
}

impl Bench {
    /// Starts the Python client; the systems are started when they are needed.
    ///
    /// # Errors
    /// The client, or the folder for the data.
    pub fn new(flags: Flags, project: Project, python: PathBuf, report: Report) -> Result<Bench, String> {
        let folder = flags.data.clone().unwrap_or_else(|| project.target.clone());
        let data = TempDir::with_prefix_in("bench-", &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let clients = Clients::start(&python, &script(&project, "client.py"))?;
        let (systems, tables) = (Vec::new(), Vec::new());
        Ok(Bench { flags, report, lineitem: None, project, python, clients, systems, tables, data, memory: None })
    }

    /// Bytes of the reference table, or a share of them.
    pub fn reference(&self, share: f64) -> Source {
        let bytes = (self.flags.gib * share * (1u64 << 30) as f64) as u64;
        Source::Floats { columns: 64, bytes: bytes / 4096 * 4096 }
    }

    /// Those of these systems that are to be compared.
    pub fn kinds(&self, of: &[Kind]) -> Vec<Kind> {
        of.iter().copied().filter(|kind| self.flags.systems.contains(kind)).collect()
    }

    /// The system with its data on the disk.
    pub async fn system(&mut self, kind: Kind) -> usize {
        let within = self.data.path().to_path_buf();
        self.system_of(kind, within, &[]).await
    }

    /// The system with its data in this folder, and more flags for its nodes; started if it does not run.
    pub async fn system_of(&mut self, kind: Kind, within: PathBuf, node_flags: &[String]) -> usize {
        let flags = self.flags.node_flags.split_whitespace().map(String::from).chain(node_flags.iter().cloned());
        let wanted = Wanted { kind, within, node_flags: flags.collect() };
        let same = |system: &System| system.wanted.kind == kind && (!kind.is_volley() || system.wanted == wanted);
        if let Some(at) = self.systems.iter().position(same) {
            return at;
        }
        let server = script(&self.project, "server.py");
        self.systems.push(System::start(&wanted, &self.python, &server).await);
        self.systems.len() - 1
    }

    /// A running system.
    pub fn running(&self, system: usize) -> &System {
        &self.systems[system]
    }

    /// The folders for the data of puts: that on the disk, and that in memory if it has room for tables of so many bytes.
    /// With what is added to a line's name.
    ///
    /// # Errors
    /// The folder in memory cannot be made.
    pub fn places(&mut self, bytes: u64) -> Result<Vec<(PathBuf, &'static str)>, String> {
        let mut places = vec![(self.data.path().to_path_buf(), "")];
        let roomy = machine::room(Path::new(MEMORY)).min(machine::available() / 2) > bytes * ROOM;
        if self.flags.data.is_none() && roomy {
            if self.memory.is_none() {
                let made = TempDir::with_prefix_in("volley-bench-", MEMORY).map_err(|e| format!("{MEMORY}: {e}"))?;
                self.memory = Some(made);
            }
            places.extend(self.memory.iter().map(|folder| (folder.path().to_path_buf(), " (tmpfs)")));
        }
        Ok(places)
    }

    /// A folder on the disk for files of a case.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Puts a table that is to be read, unless it is there.
    ///
    /// # Errors
    /// Of the put.
    pub async fn table(&mut self, system: usize, new: &NewTable<'_>) -> Result<(), String> {
        if self.tables.contains(&(system, new.name.to_string())) {
            return Ok(());
        }
        self.tables.push((system, new.name.to_string()));
        self.add_rows(system, new).await
    }

    /// Puts rows of a table that is to be read.
    ///
    /// # Errors
    /// Of the put.
    pub async fn add_rows(&mut self, system: usize, new: &NewTable<'_>) -> Result<(), String> {
        let plan = Plan::Put {
            table: new.name.into(),
            source: new.source.clone(),
            batch_rows: new.batch_rows,
            streams: 1,
            options: match new.options.get("retention_s") {
                Some(_) => new.options.clone(),
                None => with(new.options.clone(), "retention_s", READABLE_S),
            },
        };
        let job = self.job(system, &plan, false).await?;
        let put = async { self.clients.prepare(&job).await?.go().await };
        put.await.map(|_| ()).map_err(|e| format!("putting {}: {e}", new.name))
    }

    /// Drops all tables that were put to be read if there is one of another name than these, and the client's own copies.
    ///
    /// # Errors
    /// A system refuses.
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

    /// Ends all systems, with what they hold.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn stop_all(&mut self) -> Result<(), String> {
        self.systems.clear();
        self.tables.clear();
        self.clients.forget().await
    }

    /// As many rounds as were asked for, the contenders in turn in each; before them one that is not measured, unless the
    /// clients do everything twice by themselves.
    ///
    /// # Errors
    /// What a client or a server says.
    pub async fn rounds(&mut self, contenders: &[Contender]) -> Result<Vec<Series>, String> {
        let runs = self.flags.runs;
        self.rounds_of(contenders, runs).await
    }

    /// As [`Bench::rounds`], but so many; if it is one, none before it.
    ///
    /// # Errors
    /// What a client or a server says.
    pub async fn rounds_of(&mut self, contenders: &[Contender], runs: usize) -> Result<Vec<Series>, String> {
        let series = |c: &Contender| Series {
            label: c.label.clone(),
            kind: self.systems[c.system].wanted.kind,
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
        let watch = Watch::begin(system.pids()).map_err(|e| e.to_string())?;
        let outcome = prepared.go().await?;
        let used = watch.end().await.map_err(|e| e.to_string())?;
        if let Some(rows) = contender.plan.rows().filter(|rows| *rows != outcome.rows) {
            return Err(format!("{} rows came instead of {rows}", outcome.rows));
        }
        system.drop_tables(&put_by(&job), before).await?;
        Ok(Sample { outcome, used })
    }

    /// What a client is told in this round.
    async fn job(&self, system: usize, plan: &Plan, check: bool) -> Result<Job, String> {
        let system = &self.systems[system];
        Ok(match plan {
            Plan::Job(job) => job.clone(),
            Plan::Get { streams, source } => {
                Job::Get(Get { streams: streams.clone(), expect: check.then(|| source.clone()) })
            }
            Plan::Endpoints { table, source, streams, keep } => {
                let expect = (check && *keep).then(|| source.clone());
                let get = Get { streams: spread(system.fetches(table).await?, *streams), expect };
                if *keep { Job::Get(get) } else { Job::Drain(get) }
            }
            Plan::Put { table, source, batch_rows, streams, options } => {
                let (streams, commit) = put_streams(system, table, *streams, options).await?;
                Job::Put(Put { source: source.clone(), batch_rows: *batch_rows, streams, commit })
            }
        })
    }
}

fn script(project: &Project, name: &str) -> PathBuf {
    project.root.join("tests/bench/python").join(Path::new(name))
}

/// An object with one more field.
pub fn with(mut object: Value, key: &str, value: impl Into<Value>) -> Value {
    object[key] = value.into();
    object
}

/// The tables that a job puts.
fn put_by(job: &Job) -> Vec<String> {
    match job {
        Job::Put(put) => {
            let names = put.streams.iter().filter_map(|stream| stream.descriptor["table"].as_str());
            let mut tables: Vec<String> = names.map(String::from).collect();
            tables.dedup();
            tables
        }
        Job::RustPut(put) => vec![put.table.clone()],
        _ => Vec::new(),
    }
}

/// Where the streams of a put go. Of several streams Volley makes one table, to be committed when they have ended; the
/// other servers, which have no such thing, make as many tables.
async fn put_streams(
    system: &System,
    table: &str,
    streams: usize,
    options: &Value,
) -> Result<(Vec<PutStream>, Option<Call>), String> {
    let command = with(options.clone(), "table", table);
    if streams == 1 {
        return Ok((vec![PutStream { address: system.nodes()[0].clone(), descriptor: command }], None));
    }
    if !system.wanted.kind.is_volley() {
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
    let commit = Call { name: "commit_write".into(), body: json!({"write_id": id}) };
    Ok((streams.collect(), Some(commit)))
}

/// Tickets in so many streams; those of one address as far as it goes in the same.
fn spread(mut fetches: Vec<Fetch>, streams: usize) -> Vec<Vec<Fetch>> {
    fetches.sort_by(|one, other| one.address.cmp(&other.address));
    let count = fetches.len();
    (0..streams).map(|at| fetches[count * at / streams..count * (at + 1) / streams].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_keep_to_one_address_if_there_are_as_many() {
        let fetches = ["a", "b", "a", "b"].map(|address| Fetch::new(address, b"t")).to_vec();
        let addresses = |streams: usize| -> Vec<Vec<String>> {
            let streams = spread(fetches.clone(), streams);
            streams.iter().map(|stream| stream.iter().map(|fetch| fetch.address.clone()).collect()).collect()
        };
        assert_eq!(addresses(2), [["a", "a"], ["b", "b"]]);
        assert_eq!(addresses(3), [vec!["a"], vec!["a"], vec!["b", "b"]]);
        assert_eq!(addresses(5).iter().map(Vec::len).sum::<usize>(), 4);
    }

    #[test]
    fn a_put_of_several_streams_names_each_table_once() {
        let stream = |table: &str| PutStream { address: String::new(), descriptor: json!({ "table": table }) };
        let put = |tables: &[&str]| {
            let streams = tables.iter().map(|table| stream(table)).collect();
            put_by(&Job::Put(Put {
                source: Source::Floats { columns: 1, bytes: 8 },
                batch_rows: 1,
                streams,
                commit: None,
            }))
        };
        assert_eq!(put(&["t", "t"]), ["t"]);
        assert_eq!(put(&["t0", "t1"]), ["t0", "t1"]);
    }
}
