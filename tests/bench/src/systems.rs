//! The servers that are compared, each started when it is first needed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow_flight::FlightEndpoint;
use clap::ValueEnum;
use serde::Serialize;
use volley_common::client::Client;
use volley_common::options::Options;
use volley_tests::address::Net;
use volley_tests::process::Process;
use volley_tests::{Cluster, Shape, wait_for};

use crate::jobs::Fetch;

/// The word by which this program is told to be the server in Rust.
pub const SERVE_NAIVE: &str = "serve-naive";
/// The hosts' ports, and the host of the servers of one process.
const PORT: u16 = 8815;
const HOST: u8 = 1;
/// How long files of a dropped table may stay.
const GONE: Duration = Duration::from_secs(60);

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// pyarrow's Flight server (C++), tables in memory.
    Cpp,
    /// arrow-flight's encoder over a Vec of batches, behind tonic.
    Naive,
    /// Volley: 1 coordinator, 1 node.
    Volley1,
    /// Volley: 3 coordinators, 4 nodes, two copies.
    Volley4,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 4] = [Kind::Cpp, Kind::Naive, Kind::Volley1, Kind::Volley4];

    /// Whether it keeps tables on disks.
    pub fn is_volley(self) -> bool {
        matches!(self, Kind::Volley1 | Kind::Volley4)
    }

    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cpp => "cpp",
            Kind::Naive => "naive",
            Kind::Volley1 => "volley1",
            Kind::Volley4 => "volley4",
        }
    }
}

/// Which system, and where and how it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub kind: Kind,
    /// Where its data folder is made.
    pub within: PathBuf,
    /// More flags for its nodes.
    pub node_flags: Vec<String>,
}

/// A running system; its processes end and its folder goes when it is dropped.
pub struct System {
    /// What it is.
    pub wanted: Wanted,
    running: Running,
}

enum Running {
    Single { process: Process, _net: Net, _folder: tempfile::TempDir },
    Volley(Cluster),
}

impl System {
    /// Starts it, and waits until it can be used.
    ///
    /// # Panics
    /// It does not start; its log is printed.
    pub async fn start(wanted: &Wanted, python: &Path, server: &Path) -> System {
        let running = match wanted.kind {
            Kind::Cpp => single(&python.display().to_string(), &[&server.display().to_string()]).await,
            Kind::Naive => single("volley-bench", &[SERVE_NAIVE]).await,
            Kind::Volley1 => Running::Volley(cluster(wanted, 1, 1).await),
            Kind::Volley4 => Running::Volley(cluster(wanted, 3, 4).await),
        };
        System { wanted: wanted.clone(), running }
    }

    /// All its processes.
    pub fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Single { process, .. } => process.pid().into_iter().collect(),
            Running::Volley(cluster) => {
                cluster.coordinators.iter().chain(&cluster.nodes).filter_map(Process::pid).collect()
            }
        }
    }

    /// Where clients ask for metadata: HOST:PORT of the coordinators.
    pub fn coordinators(&self) -> Vec<String> {
        match &self.running {
            Running::Single { process, .. } => vec![process.address.clone()],
            Running::Volley(cluster) => cluster.coordinators.iter().map(|one| one.address.clone()).collect(),
        }
    }

    /// Where clients move data: HOST:PORT of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        match &self.running {
            Running::Single { process, .. } => vec![process.address.clone()],
            Running::Volley(cluster) => cluster.nodes.iter().map(|one| one.address.clone()).collect(),
        }
    }

    /// A client of its first coordinator.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn client(&self) -> Result<Client, String> {
        Client::connect(&self.coordinators()[0]).await.map_err(|e| e.message)
    }

    /// A table's endpoints, each at its first location.
    ///
    /// # Errors
    /// The system refuses, or gives an endpoint that cannot be had.
    pub async fn fetches(&self, table: &str) -> Result<Vec<Fetch>, String> {
        let name = table.parse().map_err(|e: volley_common::Error| e.message)?;
        let info = self.client().await?.info(&name, &Options::default()).await.map_err(|e| e.message)?;
        let fetch = |endpoint: &FlightEndpoint| {
            let ticket = endpoint.ticket.as_ref().ok_or("an endpoint has no ticket")?;
            let location = endpoint.location.first().and_then(|location| location.uri.split_once("://"));
            let (_, address) = location.ok_or("an endpoint has no location")?;
            Ok(Fetch::new(address, &ticket.ticket))
        };
        info.endpoint.iter().map(fetch).collect()
    }

    /// Bytes in its nodes' folders.
    pub fn stored(&self) -> u64 {
        match &self.running {
            Running::Single { .. } => 0,
            Running::Volley(cluster) => {
                let sizes = cluster.files().into_iter().map(|path| path.metadata().map_or(0, |file| file.len()));
                sizes.sum()
            }
        }
    }

    /// Drops tables, and waits until no more than `left` bytes are stored.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn drop_tables(&self, tables: &[String], left: u64) -> Result<(), String> {
        if tables.is_empty() {
            return Ok(());
        }
        let client = self.client().await?;
        for table in tables {
            let name = table.parse().map_err(|e: volley_common::Error| e.message)?;
            client.drop_table(&name).await.map_err(|e| format!("dropping {table}: {}", e.message))?;
        }
        wait_for(GONE, "the files of a dropped table are gone", async || (self.stored() <= left).then_some(())).await;
        Ok(())
    }
}

/// A server of one process, whose last argument is the address.
async fn single(program: &str, arguments: &[&str]) -> Running {
    let (net, folder) = (Net::reserve(), tempfile::TempDir::with_prefix("volley-bench-").expect("a temporary folder"));
    let address = format!("{}:{PORT}", net.host(HOST));
    let arguments = arguments.iter().map(|one| one.to_string()).chain([address.clone()]).collect();
    let mut process = Process::new(program, "server".into(), address, folder.path().join("server"), arguments);
    process.restart().await;
    Running::Single { process, _net: net, _folder: folder }
}

async fn cluster(wanted: &Wanted, coordinators: usize, nodes: usize) -> Cluster {
    let zones = nodes.min(2);
    let (node_flags, within) = (wanted.node_flags.clone(), wanted.within.clone());
    Cluster::of(Shape { coordinators, nodes, zones, node_flags, within, ..Shape::default() }).await
}
