//! `volley dev`: a whole cluster in this process.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::net::TcpListener;
use volley_common::server::config::variables_of;
use volley_common::server::process;
use volley_common::server::{PreboundSockets, RunningServer, ServerConfig, StopSignals, TlsConfig};
use volley_common::{Error, Result, clock, memory};
use volley_coordinator::{CoordinatorConfig, RunningCoordinator};
use volley_node::{NodeConfig, RunningNode};

use crate::args::DevArgs;
use crate::certificates::CertificateSubject;
use crate::formats::io_error;
use crate::output;
use tls::DevCertificates;

mod tls;

/// A free port of the loopback interface.
const LOOPBACK: &str = "127.0.0.1:0";
/// The file of [`PeerPorts`] in the data folder, by which a folder of a cluster is known.
const PORTS_FILE: &str = "ports.json";

/// A cluster that runs in this process.
pub struct DevCluster {
    /// The address for clients: `grpc://127.0.0.1:PORT`, or `grpc+tls://`.
    pub address: String,
    certificates: Option<DevCertificates>,
    coordinators: Vec<Arc<RunningCoordinator>>,
    nodes: Vec<Arc<RunningNode>>,
    /// The data folder if it is temporary; dropping it removes the folder.
    _temp: Option<TempDir>,
}

/// The peer ports of the coordinators, which must be the same at the next start; stored as `ports.json`.
#[derive(Serialize, Deserialize)]
struct PeerPorts {
    peer: Vec<u16>,
}

/// Runs until Ctrl-C, SIGTERM, the action `shutdown`, or the failure of a member.
pub async fn run(dev: &DevArgs) -> Result<()> {
    process::raise_open_files();
    tokio::spawn(memory::return_free_memory());
    let names: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    if let Some(note) = ignored_settings(&names)? {
        output::note(note);
    }
    let cluster = DevCluster::start(dev).await?;
    output::line(format!("ready {}", cluster.address))?;
    let ca = cluster.certificates.as_ref().map(DevCertificates::ca);
    if let Some(ca) = &ca {
        output::line(tls::shell_example(&cluster.address, ca))?;
    }
    output::line(format!("\nIn a browser: {}", cluster.page()))?;
    output::line(python_example(&cluster.address, ca.as_deref(), dev.nodes))?;
    let mut signals = StopSignals::new()?;
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        result = cluster.wait() => result,
    };
    // A second signal ends the wait for open streams.
    tokio::select! {
        () = cluster.shutdown() => {}
        () = signals.next() => {}
    }
    ended
}

/// A note that names the variables which configure servers: the members in this process have the defaults.
fn ignored_settings(names: &[String]) -> Result<Option<String>> {
    let mut ignored: BTreeSet<&str> = variables_of::<CoordinatorConfig>(names)?.into_iter().collect();
    ignored.extend(variables_of::<NodeConfig>(names)?);
    let (has, it) = if ignored.len() == 1 { ("has", "it") } else { ("have", "them") };
    let ignored = ignored.into_iter().collect::<Vec<_>>().join(", ");
    Ok((!ignored.is_empty()).then(|| {
        format!(
            "{ignored} {has} no effect on `volley dev`, whose members have the defaults: only volley-coordinator and volley-node read {it}"
        )
    }))
}

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
/// INTERNAL: the system refuses the signal handlers.
pub async fn interrupted() -> Result<()> {
    StopSignals::new()?.next().await;
    Ok(())
}

/// The first steps in Python, printed below the address.
fn python_example(address: &str, ca: Option<&Path>, nodes: u16) -> String {
    let trust = ca.map_or_else(String::new, |ca| format!(r#", tls_root_certs=open({ca:?}, "rb").read()"#));
    format!(
        r#"
{nodes} nodes. Next, in Python (pip install pyarrow):

    import pyarrow as pa, pyarrow.flight as flight
    client = flight.connect("{address}"{trust})
    table = pa.table({{"n": range(1000000)}})
    writer, _ = client.do_put(flight.FlightDescriptor.for_path("numbers"), table.schema)
    writer.write_table(table)
    writer.close()
    client.do_get(flight.Ticket(b"numbers")).read_all()

Ctrl-C ends it."#
    )
}

impl DevCluster {
    /// Starts the coordinators, then the nodes; returns when clients can be answered.
    ///
    /// # Errors
    /// One sentence: a port in use, a folder, a member that did not start.
    pub async fn start(dev: &DevArgs) -> Result<DevCluster> {
        let temp = match &dev.data_dir {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix("volley-dev-")
                    .tempdir()
                    .map_err(|e| io_error(Path::new("/tmp"), &e))?,
            ),
        };
        let folder = match (&dev.data_dir, &temp) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temp)) => temp.path().to_path_buf(),
            (None, None) => return Err(Error::internal("no folder for the cluster")),
        };
        check_folder(&folder)?;
        let certificates = if dev.tls { Some(prepare_certificates(dev, &folder)?) } else { None };
        let coordinators = start_coordinators(dev, &folder, certificates.as_ref()).await?;
        let scheme = if dev.tls { "grpc+tls" } else { "grpc" };
        let mut cluster = DevCluster {
            address: format!("{scheme}://{}", coordinators[0].addresses.flight),
            certificates,
            coordinators,
            nodes: Vec::new(),
            _temp: temp,
        };
        for number in 1..=dev.nodes {
            match cluster.start_node(number, &folder).await {
                Ok(node) => cluster.nodes.push(Arc::new(node)),
                Err(error) => {
                    cluster.shutdown().await;
                    return Err(error.at(format!("node {number}")));
                }
            }
        }
        Ok(cluster)
    }

    /// The address of its web page.
    fn page(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/", self.coordinators[0].addresses.http)
    }

    async fn start_node(&self, number: u16, folder: &Path) -> Result<RunningNode> {
        let defaults = NodeConfig::default();
        let server = ServerConfig {
            listen: vec![LOOPBACK.into()],
            peer_listen: LOOPBACK.into(),
            http_listen: LOOPBACK.into(),
            data_dir: folder.join(format!("node-{number}")),
            tls: tls_settings(self.certificates.as_ref(), &node_subject(number)),
            ..defaults.server
        };
        let coordinators = self.coordinators.iter().map(|c| c.addresses.peer.to_string()).collect();
        volley_node::start(NodeConfig { server, coordinators, ..defaults }).await
    }

    /// Stops the node at the Flight address `HOST:PORT`.
    ///
    /// # Errors
    /// NOT_FOUND: there is none.
    pub async fn stop_node(&mut self, address: &str) -> Result<()> {
        let at = self.nodes.iter().position(|node| node.addresses.flight.to_string() == address);
        let at = at.ok_or_else(|| Error::not_found(format!("no node of this cluster has the address {address}")))?;
        self.nodes.remove(at).shutdown().await;
        Ok(())
    }

    /// Waits until a member stops by itself.
    ///
    /// # Errors
    /// Why it stopped, unless a client requested the stop.
    pub async fn wait(&self) -> Result<()> {
        let coordinators = self.coordinators.iter().cloned().map(|c| tokio::spawn(async move { c.wait().await }));
        let nodes = self.nodes.iter().cloned().map(|n| tokio::spawn(async move { n.wait().await }));
        let members: Vec<_> = coordinators.chain(nodes).collect();
        let (ended, _, others) = futures::future::select_all(members).await;
        others.iter().for_each(|task| task.abort());
        ended.unwrap_or_else(|_| Err(Error::internal("a member of the cluster panicked")))
    }

    /// Drains and stops the nodes, then the coordinators.
    pub async fn shutdown(self) {
        futures::future::join_all(self.nodes.iter().map(|node| node.shutdown())).await;
        futures::future::join_all(self.coordinators.iter().map(|coordinator| coordinator.shutdown())).await;
    }
}

/// Refuses a data folder with files of somebody else, such as that of a server.
fn check_folder(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error(folder, &e)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<std::io::Result<Vec<String>>>().map_err(|e| io_error(folder, &e))?;
    let is_known = names.iter().any(|name| name == PORTS_FILE);
    let is_of_member = |name: &str| {
        let number = name.strip_prefix("coordinator-").or_else(|| name.strip_prefix("node-"));
        number.is_some_and(|number| number.parse::<u16>().is_ok())
    };
    // What a start leaves that was interrupted before it wrote the ports, and the folders of members whose ports were removed.
    let is_own = |name: &str| matches!(name, tls::FOLDER | "lost+found") || is_of_member(name);
    match names.iter().filter(|name| !is_own(name)).min() {
        Some(file) if !is_known => Err(Error::precondition(format!(
            "{} is not empty and no data folder of `volley dev` (it has {file:?}): give --data-dir a new folder",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// The certificates of all members.
fn prepare_certificates(dev: &DevArgs, folder: &Path) -> Result<DevCertificates> {
    let coordinators = (1..=u64::from(dev.coordinators)).map(CertificateSubject::Coordinator);
    let members: Vec<_> = coordinators.chain((1..=dev.nodes).map(node_subject)).collect();
    DevCertificates::prepare(folder, &members, clock::now_ms())
}

/// A node's name in its certificate: its number in this process.
fn node_subject(number: u16) -> CertificateSubject {
    CertificateSubject::Node(number.to_string())
}

/// The settings of a member; none without certificates.
fn tls_settings(certificates: Option<&DevCertificates>, member: &CertificateSubject) -> TlsConfig {
    certificates.map_or_else(TlsConfig::default, |certificates| certificates.settings(member))
}

/// Starts the coordinators. All peer ports are bound before the first one starts, since each must know them all.
async fn start_coordinators(
    dev: &DevArgs,
    folder: &Path,
    certificates: Option<&DevCertificates>,
) -> Result<Vec<Arc<RunningCoordinator>>> {
    let sockets = bind_peers(usize::from(dev.coordinators), &folder.join(PORTS_FILE)).await?;
    let ports = sockets.iter().map(local_port).collect::<Result<Vec<_>>>()?;
    let peers: Vec<String> = (1..).zip(&ports).map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
    let starts = (1..).zip(sockets).zip(ports).map(|((id, socket), peer_port)| {
        let port = if id == 1 { dev.port } else { 0 };
        let defaults = CoordinatorConfig::default();
        let server = ServerConfig {
            listen: vec![format!("127.0.0.1:{port}")],
            peer_listen: format!("127.0.0.1:{peer_port}"),
            http_listen: LOOPBACK.into(),
            data_dir: folder.join(format!("coordinator-{id}")),
            tls: tls_settings(certificates, &CertificateSubject::Coordinator(id)),
            ..defaults.server
        };
        let config = CoordinatorConfig { server, id, peers: peers.clone(), dev: true, ..defaults };
        let prebound = PreboundSockets { peer: Some(socket), ..Default::default() };
        volley_coordinator::start_with_sockets(config, prebound)
    });
    // At the same time: each waits for a leader, which needs a majority.
    let started = futures::future::try_join_all(starts).await?;
    Ok(started.into_iter().map(Arc::new).collect())
}

fn local_port(listener: &TcpListener) -> Result<u16> {
    let address = listener.local_addr().map_err(|e| Error::internal(format!("a socket has no address: {e}")))?;
    Ok(address.port())
}

/// Binds the ports of the last start in this folder; at the first start free ports, which are then stored.
async fn bind_peers(count: usize, stored: &Path) -> Result<Vec<TcpListener>> {
    let ports = read_ports(stored)?;
    let folder = stored.parent().unwrap_or(stored).display();
    if let Some(was) = ports.as_ref().map(|ports| ports.peer.len()).filter(|was| *was != count) {
        return Err(Error::precondition(format!(
            "{folder} holds a cluster of {was} coordinators: add --coordinators {was}"
        )));
    }
    let mut listeners = Vec::with_capacity(count);
    for index in 0..count {
        let port = ports.as_ref().map_or(0, |ports| ports.peer[index]);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|e| {
            Error::unavailable(format!(
                "cannot listen on 127.0.0.1:{port}, the port of coordinator {} of {folder}: {e}; is a cluster running on that folder?",
                index + 1
            ))
        })?;
        listeners.push(listener);
    }
    if ports.is_none() {
        write_ports(stored, &listeners)?;
    }
    Ok(listeners)
}

fn read_ports(stored: &Path) -> Result<Option<PeerPorts>> {
    match std::fs::read(stored) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::data_loss(format!(
                "{}: {e}: remove the file if the cluster can lose its coordinators",
                stored.display()
            ))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(stored, &e)),
    }
}

fn write_ports(stored: &Path, listeners: &[TcpListener]) -> Result<()> {
    let ports = PeerPorts { peer: listeners.iter().map(local_port).collect::<Result<_>>()? };
    let text = serde_json::to_vec(&ports).map_err(|e| Error::internal(e.to_string()))?;
    if let Some(folder) = stored.parent() {
        std::fs::create_dir_all(folder).map_err(|e| io_error(folder, &e))?;
    }
    std::fs::write(stored, text).map_err(|e| io_error(stored, &e))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use volley_common::net::Connector;

    use super::*;
    use crate::http_get;

    #[test]
    fn folder_with_files_of_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        check_folder(&folder.path().join("new")).unwrap();
        check_folder(folder.path()).unwrap();
        for own in ["tls", "coordinator-1", "node-12"] {
            std::fs::create_dir(folder.path().join(own)).unwrap();
        }
        check_folder(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join("node-x")).unwrap();
        let error = check_folder(folder.path()).unwrap_err().message;
        assert!(error.contains("\"node-x\"") && error.contains("--data-dir"), "{error}");
        std::fs::write(folder.path().join(PORTS_FILE), "{}").unwrap();
        check_folder(folder.path()).unwrap();
    }

    #[test]
    fn variables_that_configure_servers_are_noted() {
        let note = |names: &[&str]| ignored_settings(&names.iter().map(|name| String::from(*name)).collect::<Vec<_>>());
        // Those of the command line, of a Service in Kubernetes, and without the prefix.
        let own =
            ["LOG", "CLUSTER", "TOKEN", "USER", "TLS_CA", "TLS_CLIENT_CERT", "LOCAL", "CONTEXT", "PREFER", "PORT"];
        let own = own.map(|name| format!("VOLLEY_{name}"));
        let own: Vec<&str> = own.iter().map(String::as_str).chain(["HIGH_WATER"]).collect();
        assert_eq!(note(&own).unwrap(), None);
        let one = note(&[&own[..], &["VOLLEY_HIGH_WATER"]].concat()).unwrap().unwrap();
        assert!(one.starts_with("VOLLEY_HIGH_WATER has no effect on `volley dev`"), "{one}");
        // Of either role, of both, and of the programs.
        let names = ["VOLLEY_PEERS", "VOLLEY_ZONE", "VOLLEY_LISTEN", "VOLLEY_CONFIG"];
        let several = note(&names).unwrap().unwrap();
        assert!(names.iter().all(|name| several.contains(name)) && several.contains("volley-node"), "{several}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_member_of_one_process_has_metrics() {
        let dev = DevArgs { nodes: 1, coordinators: 1, port: 0, data_dir: None, tls: false };
        let cluster = DevCluster::start(&dev).await.unwrap();
        let (coordinator, node) = (cluster.coordinators[0].addresses.http, cluster.nodes[0].addresses.http);
        for (address, metric) in [(coordinator, "volley_has_leader"), (node, "volley_node_parts")] {
            let (address, limit) = (address.to_string(), Duration::from_secs(30));
            let answer = http_get::get(&Connector::Plaintext, &address, "/metrics", limit, 1 << 20).await;
            let (code, text) = answer.unwrap();
            assert!(code == 200 && text.contains(&format!("\n{metric}")), "{address}: {code}\n{text}");
        }
        cluster.shutdown().await;
    }
}
