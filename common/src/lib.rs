//! What coordinators, nodes and clients of Volley share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`name`], [`ids`] | names of tables; ids of nodes and parts |
//! | [`cluster_id`] | cluster ids, and which of two is the later one after a recovery |
//! | [`error`] | the error type of all crates, and its mapping to and from gRPC |
//! | [`options`] | the options of a request, from a descriptor, ticket or headers |
//! | [`ticket`] | signed tickets |
//! | [`partition`] | hash partitioning: which shard a row of a keyed table belongs to |
//! | [`placement`] | which nodes should hold a shard: consistent hashing with bounded loads |
//! | [`ipc`] | Arrow IPC messages: decoding with validation, splitting, projection, FlightData |
//! | [`wire`] | the protobuf messages between members, and the catalog's rows |
//! | [`serve`], [`proxy`] | the HTTP/2 server loop; handing a call on to another member |
//! | [`grpc`] | gRPC's framing, for calls that are not left to tonic |
//! | [`client`] | a client that fetches all endpoints in parallel |
//! | [`memory`] | giving large blocks back to the system |
//! | [`health`], [`reflection`], [`web`] | gRPC health; gRPC reflection; the server of the HTTP port |
//! | [`config`], [`listen`] | reading configuration; where a server listens, and by which addresses others reach it |
//! | [`log`], [`clock`] | the servers' log; the one place that reads the time |

pub mod client;
pub mod clock;
pub mod cluster_id;
pub mod config;
pub mod error;
pub mod grpc;
pub mod health;
pub mod ids;
pub mod ipc;
pub mod listen;
pub mod log;
pub mod memory;
pub mod name;
pub mod options;
pub mod partition;
pub mod placement;
pub mod proxy;
pub mod reflection;
pub mod serve;
pub mod ticket;
pub mod web;
pub mod wire;

pub use error::{Code, Error, Result};
pub use ids::{NodeId, PartId};
pub use name::TableName;
