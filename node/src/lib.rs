//! The node: stores parts as Arrow IPC files, accepts puts and serves gets.
//!
//! | module | what it holds |
//! |---|---|
//! | [`router`] | dispatches every Flight call |
//! | [`callers`] | identifies the callers of Flight listeners, and records those that are refused |
//! | [`login`] | logins with a password, at the coordinators; caches them |
//! | [`assertion`] | on whose behalf this node calls other members |
//! | [`put`] | a put: writes rows into parts, copies these to their holders, commits |
//! | [`put_resources`], [`put_memory`] | what all puts share: memory, threads, how many run |
//! | [`get`] | a get: turns a ticket into slices of mapped files |
//! | [`local_read`] | hands the files of parts to clients on this machine |
//! | [`get_resources`] | how many gets decompress at once |
//! | [`wire_compression`] | what gets share that compress what they send: threads, places, what is known of links |
//! | [`sql`] | queries, Flight SQL, and reads with a filter that is checked here |
//! | [`sql_resources`], [`result_space`] | what all queries share: the engine and its threads; the disk space of stored results |
//! | [`coordinator_proxy`] | metadata calls, forwarded to a coordinator |
//! | [`flight`] | the Flight calls that tonic serves |
//! | [`peer`] | the gRPC service for other members |
//! | [`storage`] | parts on disk: writing, sealing, mapping, the inventory |
//! | [`session`] | the session with the leading coordinator: reports and orders |
//! | [`copy`] | copies parts from other nodes |
//! | [`compaction`] | compacts small parts |
//! | [`scrub`] | verifies every part periodically |
//! | [`unneeded_parts`] | removes parts that the catalog proves to be unneeded |
//! | [`orphan_expiry`] | removes orphaned parts when their time is over |
//! | [`throttle`] | bytes per second, for background work |
//! | [`coordinator_client`] | calls to the coordinators, with fail-over |
//! | [`cluster_view`] | members, ticket key and cancelled flights, from the leader |
//! | [`context`] | the long-lived pieces, grouped by what uses them |
//! | [`server`], [`http`], [`config`], [`process`] | wiring, health and metrics, configuration, the process |
//! | `gauges` | what metrics read at a scrape |

pub mod assertion;
pub mod callers;
pub mod cluster_view;
pub mod compaction;
pub mod config;
pub mod context;
pub mod coordinator_client;
pub mod coordinator_proxy;
pub mod copy;
pub mod flight;
mod gauges;
pub mod get;
pub mod get_resources;
pub mod http;
pub mod local_read;
pub mod login;
pub mod orphan_expiry;
pub mod peer;
pub mod process;
pub mod put;
pub mod put_memory;
pub mod put_resources;
pub mod result_space;
pub mod router;
pub mod scrub;
pub mod server;
pub mod session;
pub mod sql;
pub mod sql_resources;
pub mod storage;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../common/src/ipc/test_data.rs"]
mod test_data;
pub mod throttle;
pub mod unneeded_parts;
pub mod wire_compression;

pub use config::NodeConfig;
pub use server::{RunningNode, start};
