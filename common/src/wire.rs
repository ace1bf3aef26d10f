//! The generated protobuf messages and gRPC services.
//!
//! [`catalog`] outlives a version (log, snapshot, rows on disk); [`cluster`] holds the calls between members, and the
//! content of tickets; [`raft`] is Raft between coordinators; [`statistics`] is in the footers of parts, and in the catalog's rows of
//! them.

pub use volley::catalog::v1 as catalog;
pub use volley::cluster::v1 as cluster;
pub use volley::raft::v1 as raft;
pub use volley::statistics::v1 as statistics;

/// The definitions of the Raft log's entries: members with others may encode the same entry in another way.
pub const ENTRY_DEFINITIONS: [&str; 2] = [include_str!("../proto/catalog.proto"), include_str!("../proto/raft.proto")];

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
mod volley {
    pub mod catalog {
        pub mod v1 {
            tonic::include_proto!("volley.catalog.v1");
        }
    }
    pub mod cluster {
        pub mod v1 {
            tonic::include_proto!("volley.cluster.v1");
        }
    }
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("volley.raft.v1");
        }
    }
    pub mod statistics {
        pub mod v1 {
            tonic::include_proto!("volley.statistics.v1");
        }
    }
}

/// `Debug` of messages with secrets (`build.rs` lists them): no log line and no panic may show a field of theirs.
macro_rules! debug_without_fields {
    ($($message:ty),* $(,)?) => {
        $(impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), " { .. }"))
            }
        })*
    };
}

debug_without_fields!(
    catalog::Cluster,
    catalog::FormCluster,
    catalog::User,
    catalog::ServiceToken,
    catalog::SigningKey,
    catalog::NextTicketKey,
    catalog::FormerTicketKey,
    catalog::RotateTicketKey,
    catalog::AdministratorReset,
    cluster::Welcome,
    cluster::IdentitySnapshot,
    cluster::LoginRequest,
    cluster::LoginReply,
    cluster::LocalReadRequest,
);

impl catalog::WriteOutcome {
    /// The JSON that every member returns to clients.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "table": self.table.join("/"),
            "version": self.version,
            "rows": self.rows,
            "bytes": self.bytes,
            "parts": self.parts,
            "write_id": self.write,
        })
    }
}

impl catalog::Compression {
    /// The name that the option `compression` has for it.
    pub fn name(self) -> &'static str {
        match self {
            catalog::Compression::None => "none",
            catalog::Compression::Lz4 => "lz4",
            catalog::Compression::Zstd => "zstd",
            catalog::Compression::Auto => "auto",
        }
    }
}

impl catalog::Role {
    /// The name that actions, errors and `volley` have for it.
    pub fn name(self) -> &'static str {
        match self {
            catalog::Role::Unspecified => "unknown",
            catalog::Role::Reader => "reader",
            catalog::Role::Writer => "writer",
            catalog::Role::Owner => "owner",
            catalog::Role::Operator => "operator",
            catalog::Role::Admin => "admin",
        }
    }
}

impl catalog::Node {
    /// Whether the cluster heard from the node within `node_timeout_ms`. Readers are sent to it.
    pub fn is_alive(&self) -> bool {
        self.state == catalog::NodeState::Alive as i32
    }

    /// Whether new parts are placed on the node: it is alive, not draining and not read-only.
    pub fn is_writable(&self) -> bool {
        self.is_alive() && !self.draining && self.read_only_reason.is_empty()
    }

    /// Whether the node answers but is slow or has read errors: it is used last.
    pub fn is_degraded(&self) -> bool {
        !self.degraded_reason.is_empty()
    }
}

impl cluster::Ticket {
    /// What the ticket is for, as errors name it: its table, or the tables of its query.
    pub fn subject(&self) -> String {
        match (&self.query, &self.result) {
            (Some(query), _) => query_of(query.tables.iter().map(|table| &table.table[..])),
            (None, Some(result)) => query_of(result.sources.iter().map(|source| &source.table[..])),
            (None, None) => format!("table {:?}", self.table.join("/")),
        }
    }
}

/// A query of these tables, as errors name it.
fn query_of<'a>(tables: impl ExactSizeIterator<Item = &'a [String]>) -> String {
    let more = if tables.len() > MAX_NAMED { ", …" } else { "" };
    let named: Vec<String> = tables.take(MAX_NAMED).map(|table| format!("{:?}", table.join("/"))).collect();
    if named.is_empty() { "a query".into() } else { format!("a query of {}{more}", named.join(", ")) }
}

/// Maximum number of a query's tables that an error names.
const MAX_NAMED: usize = 3;

/// The largest message between members: a commit of some 500,000 parts.
pub const MAX_PEER_MESSAGE: usize = 64 << 20;

/// Version of the protocol between members. It is raised only by a change that the previous version does not understand;
/// other changes only add fields. A coordinator accepts nodes whose protocol is one older or newer, so a change that raises
/// it must keep coordinators and nodes of both versions compatible.
pub const PROTOCOL: u32 = 1;

/// The least [`raft::Identity::features`] of a coordinator that knows the catalog's commands of users, service tokens, grants,
/// signing keys and quotas.
pub const IDENTITY_FEATURES: u32 = 1;
/// The same for the commands of transactions.
pub const TRANSACTION_FEATURES: u32 = 2;
/// The same for the statistics of parts.
pub const PART_STATISTICS_FEATURES: u32 = 3;
/// The same for fenced writes.
pub const FENCED_WRITE_FEATURES: u32 = 4;
/// The same for the results of queries.
pub const QUERY_RESULT_FEATURES: u32 = 5;
/// The same for tables that expire.
pub const TABLE_TTL_FEATURES: u32 = 6;
/// The same for tables that name the columns of their statistics.
pub const STATS_COLUMNS_FEATURES: u32 = 7;
/// What this version says.
pub const FEATURES: u32 = STATS_COLUMNS_FEATURES;
