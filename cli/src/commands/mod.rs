//! The commands, one module each.

use volley_common::client::Client;
use volley_common::tls::ClientTls;
use volley_common::{Code, Result};

pub mod certs;
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
pub mod restore;
pub mod stats;
pub mod versions;

/// Connects to the cluster.
///
/// # Errors
/// The client's, with a remedy if there is no answer.
pub async fn connect(cluster: &str, tls: &ClientTls) -> Result<Client> {
    Client::connect_with(cluster, tls.clone()).await.map_err(|mut error| {
        if error.code == Code::Unavailable {
            error.message +=
                "; start a cluster with `volley dev`, or set --cluster or VOLLEY_CLUSTER to the address of yours";
        }
        error
    })
}
