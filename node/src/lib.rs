//! The node: keeps parts as Arrow IPC files, takes puts in and serves slices out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`storage`] | parts on disk: writing, sealing, mapping, the inventory |
//! | [`put`] | a put: rows into parts, parts to their holders, one commit |
//! | [`get`] | a get: a ticket into slices of mapped files |
//! | [`session`] | reports to the leading coordinator, orders back |
//! | [`copy`] | copies parts from other nodes |
//! | [`compaction`] | rewrites small parts as few |
//! | [`scrub`] | verifies every part once per period |
//! | [`throttle`] | limits background work to a rate |
//! | [`coordinators`] | calls to the coordinators, with fail-over |
//! | [`state`] | what all of a node's tasks share |
//! | [`flight`], [`peer`] | the edges: Flight for clients, gRPC for members |
//! | [`routes`] | which call goes where |
//! | [`server`], [`http`], [`config`], [`process`] | wiring, health and metrics, configuration, the process |

pub mod compaction;
pub mod config;
pub mod coordinators;
pub mod copy;
pub mod flight;
pub mod get;
pub mod http;
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

pub use server::{Listeners, Running, start, start_with_listeners};
