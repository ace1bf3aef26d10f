//! One file a command.

use volley_common::client::Client;
use volley_common::{Code, Result};

pub mod cluster;
pub mod demo;
pub mod dev;
pub mod drop;
pub mod get;
pub mod info;
pub mod ls;
pub mod put;
pub mod stats;

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
