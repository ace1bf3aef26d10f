//! How a server process is started: its role, addresses, data folder and further flags.

use std::path::Path;

use crate::loopback::{COORDINATOR_PORT, HTTP_OFFSET, NODE_PORT, PEER_OFFSET};
use crate::process::ServerProcess;

/// The two kinds of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    /// `volley-coordinator`.
    Coordinator,
    /// `volley-node`.
    Node,
}

impl ProcessRole {
    /// Its Flight port.
    pub fn port(self) -> u16 {
        if self == ProcessRole::Coordinator { COORDINATOR_PORT } else { NODE_PORT }
    }

    /// `coordinator` or `node`.
    pub fn name(self) -> &'static str {
        if self == ProcessRole::Coordinator { "coordinator" } else { "node" }
    }
}

/// A server to start.
pub struct ServerOptions<'a> {
    /// Coordinator or node.
    pub role: ProcessRole,
    /// Its name in the output of tests, such as `node3`.
    pub name: String,
    /// The host where it listens.
    pub listen_host: &'a str,
    /// The host where others reach it.
    pub advertised_host: &'a str,
    /// The folder in which its data folder and its log are made, named after it.
    pub folder: &'a Path,
    /// Its flags beyond those for its addresses and its data folder.
    pub flags: Vec<String>,
}

impl ServerOptions<'_> {
    /// The process, which does not run yet.
    pub fn process(self) -> ServerProcess {
        let (host, port, data) = (self.listen_host, self.role.port(), self.folder.join(&self.name));
        // If there are several listeners, each needs a name.
        let listener = if self.flags.iter().any(|flag| flag == "--listen") { "internal=" } else { "" };
        let own = [
            ("--listen", format!("{listener}{host}:{port}")),
            ("--peer-listen", format!("{host}:{}", port + PEER_OFFSET)),
            ("--http-listen", format!("{host}:{}", port + HTTP_OFFSET)),
            ("--data-dir", data.display().to_string()),
        ];
        // A node writes to the disk on which the tests run however full it is.
        let watermarks = ["--high-water", "--low-water"].map(|flag| (flag, "100".into()));
        let more = watermarks.into_iter().filter(|_| self.role == ProcessRole::Node);
        let arguments =
            own.into_iter().chain(more).flat_map(|(flag, value)| [flag.to_string(), value]).chain(self.flags).collect();
        let program = format!("volley-{}", self.role.name());
        ServerProcess::new(&program, self.name, format!("{}:{port}", self.advertised_host), data, arguments)
    }
}
