//! One file a command.

use volley_common::client::Client;
use volley_common::{Code, Result};

pub mod cluster;
pub mod coordinators;
pub mod demo;
pub mod dev;
pub mod doctor;
pub mod drain;
pub mod drop;
pub mod explain;
pub mod get;
pub mod health;
pub mod info;
pub mod ls;
pub mod nodes;
pub mod put;
pub mod remove;
pub mod stats;
pub mod versions;

/// Connects to the cluster that the user named.
///
/// # Errors
/// The client's, with what to do if nobody answers.
pub async fn connect(cluster: &str) -> Result<Client> {
    Client::connect(cluster).await.map_err(|mut error| {
        if error.code == Code::Unavailable {
            error.message += "; start a cluster with `volley dev`, or name yours with --cluster or VOLLEY_CLUSTER";
        }
        error
    })
}
