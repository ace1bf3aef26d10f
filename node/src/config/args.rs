//! The command line of `volley-node`.

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;
use volley_common::server::ServerArgs;
use volley_common::server::config::finite_number;

/// The command line of `volley-node`. Settings that are not given come from the environment, the file, the defaults.
#[derive(Debug, Default, Parser, Serialize)]
#[command(name = "volley-node", version, about = "Holds parts of a Volley cluster's tables and serves them")]
pub struct NodeArgs {
    /// The flags that coordinators have too.
    #[command(flatten)]
    #[serde(flatten)]
    pub server: ServerArgs,
    /// Peer addresses of the coordinators, HOST:PORT,...
    #[arg(long, value_delimiter = ',')]
    pub coordinators: Vec<String>,
    /// Address by which other members reach this node: HOST:PORT.
    #[arg(long)]
    pub peer_advertise: Option<String>,
    /// A Unix-domain socket on which clients on this machine get the files of parts in place of their bytes.
    #[arg(long, value_name = "PATH")]
    pub local_socket: Option<PathBuf>,
    /// The failure domain: copies are spread over zones.
    #[arg(long)]
    pub zone: Option<String>,
    /// Bytes that this node offers [default: the median of the others].
    #[arg(long)]
    pub capacity: Option<u64>,
    /// The largest Flight message that is accepted, bytes.
    #[arg(long)]
    pub max_message: Option<usize>,
    /// How many milliseconds a message of a put that has begun may take to advance.
    #[arg(long)]
    pub message_timeout_ms: Option<u64>,
    /// Memory for all puts together, bytes.
    #[arg(long)]
    pub put_memory_bytes: Option<u64>,
    /// The largest number of puts at once.
    #[arg(long)]
    pub max_concurrent_puts: Option<usize>,
    /// The largest number of puts of one principal at once [default: half of max_concurrent_puts].
    #[arg(long)]
    pub max_concurrent_puts_per_principal: Option<usize>,
    /// The largest number of gets with `decompress` at once, of compressed tables.
    #[arg(long)]
    pub max_decompressing_gets: Option<usize>,
    /// The largest number of gets at once that are compressed over slow links; 0: none.
    #[arg(long)]
    pub max_compressing_gets: Option<usize>,
    /// Memory for what all gets copy, bytes, half of it for one principal.
    #[arg(long)]
    pub get_memory_bytes: Option<u64>,
    /// The largest number of gets with a filter (`where`) at once.
    #[arg(long)]
    pub max_filtered_gets: Option<usize>,
    /// Bytes of rows in one message of a part, 65536 to 4128768.
    #[arg(long)]
    pub message_bytes: Option<usize>,
    /// Bytes of consecutive rows that go to one shard of a table without keys.
    #[arg(long)]
    pub block_bytes: Option<u64>,
    /// Bytes at which a part is sealed and the next one of the shard begins.
    #[arg(long)]
    pub part_bytes: Option<u64>,
    /// Percent of the file system in use above which the node accepts no new parts.
    #[arg(long, value_parser = finite_number)]
    pub high_water: Option<f64>,
    /// Percent in use below which it accepts them again.
    #[arg(long, value_parser = finite_number)]
    pub low_water: Option<f64>,
    /// Bytes per second that copies for repair and rebalance read from other nodes; 0: no limit.
    #[arg(long)]
    pub copy_bytes_per_second: Option<u64>,
    /// The largest number of parts that repair and rebalance copy to this node at once.
    #[arg(long)]
    pub max_concurrent_copies: Option<usize>,
    /// Days within which every part is read and verified; 0: never.
    #[arg(long, value_parser = finite_number)]
    pub scrub_days: Option<f64>,
    /// Bytes per second that the scrub reads; 0: no limit.
    #[arg(long)]
    pub scrub_bytes_per_second: Option<u64>,
    /// Days for which parts that the catalog does not know after a recovery are kept.
    #[arg(long, value_parser = finite_number)]
    pub orphan_retention_days: Option<f64>,
    /// Memory for all queries together, bytes [default: a quarter of what the process may use].
    #[arg(long)]
    pub sql_memory_bytes: Option<u64>,
    /// Bytes of the data folder for what does not fit into the memory of queries; 0: none.
    #[arg(long)]
    pub sql_spill_bytes: Option<u64>,
    /// Bytes of parts from which on a query runs on several nodes; 0: always.
    #[arg(long)]
    pub sql_distribute_bytes: Option<u64>,
    /// Bytes from which on the result of a query is stored, and read in parallel; 0: none is.
    #[arg(long)]
    pub sql_result_bytes: Option<u64>,
    /// Bytes of stored results of queries that are kept at once [default: a tenth of the file system].
    #[arg(long)]
    pub sql_result_space_bytes: Option<u64>,
    /// How many partitions a query is run in [default: as many as there are processors].
    #[arg(long)]
    pub sql_partitions: Option<usize>,
    /// The largest number of queries at once.
    #[arg(long)]
    pub max_concurrent_queries: Option<usize>,
    /// The largest number of queries of one principal at once [default: half of max_concurrent_queries].
    #[arg(long)]
    pub max_queries_per_principal: Option<usize>,
    /// Seconds after which a query is ended.
    #[arg(long)]
    pub statement_timeout_s: Option<u64>,
    /// Seconds after its last write at which a temporary table is dropped, unless the ingest names another `ttl_s`.
    #[arg(long)]
    pub temporary_table_ttl_s: Option<u64>,
    /// Old names of flags.
    #[command(flatten)]
    #[serde(flatten)]
    pub renamed: RenamedNodeArgs,
}

/// Flags that were renamed, under their old names.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct RenamedNodeArgs {
    /// The old name of --copy-bytes-per-second.
    #[arg(long, hide = true)]
    pub copy_rate: Option<u64>,
    /// The old name of --max-concurrent-copies.
    #[arg(long, hide = true)]
    pub copies_at_once: Option<usize>,
    /// The old name of --scrub-bytes-per-second.
    #[arg(long, hide = true)]
    pub scrub_rate: Option<u64>,
}

impl AsRef<ServerArgs> for NodeArgs {
    fn as_ref(&self) -> &ServerArgs {
        &self.server
    }
}
