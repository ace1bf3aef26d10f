//! The command line of `volley top`.

use super::values::prefix;

#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Seconds between two looks at the cluster.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub interval: u16,
    /// The HTTP port of the nodes, whose metrics have streams and bytes; by TLS if the cluster's address has it.
    #[arg(long, value_name = "PORT", default_value_t = 8836, value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: u16,
    /// Only the tables below this prefix.
    #[arg(long, default_value = "/", value_parser = prefix)]
    pub prefix: String,
}
