//! `volley dev`: a whole cluster in this process.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::net::TcpListener;
use volley_common::{Error, Result};

use crate::args::DevArgs;
use crate::formats::io_error;
use crate::output;

/// A cluster that runs in this process.
pub struct DevCluster {
    /// Where clients go: `grpc://127.0.0.1:PORT`.
    pub address: String,
    coordinators: Vec<Arc<volley_coordinator::Running>>,
    nodes: Vec<Arc<volley_node::Running>>,
    // Removed with its content when this is dropped.
    _temp: Option<TempDir>,
}

/// The peer ports of the coordinators, which must be the same at the next start; kept as `ports.json`.
#[derive(Serialize, Deserialize)]
struct Ports {
    peer: Vec<u16>,
}

/// Runs until Ctrl-C, SIGTERM, the action `shutdown`, or a member's failure.
pub async fn run(dev: &DevArgs) -> Result<()> {
    let cluster = DevCluster::start(dev).await?;
    output::line(format!("ready {}", cluster.address))?;
    output::line(python(&cluster.address, dev.nodes))?;
    let ended = tokio::select! {
        result = interrupted() => result,
        result = cluster.wait() => result,
    };
    // Who asks twice does not want to wait.
    tokio::select! {
        () = cluster.shutdown() => ended,
        again = interrupted() => again,
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term =
        signal(SignalKind::terminate()).map_err(|e| Error::internal(format!("cannot wait for SIGTERM: {e}")))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = term.recv() => Ok(()),
    }
}

/// What to type next.
fn python(address: &str, nodes: u16) -> String {
    format!(
        r#"
{nodes} nodes. Next, in Python (pip install pyarrow):

    import pyarrow as pa, pyarrow.flight as flight
    client = flight.connect("{address}")
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
        let coordinators = start_coordinators(dev, &folder).await?;
        let mut cluster = DevCluster {
            address: format!("grpc://{}", coordinators[0].flight_addr),
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

    async fn start_node(&self, number: u16, folder: &Path) -> Result<volley_node::Running> {
        let config = volley_node::config::Config {
            coordinators: self.coordinators.iter().map(|c| c.peer_addr.to_string()).collect(),
            listen: vec![LOOPBACK.into()],
            peer_listen: LOOPBACK.into(),
            http_listen: LOOPBACK.into(),
            data_dir: folder.join(format!("node-{number}")),
            ..Default::default()
        };
        volley_node::start(config).await
    }

    /// Stops the node at the Flight address `HOST:PORT`.
    ///
    /// # Errors
    /// NOT_FOUND: there is none.
    pub async fn stop_node(&mut self, address: &str) -> Result<()> {
        let at = self.nodes.iter().position(|node| node.flight_addr.to_string() == address);
        let at = at.ok_or_else(|| Error::not_found(format!("no node of this cluster is at {address}")))?;
        self.nodes.remove(at).shutdown().await;
        Ok(())
    }

    /// Waits until a member ends.
    ///
    /// # Errors
    /// What ended it, if it was not asked to.
    pub async fn wait(&self) -> Result<()> {
        let coordinators = self.coordinators.iter().cloned().map(|c| tokio::spawn(async move { c.wait().await }));
        let nodes = self.nodes.iter().cloned().map(|n| tokio::spawn(async move { n.wait().await }));
        let members: Vec<_> = coordinators.chain(nodes).collect();
        let (ended, _, others) = futures::future::select_all(members).await;
        others.iter().for_each(|task| task.abort());
        ended.unwrap_or_else(|_| Err(Error::internal("a member of the cluster broke off")))
    }

    /// Drains and stops the nodes, then the coordinators.
    pub async fn shutdown(self) {
        futures::future::join_all(self.nodes.iter().map(|node| node.shutdown())).await;
        futures::future::join_all(self.coordinators.iter().map(|coordinator| coordinator.shutdown())).await;
    }
}

/// A free port of this machine's own address.
const LOOPBACK: &str = "127.0.0.1:0";

/// All peer ports are bound before the first coordinator starts, for each must know them all.
async fn start_coordinators(dev: &DevArgs, folder: &Path) -> Result<Vec<Arc<volley_coordinator::Running>>> {
    let count = usize::from(dev.coordinators);
    let kept = folder.join("ports.json");
    let peers = bind_peers(count, &kept).await?;
    let addresses = peers.iter().map(local).collect::<Result<Vec<_>>>()?;
    let named: Vec<String> =
        addresses.iter().enumerate().map(|(i, port)| format!("{}=127.0.0.1:{port}", i + 1)).collect();
    let starts = peers.into_iter().enumerate().map(|(index, peer)| {
        let port = if index == 0 { dev.port } else { 0 };
        let config = volley_coordinator::Config {
            id: index as u64 + 1,
            peers: named.clone(),
            listen: vec![format!("127.0.0.1:{port}")],
            peer_listen: format!("127.0.0.1:{}", addresses[index]),
            http_listen: LOOPBACK.into(),
            data_dir: folder.join(format!("coordinator-{}", index + 1)),
            dev: true,
            ..Default::default()
        };
        let listeners = volley_coordinator::Listeners { peer: Some(peer), ..Default::default() };
        volley_coordinator::start_with_listeners(config, listeners)
    });
    // Together: each waits for a leader, which needs a majority.
    let started = futures::future::try_join_all(starts).await?;
    Ok(started.into_iter().map(Arc::new).collect())
}

fn local(listener: &TcpListener) -> Result<u16> {
    let address = listener.local_addr().map_err(|e| Error::internal(format!("a socket without an address: {e}")))?;
    Ok(address.port())
}

/// The ports of the last start in this folder, else free ones, which are written down.
async fn bind_peers(count: usize, kept: &Path) -> Result<Vec<TcpListener>> {
    let ports = read_ports(kept)?;
    let folder = kept.parent().unwrap_or(kept).display();
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
        write_ports(kept, &listeners)?;
    }
    Ok(listeners)
}

fn read_ports(kept: &Path) -> Result<Option<Ports>> {
    match std::fs::read(kept) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::data_loss(format!("{}: {e}: remove it if the cluster may forget its coordinators", kept.display()))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(kept, &e)),
    }
}

fn write_ports(kept: &Path, listeners: &[TcpListener]) -> Result<()> {
    let ports = Ports { peer: listeners.iter().map(local).collect::<Result<_>>()? };
    let text = serde_json::to_vec(&ports).map_err(|e| Error::internal(e.to_string()))?;
    if let Some(folder) = kept.parent() {
        std::fs::create_dir_all(folder).map_err(|e| io_error(folder, &e))?;
    }
    std::fs::write(kept, text).map_err(|e| io_error(kept, &e))
}
