//! The commands that look at tables, copy them and compare them.

use std::process::ExitCode;

use volley_client::Client;
use volley_common::Result;
use volley_common::tls::ClientTls;

use super::{count, cp, describe, diff, head, sample, schema};
use crate::args::table_commands::TableCommand;
use crate::client_login_args::ClientLoginArgs;

/// Runs one of the commands.
pub async fn run(
    command: &TableCommand,
    connect: impl AsyncFnOnce() -> Result<Client>,
    tls: &ClientTls,
    login: &ClientLoginArgs,
    json: bool,
) -> Result<ExitCode> {
    match command {
        TableCommand::Head(args) => head::head(args, &connect().await?, json).await?,
        TableCommand::Tail(args) => head::tail(args, &connect().await?, json).await?,
        TableCommand::Count(args) => count::run(args, &connect().await?, json).await?,
        TableCommand::Schema(args) => schema::run(args, &connect().await?, json).await?,
        TableCommand::Sample(args) => sample::run(args, &connect().await?, json).await?,
        TableCommand::Describe(args) => describe::run(args, &connect().await?, json).await?,
        TableCommand::Cp(args) => cp::run(args, connect, tls, login, json).await?,
        TableCommand::Diff(args) => return diff::run(args, &connect().await?, json).await,
    }
    Ok(ExitCode::SUCCESS)
}
