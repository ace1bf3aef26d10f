//! The configuration of a node: defaults < TOML file < environment < flags.

mod args;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use volley_common::ipc::{MAX_SPLIT_BYTES, MESSAGE_BYTES};
use volley_common::listen;
use volley_common::local_read::socket_hints::MAX_PATH;
use volley_common::options::MAX_TTL_S;
use volley_common::server::ServerConfig;
use volley_common::tls::ClientAuth;
use volley_common::{Error, Result};

use crate::get_resources::{GET_MEMORY, MIN_GET_MEMORY};
use crate::storage::Watermarks;

pub use args::{NodeArgs, RenamedNodeArgs};

/// The least number of bytes of each column in a message, if they fit: every column of every message has a cost for
/// clients.
const MIN_COLUMN_BYTES: usize = 4 << 10;
/// The least value of `put_memory_bytes`.
const MIN_PUT_MEMORY: u64 = 32 << 20;
/// The least value of `sql_memory_bytes`.
const MIN_SQL_MEMORY: u64 = 16 << 20;
/// The largest value of `max_message`: what gRPC libraries can send.
const MAX_GRPC_MESSAGE: usize = i32::MAX as usize;
/// Valid values of `message_bytes`: gRPC clients accept messages of 4 MiB by default, and the header needs some of that.
const MESSAGE_BYTES_RANGE: RangeInclusive<usize> = 64 << 10..=MAX_SPLIT_BYTES;

/// The longest name of a zone, bytes: it is in the catalog and in reports.
const MAX_ZONE: usize = 255;

/// The settings of a node; every key has a default.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct NodeConfig {
    /// The settings that coordinators have too.
    #[serde(flatten)]
    pub server: ServerConfig,
    /// Peer addresses of the coordinators, HOST:PORT.
    pub coordinators: Vec<String>,
    /// Address by which members reach this node, HOST:PORT; if there is none, `peer_listen`, with the host of `advertise` if
    /// that listens on every interface.
    pub peer_advertise: Option<String>,
    /// A Unix-domain socket on which clients on this machine get the files of parts in place of their bytes; an absolute path.
    pub local_socket: Option<PathBuf>,
    /// The failure domain: copies are spread over zones.
    pub zone: String,
    /// Bytes offered, the weight in placement; 0: the median of the other nodes.
    pub capacity: u64,
    /// The largest Flight message that is accepted, bytes.
    pub max_message: usize,
    /// How long a message of a put that has begun may take to advance, milliseconds: at least 16 KiB must arrive for each
    /// second.
    pub message_timeout_ms: u64,
    /// Memory for all puts together, bytes. In addition each stream may take 4 MiB for what its client sends ahead.
    pub put_memory_bytes: u64,
    /// The largest number of puts at once; a further one is refused.
    pub max_concurrent_puts: usize,
    /// The largest number of puts of one principal at once; 0: half of `max_concurrent_puts`.
    pub max_concurrent_puts_per_principal: usize,
    /// The largest number of gets at once for which the node decompresses; a further one is refused. Each takes about 4 MiB.
    pub max_decompressing_gets: usize,
    /// The largest number of gets at once for which the node compresses what it sends, over slow links; a further one gets plain
    /// messages. Each takes about 4 MiB. 0: none.
    pub max_compressing_gets: usize,
    /// Memory for what all gets copy, bytes: tickets, headers, batches that are cut. Half of it for one principal.
    pub get_memory_bytes: u64,
    /// The largest number of gets with a filter at once; a further one is refused. Each takes about 4 MiB.
    pub max_filtered_gets: usize,
    /// Approximate bytes of rows in one message of a part; readers get the messages as they are stored. More in wide tables.
    pub message_bytes: usize,
    /// Bytes of consecutive rows that go to one shard of a table without keys.
    pub block_bytes: u64,
    /// Bytes at which a part is sealed and the next one of the shard begins.
    pub part_bytes: u64,
    /// Percent of the file system in use above which the node accepts no new parts.
    pub high_water: f64,
    /// Percent in use below which it accepts them again.
    pub low_water: f64,
    /// Bytes per second that all copies for repair and rebalance together may read from other nodes; 0: no limit.
    pub copy_bytes_per_second: u64,
    /// The largest number of parts that repair and rebalance copy to this node at once.
    pub max_concurrent_copies: usize,
    /// Days within which every part is read and verified; 0: never.
    pub scrub_days: f64,
    /// Bytes per second that the scrub reads; 0: no limit.
    pub scrub_bytes_per_second: u64,
    /// Days for which parts that the catalog does not know after a recovery are kept in `orphaned/`.
    pub orphan_retention_days: f64,
    /// Memory for all queries together, bytes; 0: a quarter of what the process may use.
    pub sql_memory_bytes: u64,
    /// Bytes of the data folder that queries may use for what does not fit into their memory; 0: none.
    pub sql_spill_bytes: u64,
    /// Queries that read fewer bytes of parts run on the node that gets them; others run on several nodes, if there are. 0: all.
    pub sql_distribute_bytes: u64,
    /// A query whose result is expected to have at least so many bytes is stored, and read in parallel. 0: none is.
    pub sql_result_bytes: u64,
    /// Bytes of the stored results of this node's queries that are kept at once; 0: a tenth of the data folder's file system.
    pub sql_result_space_bytes: u64,
    /// How many partitions a query is run in; 0: as many as there are processors.
    pub sql_partitions: usize,
    /// The largest number of queries at once; a further one is refused.
    pub max_concurrent_queries: usize,
    /// The largest number of queries of one principal at once; 0: half of `max_concurrent_queries`.
    pub max_queries_per_principal: usize,
    /// A query that runs longer is ended, seconds.
    pub statement_timeout_s: u64,
    /// How long after its last write a temporary table is dropped, if the client does not say, seconds.
    pub temporary_table_ttl_s: u64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            server: ServerConfig::new("127.0.0.1:8816", "127.0.0.1:8826", "127.0.0.1:8836", "volley-node-data"),
            coordinators: vec!["127.0.0.1:8825".into()],
            peer_advertise: None,
            local_socket: None,
            zone: String::new(),
            capacity: 0,
            max_message: MAX_GRPC_MESSAGE,
            message_timeout_ms: 30_000,
            put_memory_bytes: 256 << 20,
            max_concurrent_puts: 4096,
            max_concurrent_puts_per_principal: 0,
            max_decompressing_gets: 128,
            max_compressing_gets: 128,
            get_memory_bytes: GET_MEMORY,
            max_filtered_gets: 256,
            message_bytes: MESSAGE_BYTES,
            block_bytes: 64 << 20,
            part_bytes: 256 << 20,
            high_water: Watermarks::default().high,
            low_water: Watermarks::default().low,
            copy_bytes_per_second: 100 << 20,
            max_concurrent_copies: 4,
            scrub_days: 7.0,
            scrub_bytes_per_second: 50 << 20,
            orphan_retention_days: 7.0,
            sql_memory_bytes: 0,
            sql_spill_bytes: 10 << 30,
            sql_distribute_bytes: 256 << 20,
            sql_result_bytes: 256 << 20,
            sql_result_space_bytes: 0,
            sql_partitions: 0,
            max_concurrent_queries: 32,
            max_queries_per_principal: 0,
            statement_timeout_s: 3600,
            temporary_table_ttl_s: 3600,
        }
    }
}

impl NodeConfig {
    /// Checks the values and their combinations.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self) -> Result<()> {
        self.server.check()?;
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
        if self.zone.len() > MAX_ZONE || self.zone.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "zone has {} bytes: give at most {MAX_ZONE}, without control characters",
                self.zone.len()
            )));
        }
        self.check_local_socket()?;
        self.check_sizes()
    }

    fn check_local_socket(&self) -> Result<()> {
        let Some(path) = &self.local_socket else { return Ok(()) };
        let is_sound = |path: &str| path.len() <= MAX_PATH && !path.contains(char::is_control);
        if !path.is_absolute() || !path.to_str().is_some_and(is_sound) {
            return Err(Error::invalid(format!(
                "--local-socket {} must be an absolute path of at most {MAX_PATH} bytes of UTF-8, by which clients open it too",
                path.display()
            )));
        }
        match self.server.tls.tls_client_auth {
            ClientAuth::Optional => Ok(()),
            ClientAuth::Required => Err(Error::invalid(
                "--tls-client-auth is required, but clients of --local-socket have no certificate: leave out one of them",
            )),
        }
    }

    fn check_sizes(&self) -> Result<()> {
        for (name, value, least) in [
            ("max_message", self.max_message as u64, 64 << 10),
            ("block_bytes", self.block_bytes, 64 << 10),
            ("part_bytes", self.part_bytes, 64 << 10),
            ("max_concurrent_copies", self.max_concurrent_copies as u64, 1),
            ("max_concurrent_puts", self.max_concurrent_puts as u64, 1),
            ("max_decompressing_gets", self.max_decompressing_gets as u64, 1),
            ("max_filtered_gets", self.max_filtered_gets as u64, 1),
            ("put_memory_bytes", self.put_memory_bytes, MIN_PUT_MEMORY),
            ("get_memory_bytes", self.get_memory_bytes, MIN_GET_MEMORY),
            ("message_timeout_ms", self.message_timeout_ms, 100),
            ("max_concurrent_queries", self.max_concurrent_queries as u64, 1),
            ("statement_timeout_s", self.statement_timeout_s, 1),
            ("temporary_table_ttl_s", self.temporary_table_ttl_s, 1),
        ] {
            if value < least {
                return Err(Error::invalid(format!("{name} must be at least {least}")));
            }
        }
        if self.max_message > MAX_GRPC_MESSAGE {
            return Err(Error::invalid(format!(
                "max_message must be at most {MAX_GRPC_MESSAGE}, which gRPC can carry"
            )));
        }
        if self.temporary_table_ttl_s > MAX_TTL_S {
            return Err(Error::invalid(format!("temporary_table_ttl_s must be at most {MAX_TTL_S}, a hundred years")));
        }
        if self.sql_memory_bytes != 0 && self.sql_memory_bytes < MIN_SQL_MEMORY {
            return Err(Error::invalid(format!(
                "sql_memory_bytes must be at least {MIN_SQL_MEMORY}, or 0 for a quarter of what the process may use"
            )));
        }
        if !MESSAGE_BYTES_RANGE.contains(&self.message_bytes) {
            return Err(Error::invalid(format!(
                "message_bytes is {}: give {} to {}",
                self.message_bytes,
                MESSAGE_BYTES_RANGE.start(),
                MESSAGE_BYTES_RANGE.end()
            )));
        }
        if !(0.0 < self.low_water && self.low_water <= self.high_water && self.high_water <= 100.0) {
            return Err(Error::invalid(format!(
                "low_water ({}) and high_water ({}) are percent: above 0, at most 100, the low one not above the high one",
                self.low_water, self.high_water
            )));
        }
        for (name, days) in [("scrub_days", self.scrub_days), ("orphan_retention_days", self.orphan_retention_days)] {
            if !(0.0..=36_500.0).contains(&days) {
                return Err(Error::invalid(format!("{name} is {days}: give 0 to 36500")));
            }
        }
        Ok(())
    }

    /// The largest number of puts of one principal at once.
    pub fn max_puts_of_principal(&self) -> usize {
        let half = self.max_concurrent_puts.div_ceil(2);
        if self.max_concurrent_puts_per_principal == 0 { half } else { self.max_concurrent_puts_per_principal }
    }

    /// The largest number of queries of one principal at once.
    pub fn max_queries_of_principal(&self) -> usize {
        let half = self.max_concurrent_queries.div_ceil(2);
        if self.max_queries_per_principal == 0 { half } else { self.max_queries_per_principal }
    }

    /// How long a message that has begun may take to advance.
    pub fn message_timeout(&self) -> Duration {
        Duration::from_millis(self.message_timeout_ms)
    }

    /// Bytes of rows in one message of a table with this number of columns.
    pub fn message_bytes_of(&self, columns: usize) -> usize {
        self.message_bytes.max(columns.saturating_mul(MIN_COLUMN_BYTES)).min(MAX_SPLIT_BYTES)
    }

    /// The limits of disk use.
    pub fn watermarks(&self) -> Watermarks {
        Watermarks { high: self.high_water, low: self.low_water }
    }

    /// HOST:PORT by which members reach the peer port, bound at `bound`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it listens on every interface and has no advertised address, or an address is bad.
    pub fn peer_reachable_at(&self, bound: SocketAddr) -> Result<String> {
        let flag = "--peer-advertise";
        let listen = &self.server.peer_listen;
        let own = listen::reachable_at(flag, listen, self.peer_advertise.as_deref(), bound);
        let first = self.server.listeners()?.into_iter().next().and_then(|first| first.advertise);
        match (own, first) {
            (Err(_), Some(uri)) if self.peer_advertise.is_none() => {
                let (host, _) = listen::split_host_port(listen::check_advertise(&uri)?)?;
                let (_, port) = listen::split_host_port(listen)?;
                listen::reachable_at(flag, &listen::join_host_port(host, port), None, bound)
            }
            (own, _) => own,
        }
    }
}
