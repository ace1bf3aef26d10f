//! The servers that are compared. Each starts when it is first needed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow_flight::FlightEndpoint;
use clap::ValueEnum;
use serde::Serialize;
use volley_client::Client;
use volley_common::options::Options;
use volley_tests::loopback::LoopbackNetwork;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, wait_for};

use crate::jobs::TicketFetch;

/// The argument with which this program runs as the server in Rust.
pub const SERVE_NAIVE: &str = "serve-naive";
/// Port and host of a server that is one process.
const PORT: u16 = 8815;
const HOST: u8 = 1;
/// How long the files of a dropped table may stay.
const DELETE_LIMIT: Duration = Duration::from_secs(60);

/// A system to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    /// pyarrow's Flight server (C++), tables in memory.
    Cpp,
    /// arrow-flight's encoder over a Vec of batches, behind tonic.
    Naive,
    /// Volley: 1 coordinator, 1 node.
    Volley1,
    /// Volley: 3 coordinators, 4 nodes, two copies.
    Volley4,
}

impl SystemKind {
    /// All systems.
    pub const ALL: [SystemKind; 4] = [SystemKind::Cpp, SystemKind::Naive, SystemKind::Volley1, SystemKind::Volley4];

    /// Whether it stores tables on disks.
    pub fn is_volley(self) -> bool {
        matches!(self, SystemKind::Volley1 | SystemKind::Volley4)
    }

    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            SystemKind::Cpp => "cpp",
            SystemKind::Naive => "naive",
            SystemKind::Volley1 => "volley1",
            SystemKind::Volley4 => "volley4",
        }
    }
}

/// The options of a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemOptions {
    /// The system.
    pub kind: SystemKind,
    /// The folder in which its data folder is made.
    pub parent_folder: PathBuf,
    /// More flags for its nodes.
    pub node_flags: Vec<String>,
}

/// A running system. Its processes end and its folder is removed when it is dropped.
pub struct BenchSystem {
    /// Its options.
    pub options: SystemOptions,
    running: RunningServers,
}

enum RunningServers {
    Single { process: ServerProcess, _network: LoopbackNetwork, _folder: tempfile::TempDir },
    Volley(TestCluster),
}

impl BenchSystem {
    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// It does not start; its log is printed.
    pub async fn start(options: &SystemOptions, python: &Path, server: &Path) -> BenchSystem {
        let running = match options.kind {
            SystemKind::Cpp => single(&python.display().to_string(), &[&server.display().to_string()]).await,
            SystemKind::Naive => single("volley-bench", &[SERVE_NAIVE]).await,
            SystemKind::Volley1 => RunningServers::Volley(cluster(options, 1, 1).await),
            SystemKind::Volley4 => RunningServers::Volley(cluster(options, 3, 4).await),
        };
        BenchSystem { options: options.clone(), running }
    }

    /// All its processes.
    pub fn pids(&self) -> Vec<u32> {
        match &self.running {
            RunningServers::Single { process, .. } => process.pid().into_iter().collect(),
            RunningServers::Volley(cluster) => {
                cluster.coordinators.iter().chain(&cluster.nodes).filter_map(ServerProcess::pid).collect()
            }
        }
    }

    /// The addresses for metadata requests: HOST:PORT of the coordinators.
    pub fn coordinators(&self) -> Vec<String> {
        match &self.running {
            RunningServers::Single { process, .. } => vec![process.address.clone()],
            RunningServers::Volley(cluster) => cluster.coordinators.iter().map(|one| one.address.clone()).collect(),
        }
    }

    /// Where clients read and write data: HOST:PORT of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        match &self.running {
            RunningServers::Single { process, .. } => vec![process.address.clone()],
            RunningServers::Volley(cluster) => cluster.nodes.iter().map(|one| one.address.clone()).collect(),
        }
    }

    /// A client of the first coordinator.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn client(&self) -> Result<Client, String> {
        Client::connect(&self.coordinators()[0]).await.map_err(|e| e.message)
    }

    /// A table's endpoints, each at its first location.
    ///
    /// # Errors
    /// The system refuses, or returns an endpoint without a ticket or location.
    pub async fn fetches(&self, table: &str) -> Result<Vec<TicketFetch>, String> {
        let name = table.parse().map_err(|e: volley_common::Error| e.message)?;
        let info = self.client().await?.info(&name, &Options::default()).await.map_err(|e| e.message)?;
        let fetch = |endpoint: &FlightEndpoint| {
            let ticket = endpoint.ticket.as_ref().ok_or("an endpoint has no ticket")?;
            let location = endpoint.location.first().and_then(|location| location.uri.split_once("://"));
            let (_, address) = location.ok_or("an endpoint has no location")?;
            Ok(TicketFetch::new(address, &ticket.ticket))
        };
        info.endpoint.iter().map(fetch).collect()
    }

    /// Bytes in its nodes' folders.
    pub fn stored(&self) -> u64 {
        match &self.running {
            RunningServers::Single { .. } => 0,
            RunningServers::Volley(cluster) => {
                let sizes = cluster.part_files().into_iter().map(|path| path.metadata().map_or(0, |file| file.len()));
                sizes.sum()
            }
        }
    }

    /// Drops tables, and waits until no more than `left` bytes are stored.
    ///
    /// # Errors
    /// The system refuses the request.
    pub async fn drop_tables(&self, tables: &[String], left: u64) -> Result<(), String> {
        if tables.is_empty() {
            return Ok(());
        }
        let client = self.client().await?;
        for table in tables {
            let name = table.parse().map_err(|e: volley_common::Error| e.message)?;
            client.drop_table(&name).await.map_err(|e| format!("dropping {table}: {}", e.message))?;
        }
        wait_for(DELETE_LIMIT, "the files of a dropped table are gone", async || (self.stored() <= left).then_some(()))
            .await;
        Ok(())
    }
}

/// A server of one process, whose last argument is the address.
async fn single(program: &str, arguments: &[&str]) -> RunningServers {
    let (network, folder) =
        (LoopbackNetwork::reserve(), tempfile::TempDir::with_prefix("volley-bench-").expect("a temporary folder"));
    let address = format!("{}:{PORT}", network.host(HOST));
    let arguments = arguments.iter().map(|one| one.to_string()).chain([address.clone()]).collect();
    let mut process = ServerProcess::new(program, "server".into(), address, folder.path().join("server"), arguments);
    process.restart().await;
    RunningServers::Single { process, _network: network, _folder: folder }
}

async fn cluster(options: &SystemOptions, coordinators: usize, nodes: usize) -> TestCluster {
    let zones = nodes.min(2);
    let (node_flags, parent_folder) = (options.node_flags.clone(), options.parent_folder.clone());
    let options = ClusterOptions { coordinators, nodes, zones, node_flags, parent_folder, ..ClusterOptions::default() };
    TestCluster::start_with(options).await
}
