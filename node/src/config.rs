//! A node's configuration: defaults < TOML file < environment < flags.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde::{Deserialize, Serialize};
use volley_common::config;
use volley_common::ipc::{MAX_SPLIT_BYTES, MESSAGE_BYTES};
use volley_common::listen::{self, Listener};
use volley_common::log::LogFormat;
use volley_common::serve::Limits;
use volley_common::{Error, Result};

use crate::storage::Watermarks;

/// What each column has in a message at least, if that fits: clients pay for every column of every message.
const COLUMN_BYTES: usize = 4 << 10;
/// What `message_bytes` may be: gRPC clients take messages of 4 MiB by default, of which some is the header's.
const MESSAGE_RANGE: RangeInclusive<usize> = 64 << 10..=MAX_SPLIT_BYTES;

/// What a node is told; every field has a default.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Peer addresses of the coordinators, HOST:PORT.
    pub coordinators: Vec<String>,
    /// Where Flight clients are served, `[NAME=]HOST:PORT`; port 0 picks a free one. Other members come by the first.
    #[serde(deserialize_with = "config::one_or_many")]
    pub listen: Vec<String>,
    /// Where clients reach a listener, `[NAME=]grpc+tcp://HOST:PORT`; else as it listens.
    #[serde(deserialize_with = "config::one_or_many")]
    pub advertise: Vec<String>,
    /// Where members are served, HOST:PORT.
    pub peer_listen: String,
    /// Where members reach it, HOST:PORT; else as `peer_listen`, by the host of `advertise` if that listens everywhere.
    pub peer_advertise: Option<String>,
    /// Where health and metrics are served, HOST:PORT.
    pub http_listen: String,
    /// The folder of parts.
    pub data_dir: PathBuf,
    /// The failure domain.
    pub zone: String,
    /// Bytes offered; the weight of placement. 0: as the median of the other nodes.
    pub capacity: u64,
    /// Allows to listen elsewhere than on loopback without authentication.
    pub insecure: bool,
    /// The largest Flight message taken in, bytes.
    pub max_message: usize,
    /// Bytes of rows that one message of a part has, about; readers get them as they are stored. More in wide tables.
    pub message_bytes: usize,
    /// Bytes of consecutive rows that go to one shard of a table without keys.
    pub block_bytes: u64,
    /// Bytes at which a shard's part is sealed and the next begun.
    pub part_bytes: u64,
    /// How long a call waits for a coordinator that can answer, milliseconds.
    pub request_timeout_ms: u64,
    /// How long clients' streams may go on when the process is to stop, milliseconds.
    pub drain_ms: u64,
    /// Percent of the file system used above which no new parts are taken.
    pub high_water: f64,
    /// Percent used below which they are taken again.
    pub low_water: f64,
    /// Bytes a second that repair and moves pull to this node, all together; 0: no limit.
    pub copy_bytes_per_second: u64,
    /// Parts that repair and moves pull to this node at once.
    pub max_concurrent_copies: usize,
    /// Days within which every part is read again; 0: never.
    pub scrub_days: f64,
    /// Bytes a second that are read for that; 0: no limit.
    pub scrub_bytes_per_second: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            coordinators: vec!["127.0.0.1:8825".into()],
            listen: vec!["127.0.0.1:8816".into()],
            advertise: Vec::new(),
            peer_listen: "127.0.0.1:8826".into(),
            peer_advertise: None,
            http_listen: "127.0.0.1:8836".into(),
            data_dir: "volley-node-data".into(),
            zone: String::new(),
            capacity: 0,
            insecure: false,
            max_message: 512 << 20,
            message_bytes: MESSAGE_BYTES,
            block_bytes: 64 << 20,
            part_bytes: 256 << 20,
            request_timeout_ms: 5_000,
            drain_ms: 30_000,
            high_water: Watermarks::default().high,
            low_water: Watermarks::default().low,
            copy_bytes_per_second: 100 << 20,
            max_concurrent_copies: 4,
            scrub_days: 7.0,
            scrub_bytes_per_second: 50 << 20,
        }
    }
}

/// The command line of `volley-node`; what is not given comes from the environment, the file, the defaults.
#[derive(Debug, Default, Parser, Serialize)]
#[command(name = "volley-node", version, about = "Holds parts of a Volley cluster's tables and serves them")]
pub struct Flags {
    /// A TOML file with any of these settings, their dashes as underscores.
    #[arg(long, env = "VOLLEY_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
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
    /// Peer addresses of the coordinators, HOST:PORT,... [default: 127.0.0.1:8825].
    #[arg(long, value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coordinators: Vec<String>,
    /// Where Flight clients are served; may repeat with names [default: 127.0.0.1:8816].
    #[arg(long, value_name = "[NAME=]HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<String>,
    /// Where the clients of a listener reach it: grpc+tcp://HOST:PORT.
    #[arg(long, value_name = "[NAME=]URI")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// Where other members are served [default: 127.0.0.1:8826].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_listen: Option<String>,
    /// Where other members reach it: HOST:PORT.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_advertise: Option<String>,
    /// Where health and metrics are served [default: 127.0.0.1:8836].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// The folder of parts [default: volley-node-data].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The failure domain: copies are spread over zones.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Bytes that this node offers [default: as the median of the others].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// How many milliseconds clients' streams may go on when the process is to stop [default: 30000].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
    /// Listen elsewhere than on loopback though there is no authentication.
    #[arg(long)]
    #[serde(skip_serializing_if = "config::is_false")]
    pub insecure: bool,
    /// The largest Flight message that is taken in, bytes [default: 536870912].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message: Option<usize>,
    /// Bytes of rows that one message of a part has, 65536 to 4128768 [default: 1048576].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_bytes: Option<usize>,
    /// Percent of the file system used above which no new parts are taken [default: 95].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_water: Option<f64>,
    /// Percent used below which they are taken again [default: 90].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_water: Option<f64>,
    /// Bytes a second that repair and moves pull to this node; 0: no limit [default: 104857600].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_bytes_per_second: Option<u64>,
    /// Parts that repair and moves pull to this node at once [default: 4].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_copies: Option<usize>,
    /// Days within which every part is read again; 0: never [default: 7].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_days: Option<f64>,
    /// Bytes a second that are read for that; 0: no limit [default: 52428800].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_bytes_per_second: Option<u64>,
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
        self.listeners()?;
        listen::check_listen("--peer-listen", &self.peer_listen, self.insecure)?;
        listen::check_listen("--http-listen", &self.http_listen, self.insecure)?;
        self.peer_reachable_at(SocketAddr::from(([127, 0, 0, 1], 1)))?;
        if self.coordinators.is_empty() {
            return Err(Error::invalid(
                "--coordinators is empty: give the coordinators' peer addresses, HOST:PORT,...",
            ));
        }
        for addr in &self.coordinators {
            if listen::check_advertise(addr).map_err(|e| e.at("--coordinators"))? != addr {
                return Err(Error::invalid(format!("--coordinators has {addr:?}: give HOST:PORT without a scheme")));
            }
        }
        self.check_sizes()
    }

    fn check_sizes(&self) -> Result<()> {
        for (name, value, least) in [
            ("max_message", self.max_message as u64, 64 << 10),
            ("block_bytes", self.block_bytes, 64 << 10),
            ("part_bytes", self.part_bytes, 64 << 10),
            ("request_timeout_ms", self.request_timeout_ms, 1),
            ("max_concurrent_copies", self.max_concurrent_copies as u64, 1),
        ] {
            if value < least {
                return Err(Error::invalid(format!("{name} must be at least {least}")));
            }
        }
        if !MESSAGE_RANGE.contains(&self.message_bytes) {
            return Err(Error::invalid(format!(
                "message_bytes is {}: give {} to {}",
                self.message_bytes,
                MESSAGE_RANGE.start(),
                MESSAGE_RANGE.end()
            )));
        }
        if !(0.0 < self.low_water && self.low_water <= self.high_water && self.high_water <= 100.0) {
            return Err(Error::invalid(format!(
                "low_water ({}) and high_water ({}) are percent: above 0, at most 100, the low one not above the high one",
                self.low_water, self.high_water
            )));
        }
        if !(0.0..=36_500.0).contains(&self.scrub_days) {
            return Err(Error::invalid(format!("scrub_days is {}: give 0 to 36500", self.scrub_days)));
        }
        Ok(())
    }

    /// Bytes of rows that one message has of a table with so many columns.
    pub fn message_bytes_of(&self, columns: usize) -> usize {
        self.message_bytes.max(columns.saturating_mul(COLUMN_BYTES)).min(MAX_SPLIT_BYTES)
    }

    /// How full the disk may become.
    pub fn watermarks(&self) -> Watermarks {
        Watermarks { high: self.high_water, low: self.low_water }
    }

    /// Where clients are served, by name.
    ///
    /// # Errors
    /// Those of [`listen::listeners`].
    pub fn listeners(&self) -> Result<Vec<Listener>> {
        listen::listeners(&self.listen, &self.advertise, self.insecure)
    }

    /// HOST:PORT by which members reach a listener bound at `bound`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it listens everywhere and nothing is advertised, or the address is bad.
    pub fn peer_reachable_at(&self, bound: SocketAddr) -> Result<String> {
        let flag = "--peer-advertise";
        let own = listen::reachable_at(flag, &self.peer_listen, self.peer_advertise.as_deref(), bound);
        let first = self.listeners()?.into_iter().next().and_then(|first| first.advertise);
        match (own, first) {
            (Err(_), Some(uri)) if self.peer_advertise.is_none() => {
                let (host, _) = listen::split_host_port(listen::check_advertise(&uri)?)?;
                let (_, port) = listen::split_host_port(&self.peer_listen)?;
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
                listen::reachable_at(flag, &format!("{host}:{port}"), None, bound)
            }
            (own, _) => own,
        }
    }

    /// How long a call waits for a coordinator that can answer.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// What one of the clients' listeners takes on.
    pub fn limits(&self) -> Limits {
        Limits { drain: Duration::from_millis(self.drain_ms), ..Limits::default() }
    }
}

#[cfg(test)]
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
        check("--insecure", with(|c| c.peer_listen = "0.0.0.0:8826".into()));
        check("--advertise", with(|c| (c.listen, c.insecure) = (vec!["0.0.0.0:8816".into()], true)));
        check("0.0.0.0:1", with(|c| c.advertise = vec!["grpc+tcp://0.0.0.0:1".into()]));
        check("--coordinators", with(|c| c.coordinators = Vec::new()));
        check("--coordinators", with(|c| c.coordinators = vec!["nowhere".into()]));
        check("without a scheme", with(|c| c.coordinators = vec!["grpc://c:1".into()]));
        check("part_bytes", with(|c| c.part_bytes = 1));
        check("message_bytes", with(|c| c.message_bytes = (64 << 10) - 1));
        check("message_bytes", with(|c| c.message_bytes = MAX_SPLIT_BYTES + 1));
        check("max_concurrent_copies", with(|c| c.max_concurrent_copies = 0));
        check("high_water", with(|c| c.high_water = 100.1));
        check("high_water", with(|c| c.high_water = f64::NAN));
        check("low_water", with(|c| c.low_water = 96.0));
        check("low_water", with(|c| c.low_water = 0.0));
        check("scrub_days", with(|c| c.scrub_days = -1.0));
    }

    #[test]
    fn wide_tables_have_larger_messages() {
        let config = Config::default();
        let sizes = [1, 256, 512, 10_000].map(|columns| config.message_bytes_of(columns));
        assert_eq!(sizes, [MESSAGE_BYTES, MESSAGE_BYTES, 2 << 20, MAX_SPLIT_BYTES]);
    }

    #[test]
    fn members_reach_a_wildcard_by_the_advertised_host() {
        let config = Config {
            listen: vec!["internal=0.0.0.0:8816".into(), "external=0.0.0.0:9816".into()],
            advertise: vec!["internal=n1.example:8816".into(), "external=grpc+tcp://n1.outside:80".into()],
            peer_listen: "0.0.0.0:8826".into(),
            insecure: true,
            ..Config::default()
        };
        config.check().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(config.peer_reachable_at(any).unwrap(), "n1.example:8826");
    }
}
