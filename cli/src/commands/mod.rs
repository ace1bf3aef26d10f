//! The commands, one module each.

use volley_client::{Client, LocalMode};
use volley_common::tls::ClientTls;
use volley_common::{Code, Error, Result};

use crate::client_login_args::ClientLoginArgs;
use crate::secret_arguments;

pub mod bench;
pub mod certs;
pub mod cluster;
pub mod completions;
pub mod context;
pub mod coordinators;
pub mod count;
pub mod cp;
pub mod demo;
pub mod describe;
pub mod dev;
pub mod diff;
pub mod doctor;
pub mod drain;
pub mod drop;
pub mod explain;
pub mod failure;
pub mod get;
pub mod grants;
pub mod head;
pub mod health;
pub mod info;
pub mod login;
pub mod ls;
pub mod man;
pub mod nodes;
pub mod put;
pub mod quota;
pub mod remove;
pub mod restore;
pub mod sample;
pub mod schema;
pub mod sql;
pub mod statement;
pub mod stats;
pub mod tables;
pub mod token;
pub mod top;
pub mod user;
pub mod versions;
pub mod whoami;

/// The variable that says whether tables are read by files.
const LOCAL_VAR: &str = "VOLLEY_LOCAL";
/// Networks and hosts whose nodes are read first.
const PREFER_VAR: &str = "VOLLEY_PREFER";

/// Connects to the cluster, as the user whom flags and variables name.
///
/// # Errors
/// The client's, with a remedy if there is no answer; those of [`ClientLoginArgs::login`]. INVALID_ARGUMENT: the address has a
/// user and password; VOLLEY_PREFER has a place that is none.
pub async fn connect(cluster: &str, tls: &ClientTls, login: &ClientLoginArgs) -> Result<Client> {
    secret_arguments::check_address(cluster)?;
    let login = login.login(cluster, tls).await?;
    let client = Client::builder().address(cluster).tls(tls.clone()).login(login);
    let places = std::env::var(PREFER_VAR).unwrap_or_default();
    let client = client.prefer(places).local(local_mode()?).traceparent_of_environment();
    client.connect().await.map_err(|mut error| {
        if error.code == Code::Unavailable {
            error.message += failure::unreachable_hint(cluster);
        }
        error
    })
}

/// Whether tables are read by files where a node is on this machine: VOLLEY_LOCAL.
///
/// # Errors
/// INVALID_ARGUMENT: it is neither `auto` nor `never`.
fn local_mode() -> Result<LocalMode> {
    match std::env::var(LOCAL_VAR) {
        Ok(text) if !text.is_empty() => text.parse().map_err(|e: Error| e.at(LOCAL_VAR)),
        _ => Ok(LocalMode::default()),
    }
}
