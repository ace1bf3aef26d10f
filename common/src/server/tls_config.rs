//! The TLS settings and flags of both servers, and what is loaded from them.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::config::one_or_many;
use crate::listen::{HTTP_PORT_NAME as HTTP, split_name};
use crate::tls::peers::{PeerFiles, check_own_identity};
use crate::tls::pem::{CertificateValidity, TlsFile};
use crate::tls::reload::POLL_INTERVAL;
use crate::tls::server::{HttpVersions, ListenerFiles};
use crate::tls::{ClientAuth, ListenerTls, MemberRole, PeerTls, PeerTlsMode};
use crate::{Error, Result};

/// The TLS settings of both servers; flattened into the configuration of each.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct TlsConfig {
    /// Certificates of the Flight listeners and the HTTP port, `[NAME=]FILE` in PEM. NAME is a listener, or `http`; a file
    /// without a name is for all that have no own.
    #[serde(deserialize_with = "one_or_many")]
    pub tls_cert: Vec<String>,
    /// The keys of these certificates, `[NAME=]FILE` in PEM.
    #[serde(deserialize_with = "one_or_many")]
    pub tls_key: Vec<String>,
    /// The CAs of clients' certificates, `[NAME=]FILE` in PEM; without it clients are not asked for a certificate.
    #[serde(deserialize_with = "one_or_many")]
    pub tls_client_ca: Vec<String>,
    /// Whether clients need a certificate where `tls_client_ca` is given: optional or required.
    pub tls_client_auth: ClientAuth,
    /// The CAs of all members' certificates, a PEM file.
    pub peer_ca: Option<PathBuf>,
    /// The certificate by which other members know this one, a PEM file; its URI is volley://coordinator/ID or
    /// volley://node/NAME.
    pub peer_cert: Option<PathBuf>,
    /// The key of `peer_cert`, a PEM file.
    pub peer_key: Option<PathBuf>,
    /// What is accepted of other members and how they are dialled: accept (TLS and plaintext, dials plaintext), prefer (TLS
    /// and plaintext, dials TLS) or require (only TLS); require if there is a `peer_cert`.
    pub peer_tls: Option<PeerTlsMode>,
}

/// The TLS flags of both servers; flattened into the command line of each.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct TlsArgs {
    /// Certificate of the Flight listeners and the HTTP port (PEM); repeat it with names of listeners, or http.
    #[arg(long, value_name = "[NAME=]FILE")]
    pub tls_cert: Vec<String>,
    /// The key of a --tls-cert (PEM).
    #[arg(long, value_name = "[NAME=]FILE")]
    pub tls_key: Vec<String>,
    /// The CAs of clients' certificates (PEM).
    #[arg(long, value_name = "[NAME=]FILE")]
    pub tls_client_ca: Vec<String>,
    /// Whether clients need a certificate where --tls-client-ca is given.
    #[arg(long, value_enum)]
    pub tls_client_auth: Option<ClientAuth>,
    /// The CAs of all members' certificates (PEM).
    #[arg(long, value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,
    /// The certificate by which other members know this one (PEM).
    #[arg(long, value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,
    /// The key of --peer-cert (PEM).
    #[arg(long, value_name = "FILE")]
    pub peer_key: Option<PathBuf>,
    /// What is accepted of other members, and how they are dialled: accept (TLS and plaintext, dials plaintext), prefer (TLS
    /// and plaintext, dials TLS) or require (only TLS) [default: require, if there is a --peer-cert].
    #[arg(long, value_enum)]
    pub peer_tls: Option<PeerTlsMode>,
}

impl TlsConfig {
    /// Checks the combinations. `listeners`: the names of the Flight listeners. Reads no file.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self, listeners: &[&str]) -> Result<()> {
        for (setting, values) in
            [("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key), ("--tls-client-ca", &self.tls_client_ca)]
        {
            check_names(setting, values, listeners)?;
        }
        self.peer_mode()?;
        for listener in listeners.iter().copied().chain([HTTP]) {
            let own = self.files_of(listener)?;
            if own.is_some() && listener != HTTP {
                let what = match listener {
                    "" => "--tls-cert is given".into(),
                    name => format!("--tls-cert is given for the listener {name:?}"),
                };
                self.check_no_plaintext_hop(&what)?;
            }
        }
        if self.tls_client_auth == ClientAuth::Required && self.tls_client_ca.is_empty() {
            return Err(Error::invalid(
                "--tls-client-auth is required, but there is no --tls-client-ca: give the CAs of the clients' certificates",
            ));
        }
        Ok(())
    }

    /// After a TLS connection of a client no hop between members may be plaintext. `what` says that there are such clients.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: members dial each other without TLS.
    pub(super) fn check_no_plaintext_hop(&self, what: &str) -> Result<()> {
        match self.peer_mode()? {
            Some(PeerTlsMode::Prefer | PeerTlsMode::Require) => Ok(()),
            Some(PeerTlsMode::Accept) => Err(Error::invalid(format!(
                "{what}, but this member dials others without TLS (--peer-tls accept): set --peer-tls to prefer, then to require, on all members first"
            ))),
            None => Err(Error::invalid(format!(
                "{what}, but members would pass on the same data without TLS: give --peer-ca, --peer-cert and --peer-key too"
            ))),
        }
    }

    /// How members speak to each other; `None`: without TLS.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: only some of the three files, or `peer_tls` without them.
    pub fn peer_mode(&self) -> Result<Option<PeerTlsMode>> {
        match (&self.peer_ca, &self.peer_cert, &self.peer_key, self.peer_tls) {
            (Some(_), Some(_), Some(_), mode) => Ok(Some(mode.unwrap_or(PeerTlsMode::Require))),
            (None, None, None, None) => Ok(None),
            (None, None, None, Some(_)) => {
                Err(Error::invalid("--peer-tls has no certificate: give --peer-ca, --peer-cert and --peer-key too"))
            }
            (ca, cert, key, _) => {
                let given =
                    [("--peer-ca", ca.is_some()), ("--peer-cert", cert.is_some()), ("--peer-key", key.is_some())];
                let missing: Vec<&str> =
                    given.iter().filter(|(_, is_given)| !is_given).map(|(flag, _)| *flag).collect();
                Err(Error::invalid(format!(
                    "the TLS between members needs --peer-ca, --peer-cert and --peer-key, and {} {} not given: give all three or none",
                    missing.join(" and "),
                    if missing.len() == 1 { "is" } else { "are" }
                )))
            }
        }
    }

    /// Whether clients of a listener connect by TLS.
    pub fn is_tls(&self, listener: &str) -> bool {
        value_of(&self.tls_cert, listener).is_some()
    }

    /// Whether the HTTP port has TLS.
    pub fn is_http_tls(&self) -> bool {
        self.is_tls(HTTP)
    }

    /// Whether every member that connects proves which one it is.
    pub fn demands_peer_certificate(&self) -> bool {
        matches!(self.peer_mode(), Ok(Some(PeerTlsMode::Require)))
    }

    /// The files of a listener; `None` if it has no TLS for clients.
    fn files_of(&self, listener: &str) -> Result<Option<ListenerFiles>> {
        let file = |setting, values| value_of(values, listener).map(|path| TlsFile::new(setting, path));
        let client_ca = file("tls_client_ca", &self.tls_client_ca);
        match (file("tls_cert", &self.tls_cert), file("tls_key", &self.tls_key)) {
            (Some(cert), Some(key)) => Ok(Some(ListenerFiles { cert, key, client_ca })),
            (Some(cert), None) => Err(Error::invalid(format!("{cert} has no key: add --tls-key FILE"))),
            (None, Some(key)) => Err(Error::invalid(format!("{key} has no certificate: add --tls-cert FILE"))),
            (None, None) => match client_ca {
                Some(ca) if self.tls_cert.is_empty() => Err(Error::invalid(format!(
                    "{ca} is for listeners with TLS: add --tls-cert FILE and --tls-key FILE"
                ))),
                // One without a name is for the listeners that have TLS; one with this listener's name expects TLS here.
                Some(ca) if own_value(&self.tls_client_ca, listener).is_some() => Err(Error::invalid(format!(
                    "{ca} is for the listener {listener:?}, which has no certificate: add --tls-cert {listener}=FILE and --tls-key {listener}=FILE"
                ))),
                _ => Ok(None),
            },
        }
    }
}

/// The value for a listener: its own, else the one without a name.
fn value_of<'a>(values: &'a [String], listener: &str) -> Option<&'a str> {
    own_value(values, listener).or_else(|| value_named(values, ""))
}

/// The value that names a listener.
fn own_value<'a>(values: &'a [String], listener: &str) -> Option<&'a str> {
    if listener.is_empty() { None } else { value_named(values, listener) }
}

fn value_named<'a>(values: &'a [String], wanted: &str) -> Option<&'a str> {
    values.iter().map(|text| split_name(text)).find(|(name, _)| *name == wanted).map(|(_, path)| path)
}

fn check_names(setting: &str, values: &[String], listeners: &[&str]) -> Result<()> {
    let mut known: Vec<&str> = Vec::new();
    for (name, path) in values.iter().map(|text| split_name(text)) {
        if path.is_empty() {
            return Err(Error::invalid(format!("{setting} names no file: give [NAME=]FILE")));
        }
        if !name.is_empty() && name != HTTP && !listeners.contains(&name) {
            return Err(Error::invalid(format!(
                "{setting} names the listener {name:?}, which --listen has not: give a name of --listen, or {HTTP}"
            )));
        }
        if known.contains(&name) {
            return Err(Error::invalid(match name {
                "" => format!("{setting} is given twice without a name: give one file, or NAME=FILE for each listener"),
                name => format!("{setting} is given twice for {name:?}"),
            }));
        }
        known.push(name);
    }
    Ok(())
}

/// The TLS of a server, loaded.
pub struct ServerTls {
    peers: Option<Arc<PeerTls>>,
    /// By the listener's name.
    flight: Vec<(String, Arc<ListenerTls>)>,
    peer: Arc<ListenerTls>,
    http: Arc<ListenerTls>,
}

impl ServerTls {
    /// Reads all files. `listeners`: the names of the Flight listeners; `role` and `id`: what `peer_cert` must name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a file cannot be used, or is another member's.
    pub fn load(config: &TlsConfig, listeners: &[&str], role: MemberRole, id: Option<u64>) -> Result<Arc<Self>> {
        let peers = match (config.peer_mode()?, &config.peer_ca, &config.peer_cert, &config.peer_key) {
            (Some(mode), Some(ca), Some(cert), Some(key)) => {
                let files = PeerFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
                let check_identity = move |found: &_| check_own_identity(found, role, id);
                Some(Arc::new(PeerTls::load(mode, &files, check_identity)?))
            }
            _ => None,
        };
        let listener = |name: &&str| {
            let files = config.files_of(name)?;
            let tls = ListenerTls::for_clients(files, config.tls_client_auth, HttpVersions::Http2, peers.clone())?;
            Ok((name.to_string(), Arc::new(tls)))
        };
        let http = ListenerTls::for_clients(config.files_of(HTTP)?, config.tls_client_auth, HttpVersions::Any, None)?;
        Ok(Arc::new(ServerTls {
            flight: listeners.iter().map(listener).collect::<Result<_>>()?,
            peer: Arc::new(ListenerTls::for_members(peers.clone())),
            http: Arc::new(http),
            peers,
        }))
    }

    /// The TLS towards other members; `None`: they are dialled without.
    pub fn peers(&self) -> Option<&Arc<PeerTls>> {
        self.peers.as_ref()
    }

    /// The TLS of a Flight listener.
    pub fn flight(&self, listener: &str) -> Arc<ListenerTls> {
        let own = self.flight.iter().find(|(name, _)| name == listener);
        own.map_or_else(|| Arc::new(ListenerTls::none()), |(_, tls)| tls.clone())
    }

    /// The TLS of the peer port.
    pub fn peer(&self) -> Arc<ListenerTls> {
        self.peer.clone()
    }

    /// The TLS of the HTTP port.
    pub fn http(&self) -> Arc<ListenerTls> {
        self.http.clone()
    }

    fn listeners(&self) -> impl Iterator<Item = &Arc<ListenerTls>> {
        self.flight.iter().map(|(_, tls)| tls).chain([&self.http])
    }

    /// How long each certificate in use is valid.
    fn validities(&self) -> impl Iterator<Item = CertificateValidity> {
        let peers = self.peers.iter().filter_map(|peers| peers.validity());
        peers.chain(self.listeners().filter_map(|tls| tls.validity()))
    }

    /// Checks that each certificate is valid now. A start only logs it: the clock may be wrong, and a member that stays down
    /// because its certificate has expired makes an outage longer.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: one has expired, or is not valid yet.
    pub fn check_validity(&self) -> Result<()> {
        match self.validities().find_map(|validity| validity.problem()) {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
    }

    /// What an operator must do: one sentence for each changed file that cannot be used, and for each certificate in use that
    /// has expired or soon will, without duplicates. Does no file I/O.
    pub fn reload_failures(&self) -> Vec<String> {
        let peers = self.peers.iter().filter_map(|peers| peers.failure());
        let failures = peers.chain(self.listeners().filter_map(|tls| tls.failure()));
        let failures = failures.map(|failure| format!("{failure}; the old file stays in use until then"));
        let expiring = self.validities().filter_map(|validity| validity.warning()).map(|warning| warning.message);
        let mut all: Vec<String> = failures.chain(expiring).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Loads changed files every second until `stop`, and sets the gauges of the certificates. The files are read by a blocking
    /// thread, one poll after the other: a network file system that hangs delays the next poll, and nothing else.
    pub async fn watch_files(self: Arc<Self>, stop: CancellationToken) {
        if self.peers.is_none() && !self.listeners().any(|tls| tls.has_tls()) {
            return;
        }
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let tls = self.clone();
            let polling = tokio::task::spawn_blocking(move || tls.poll());
            stop.run_until_cancelled(polling).await;
            self.set_expiry_gauges();
        }
    }

    fn poll(&self) {
        self.peers.iter().for_each(|peers| peers.poll());
        self.listeners().for_each(|tls| tls.poll());
    }

    /// When the first certificate of each kind expires, seconds since 1970.
    fn set_expiry_gauges(&self) {
        let mut first: BTreeMap<&'static str, i64> = BTreeMap::new();
        for validity in self.validities() {
            let until = first.entry(validity.setting()).or_insert(i64::MAX);
            *until = (*until).min(validity.until());
        }
        for (file_kind, until) in first {
            metrics::gauge!("volley_tls_certificate_expiry_timestamp_seconds", "file_kind" => file_kind)
                .set(until as f64);
        }
    }
}
