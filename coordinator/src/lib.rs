//! The coordinator: holds the catalog in a Raft group, plans reads and writes, orders nodes about.
//!
//! | module | what it holds |
//! |---|---|
//! | [`catalog`] | the state machine: rows, commands, queries |
//! | [`raft`] | its replication: openraft on redb over tonic |
//! | [`plan`], [`scheduler`], [`merging`] | decisions, pure: what a reader is offered, what a node is told |
//! | [`membership`] | sessions with nodes |
//! | [`service`] | the use cases |
//! | [`flight`], [`peer`] | the edges: Flight for clients, gRPC for members |
//! | [`http`] | health and metrics |
//! | [`server`], [`config`], [`process`] | wiring, configuration, the process |
//! | [`locations`] | which addresses a coordinator gives to the clients of a listener |
//! | [`recover_command`] | one coordinator goes on alone after a majority was lost |

pub mod catalog;
pub mod config;
pub mod flight;
pub mod http;
pub mod locations;
pub mod membership;
pub mod merging;
pub mod peer;
pub mod plan;
pub mod process;
pub mod raft;
pub mod recover_command;
pub mod scheduler;
pub mod server;
pub mod service;

pub use config::CoordinatorConfig;
pub use server::{RunningCoordinator, start, start_with_sockets};
