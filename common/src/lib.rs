//! What coordinators, nodes and clients of Volley share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`name`], [`ids`] | names of tables; ids of nodes and parts |
//! | [`transaction_id`] | ids of transactions, and of their writes |
//! | [`cluster_id`] | cluster ids, and which of two is the later one after a recovery |
//! | [`counts`] | numbers for people |
//! | [`error`] | the error type of all crates, and its mapping to and from gRPC |
//! | [`escape`] | text without characters that show nothing or reverse it, for logs and tables |
//! | [`expectation`] | errors of serde in plain words |
//! | [`transport_cause`] | why a connection failed, in words for a user |
//! | [`session_cookie`] | the cookie of a client's session, with the time limit of its statements |
//! | [`options`] | the options of a request, from a descriptor, ticket or headers |
//! | [`identity`] | who calls, and what the caller may do |
//! | [`ticket`] | signed tickets |
//! | [`partition`] | hash partitioning: which shard a row of a keyed table belongs to |
//! | [`placement`] | which nodes should hold a shard: consistent hashing with bounded loads |
//! | [`ipc`] | Arrow IPC messages: decoding with validation, splitting, projection, FlightData |
//! | [`local_read`] | reads on a node's own machine, by files in place of messages |
//! | [`wire`] | the protobuf messages between members, and the catalog's rows |
//! | [`http2`] | HTTP/2 and gRPC below tonic: settings, bodies, trailers |
//! | [`tls`] | TLS of listeners, between members, and of clients |
//! | [`net`] | connections to members, fail-over |
//! | [`proxy`] | forwarding a call unchanged to another member |
//! | [`grpc`] | gRPC's framing, for calls that bypass tonic |
//! | [`put_codec`] | the codec of a DoPut whose source may fail |
//! | [`sql_script`] | statements in a text: where one ends, and whether it changes tables |
//! | [`server`] | the process of a server: configuration, sockets, the two-stage stop, health and metrics |
//! | [`fairness`] | shares between clients: limits of calls, and waiting in turn |
//! | [`fair_budget`] | budgets of which one owner has a part at most |
//! | [`listen`] | addresses of listeners: parsing, checks, how others reach them |
//! | [`simple_types`] | types by their common names |
//! | [`telemetry`] | metrics: their table, calls and latencies, the text for Prometheus |
//! | [`suggestion`] | the known name that is probably meant by one that is not known |
//! | [`unreachable_member`] | what to do about a member that does not answer |
//! | [`unsent_bytes`] | how much of a stream was passed on to HTTP/2 and is not sent yet |
//! | [`memory`], [`clock`] | the allocator: its settings, and what it returns; the wall clock |

pub mod clock;
pub mod cluster_id;
pub mod counts;
pub mod error;
pub mod escape;
pub mod expectation;
pub mod fair_budget;
pub mod fairness;
pub mod file_lock;
pub mod grpc;
pub mod http2;
pub mod identity;
pub mod ids;
mod ip_network;
pub mod ipc;
pub mod listen;
pub mod local_read;
pub mod memory;
pub mod name;
pub mod net;
pub mod options;
pub mod partition;
pub mod placement;
pub mod proxy;
pub mod put_codec;
pub mod refusal_log;
pub mod server;
pub mod session_cookie;
pub mod simple_types;
pub mod sql_script;
pub mod suggestion;
pub mod telemetry;
pub mod ticket;
pub mod tls;
pub mod transaction_id;
pub mod transport_cause;
pub mod unreachable_member;
pub mod unsent_bytes;
pub mod wire;

pub use error::{Code, Error, Result};
pub use ids::{NodeId, PartId};
pub use name::TableName;
pub use transaction_id::TransactionId;
