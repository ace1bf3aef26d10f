//! A cluster of real processes in a temporary folder that is removed when it is dropped.
//!
//! Integration tests, `cargo chaos`, `cargo bench-flight` and `cargo cost` start their clusters here.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use volley_client::Client;
use volley_common::tls::ClientTls;

use crate::launch::{ProcessRole, ServerOptions};
use crate::loopback::{COORDINATOR_PORT, LoopbackNetwork, PEER_OFFSET};
use crate::process::ServerProcess;
use crate::wait_for;

/// How long a cluster may take to elect a leader, or to see that a node is back.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// The timeout of a status request to one coordinator, because a paused one never answers.
const STATUS_LIMIT: Duration = Duration::from_secs(8);

/// A member of a cluster, by its index from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberId {
    /// A coordinator; its Raft id is its index + 1.
    Coordinator(usize),
    /// A node.
    Node(usize),
}

impl MemberId {
    /// Its role.
    pub fn role(self) -> ProcessRole {
        match self {
            MemberId::Coordinator(_) => ProcessRole::Coordinator,
            MemberId::Node(_) => ProcessRole::Node,
        }
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (MemberId::Coordinator(index) | MemberId::Node(index)) = *self;
        write!(f, "{}{}", self.role().name(), index + 1)
    }
}

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Coordinators: 1, 3 or 5.
    pub coordinators: usize,
    /// Nodes.
    pub nodes: usize,
    /// Zones, to which the nodes belong in turn.
    pub zones: usize,
    /// More flags for every coordinator; `{host}` in them is its own address, and `{name}` its name, as `coordinator1`.
    pub coordinator_flags: Vec<String>,
    /// More flags for every node; `{host}` in them is its own address, and `{name}` its name, as `node1`.
    pub node_flags: Vec<String>,
    /// The coordinators' configuration file; none if empty.
    pub coordinator_config: String,
    /// The nodes' configuration file; none if empty.
    pub node_config: String,
    /// Whether members listen where only a proxy reaches them: see [`TestCluster::proxy_routes`].
    pub behind_proxies: bool,
    /// How the cluster asks its coordinators for their status.
    pub client_tls: ClientTls,
    /// The folder in which the cluster's temporary folder is made.
    pub parent_folder: PathBuf,
    /// What the name of the temporary folder begins with.
    pub folder_prefix: String,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            coordinators: 3,
            nodes: 4,
            zones: 2,
            coordinator_flags: Vec::new(),
            node_flags: Vec::new(),
            coordinator_config: String::new(),
            node_config: String::new(),
            behind_proxies: false,
            client_tls: ClientTls::default(),
            parent_folder: std::env::temp_dir(),
            folder_prefix: "volley-test-".into(),
        }
    }
}

/// Coordinators and nodes. If the test fails, the ends of their logs are printed.
pub struct TestCluster {
    /// By Raft id - 1.
    pub coordinators: Vec<ServerProcess>,
    /// In the order in which they were added.
    pub nodes: Vec<ServerProcess>,
    options: ClusterOptions,
    /// None once it was kept.
    folder: Option<TempDir>,
    network: LoopbackNetwork,
}

impl TestCluster {
    /// Starts 3 coordinators, and 4 nodes in 2 zones; returns when all are ready and known to each other.
    pub async fn start() -> TestCluster {
        TestCluster::start_with(ClusterOptions::default()).await
    }

    /// Starts a cluster with these options; returns when all members are ready and known to each other.
    pub async fn start_with(options: ClusterOptions) -> TestCluster {
        let mut cluster = TestCluster::create(options);
        cluster.members().for_each(ServerProcess::start);
        cluster.settle().await;
        cluster
    }

    /// Makes folders and addresses; no process runs yet.
    pub fn create(options: ClusterOptions) -> TestCluster {
        let folder = TempDir::with_prefix_in(&options.folder_prefix, &options.parent_folder).unwrap();
        fs::write(folder.path().join("coordinator.toml"), &options.coordinator_config).unwrap();
        fs::write(folder.path().join("node.toml"), &options.node_config).unwrap();
        let mut cluster = TestCluster {
            coordinators: Vec::new(),
            nodes: Vec::new(),
            options,
            folder: Some(folder),
            network: LoopbackNetwork::reserve(),
        };
        for index in 0..cluster.options.coordinators {
            let coordinator = cluster.coordinator(index);
            cluster.coordinators.push(coordinator);
        }
        for _ in 0..cluster.options.nodes {
            cluster.add_node();
        }
        cluster
    }

    /// Waits until every started member is ready and every node counts as alive.
    pub async fn settle(&mut self) {
        for member in self.members() {
            member.ready().await;
        }
        let nodes = self.nodes.len();
        wait_for(SETTLE_LIMIT, "every node is alive", async || (self.nodes_alive().await == Some(nodes)).then_some(()))
            .await;
    }

    /// Waits until every started member is ready; an error names the first that is not.
    pub async fn try_ready(&mut self, limit: Duration) -> Result<(), String> {
        let end = tokio::time::Instant::now() + limit;
        for member in self.members() {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            member.try_ready(left.max(Duration::from_secs(1))).await?;
        }
        Ok(())
    }

    /// Adds a node with the same options as the others; it does not run yet.
    pub fn add_node(&mut self) -> &mut ServerProcess {
        let node = self.node(self.nodes.len());
        self.nodes.push(node);
        self.nodes.last_mut().unwrap()
    }

    /// A coordinator that is to join a running cluster, with this Raft id, on the address of the coordinator with index
    /// `host`. It does not run yet, and does not belong to [`TestCluster::coordinators`].
    pub fn joining_coordinator(&self, id: usize, host: usize) -> ServerProcess {
        let peer = |id: usize, host: usize| format!("{id}={}", self.coordinator_peer(host));
        let others = (1..=3).filter(|other| *other != id).map(|other| peer(other, other - 1));
        let peers: Vec<String> = others.chain([peer(id, host)]).collect();
        let host_name = self.network.coordinator(host);
        let mut flags = own_flags(&[("--id", id.to_string()), ("--peers", peers.join(","))]);
        flags.extend(advertise(ProcessRole::Coordinator, &host_name, ""));
        flags.push("--join".into());
        let options = ServerOptions {
            role: ProcessRole::Coordinator,
            name: format!("coordinator{id}-{host}"),
            listen_host: &host_name,
            advertised_host: &host_name,
            folder: self.folder(),
            flags,
        };
        options.process()
    }

    /// All members, coordinators first.
    pub fn members(&mut self) -> impl Iterator<Item = &mut ServerProcess> {
        self.coordinators.iter_mut().chain(&mut self.nodes)
    }

    /// The ids of all members, coordinators first.
    pub fn member_ids(&self) -> Vec<MemberId> {
        let coordinators = (0..self.coordinators.len()).map(MemberId::Coordinator);
        coordinators.chain((0..self.nodes.len()).map(MemberId::Node)).collect()
    }

    /// A member's process.
    pub fn member(&mut self, id: MemberId) -> &mut ServerProcess {
        match id {
            MemberId::Coordinator(index) => &mut self.coordinators[index],
            MemberId::Node(index) => &mut self.nodes[index],
        }
    }

    /// Starts every member that was never started, was killed or was stopped.
    pub fn start_stopped(&mut self) {
        self.members().filter(|member| member.pid().is_none()).for_each(ServerProcess::start);
    }

    /// kill -9 of all members.
    pub fn kill_all(&mut self) {
        self.members().for_each(ServerProcess::kill);
    }

    /// Where clients reach the members: HOST:PORT, coordinators first.
    pub fn addresses(&self) -> Vec<String> {
        self.coordinators.iter().chain(&self.nodes).map(|member| member.address.clone()).collect()
    }

    /// A client of the first coordinator that runs.
    pub async fn client(&mut self) -> Client {
        let running = self.coordinators.iter_mut().find_map(|one| one.is_running().then_some(&*one));
        running.expect("a coordinator runs").client().await
    }

    /// Waits until there is a running leader; returns its index.
    pub async fn leader(&mut self) -> usize {
        wait_for(SETTLE_LIMIT, "there is a leader", async || {
            let leader = self.known_leader().await?;
            self.coordinators[leader].is_running().then_some(leader)
        })
        .await
    }

    /// The index of the leader, if a coordinator that answers knows it.
    pub async fn known_leader(&self) -> Option<usize> {
        let leader = self.status().await?["leader"].as_u64()? as usize;
        (1..=self.coordinators.len()).contains(&leader).then(|| leader - 1)
    }

    /// How many nodes the catalog has as alive.
    pub async fn nodes_alive(&self) -> Option<usize> {
        let status = self.status().await?;
        Some(status["nodes"].as_array()?.iter().filter(|node| node["state"] == "alive").count())
    }

    /// `cluster_status` of the first coordinator that answers.
    pub async fn status(&self) -> Option<Value> {
        for coordinator in &self.coordinators {
            let tls = self.options.client_tls.clone();
            let answer = async { Client::connect_with(&coordinator.address, tls).await?.status().await };
            if let Ok(Ok(status)) = tokio::time::timeout(STATUS_LIMIT, answer).await {
                return Some(status);
            }
        }
        None
    }

    /// The index of the node with this URI.
    pub fn node_index(&self, uri: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.uri() == uri);
        found.unwrap_or_else(|| panic!("no node has the address {uri}"))
    }

    /// All parts on the nodes' disks, unfinished ones included.
    pub fn part_files(&self) -> Vec<PathBuf> {
        let folders = self.nodes.iter().flat_map(|node| [node.folder.join("parts"), node.folder.join("tmp")]);
        let mut files: Vec<PathBuf> = folders.flat_map(|folder| files_below(&folder)).collect();
        files.sort();
        files
    }

    /// The folder of all data folders and logs.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// Kills all members and keeps the folder; returns its path.
    pub fn keep(&mut self) -> PathBuf {
        self.kill_all();
        self.folder.take().unwrap().keep()
    }

    /// The routes of the proxies for each member: for its Flight port and its peer port, the address that others know
    /// and the one where the member listens.
    pub fn proxy_routes(&self) -> Vec<(MemberId, SocketAddr, SocketAddr)> {
        assert!(self.options.behind_proxies, "members listen at the addresses that others know");
        let mut routes = Vec::new();
        for id in self.member_ids() {
            let (listen, advertised) = self.hosts(id);
            for port in [id.role().port(), id.role().port() + PEER_OFFSET] {
                let at = |host: &str| SocketAddr::new(host.parse().unwrap(), port);
                routes.push((id, at(&advertised), at(&listen)));
            }
        }
        routes
    }

    /// The host where a member listens, and the one where others reach it.
    fn hosts(&self, id: MemberId) -> (String, String) {
        let network = &self.network;
        let (advertised, hidden) = match id {
            MemberId::Coordinator(index) => (network.coordinator(index), network.coordinator_behind_proxy(index)),
            MemberId::Node(index) => (network.node(index), network.node_behind_proxy(index)),
        };
        (if self.options.behind_proxies { hidden } else { advertised.clone() }, advertised)
    }

    fn coordinator_peer(&self, index: usize) -> String {
        format!("{}:{}", self.network.coordinator(index), COORDINATOR_PORT + PEER_OFFSET)
    }

    fn coordinator(&self, index: usize) -> ServerProcess {
        let peers: Vec<String> = (0..self.options.coordinators)
            .map(|other| format!("{}={}", other + 1, self.coordinator_peer(other)))
            .collect();
        let own = [("--id", (index + 1).to_string()), ("--peers", peers.join(","))];
        let (flags, config) = (&self.options.coordinator_flags, &self.options.coordinator_config);
        self.process(MemberId::Coordinator(index), own_flags(&own), flags, config)
    }

    fn node(&self, index: usize) -> ServerProcess {
        let id = MemberId::Node(index);
        let coordinators: Vec<String> = (0..self.options.coordinators).map(|at| self.coordinator_peer(at)).collect();
        let zone = format!("zone{}", index % self.options.zones);
        let mut own = vec![("--coordinators", coordinators.join(",")), ("--zone", zone)];
        if self.options.behind_proxies {
            own.push(("--peer-advertise", format!("{}:{}", self.hosts(id).1, id.role().port() + PEER_OFFSET)));
        }
        self.process(id, own_flags(&own), &self.options.node_flags, &self.options.node_config)
    }

    /// A process with its own flags, and with those and the configuration that all members of its role have.
    fn process(&self, id: MemberId, mut flags: Vec<String>, more: &[String], config: &str) -> ServerProcess {
        let (listen_host, advertised_host) = self.hosts(id);
        let listener = if more.iter().any(|flag| flag == "--listen") { "internal=" } else { "" };
        flags.extend(advertise(id.role(), &advertised_host, listener));
        if !config.is_empty() {
            let file = self.folder().join(format!("{}.toml", id.role().name()));
            flags.extend(own_flags(&[("--config", file.display().to_string())]));
        }
        let own = |flag: &String| flag.replace("{host}", &advertised_host).replace("{name}", &id.to_string());
        flags.extend(more.iter().map(own));
        let options = ServerOptions {
            role: id.role(),
            name: id.to_string(),
            listen_host: &listen_host,
            advertised_host: &advertised_host,
            folder: self.folder(),
            flags,
        };
        options.process()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if let (true, Some(folder)) = (std::thread::panicking(), &self.folder) {
            for member in self.coordinators.iter().chain(&self.nodes) {
                eprintln!("--- {} ({})\n{}", member.name, folder.path().display(), member.log_tail());
            }
        }
    }
}

fn own_flags(flags: &[(&str, String)]) -> Vec<String> {
    flags.iter().flat_map(|(flag, value)| [flag.to_string(), value.clone()]).collect()
}

fn advertise(role: ProcessRole, host: &str, listener: &str) -> Vec<String> {
    own_flags(&[("--advertise", format!("{listener}{host}:{}", role.port()))])
}

/// All files below a folder, in order. Files may be deleted while they are listed.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect();
    files.sort();
    files
}
