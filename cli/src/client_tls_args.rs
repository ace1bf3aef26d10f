//! The flags by which all commands reach a cluster with TLS. Their variables differ from those of servers, which may share the
//! environment.

use std::path::PathBuf;

use volley_common::tls::ClientTls;

/// How the cluster is reached by TLS. If one of these is given, grpc://HOST:PORT is reached by TLS too.
#[derive(Debug, Default, clap::Args)]
pub struct ClientTlsArgs {
    /// The CAs that servers' certificates must be signed by (PEM) [default: those of the system].
    #[arg(long, env = "VOLLEY_TLS_CA", global = true, value_name = "FILE", help_heading = "TLS")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate of this client (PEM).
    #[arg(long, env = "VOLLEY_TLS_CLIENT_CERT", global = true, value_name = "FILE", help_heading = "TLS")]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM).
    #[arg(long, env = "VOLLEY_TLS_CLIENT_KEY", global = true, value_name = "FILE", help_heading = "TLS")]
    pub tls_key: Option<PathBuf>,
    /// The name that servers' certificates must have, if it is not the host of the address.
    #[arg(long, env = "VOLLEY_TLS_SERVER_NAME", global = true, value_name = "NAME", help_heading = "TLS")]
    pub tls_server_name: Option<String>,
}

impl ClientTlsArgs {
    /// The settings of the client.
    pub fn settings(&self) -> ClientTls {
        ClientTls {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            server_name: self.tls_server_name.clone(),
        }
    }
}
