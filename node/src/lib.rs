//! The node: keeps parts as Arrow IPC files, takes puts in and serves slices out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`storage`] | parts on disk: writing, sealing, mapping, the inventory |
//! | [`put`] | a put: rows into parts, parts to their holders, one commit |
//! | [`get`] | a get: a ticket into slices of mapped files |
//! | [`session`] | reports to the leading coordinator, orders back |
//! | [`copy`] | pulling parts of other nodes |
//! | [`merge`] | small parts into few |
//! | [`scrub`] | reading every part again now and then |
//! | [`throttle`] | bytes per second, for work in the background |
//! | [`coordinator_client`] | calls to the coordinators, with fail-over |
//! | [`state`] | what all of a node's tasks share |
//! | [`flight`], [`peer`] | the edges: Flight for clients, gRPC for members |
//! | [`routes`] | which call goes where |
//! | [`server`], [`http`], [`config`], [`process`] | wiring, health and metrics, configuration, the process |

pub mod config;
pub mod coordinator_client;
pub mod copy;
pub mod flight;
pub mod get;
pub mod http;
pub mod merge;
pub mod peer;
pub mod process;
pub mod put;
pub mod routes;
pub mod scrub;
pub mod server;
pub mod session;
pub mod state;
pub mod storage;
pub mod throttle;

pub use config::NodeConfig;
pub use server::{RunningNode, start};
