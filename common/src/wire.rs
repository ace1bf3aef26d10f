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

/// The largest message between members: a commit of some 500,000 parts.
pub const MAX_PEER_MESSAGE: usize = 64 << 20;

/// Version of the protocol between members, raised only by a change that the version before does not understand: fields
/// are only added otherwise. A coordinator takes in nodes whose protocol is one older or newer; who raises it sees to it that
/// coordinators and nodes of both still understand each other.
pub const PROTOCOL: u32 = 1;
