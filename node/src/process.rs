//! The `volley-node` process, in the library since the program `volley` runs it too, when called by this name.

use std::process::ExitCode;

use volley_common::Result;
use volley_common::server::ServerConfig;
use volley_common::server::process::{self, ServerRole};
use volley_common::tls::MemberRole;

use crate::RunningNode;
use crate::config::{NodeArgs, NodeConfig};

struct NodeRole;

impl ServerRole for NodeRole {
    const NAME: &'static str = "volley-node";
    const LOG_FILTER: &'static str = "info";
    type Args = NodeArgs;
    type Config = NodeConfig;
    type Server = RunningNode;

    fn check(config: &NodeConfig) -> Result<()> {
        config.check()
    }

    fn check_files(config: &NodeConfig) -> Result<()> {
        config.server.load_tls(MemberRole::Node, None)?.check_validity()?;
        config.server.check_audit_log()?;
        config.server.identity_rules().map(drop)
    }

    fn server_config(config: &NodeConfig) -> &ServerConfig {
        &config.server
    }

    async fn start(config: NodeConfig) -> Result<RunningNode> {
        crate::start(config).await
    }
}

/// Runs `volley-node` with the arguments of this process.
pub fn main() -> ExitCode {
    // Before anything of a server is read or started: a process that decodes a body in Parquet is none.
    volley_http::run_if_requested().unwrap_or_else(process::main::<NodeRole>)
}
