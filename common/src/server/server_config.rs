//! The settings and flags that coordinators and nodes share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::audit::AuditLog;
use super::config::one_or_many;
use super::http_config::{HttpArgs, HttpConfig};
use super::identity_config::{IdentityArgs, IdentityConfig};
use super::log::LogFormat;
use super::otlp_config::{OtlpArgs, OtlpConfig};
use super::tls_config::{ServerTls, TlsArgs, TlsConfig};
use crate::http2::relay_budget::{MIN_RELAY_MEMORY, RELAY_MEMORY};
use crate::identity::IdentityRules;
use crate::listen::{self, ListenerConfig};
use crate::server::limits_config::{LimitsArgs, LimitsConfig};
use crate::server::serve::ServerLimits;
use crate::tls::MemberRole;
use crate::{Error, Result};

/// The settings of both servers; flattened into the configuration of each.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct ServerConfig {
    /// Addresses of the Flight listeners, `[NAME=]HOST:PORT`; port 0 picks a free one. At a node, other members use the first.
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Vec<String>,
    /// Addresses by which clients reach a listener, `[NAME=]grpc+tcp://HOST:PORT` or `grpc+tls://`; the listen address if there is none.
    #[serde(deserialize_with = "one_or_many")]
    pub advertise: Vec<String>,
    /// Address of the listener for members, HOST:PORT.
    pub peer_listen: String,
    /// Address of the HTTP port, HOST:PORT: health, metrics, tables.
    pub http_listen: String,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Allows listeners on addresses other than loopback without TLS, where passwords, tokens and data can be read on the way;
    /// and calls from there while the cluster has no users.
    pub insecure: bool,
    /// How long a call waits for a leader, milliseconds. At a node: for a coordinator that can answer.
    pub request_timeout_ms: u64,
    /// How long streams of clients may continue after the stop began, milliseconds.
    pub drain_ms: u64,
    /// Memory for all replies of other members that are passed on to clients, bytes.
    pub relay_memory_bytes: u64,
    /// What clients may take.
    #[serde(flatten)]
    pub limits: LimitsConfig,
    /// What the HTTP port serves.
    #[serde(flatten)]
    pub http: HttpConfig,
    /// The TLS of the listeners and between members.
    #[serde(flatten)]
    pub tls: TlsConfig,
    /// How callers are identified, and what is recorded of them.
    #[serde(flatten)]
    pub identity: IdentityConfig,
    /// Where traces are exported.
    #[serde(flatten)]
    pub otlp: OtlpConfig,
}

impl ServerConfig {
    /// The defaults of a server with these addresses and this data folder.
    pub fn new(listen: &str, peer_listen: &str, http_listen: &str, data_dir: &str) -> Self {
        ServerConfig {
            listen: vec![listen.into()],
            advertise: Vec::new(),
            peer_listen: peer_listen.into(),
            http_listen: http_listen.into(),
            data_dir: data_dir.into(),
            insecure: false,
            request_timeout_ms: 5_000,
            drain_ms: 30_000,
            relay_memory_bytes: RELAY_MEMORY,
            limits: LimitsConfig::default(),
            http: HttpConfig::default(),
            tls: TlsConfig::default(),
            identity: IdentityConfig::default(),
            otlp: OtlpConfig::default(),
        }
    }

    /// Checks the addresses and timeouts.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self) -> Result<()> {
        let listeners = self.listeners()?;
        self.tls.check(&names(&listeners))?;
        self.check_advertised_tls(&listeners)?;
        let tls = &self.tls;
        listen::check_listen("--peer-listen", &self.peer_listen, self.insecure || tls.demands_peer_certificate())?;
        listen::check_listen("--http-listen", &self.http_listen, self.insecure || tls.is_http_tls())?;
        self.check_distinct_addresses()?;
        self.identity.check()?;
        self.otlp.check(self.insecure)?;
        if self.request_timeout_ms == 0 {
            return Err(Error::invalid("request_timeout_ms must be at least 1"));
        }
        if self.relay_memory_bytes < MIN_RELAY_MEMORY {
            return Err(Error::invalid(format!(
                "relay_memory_bytes is {} and must be at least {MIN_RELAY_MEMORY}",
                self.relay_memory_bytes
            )));
        }
        self.http.check()?;
        self.limits.check()
    }

    /// A listener may advertise the TLS of a proxy before it, but not the first one: members dial its address, which is not the
    /// proxy's protocol.
    fn check_advertised_tls(&self, listeners: &[ListenerConfig]) -> Result<()> {
        for (at, listener) in listeners.iter().enumerate() {
            let tls = listener.advertise.as_deref().filter(|uri| uri.starts_with("grpc+tls://"));
            let Some(uri) = tls.filter(|_| !self.tls.is_tls(&listener.name)) else { continue };
            if at == 0 {
                return Err(Error::invalid(format!(
                    "--advertise {uri} is TLS, but its listener has none, and members use the address of the first listener too: add --tls-cert and --tls-key, or put another --listen before it"
                )));
            }
            self.tls.check_no_plaintext_hop(&format!("--advertise {uri} is for clients with TLS"))?;
        }
        Ok(())
    }

    /// Refuses one address for two listeners. Port 0 is a free port each time.
    fn check_distinct_addresses(&self) -> Result<()> {
        let clients = self.listen.iter().map(|text| ("--listen", listen::split_name(text).1));
        let others = [("--peer-listen", self.peer_listen.as_str()), ("--http-listen", self.http_listen.as_str())];
        let mut known: Vec<(&str, (&str, u16))> = Vec::new();
        for (flag, addr) in clients.chain(others) {
            let address = listen::split_host_port(addr).map_err(|e| e.at(flag))?;
            if let Some((other, _)) = known.iter().find(|(_, other)| *other == address && address.1 != 0) {
                return Err(Error::invalid(format!(
                    "{flag} {addr} is the address of {other} already: give each listener a port of its own"
                )));
            }
            known.push((flag, address));
        }
        Ok(())
    }

    /// The Flight listeners, each with its name and its advertised address.
    ///
    /// # Errors
    /// Those of [`listen::listeners`].
    pub fn listeners(&self) -> Result<Vec<ListenerConfig>> {
        // A listener with TLS may be reached by everybody: who has no user gets nothing, also while there are none yet.
        let is_open = |name: &str| self.insecure || self.tls.is_tls(name);
        let listeners = listen::listeners(&self.listen, &self.advertise, is_open)?;
        for listener in listeners.iter().filter(|listener| self.tls.is_tls(&listener.name)) {
            if let Some(uri) = listener.advertise.as_deref().filter(|uri| uri.starts_with("grpc+tcp://")) {
                return Err(Error::invalid(format!(
                    "--advertise {uri} is plaintext, but its listener has TLS: give grpc+tls://{}",
                    listen::host_port(uri)
                )));
            }
        }
        Ok(listeners)
    }

    /// Reads the files of the TLS settings. `role` and `id`: the member that `peer_cert` must name.
    ///
    /// # Errors
    /// Those of [`ServerConfig::listeners`] and [`ServerTls::load`].
    pub fn load_tls(&self, role: MemberRole, id: Option<u64>) -> Result<Arc<ServerTls>> {
        ServerTls::load(&self.tls, &names(&self.listeners()?), role, id)
    }

    /// The rules by which callers are identified. Call it once: each call makes an OIDC verifier with keys of its own, and reads
    /// them if they are in a file.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the settings contradict each other, or the file cannot be used.
    pub fn identity_rules(&self) -> Result<IdentityRules> {
        Ok(IdentityRules { directory_timeout: self.request_timeout(), ..self.identity.rules(self.insecure)? })
    }

    /// Opens the audit log. Call it once: each call starts a thread.
    ///
    /// # Errors
    /// Those of [`IdentityConfig::audit_settings`] and [`AuditLog::new`].
    pub fn audit_log(&self) -> Result<AuditLog> {
        AuditLog::new(&self.identity.audit_settings()?)
    }

    /// Checks that [`ServerConfig::audit_log`] can open the audit log, without creating it.
    ///
    /// # Errors
    /// Those of [`IdentityConfig::audit_settings`] and [`AuditLog::check`].
    pub fn check_audit_log(&self) -> Result<()> {
        AuditLog::check(&self.identity.audit_settings()?)
    }

    /// How long a call waits for a server that can answer it.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// The limits of one Flight listener.
    pub fn limits(&self) -> ServerLimits {
        self.limits.of_listener(self.listen.len(), Duration::from_millis(self.drain_ms))
    }
}

fn names(listeners: &[ListenerConfig]) -> Vec<&str> {
    listeners.iter().map(|listener| &*listener.name).collect()
}

/// The flags of both servers; flattened into the command line of each. `--help` adds the defaults.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct ServerArgs {
    /// A TOML file with any of these settings, with underscores in place of dashes.
    #[arg(long, env = "VOLLEY_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Check the configuration, report what is wrong, and exit.
    #[arg(long)]
    #[serde(skip)]
    pub check_config: bool,
    /// Print every setting with its source (a flag, a variable, the file or the defaults), and exit.
    #[arg(long)]
    #[serde(skip)]
    pub print_config: bool,
    /// The format of the log on standard error.
    #[arg(long, env = "VOLLEY_LOG_FORMAT", value_enum, default_value = "text")]
    #[serde(skip)]
    pub log_format: LogFormat,
    /// Address of a Flight listener; repeat it with names for several.
    #[arg(long, value_name = "[NAME=]HOST:PORT")]
    pub listen: Vec<String>,
    /// Address by which the clients of a listener reach it: grpc+tcp://HOST:PORT, or grpc+tls://HOST:PORT with --tls-cert.
    #[arg(long, value_name = "[NAME=]URI")]
    pub advertise: Vec<String>,
    /// Address of the listener for other members.
    #[arg(long)]
    pub peer_listen: Option<String>,
    /// Address of the HTTP port, for health, metrics and tables.
    #[arg(long)]
    pub http_listen: Option<String>,
    /// The data folder.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// How many milliseconds a call waits for a leader; at a node, for a coordinator that can answer.
    #[arg(long)]
    pub request_timeout_ms: Option<u64>,
    /// How many milliseconds streams of clients may continue after the stop began.
    #[arg(long)]
    pub drain_ms: Option<u64>,
    /// Memory of all replies of other members that are passed on to clients, bytes; calls beyond it are refused.
    #[arg(long)]
    pub relay_memory_bytes: Option<u64>,
    /// Allow listeners without TLS on addresses other than loopback, where passwords, tokens and data can be read on the way, and
    /// calls from there while the cluster has no users.
    #[arg(long)]
    pub insecure: bool,
    /// What clients may take.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitsArgs,
    /// What the HTTP port serves.
    #[command(flatten)]
    #[serde(flatten)]
    pub http: HttpArgs,
    /// The TLS of the listeners and between members.
    #[command(flatten)]
    #[serde(flatten)]
    pub tls: TlsArgs,
    /// How callers are identified, and what is recorded of them.
    #[command(flatten)]
    #[serde(flatten)]
    pub identity: IdentityArgs,
    /// Where traces are exported.
    #[command(flatten)]
    #[serde(flatten)]
    pub otlp: OtlpArgs,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tls::PeerTlsMode;

    fn config(listen: &[&str], advertise: &str) -> ServerConfig {
        let listen = listen.iter().map(|text| text.to_string()).collect();
        let advertise = vec![advertise.to_string()];
        ServerConfig { listen, advertise, ..ServerConfig::new("", "127.0.0.1:2", "127.0.0.1:3", "data") }
    }

    fn with_peer_tls(config: ServerConfig) -> ServerConfig {
        let file = || Some(PathBuf::from("f"));
        let tls = TlsConfig { peer_ca: file(), peer_cert: file(), peer_key: file(), ..config.tls };
        ServerConfig { tls, ..config }
    }

    #[test]
    fn listener_with_tls_may_serve_other_machines() {
        let refusal = |config: &ServerConfig| config.check().unwrap_err().message;
        let mut config = with_peer_tls(config(&["0.0.0.0:1"], "grpc+tls://h:1"));
        assert!(refusal(&config).contains("--tls-cert"));
        (config.tls.tls_cert, config.tls.tls_key) = (vec!["c".into()], vec!["k".into()]);
        (config.http_listen, config.peer_listen) = ("0.0.0.0:3".into(), "0.0.0.0:2".into());
        config.check().unwrap();
        config.tls.peer_tls = Some(PeerTlsMode::Prefer);
        assert!(refusal(&config).contains("--peer-tls require"));
        config.insecure = true;
        config.check().unwrap();
    }

    #[test]
    fn settings_of_identity_are_checked() {
        let mut config = config(&["127.0.0.1:1"], "grpc+tcp://h:1");
        config.check().unwrap();
        assert!(config.identity_rules().unwrap().oidc.is_none());
        config.identity.audit_log_files = 0;
        assert!(config.check().unwrap_err().message.contains("audit_log_files"));
    }

    #[test]
    fn advertised_tls_needs_tls_at_the_first_listener() {
        let refusal = |config: ServerConfig| config.check().unwrap_err().message;
        let only = config(&["127.0.0.1:1"], "grpc+tls://h:1");
        assert!(refusal(only.clone()).contains("put another --listen before it"));
        let mut own = with_peer_tls(only);
        (own.tls.tls_cert, own.tls.tls_key) = (vec!["c".into()], vec!["k".into()]);
        own.check().unwrap();
        let second = config(&["a=127.0.0.1:1", "b=127.0.0.1:4"], "b=grpc+tls://h:1");
        assert!(refusal(second.clone()).contains("give --peer-ca"));
        with_peer_tls(second).check().unwrap();
        let first = config(&["a=127.0.0.1:1", "b=127.0.0.1:4"], "a=grpc+tls://h:1");
        assert!(refusal(with_peer_tls(first)).contains("grpc+tls://h:1 is TLS"));
    }
}
