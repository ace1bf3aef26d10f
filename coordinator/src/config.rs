//! The configuration of a coordinator: defaults < TOML file < environment < flags.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use volley_common::listen;
use volley_common::options::MAX_RETENTION_S;
use volley_common::server::config::one_or_many;
use volley_common::server::{ServerArgs, ServerConfig};
use volley_common::{Error, Result};

use crate::client_listener::Locations;
use crate::planner::catalog_limits::{CatalogLimits, CatalogLimitsArgs};
use crate::planner::table_options::MIN_RETENTION_MS;
use crate::recover_command::RecoverArgs;

/// The least time for which a leader continues without answers of a majority: its followers may be slow.
const MIN_QUORUM_TIMEOUT: Duration = Duration::from_secs(2);
/// The least `election_ms`: several heartbeats over the coordinators' disks and network must fit.
const MIN_ELECTION_MS: u64 = 100;

/// The most `metrics_tables`: each is two series in the scraper.
const MAX_METRICS_TABLES: u32 = 1000;
/// The least `lease_ms` and `write_id_retention_ms`: a renewal, or the repetition of a call, must arrive in time.
const MIN_LEASE_MS: u64 = 1_000;

/// The settings of a coordinator; every key has a default.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct CoordinatorConfig {
    /// The settings that nodes have too.
    #[serde(flatten)]
    pub server: ServerConfig,
    /// The id of this coordinator, one of `peers`.
    pub id: u64,
    /// The coordinators that form the cluster, `ID=HOST:PORT` with their peer ports, this one included; the same on each.
    /// Empty: this coordinator forms a cluster alone. Once the cluster is formed, the catalog has its coordinators.
    pub peers: Vec<String>,
    /// Waits to be added to an existing cluster instead of forming one.
    pub join: bool,
    /// The addresses for the clients of a listener, `[NAME=]direct`, `proxy` or `single`; `direct` if there is none.
    #[serde(deserialize_with = "one_or_many")]
    pub locations: Vec<String>,
    /// A file with one line `name:password`: the first administrator, made once while the cluster has no users. Until then
    /// nobody may do anything.
    pub bootstrap_admin_file: Option<PathBuf>,
    /// A file with one line `name:password`: this user gets the password, and becomes an administrator, when this coordinator
    /// starts; once for each content.
    pub reset_admin_file: Option<PathBuf>,
    /// A development cluster: the actions `clear` and `shutdown` are allowed.
    pub dev: bool,
    /// A node without heartbeat for this long is unreachable: readers are not sent to it and writes are not placed on
    /// it; milliseconds.
    pub node_timeout_ms: u64,
    /// The parts of a node that is unreachable for this long are copied to other nodes; milliseconds.
    pub repair_delay_ms: u64,
    /// The interval of the nodes' reports, milliseconds.
    pub heartbeat_ms: u64,
    /// A leader without heartbeat for this long, or for three quarters of it, is replaced; milliseconds.
    pub election_ms: u64,
    /// How long replaced parts and tickets are kept unless the table has its own setting, milliseconds.
    pub retention_ms: u64,
    /// How long a write without activity is kept open, milliseconds.
    pub lease_ms: u64,
    /// How long the id of a finished write is kept at most, milliseconds.
    pub write_id_retention_ms: u64,
    /// How many finished writes are kept at most, the newest; 0: any number.
    pub max_finished_writes: u64,
    /// How many bytes of finished writes are kept at most, the newest; 0: any number.
    pub max_finished_writes_bytes: u64,
    /// The largest number of endpoints in a FlightInfo.
    pub max_endpoints: u32,
    /// How many of the largest tables metrics name; 0: none.
    pub metrics_tables: u32,
    /// What the catalog holds at most, and what one request may ask for.
    #[serde(flatten)]
    pub limits: CatalogLimits,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        CoordinatorConfig {
            server: ServerConfig::new("127.0.0.1:8815", "127.0.0.1:8825", "127.0.0.1:8835", "volley-coordinator-data"),
            id: 1,
            peers: Vec::new(),
            join: false,
            locations: Vec::new(),
            bootstrap_admin_file: None,
            reset_admin_file: None,
            dev: false,
            node_timeout_ms: 10_000,
            repair_delay_ms: 60_000,
            heartbeat_ms: 1_000,
            election_ms: 1_000,
            retention_ms: 15 * 60_000,
            lease_ms: 10 * 60_000,
            write_id_retention_ms: 24 * 3_600_000,
            max_finished_writes: 250_000,
            max_finished_writes_bytes: 64 << 20,
            max_endpoints: 1024,
            metrics_tables: 0,
            limits: CatalogLimits::default(),
        }
    }
}

/// The command line of `volley-coordinator`. Settings that are not given come from the environment, the file, the defaults.
#[derive(Debug, Default, Parser, Serialize)]
#[command(
    name = "volley-coordinator",
    version,
    args_conflicts_with_subcommands = true,
    about = "Holds the catalog of a Volley cluster and plans its reads and writes"
)]
pub struct CoordinatorArgs {
    /// A command to run in place of the server.
    #[command(subcommand)]
    #[serde(skip)]
    pub command: Option<CoordinatorCommand>,
    /// The flags that nodes have too.
    #[command(flatten)]
    #[serde(flatten)]
    pub server: ServerArgs,
    /// The id of this coordinator, one of --peers.
    #[arg(long)]
    pub id: Option<u64>,
    /// All coordinators with their peer ports, this one included: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT.
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Wait to be added to an existing cluster by `volley coordinators add ID=HOST:PORT` instead of forming one.
    #[arg(long)]
    pub join: bool,
    /// Which addresses the clients of a listener get: those of the nodes (direct), only that of this coordinator, which
    /// proxies all data (proxy), or the same with one endpoint per table (single) [default: direct].
    #[arg(long, value_name = "[NAME=]direct|proxy|single")]
    pub locations: Vec<String>,
    /// How many milliseconds a node can go without heartbeat before it is unreachable.
    #[arg(long)]
    pub node_timeout_ms: Option<u64>,
    /// How many milliseconds a node can be unreachable before its parts are copied to other nodes.
    #[arg(long)]
    pub repair_delay_ms: Option<u64>,
    /// The interval of the nodes' reports, milliseconds.
    #[arg(long)]
    pub heartbeat_ms: Option<u64>,
    /// How many milliseconds a leader can go without heartbeat before it is replaced.
    #[arg(long)]
    pub election_ms: Option<u64>,
    /// How many milliseconds replaced parts and tickets are kept, unless the table has its own retention.
    #[arg(long)]
    pub retention_ms: Option<u64>,
    /// How many milliseconds a write without activity is kept open.
    #[arg(long)]
    pub lease_ms: Option<u64>,
    /// How many milliseconds the id of a finished write is kept.
    #[arg(long)]
    pub write_id_retention_ms: Option<u64>,
    /// The largest number of finished writes whose ids are kept; the oldest are forgotten first.
    #[arg(long)]
    pub max_finished_writes: Option<u64>,
    /// The most bytes that these may have together.
    #[arg(long)]
    pub max_finished_writes_bytes: Option<u64>,
    /// What the catalog holds at most, and what one request may ask for.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: CatalogLimitsArgs,
    /// The largest number of endpoints in a FlightInfo.
    #[arg(long)]
    pub max_endpoints: Option<u32>,
    /// How many of the largest tables metrics have with their names, rows and bytes, at most 1000; 0: none.
    #[arg(long)]
    pub metrics_tables: Option<u32>,
    /// A file with one line name:password, which becomes the first administrator while the cluster has no users.
    #[arg(long, value_name = "FILE")]
    pub bootstrap_admin_file: Option<PathBuf>,
    /// A file with one line name:password: this user gets the password and becomes an administrator when this coordinator
    /// starts, once for each content.
    #[arg(long, value_name = "FILE")]
    pub reset_admin_file: Option<PathBuf>,
    /// Allow the actions `clear` and `shutdown`, as in a development cluster.
    #[arg(long)]
    pub dev: bool,
    /// Old names of flags.
    #[command(flatten)]
    #[serde(flatten)]
    pub renamed: RenamedCoordinatorArgs,
}

/// Flags that were renamed, under their old names.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct RenamedCoordinatorArgs {
    /// The old name of --node-timeout-ms.
    #[arg(long, hide = true)]
    pub silence_ms: Option<u64>,
    /// The old name of --repair-delay-ms.
    #[arg(long, hide = true)]
    pub grace_ms: Option<u64>,
    /// The old name of --request-timeout-ms.
    #[arg(long, hide = true)]
    pub deadline_ms: Option<u64>,
}

impl AsRef<ServerArgs> for CoordinatorArgs {
    fn as_ref(&self) -> &ServerArgs {
        &self.server
    }
}

/// The subcommands of `volley-coordinator`.
#[derive(Clone, Debug, Subcommand)]
pub enum CoordinatorCommand {
    /// Let one coordinator continue alone after a majority was lost permanently.
    ///
    /// Without --yes-lose-unreplicated it only reports what the folder holds. Run it on each folder that is left, and recover
    /// the one with the highest term, and of those with the same term the one with the highest index.
    Recover(RecoverArgs),
}

impl CoordinatorConfig {
    /// Checks the values and their combinations.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self) -> Result<()> {
        self.server.check()?;
        self.locations()?;
        self.limits.check()?;
        for (name, value, least) in [
            ("id", self.id, 1),
            ("node_timeout_ms", self.node_timeout_ms, 1),
            ("heartbeat_ms", self.heartbeat_ms, 1),
            ("election_ms", self.election_ms, MIN_ELECTION_MS),
            ("retention_ms", self.retention_ms, MIN_RETENTION_MS),
            ("lease_ms", self.lease_ms, MIN_LEASE_MS),
            ("write_id_retention_ms", self.write_id_retention_ms, MIN_LEASE_MS),
            ("max_endpoints", self.max_endpoints.into(), 1),
        ] {
            if value < least {
                return Err(Error::invalid(format!("{name} must be at least {least}")));
            }
        }
        if self.metrics_tables > MAX_METRICS_TABLES {
            return Err(Error::invalid(format!("metrics_tables must be at most {MAX_METRICS_TABLES}")));
        }
        if self.retention_ms > MAX_RETENTION_S * 1000 {
            return Err(Error::invalid(format!("retention_ms must be at most {}", MAX_RETENTION_S * 1000)));
        }
        if self.node_timeout_ms <= self.heartbeat_ms {
            return Err(Error::invalid(
                "node_timeout_ms must be more than heartbeat_ms, or every node would be unreachable",
            ));
        }
        if self.repair_delay_ms < self.node_timeout_ms {
            return Err(Error::invalid(format!(
                "repair_delay_ms ({}) must be at least node_timeout_ms ({}), or the parts of every node that restarts would be copied",
                self.repair_delay_ms, self.node_timeout_ms
            )));
        }
        self.peer_map().map(|_| ())
    }

    /// The locations for the clients of each listener, in the order of [`ServerConfig::listeners`].
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown value or listener, or two values for one listener.
    pub fn locations(&self) -> Result<Vec<Locations>> {
        let listeners = self.server.listeners()?;
        let mut locations = vec![None; listeners.len()];
        for text in &self.locations {
            let (name, value) = listen::split_name(text);
            let index = listeners.iter().position(|l| l.name == name || name.is_empty() && listeners.len() == 1);
            let index = index.ok_or_else(|| {
                Error::invalid(format!(
                    "--locations {text} is for no listener: give NAME=direct|proxy|single, with a name of --listen"
                ))
            })?;
            let value = value.parse().map_err(|e: Error| e.at("--locations"))?;
            if locations[index].replace(value).is_some() {
                let name = &listeners[index].name;
                return Err(Error::invalid(format!("--locations is given twice for the listener {name:?}")));
            }
        }
        Ok(locations.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The addresses of the coordinators by id; empty if this one is alone.
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

    /// How long a leader can go without heartbeat before it is replaced.
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_ms)
    }

    /// How long a leader continues without answers of a majority. Half of the node timeout, so that its nodes connect
    /// to the next leader before that one marks them as unreachable. With a `node_timeout_ms` below about 3,000 they
    /// may connect too late, since `MIN_QUORUM_TIMEOUT` is then more than half of it; they are unreachable until they
    /// connect.
    pub fn quorum_timeout(&self) -> Duration {
        (self.node_timeout() / 2).max(MIN_QUORUM_TIMEOUT)
    }

    /// How long a node can go without heartbeat before it is unreachable.
    pub fn node_timeout(&self) -> Duration {
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
