//! The flags by which all commands reach a cluster with TLS. Their variables differ from those of servers, which may share the
//! environment.

use std::ffi::OsString;
use std::path::PathBuf;

use volley_common::tls::ClientTls;

use crate::contexts::ClusterContext;

/// How the cluster is reached by TLS. If one of these is given, grpc://HOST:PORT is reached by TLS too.
#[derive(Debug, Default, clap::Args)]
pub struct ClientTlsArgs {
    /// The CAs that servers' certificates must be signed by (PEM) [env: VOLLEY_TLS_CA] [default: those of the system].
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate of this client (PEM) [env: VOLLEY_TLS_CLIENT_CERT].
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS")]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM) [env: VOLLEY_TLS_CLIENT_KEY].
    #[arg(long, global = true, value_name = "FILE", help_heading = "TLS")]
    pub tls_key: Option<PathBuf>,
    /// The name that servers' certificates must have, if it is not the host of the address [env: VOLLEY_TLS_SERVER_NAME].
    #[arg(long, global = true, value_name = "NAME", help_heading = "TLS")]
    pub tls_server_name: Option<String>,
}

impl ClientTlsArgs {
    /// The settings of the client: of each the flag, else the variable, else that of `context`. The context precedes the
    /// variables if it `is_first`. A certificate and its key come from the same place.
    pub fn settings(
        &self,
        context: &ClusterContext,
        is_first: bool,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> ClientTls {
        let file = |name: &str| variable(name).map(PathBuf::from);
        let variables = ClientTls {
            ca: file("VOLLEY_TLS_CA"),
            cert: file("VOLLEY_TLS_CLIENT_CERT"),
            key: file("VOLLEY_TLS_CLIENT_KEY"),
            server_name: variable("VOLLEY_TLS_SERVER_NAME").and_then(|name| name.into_string().ok()),
        };
        let context = ClientTls {
            ca: context.tls_ca.clone(),
            cert: context.tls_cert.clone(),
            key: context.tls_key.clone(),
            server_name: context.tls_server_name.clone(),
        };
        let flags = ClientTls {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            server_name: self.tls_server_name.clone(),
        };
        match is_first {
            true => or_else(or_else(flags, context), variables),
            false => or_else(or_else(flags, variables), context),
        }
    }
}

/// The settings, and of those that are not given the others'.
fn or_else(settings: ClientTls, others: ClientTls) -> ClientTls {
    let has_identity = settings.cert.is_some() || settings.key.is_some();
    let (cert, key) = match has_identity {
        true => (settings.cert, settings.key),
        false => (others.cert, others.key),
    };
    ClientTls { ca: settings.ca.or(others.ca), cert, key, server_name: settings.server_name.or(others.server_name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_precedes_variable_and_context() {
        let context = ClusterContext {
            tls_ca: Some("context.ca".into()),
            tls_cert: Some("context.crt".into()),
            tls_key: Some("context.key".into()),
            ..ClusterContext::default()
        };
        let variable = |name: &str| match name {
            "VOLLEY_TLS_CA" => Some("variable.ca".into()),
            "VOLLEY_TLS_CLIENT_CERT" => Some("variable.crt".into()),
            _ => None,
        };
        let of = |flag: Option<&str>, is_first: bool| {
            let args = ClientTlsArgs { tls_ca: flag.map(PathBuf::from), ..ClientTlsArgs::default() };
            let tls = args.settings(&context, is_first, variable);
            [tls.ca, tls.cert, tls.key].map(|path| path.map_or(String::new(), |path| path.display().to_string()))
        };
        assert_eq!(of(Some("flag.ca"), false), ["flag.ca", "variable.crt", ""], "never another certificate's key");
        assert_eq!(of(None, false), ["variable.ca", "variable.crt", ""]);
        assert_eq!(of(None, true), ["context.ca", "context.crt", "context.key"]);
    }
}
