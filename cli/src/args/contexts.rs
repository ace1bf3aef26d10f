//! The command line of `volley login` and `volley context`.

use clap::Subcommand;

use super::values::lifetime;
use crate::contexts::context_name;

#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// How long the token is valid that a login with a password creates: a number with s, m, h, d or w, at most 3650d.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime)]
    pub ttl: u64,
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the contexts.
    Ls,
    /// Make a context the current one: that of commands that name no cluster.
    Use {
        /// The context.
        #[arg(value_parser = context_name)]
        name: String,
    },
    /// Show a context, without its token.
    Show {
        /// The context [default: the current one].
        #[arg(value_parser = context_name)]
        name: Option<String>,
    },
    /// Remove a context. Its token stays valid, unless `volley logout` revokes it before.
    Remove {
        /// The context.
        #[arg(value_parser = context_name)]
        name: String,
    },
}
