//! A cluster of real processes in a temporary folder, gone when it is dropped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use volley_common::client::Client;

use crate::address::Net;
use crate::process::Process;
use crate::wait_for;

/// How long a cluster may take to get a leader, or to know that a node is back.
const SETTLES: Duration = Duration::from_secs(40);

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Coordinators: 1, 3 or 5.
    pub coordinators: usize,
    /// Nodes.
    pub nodes: usize,
    /// Zones that the nodes stand in, in turn.
    pub zones: usize,
    /// More flags for every coordinator; `{host}` in them is its own address.
    pub coordinator_flags: Vec<String>,
    /// More flags for every node; `{host}` in them is its own address.
    pub node_flags: Vec<String>,
    /// Where its temporary folder is made.
    pub within: PathBuf,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            coordinators: 3,
            nodes: 4,
            zones: 2,
            coordinator_flags: Vec::new(),
            node_flags: Vec::new(),
            within: std::env::temp_dir(),
        }
    }
}

/// Running coordinators and nodes. If the test fails, the ends of their logs are printed.
pub struct Cluster {
    /// By id - 1.
    pub coordinators: Vec<Process>,
    /// In the order in which they were started.
    pub nodes: Vec<Process>,
    folder: TempDir,
    net: Net,
}

impl Cluster {
    /// 3 coordinators, and 4 nodes in 2 zones, all ready and known to each other.
    pub async fn start() -> Cluster {
        Cluster::of(Shape::default()).await
    }

    /// A cluster of another shape.
    pub async fn of(shape: Shape) -> Cluster {
        let net = Net::reserve();
        let folder = TempDir::with_prefix_in("volley-test-", &shape.within).unwrap();
        let coordinators = (0..shape.coordinators).map(|at| coordinator(&net, folder.path(), at, &shape)).collect();
        let nodes = (0..shape.nodes).map(|at| node(&net, folder.path(), at, &shape)).collect();
        let mut cluster = Cluster { coordinators, nodes, folder, net };
        cluster.members().for_each(Process::start);
        cluster.settle().await;
        cluster
    }

    /// Waits until every member that was started is ready, and all nodes are known as alive.
    pub async fn settle(&mut self) {
        for member in self.members() {
            member.ready().await;
        }
        let nodes = self.nodes.len();
        wait_for(SETTLES, "every node is alive", async || (self.nodes_alive().await == Some(nodes)).then_some(()))
            .await;
    }

    /// One node more, of the same shape as the others; it does not run yet.
    pub fn add_node(&mut self, shape: &Shape) -> &mut Process {
        let at = self.nodes.len();
        self.nodes.push(node(&self.net, self.folder.path(), at, shape));
        &mut self.nodes[at]
    }

    /// A coordinator that does not run yet, and is to join: with this id, on the `host`th coordinator's address, from 0.
    pub fn joining(&self, id: usize, host: usize) -> Process {
        let (net, host, name) = (&self.net, self.net.coordinator(host), format!("coordinator{id}-{host}"));
        let mut peers: Vec<String> = (1..=3)
            .filter(|other| *other != id)
            .map(|other| format!("{other}={}:8825", net.coordinator(other - 1)))
            .collect();
        peers.push(format!("{id}={host}:8825"));
        let data = self.folder.path().join(&name);
        let own = [("--id", id.to_string()), ("--peers", peers.join(","))];
        let arguments = flags(&own, &host, 8815, &data, "").chain(["--join".into()]).collect();
        Process::new("volley-coordinator", name, format!("{host}:8815"), data, arguments)
    }

    /// All members, coordinators first.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Process> {
        self.coordinators.iter_mut().chain(&mut self.nodes)
    }

    /// A client of the first coordinator that runs.
    pub async fn client(&mut self) -> Client {
        let running = self.coordinators.iter_mut().find_map(|one| one.is_alive().then_some(&*one));
        running.expect("a coordinator runs").client().await
    }

    /// Index of the leading coordinator, one that runs.
    pub async fn leader(&mut self) -> usize {
        wait_for(SETTLES, "there is a leader", async || {
            let status = self.status().await?;
            let leader = status["leader"].as_u64()? as usize - 1;
            self.coordinators[leader].is_alive().then_some(leader)
        })
        .await
    }

    /// Nodes that the catalog has as alive.
    pub async fn nodes_alive(&mut self) -> Option<usize> {
        let status = self.status().await?;
        Some(status["nodes"].as_array()?.iter().filter(|node| node["state"] == "alive").count())
    }

    /// `cluster_status` by the first coordinator that answers.
    async fn status(&mut self) -> Option<Value> {
        for coordinator in &mut self.coordinators {
            if !coordinator.is_alive() {
                continue;
            }
            if let Ok(client) = Client::connect(&coordinator.address).await
                && let Ok(status) = client.status().await
            {
                return Some(status);
            }
        }
        None
    }

    /// Index of the node with this URI.
    pub fn node_at(&self, uri: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.uri() == uri);
        found.unwrap_or_else(|| panic!("no node has the address {uri}"))
    }

    /// Every part and every unfinished one on the nodes' disks.
    pub fn files(&self) -> Vec<PathBuf> {
        let folders = self.nodes.iter().flat_map(|node| [node.folder.join("parts"), node.folder.join("tmp")]);
        let mut files = Vec::new();
        folders.for_each(|folder| files_below(&folder, &mut files));
        files.sort();
        files
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in self.coordinators.iter().chain(&self.nodes) {
                eprintln!("--- {} ({})\n{}", member.name, self.folder.path().display(), member.log_tail());
            }
        }
    }
}

fn coordinator(net: &Net, folder: &Path, index: usize, shape: &Shape) -> Process {
    let (host, id) = (net.coordinator(index), (index + 1).to_string());
    let peers: Vec<String> =
        (0..shape.coordinators).map(|at| format!("{}={}:8825", at + 1, net.coordinator(at))).collect();
    let name = format!("coordinator{id}");
    let data = folder.join(&name);
    let own = [("--id", id), ("--peers", peers.join(","))];
    let more = shape.coordinator_flags.iter().map(|flag| flag.replace("{host}", &host));
    let arguments = flags(&own, &host, 8815, &data, name_of(&shape.coordinator_flags)).chain(more).collect();
    Process::new("volley-coordinator", name, format!("{host}:8815"), data, arguments)
}

fn node(net: &Net, folder: &Path, index: usize, shape: &Shape) -> Process {
    let host = net.node(index);
    let coordinators: Vec<String> = (0..shape.coordinators).map(|at| format!("{}:8825", net.coordinator(at))).collect();
    let name = format!("node{}", index + 1);
    let data = folder.join(&name);
    let own = [("--coordinators", coordinators.join(",")), ("--zone", format!("zone{}", index % shape.zones))];
    let more = shape.node_flags.iter().map(|flag| flag.replace("{host}", &host));
    let arguments = flags(&own, &host, 8816, &data, name_of(&shape.node_flags)).chain(more).collect();
    Process::new("volley-node", name, format!("{host}:8816"), data, arguments)
}

/// What the first listener is called: each of several needs a name.
fn name_of(more: &[String]) -> &'static str {
    if more.iter().any(|flag| flag == "--listen") { "internal=" } else { "" }
}

/// The flags that both roles have; peers are 10 ports above Flight, HTTP 20.
fn flags(own: &[(&str, String)], host: &str, port: u16, data: &Path, name: &str) -> impl Iterator<Item = String> {
    let mut flags: Vec<(String, String)> = own.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    flags.push(("--listen".into(), format!("{name}{host}:{port}")));
    flags.push(("--advertise".into(), format!("{name}grpc+tcp://{host}:{port}")));
    flags.push(("--peer-listen".into(), format!("{host}:{}", port + 10)));
    flags.push(("--http-listen".into(), format!("{host}:{}", port + 20)));
    flags.push(("--data-dir".into(), data.display().to_string()));
    flags.into_iter().flat_map(|(key, value)| [key, value])
}

/// Files may go away while they are listed.
fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}
