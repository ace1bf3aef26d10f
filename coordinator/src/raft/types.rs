//! openraft's types, as Volley uses them.

use std::fmt;
use std::sync::Arc;

use openraft::type_config::alias;
use prost::Message;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use volley_common::wire::catalog::{Command, Reply};

openraft::declare_raft_types!(
    /// Which types stand for openraft's parameters.
    pub TypeConfig:
        D = Op,
        R = Answer,
        NodeId = u64,
        Node = Peer,
        AsyncRuntime = super::runtime::Runtime,
);

/// A command in the log; shared, because the log, replication and the state machine all hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(pub Arc<Command>);

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.encoded_len())
    }
}

/// What applying a command answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer(pub Reply);

/// A member of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// HOST:PORT of its peer port.
    pub addr: String,
    /// Random id of its data folder: Raft's messages are for this folder and no other.
    pub store: u64,
}

// openraft asks for serde; what is stored or sent is the protobuf form.
macro_rules! serde_by_protobuf {
    ($type:ident, $get:expr, $make:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&$get(self).encode_to_vec())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = Blob::deserialize(deserializer)?.0;
                Message::decode(bytes.as_slice()).map($make).map_err(D::Error::custom)
            }
        }
    };
}

serde_by_protobuf!(Op, |op: &Op| op.0.clone(), |command: Command| Op(Arc::new(command)));
serde_by_protobuf!(Answer, |answer: &Answer| answer.0.clone(), Answer);

/// Bytes that serde writes as bytes, not as a list of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// A log entry's id: who led when it was made, and its index.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A leader: term and id.
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
/// A log entry.
pub type Entry = alias::EntryOf<TypeConfig>;
/// The members of the group.
pub type Membership = openraft::Membership<u64, Peer>;
/// The members, and the log entry that says so.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot holds.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
