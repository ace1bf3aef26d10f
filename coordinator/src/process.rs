//! The `volley-coordinator` process, in the library since the program `volley` runs it too, when called by this name.

use std::process::ExitCode;

use tokio::runtime::Builder;
use volley_common::Result;
use volley_common::server::ServerConfig;
use volley_common::server::process::{self, ServerRole};
use volley_common::tls::MemberRole;

use crate::administrator_file::check_administrator_files;
use crate::config::{CoordinatorArgs, CoordinatorCommand, CoordinatorConfig};
use crate::{RunningCoordinator, recover_command};

struct CoordinatorRole;

impl ServerRole for CoordinatorRole {
    const NAME: &'static str = "volley-coordinator";
    const LOG_FILTER: &'static str = "info,openraft=error";
    type Args = CoordinatorArgs;
    type Config = CoordinatorConfig;
    type Server = RunningCoordinator;

    fn run_subcommand(args: &CoordinatorArgs) -> Option<Result<String>> {
        let CoordinatorCommand::Recover(args) = args.command.as_ref()?;
        let runtime = process::runtime(&mut Builder::new_current_thread());
        Some(runtime.and_then(|runtime| runtime.block_on(recover_command::run(args))))
    }

    fn check(config: &CoordinatorConfig) -> Result<()> {
        config.check()
    }

    fn check_files(config: &CoordinatorConfig) -> Result<()> {
        config.server.load_tls(MemberRole::Coordinator, Some(config.id))?.check_validity()?;
        check_administrator_files(config.bootstrap_admin_file.as_deref(), config.reset_admin_file.as_deref())?;
        config.server.check_audit_log()?;
        config.server.identity_rules().map(drop)
    }

    fn server_config(config: &CoordinatorConfig) -> &ServerConfig {
        &config.server
    }

    async fn start(config: CoordinatorConfig) -> Result<RunningCoordinator> {
        crate::start(config).await
    }
}

/// Runs `volley-coordinator` with the arguments of this process.
pub fn main() -> ExitCode {
    // Before anything of a server is read or started: a process that decodes a body in Parquet is none.
    volley_http::run_if_requested().unwrap_or_else(process::main::<CoordinatorRole>)
}
