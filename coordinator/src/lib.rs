//! The coordinator: holds the catalog in a Raft group, plans reads and writes, and sends orders to nodes.
//!
//! | module | what it holds |
//! |---|---|
//! | [`flight`], [`peer`] | the APIs: Flight for clients, gRPC for members |
//! | [`service`] | the use cases |
//! | [`membership`] | sessions with nodes, and the leader's periodic work |
//! | [`node_claims`] | which node a caller may speak for |
//! | [`node_probes`] | which nodes do not answer, known before their sessions time out |
//! | [`planner`], [`scheduler`], [`diagnostics`] | pure decisions: plans of requests, orders to nodes, reports to operators |
//! | [`catalog`] | the state machine: rows, commands, queries |
//! | [`raft`] | its replication: openraft on redb over tonic |
//! | [`directory_updates`] | users, grants and signing keys, as each coordinator's catalog has them |
//! | [`administrator_file`], [`admin_reset`] | administrators from files; the reset of one, for who has lost all |
//! | [`client_listener`], [`catalog_scan`] | client listeners; long reads of the catalog |
//! | [`http`], `gauges` | health and metrics; what is read at a scrape |
//! | [`server`], [`config`], [`process`] | wiring, configuration, the process |
//! | [`recover_command`] | lets one coordinator continue alone after a majority was lost |
#![forbid(unsafe_code)]

pub mod admin_reset;
pub mod administrator_file;
pub mod catalog;
pub mod catalog_scan;
pub mod client_listener;
pub mod config;
pub mod diagnostics;
pub mod directory_updates;
pub mod flight;
mod gauges;
pub mod http;
pub mod membership;
pub mod node_claims;
pub mod node_probes;
pub mod peer;
pub mod planner;
pub mod process;
pub mod raft;
pub mod raft_threads;
pub mod recover_command;
pub mod scheduler;
pub mod server;
pub mod service;

pub use config::CoordinatorConfig;
pub use server::{RunningCoordinator, start, start_with_sockets};
