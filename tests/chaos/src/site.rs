//! The cluster: real processes, each behind proxies, in one temporary folder.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;
use volley_common::client::Client;
use volley_tests::address::Net;
use volley_tests::process::Process;

use crate::links::{Links, Member, Mode};
use crate::proxy::{self, Wiring};

/// Ports of coordinators and nodes for Flight; peers are 10 above, HTTP 20.
const PORTS: (u16, u16) = (8815, 8816);
/// From a member's address to the one where it really listens.
const BEHIND: u8 = 40;

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Coordinators.
    pub coordinators: usize,
    /// Nodes, each in a zone of its own if there are as many.
    pub nodes: usize,
    /// Zones.
    pub zones: usize,
    /// Whether proxies stand between the members.
    pub proxied: bool,
    /// Bytes of the last node's disk, if it should be a small one of its own.
    pub small_disk: Option<u64>,
    /// The coordinators' configuration file.
    pub coordinator_config: String,
    /// The nodes' configuration file.
    pub node_config: String,
}

/// The cluster; its processes and mounts are gone when it is dropped.
pub struct Site {
    /// By id - 1.
    pub coordinators: Vec<Process>,
    /// By index.
    pub nodes: Vec<Process>,
    /// The node whose disk is small, if there is one.
    pub small: Option<usize>,
    wiring: Wiring,
    folder: Option<TempDir>,
    _proxies: Vec<AbortOnDropHandle<()>>,
    _net: Net,
}

impl Site {
    /// Makes the processes, their proxies and folders; nothing runs yet.
    pub async fn new(plan: &Plan, prefix: &str) -> Site {
        let net = Net::reserve();
        let folder = TempDir::with_prefix(prefix).unwrap();
        fs::write(folder.path().join("coordinator.toml"), &plan.coordinator_config).unwrap();
        fs::write(folder.path().join("node.toml"), &plan.node_config).unwrap();
        let coordinators: Vec<Process> =
            (0..plan.coordinators).map(|at| coordinator(plan, &net, folder.path(), at)).collect();
        let nodes: Vec<Process> = (0..plan.nodes).map(|at| node(plan, &net, folder.path(), at)).collect();
        let wiring = Wiring::default();
        let mut proxies = Vec::new();
        if plan.proxied {
            for member in members(plan.coordinators, plan.nodes) {
                for (front, back) in ways(&net, member) {
                    proxies.push(proxy::start(&wiring, member, front, back).await.unwrap());
                }
            }
        }
        let small = plan.small_disk.and_then(|bytes| small_disk(nodes.last()?, bytes).then_some(nodes.len() - 1));
        Site { coordinators, nodes, small, wiring, folder: Some(folder), _proxies: proxies, _net: net }
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// All members, coordinators first.
    pub fn members(&self) -> Vec<Member> {
        members(self.coordinators.len(), self.nodes.len()).collect()
    }

    /// The links between them.
    pub fn links(&self) -> &Links {
        &self.wiring.links
    }

    /// A member's process.
    pub fn process(&mut self, member: Member) -> &mut Process {
        match member {
            Member::Coordinator(at) => &mut self.coordinators[at],
            Member::Node(at) => &mut self.nodes[at],
            Member::Client => panic!("the client is no process of the cluster"),
        }
    }

    /// Starts a member, without waiting until it is ready.
    pub fn start(&mut self, member: Member) {
        let process = self.process(member);
        process.start();
        let pid = process.pid().unwrap();
        self.wiring.owners.set(pid, member);
    }

    /// Starts all that do not run.
    pub fn start_all(&mut self) {
        for member in self.members() {
            if self.process(member).pid().is_none() {
                self.start(member);
            }
        }
    }

    /// kill -9.
    pub fn kill(&mut self, member: Member) {
        self.process(member).kill9();
    }

    /// Waits until every member that runs is ready; says who is not.
    pub async fn ready(&mut self, limit: Duration) -> Result<(), String> {
        let end = tokio::time::Instant::now() + limit;
        for member in self.members() {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            self.process(member).try_ready(left.max(Duration::from_secs(1))).await?;
        }
        Ok(())
    }

    /// Cuts every way between these two, both ways.
    pub fn cut(&self, one: Member, other: Member, mode: Mode) {
        self.links().cut(one, other, mode);
        self.links().cut(other, one, mode);
    }

    /// Removes all that a stopped member has on its disk.
    pub fn wipe(&mut self, member: Member) {
        let folder = &self.process(member).folder;
        // The folder itself may be a mount.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
    }

    /// `cluster_status` by the first coordinator that answers.
    pub async fn status(&self) -> Option<serde_json::Value> {
        for coordinator in &self.coordinators {
            let asked = async { Client::connect(&coordinator.address).await?.status().await };
            if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(8), asked).await {
                return Some(status);
            }
        }
        None
    }

    /// The leading coordinator's index, if a coordinator knows it.
    pub async fn leader(&self) -> Option<usize> {
        let leader = self.status().await?["leader"].as_u64()? as usize;
        (1..=self.coordinators.len()).contains(&leader).then(|| leader - 1)
    }

    /// Addresses by which clients may come: coordinators, then nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.coordinators.iter().chain(&self.nodes).map(|member| member.address.clone()).collect()
    }

    /// Ends all processes and keeps the folder: where it is.
    pub fn keep(mut self) -> PathBuf {
        self.end();
        self.folder.take().unwrap().keep()
    }

    fn end(&mut self) {
        for member in self.members() {
            self.kill(member);
        }
        if let Some(small) = self.small.take() {
            let _ = unmount(&self.nodes[small].folder, UnmountFlags::DETACH);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end();
    }
}

fn members(coordinators: usize, nodes: usize) -> impl Iterator<Item = Member> {
    (0..coordinators).map(Member::Coordinator).chain((0..nodes).map(Member::Node))
}

/// The address where others reach a member, and the one where it listens.
fn hosts(net: &Net, member: Member, proxied: bool) -> (String, String) {
    let last = match member {
        Member::Coordinator(at) => at as u8 + 1,
        Member::Node(at) => at as u8 + 101,
        Member::Client => panic!("the client does not listen"),
    };
    (net.host(last), net.host(if proxied { last + BEHIND } else { last }))
}

fn port(member: Member) -> u16 {
    if matches!(member, Member::Coordinator(_)) { PORTS.0 } else { PORTS.1 }
}

/// From where to where the member's proxies lead.
fn ways(net: &Net, member: Member) -> Vec<(SocketAddr, SocketAddr)> {
    let (front, back) = hosts(net, member, true);
    let at = |host: &str, port: u16| SocketAddr::new(host.parse().unwrap(), port);
    let ports = [port(member), port(member) + 10];
    ports.into_iter().map(|port| (at(&front, port), at(&back, port))).collect()
}

fn coordinator(plan: &Plan, net: &Net, folder: &Path, at: usize) -> Process {
    let peer = |other: usize| hosts(net, Member::Coordinator(other), plan.proxied).0;
    let peers: Vec<String> =
        (0..plan.coordinators).map(|other| format!("{}={}:{}", other + 1, peer(other), PORTS.0 + 10)).collect();
    let flags = [("--id", (at + 1).to_string()), ("--peers", peers.join(","))];
    process(plan, net, folder, Member::Coordinator(at), "coordinator", &flags)
}

fn node(plan: &Plan, net: &Net, folder: &Path, at: usize) -> Process {
    let member = Member::Node(at);
    let coordinator = |other: usize| hosts(net, Member::Coordinator(other), plan.proxied).0;
    let coordinators: Vec<String> =
        (0..plan.coordinators).map(|other| format!("{}:{}", coordinator(other), PORTS.0 + 10)).collect();
    let flags = [
        ("--coordinators", coordinators.join(",")),
        ("--zone", format!("zone{}", at % plan.zones)),
        ("--peer-advertise", format!("{}:{}", hosts(net, member, plan.proxied).0, port(member) + 10)),
    ];
    process(plan, net, folder, member, "node", &flags)
}

/// A process with the flags that both roles have, and its own.
fn process(plan: &Plan, net: &Net, folder: &Path, member: Member, role: &str, own: &[(&str, String)]) -> Process {
    let ((front, back), port) = (hosts(net, member, plan.proxied), port(member));
    let data = folder.join(member.to_string());
    let flags = [
        ("--config", folder.join(format!("{role}.toml")).display().to_string()),
        ("--listen", format!("{back}:{port}")),
        ("--advertise", format!("grpc+tcp://{front}:{port}")),
        ("--peer-listen", format!("{back}:{}", port + 10)),
        ("--http-listen", format!("{back}:{}", port + 20)),
        ("--data-dir", data.display().to_string()),
    ];
    let arguments = flags.iter().chain(own).flat_map(|(flag, value)| [flag.to_string(), value.clone()]).collect();
    Process::new(&format!("volley-{role}"), member.to_string(), format!("{front}:{port}"), data, arguments)
}

/// Mounts a disk of `bytes` on the node's folder; false where that is not permitted.
fn small_disk(node: &Process, bytes: u64) -> bool {
    fs::create_dir_all(&node.folder).unwrap();
    let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
    let none = MountFlags::empty();
    mount("none", &node.folder, "tmpfs", none, Some(options.as_c_str())).is_ok()
}
