//! Reads on the machine of a node, by the files of parts in place of messages: whether they are tried, and what came of them.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::FlightInfo;
use parking_lot::Mutex;
use volley_common::listen::host_port;
use volley_common::local_read::machine::machine_id;
use volley_common::local_read::socket_hints::from_metadata;
use volley_common::wire::catalog::LocalSocket;
use volley_common::{Error, Result};

/// A socket that did not serve is not tried again for this long: each attempt may take a second.
const AVOIDED_FOR: Duration = Duration::from_secs(10);
/// Sockets that are avoided at once; the others are tried.
const MAX_AVOIDED: usize = 256;

/// Whether a client on the machine of a node reads the files of parts, which it maps, in place of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalMode {
    /// Where a node offers that; what goes wrong is read by the wire.
    #[default]
    Auto,
    /// Never: a process whose mapped file an operator truncates is ended by SIGBUS.
    Never,
}

impl FromStr for LocalMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(LocalMode::Auto),
            "never" => Ok(LocalMode::Never),
            _ => Err(Error::invalid(format!("local is {text:?}: give auto or never"))),
        }
    }
}

/// What came of the reads of a client and its clones that nodes on its machine offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalReadCounts {
    /// Endpoints that were read by files to their end.
    pub endpoints: u64,
    /// Rows that came from files.
    pub rows: u64,
    /// Endpoints that were read by the wire, or from some row on, by what was in the way: `unreachable`, `timeout`, `owner` (another
    /// user listens), `other_node`, `protocol`, `descriptors`, `schema`, or what the node says: `absent`, `busy`, `columns`,
    /// `credentials`, `damaged`, `filter`, `rights`, `ticket`.
    pub fallbacks: BTreeMap<&'static str, u64>,
}

/// A socket that a FlightInfo offers for an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct OfferedSocket {
    pub socket: LocalSocket,
    /// `HOST:PORT` of its node.
    pub address: Arc<str>,
}

/// The local reads of a client, shared by its clones.
#[derive(Default)]
pub(crate) struct LocalReads {
    mode: LocalMode,
    state: Mutex<LocalReadState>,
}

#[derive(Default)]
struct LocalReadState {
    counts: LocalReadCounts,
    /// Paths of sockets, and since when they are avoided.
    avoided: HashMap<String, Instant>,
}

impl LocalReads {
    pub fn new(mode: LocalMode) -> Self {
        LocalReads { mode, state: Mutex::default() }
    }

    /// The sockets of nodes on this machine that a FlightInfo offers, by the URI of their node.
    pub fn offered(&self, info: &FlightInfo) -> HashMap<String, OfferedSocket> {
        let Some(machine) = machine_id().filter(|_| self.mode == LocalMode::Auto) else { return HashMap::new() };
        let sockets = from_metadata(&info.app_metadata).into_iter().filter(|(_, socket)| socket.machine == machine);
        sockets
            .map(|(uri, socket)| {
                let address = host_port(&uri).into();
                (uri, OfferedSocket { socket, address })
            })
            .collect()
    }

    /// Whether a socket has not served a short while ago.
    pub fn is_avoided(&self, path: &str) -> bool {
        self.state.lock().avoided.get(path).is_some_and(|since| since.elapsed() < AVOIDED_FOR)
    }

    /// Avoids a socket for a while.
    pub fn avoid(&self, path: &str) {
        let mut state = self.state.lock();
        state.avoided.retain(|_, since| since.elapsed() < AVOIDED_FOR);
        if state.avoided.len() < MAX_AVOIDED {
            state.avoided.insert(path.to_string(), Instant::now());
        }
    }

    pub fn count_rows(&self, rows: usize) {
        self.state.lock().counts.rows += rows as u64;
    }

    pub fn count_endpoint(&self) {
        self.state.lock().counts.endpoints += 1;
    }

    pub fn count_fallback(&self, reason: &'static str) {
        *self.state.lock().counts.fallbacks.entry(reason).or_default() += 1;
    }

    pub fn counts(&self) -> LocalReadCounts {
        self.state.lock().counts.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn info(machine: &str) -> FlightInfo {
        let socket = json!({ "machine": machine, "socket": "/s", "uid": 1, "id": "1" });
        let metadata = json!({ "table": "t", "local": { "grpc+tcp://n:1": socket } });
        FlightInfo { app_metadata: metadata.to_string().into(), ..FlightInfo::default() }
    }

    #[test]
    fn only_sockets_of_this_machine_are_offered() {
        let Some(machine) = machine_id() else { return };
        let auto = LocalReads::default();
        let offered = auto.offered(&info(machine));
        assert_eq!(offered.len(), 1);
        assert_eq!((&*offered["grpc+tcp://n:1"].address, &*offered["grpc+tcp://n:1"].socket.path), ("n:1", "/s"));
        assert!(auto.offered(&info("another")).is_empty() && auto.offered(&FlightInfo::default()).is_empty());
        assert!(LocalReads::new(LocalMode::Never).offered(&info(machine)).is_empty());
    }

    #[test]
    fn socket_that_did_not_serve_is_avoided() {
        let reads = LocalReads::default();
        assert!(!reads.is_avoided("/s"));
        reads.avoid("/s");
        assert!(reads.is_avoided("/s") && !reads.is_avoided("/t"));
    }

    #[test]
    fn mode_is_one_of_two_words() {
        assert_eq!("auto".parse::<LocalMode>().unwrap(), LocalMode::Auto);
        assert_eq!("never".parse::<LocalMode>().unwrap(), LocalMode::Never);
        let error = "always".parse::<LocalMode>().unwrap_err();
        assert_eq!(error.message, "local is \"always\": give auto or never");
    }
}
