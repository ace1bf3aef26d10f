//! A coordinator's configuration: defaults < TOML file < environment < flags.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use volley_common::config;
use volley_common::listen::{self, Listener};
use volley_common::log::LogFormat;
use volley_common::serve::Limits;
use volley_common::{Error, Result};

use crate::client_listener::Locations;

/// A leader is given at least so long: its followers may be slow.
const LEAST_UNANSWERED: Duration = Duration::from_secs(2);

/// What a coordinator is told; every field has a default.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This coordinator's id, one of `peers`.
    pub id: u64,
    /// The coordinators that form the cluster, `ID=HOST:PORT` with their peer ports, this one included; the same on
    /// each. Empty: it is alone. Once there is a cluster, that knows who its coordinators are.
    pub peers: Vec<String>,
    /// It forms no cluster with its peers, but waits to be added to the one that there is.
    pub join: bool,
    /// Where Flight clients are served, `[NAME=]HOST:PORT`; port 0 picks a free one. Members come by their own port.
    #[serde(deserialize_with = "config::one_or_many")]
    pub listen: Vec<String>,
    /// Where clients reach a listener, `[NAME=]grpc+tcp://HOST:PORT`; else as it listens.
    #[serde(deserialize_with = "config::one_or_many")]
    pub advertise: Vec<String>,
    /// Whose addresses the clients of a listener are told, `[NAME=]direct`, `proxy` or `single`; else `direct`.
    #[serde(deserialize_with = "config::one_or_many")]
    pub locations: Vec<String>,
    /// Where members are served, HOST:PORT.
    pub peer_listen: String,
    /// Where health and metrics are served, HOST:PORT.
    pub http_listen: String,
    /// The folder of the catalog.
    pub data_dir: PathBuf,
    /// Allows to listen elsewhere than on loopback without authentication.
    pub insecure: bool,
    /// A development cluster: the actions `clear` and `shutdown` are allowed.
    pub dev: bool,
    /// A node silent for so long is neither offered nor chosen, milliseconds.
    pub node_timeout_ms: u64,
    /// A node silent for so long has its parts copied elsewhere, milliseconds.
    pub repair_delay_ms: u64,
    /// How often nodes report, milliseconds.
    pub heartbeat_ms: u64,
    /// A leader that is not heard for so long, or for three quarters of it, is replaced, milliseconds.
    pub election_ms: u64,
    /// How long a call waits for a leader, milliseconds.
    pub request_timeout_ms: u64,
    /// How long clients' streams may go on when the process is to stop, milliseconds.
    pub drain_ms: u64,
    /// How long replaced parts and tickets live unless the table says otherwise, milliseconds.
    pub retention_ms: u64,
    /// How long a write lives without activity, milliseconds.
    pub lease_ms: u64,
    /// How long a finished write id is remembered, milliseconds.
    pub write_id_retention_ms: u64,
    /// Endpoints of a FlightInfo at most.
    pub max_endpoints: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            id: 1,
            peers: Vec::new(),
            join: false,
            listen: vec!["127.0.0.1:8815".into()],
            advertise: Vec::new(),
            locations: Vec::new(),
            peer_listen: "127.0.0.1:8825".into(),
            http_listen: "127.0.0.1:8835".into(),
            data_dir: "volley-coordinator-data".into(),
            insecure: false,
            dev: false,
            node_timeout_ms: 10_000,
            repair_delay_ms: 60_000,
            heartbeat_ms: 1_000,
            election_ms: 1_000,
            request_timeout_ms: 5_000,
            drain_ms: 30_000,
            retention_ms: 15 * 60_000,
            lease_ms: 10 * 60_000,
            write_id_retention_ms: 24 * 3_600_000,
            max_endpoints: 1024,
        }
    }
}

/// The command line of `volley-coordinator`; what is not given comes from the environment, the file, the defaults.
#[derive(Debug, Default, Parser, Serialize)]
#[command(
    name = "volley-coordinator",
    version,
    args_conflicts_with_subcommands = true,
    about = "Holds the catalog of a Volley cluster and plans its reads and writes"
)]
pub struct Flags {
    /// A TOML file with any of these settings, their dashes as underscores.
    #[arg(long, env = "VOLLEY_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Something else than to serve.
    #[command(subcommand)]
    #[serde(skip)]
    pub command: Option<Command>,
    /// Check the configuration, say what is wrong, and end.
    #[arg(long)]
    #[serde(skip)]
    pub check_config: bool,
    /// Print every setting, and whether it comes from a flag, a variable, the file or the defaults, and end.
    #[arg(long)]
    #[serde(skip)]
    pub print_config: bool,
    /// How the log is written to standard error.
    #[arg(long, env = "VOLLEY_LOG_FORMAT", value_enum, default_value = "text")]
    #[serde(skip)]
    pub log_format: LogFormat,
    /// This coordinator's id, one of --peers [default: 1].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// All coordinators with their peer ports, this one included: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT.
    #[arg(long, value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Form no cluster, but wait to be added to the one that there is: `volley coordinators add ID=HOST:PORT`.
    #[arg(long)]
    #[serde(skip_serializing_if = "config::is_false")]
    pub join: bool,
    /// Where Flight clients are served; may repeat with names [default: 127.0.0.1:8815].
    #[arg(long, value_name = "[NAME=]HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<String>,
    /// Where the clients of a listener reach it: grpc+tcp://HOST:PORT.
    #[arg(long, value_name = "[NAME=]URI")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// Whose addresses the clients of a listener are told: the nodes' (direct), only this coordinator's, through which all
    /// data goes (proxy), or that and one endpoint for all of a table (single) [default: direct].
    #[arg(long, value_name = "[NAME=]direct|proxy|single")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// Where other members are served [default: 127.0.0.1:8825].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_listen: Option<String>,
    /// Where health and metrics are served [default: 127.0.0.1:8835].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// The folder of the catalog [default: volley-coordinator-data].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// How many milliseconds clients' streams may go on when the process is to stop [default: 30000].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
    /// Listen elsewhere than on loopback though there is no authentication.
    #[arg(long)]
    #[serde(skip_serializing_if = "config::is_false")]
    pub insecure: bool,
    /// A node silent for so many milliseconds is not offered [default: 10000].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_timeout_ms: Option<u64>,
    /// A node silent for so many milliseconds has its parts copied elsewhere [default: 60000].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_delay_ms: Option<u64>,
    /// How many milliseconds a call waits for a leader [default: 5000].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// How many milliseconds replaced rows and tickets live [default: 900000].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
}

/// What `volley-coordinator` does besides serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make one coordinator go on alone after a majority was lost for good.
    ///
    /// Without --yes-lose-unreplicated it only says what the folder holds. Run it on each folder that is left, and recover
    /// the one with the highest term, and of those with the same term the one with the highest index.
    Recover(Recover),
}

/// The command line of `volley-coordinator recover`.
#[derive(Clone, Debug, Args)]
pub struct Recover {
    /// The stopped coordinator's folder of the catalog.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The stopped coordinator's id.
    #[arg(long)]
    pub id: u64,
    /// Where others reach it from now on, HOST:PORT of its peer port [default: as before].
    #[arg(long)]
    pub peer: Option<String>,
    /// Do it: what only the lost coordinators had is gone for ever.
    #[arg(long)]
    pub yes_lose_unreplicated: bool,
}

impl Config {
    /// Reads the file, the environment and the flags, and checks the result.
    ///
    /// # Errors
    /// One sentence that names the wrong key, value or combination.
    pub fn load(flags: &Flags) -> Result<Self> {
        let config: Config = config::load(flags.config.as_deref(), flags)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what no type can.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self) -> Result<()> {
        self.locations_of(&self.listeners()?)?;
        listen::check_listen("--peer-listen", &self.peer_listen, self.insecure)?;
        listen::check_listen("--http-listen", &self.http_listen, self.insecure)?;
        for (name, value) in [
            ("node_timeout_ms", self.node_timeout_ms),
            ("heartbeat_ms", self.heartbeat_ms),
            ("request_timeout_ms", self.request_timeout_ms),
        ] {
            if value == 0 {
                return Err(Error::invalid(format!("{name} must be at least 1")));
            }
        }
        if self.election_ms < 100 {
            return Err(Error::invalid(
                "election_ms must be at least 100: the coordinators' disks and network must be heard of several times in it",
            ));
        }
        if self.node_timeout_ms <= self.heartbeat_ms {
            return Err(Error::invalid(
                "node_timeout_ms must be more than heartbeat_ms, or every node would count as silent",
            ));
        }
        self.peer_map().map(|_| ())
    }

    /// Where clients are served, by name.
    ///
    /// # Errors
    /// Those of [`listen::listeners`].
    pub fn listeners(&self) -> Result<Vec<Listener>> {
        listen::listeners(&self.listen, &self.advertise, self.insecure)
    }

    /// Whose addresses the clients of each of these listeners are told.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown way or listener, or two ways for one.
    pub fn locations_of(&self, listeners: &[Listener]) -> Result<Vec<Locations>> {
        let mut locations = vec![None; listeners.len()];
        for text in &self.locations {
            let (name, way) = listen::named(text);
            let at = listeners.iter().position(|l| l.name == name || name.is_empty() && listeners.len() == 1);
            let at = at.ok_or_else(|| {
                Error::invalid(format!(
                    "--locations {text} is for no listener: give NAME=direct|proxy|single, with a name of --listen"
                ))
            })?;
            let way = way.parse().map_err(|e: Error| e.at("--locations"))?;
            if locations[at].replace(way).is_some() {
                return Err(Error::invalid(format!(
                    "--locations is given twice for the listener {:?}",
                    listeners[at].name
                )));
            }
        }
        Ok(locations.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The coordinators by id; empty if this one is alone.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not ID=HOST:PORT, an id or address twice, this id missing.
    pub fn peer_map(&self) -> Result<BTreeMap<u64, String>> {
        let mut peers = BTreeMap::new();
        for peer in &self.peers {
            let (id, addr) = parse_peer(peer)?;
            if peers.values().any(|other| *other == addr) {
                return Err(Error::invalid(format!("--peers names the address {addr} twice")));
            }
            if peers.insert(id, addr).is_some() {
                return Err(Error::invalid(format!("--peers names the id {id} twice")));
            }
        }
        if !peers.is_empty() && !peers.contains_key(&self.id) {
            return Err(Error::invalid(format!("--peers does not name this coordinator, --id {}", self.id)));
        }
        Ok(peers)
    }

    /// How long a call waits for a leader.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// What one of the clients' listeners takes on.
    pub fn limits(&self) -> Limits {
        Limits { drain: Duration::from_millis(self.drain_ms), ..Limits::default() }
    }

    /// How long a leader may be silent.
    pub fn election(&self) -> Duration {
        Duration::from_millis(self.election_ms)
    }

    /// How long a leader may go without an answer of a majority: its nodes must come to the next one before that calls
    /// them silent. With a `node_timeout_ms` below about 3,000 they may come too late, and count as silent until they do: then
    /// `LEAST_UNANSWERED` is more than half of it.
    pub fn unanswered(&self) -> Duration {
        (self.silence() / 2).max(LEAST_UNANSWERED)
    }

    /// How long a node may be silent.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.node_timeout_ms)
    }
}

fn parse_peer(text: &str) -> Result<(u64, String)> {
    let bad = || Error::invalid(format!("--peers has {text:?}: give ID=HOST:PORT, for example 1=10.0.0.1:8825"));
    let (id, addr) = text.split_once('=').ok_or_else(bad)?;
    let id: u64 = id.trim().parse().map_err(|_| bad())?;
    let addr = listen::check_advertise(addr.trim()).map_err(|e| e.at("--peers"))?;
    if id == 0 {
        return Err(bad());
    }
    Ok((id, addr.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = Config::default();
        change(&mut config);
        config.check()
    }

    #[test]
    fn the_defaults_are_sound() {
        Config::default().check().unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        let check = |word: &str, result: Result<()>| {
            let error = result.unwrap_err();
            assert!(error.message.contains(word), "{word}: {error}");
        };
        check("--insecure", with(|c| c.listen = vec!["0.0.0.0:8815".into()]));
        check("--advertise", with(|c| (c.listen, c.insecure) = (vec!["0.0.0.0:8815".into()], true)));
        check("0.0.0.0:1", with(|c| c.advertise = vec!["grpc+tcp://0.0.0.0:1".into()]));
        check("1=10.0.0.1:8825", with(|c| c.peers = vec!["h:1".into()]));
        check("--locations", with(|c| c.locations = vec!["x=proxy".into()]));
        check("--locations", with(|c| c.locations = vec!["nobody".into()]));
        check("twice", with(|c| c.locations = vec!["proxy".into(), "direct".into()]));
        check("--id 1", with(|c| c.peers = vec!["2=h:1".into()]));
        check("twice", with(|c| c.peers = vec!["1=h:1".into(), "2=h:1".into()]));
        check("twice", with(|c| c.peers = vec!["1=h:1".into(), "1=h:2".into()]));
        check("node_timeout_ms", with(|c| c.node_timeout_ms = 5));
        check("election_ms", with(|c| c.election_ms = 99));
    }

    #[test]
    fn a_wildcard_with_an_address_to_tell_is_allowed() {
        with(|c| {
            c.listen = vec!["external=0.0.0.0:8815".into()];
            c.advertise = vec!["external=grpc+tcp://volley.example:8815".into()];
            c.insecure = true;
        })
        .unwrap();
    }
}
