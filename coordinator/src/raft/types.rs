//! openraft's types with Volley's parameters.

use std::fmt;
use std::sync::Arc;

use openraft::type_config::alias;
use prost::Message;
use volley_common::wire::catalog::{Command, Reply};

openraft::declare_raft_types!(
    /// The parameters of openraft.
    pub TypeConfig:
        D = LogCommand,
        R = LogReply,
        NodeId = u64,
        Node = RaftPeer,
        AsyncRuntime = super::runtime::Runtime,
);

/// A command in the log. Shared, because the log, replication and the state machine all hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct LogCommand(pub Arc<Command>);

impl fmt::Display for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.encoded_len())
    }
}

/// The result of applying a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogReply(pub Reply);

/// A member of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftPeer {
    /// HOST:PORT of its peer port.
    pub addr: String,
    /// Random id of its data folder. Raft messages are meant for this folder only.
    pub store_id: u64,
}

/// Maximum number of terms that a message may be ahead. Every election takes one term, and pre-votes prevent elections that
/// cannot succeed, so a larger step is a fault or an attack: once the largest term is accepted, no leader can be elected.
pub const MAX_TERM_STEP: u64 = 1 << 20;
/// The largest term that a coordinator without a term of its own accepts: one that is added to a cluster.
pub const MAX_FIRST_TERM: u64 = 1 << 40;

/// A log entry's id: term and leader, and its index.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A leader: term and coordinator id.
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
/// A log entry.
pub type RaftLogEntry = alias::EntryOf<TypeConfig>;
/// The voters and learners of the group.
pub type RaftMembership = openraft::Membership<u64, RaftPeer>;
/// The membership, and the id of the log entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// The last log entry and the membership of a snapshot.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
