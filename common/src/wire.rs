//! The generated protobuf messages and gRPC services.
//!
//! [`catalog`] outlives a version (log, snapshot, rows on disk); [`cluster`] is what members say to
//! each other, and the content of tickets; [`raft`] is Raft between coordinators.

pub use volley::catalog::v1 as catalog;
pub use volley::cluster::v1 as cluster;
pub use volley::raft::v1 as raft;

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
}

impl catalog::WriteOutcome {
    /// As clients get it, from whichever member.
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

impl catalog::Node {
    /// Whether the cluster heard from the node within `node_timeout_ms`: it is offered to readers.
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

/// The largest message between members: a commit of some 500,000 parts.
pub const MAX_PEER_MESSAGE: usize = 64 << 20;

/// Version of the protocol between members, raised only by a change that the version before does not understand: fields
/// are only added otherwise. A coordinator takes in nodes whose protocol is one older or newer; who raises it sees to it that
/// coordinators and nodes of both still understand each other.
pub const PROTOCOL: u32 = 1;
