//! The TLS of a client: which CAs it trusts, and its own certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client};

use super::certificate_verifier::IdentifiedClients;
use super::failure::explained_connect;
use super::identity::is_not_for_clients;
use super::pem::{CertificateValidity, TlsFile, certified_key, trust_anchors};
use super::provider::{ALPN_HTTP1, ALPN_HTTP2, VERSIONS, provider};
use super::server::HttpVersions;
use crate::listen::split_host_port;
use crate::{Error, Result};

/// The TLS settings of a client. The default trusts the CAs of the system and has no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The CAs that the client trusts, a PEM file; those of the system if there is none.
    pub ca: Option<PathBuf>,
    /// The client's certificate, then its intermediate CAs, a PEM file.
    pub cert: Option<PathBuf>,
    /// The key of the certificate, a PEM file.
    pub key: Option<PathBuf>,
    /// The name that servers' certificates must have, if it is not the host of the address.
    pub server_name: Option<String>,
}

impl ClientTls {
    /// Whether any setting is given.
    pub fn is_set(&self) -> bool {
        *self != ClientTls::default()
    }
}

/// The TLS of a client. Its files are read when it is first used, and again until they could be; afterwards it does not see
/// that they change: create another one to use new files. Cheap to clone.
#[derive(Clone)]
pub struct ClientConnector(Arc<ConnectorState>);

struct ConnectorState {
    settings: ClientTls,
    versions: HttpVersions,
    /// An error is not kept: the files may be repaired.
    loaded: OnceLock<LoadedClientTls>,
}

#[derive(Clone)]
struct LoadedClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// What to say if a server ends a connection before it sends anything; none without a client certificate.
    refusal_hint: Option<Arc<str>>,
}

impl ClientConnector {
    /// Connections of a client with these settings.
    pub fn new(settings: ClientTls, versions: HttpVersions) -> Self {
        ClientConnector(Arc::new(ConnectorState { settings, versions, loaded: OnceLock::new() }))
    }

    /// Reads the files, unless that was done.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a file cannot be used, a certificate without its key or the reverse, a certificate that every server would
    /// refuse, the system has no CAs.
    pub fn load(&self) -> Result<()> {
        self.loaded().map(drop)
    }

    fn loaded(&self) -> Result<LoadedClientTls> {
        if let Some(loaded) = self.0.loaded.get() {
            return Ok(loaded.clone());
        }
        let loaded = load(&self.0.settings, self.0.versions)?;
        Ok(self.0.loaded.get_or_init(|| loaded).clone())
    }

    /// What to say if a server ends a connection before it sends anything. In TLS 1.3 it refuses a client's certificate after the
    /// client's part of the handshake, and its reason may not arrive.
    pub(crate) fn refusal_hint(&self) -> Option<Arc<str>> {
        self.0.loaded.get().and_then(|loaded| loaded.refusal_hint.clone())
    }

    /// The handshake with the server at `addr`, HOST:PORT.
    ///
    /// # Errors
    /// Those of [`ClientConnector::load`]; the server's certificate is not trusted or not for this name, or the server refuses
    /// that of the client; in words.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        addr: &str,
    ) -> io::Result<client::TlsStream<S>> {
        let invalid = |e: Error| io::Error::new(io::ErrorKind::InvalidInput, e);
        let loaded = self.loaded().map_err(invalid)?;
        let name = match loaded.server_name {
            Some(name) => name,
            None => split_host_port(addr).and_then(|(host, _)| server_name(host)).map_err(invalid)?,
        };
        TlsConnector::from(loaded.config).connect(name, stream).await.map_err(explained_connect)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_string()).map_err(|_| {
        Error::invalid(format!("{name:?} cannot be the name of a server: give a DNS name or an IP address"))
    })
}

fn load(settings: &ClientTls, versions: HttpVersions) -> Result<LoadedClientTls> {
    let roots = match &settings.ca {
        Some(ca) => trust_anchors(&TlsFile::new("tls_ca", ca))?,
        None => system_roots()?,
    };
    let unusable = |e: rustls::Error| Error::internal(format!("TLS: {e}"));
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS).map_err(unusable)?;
    let builder = builder.with_root_certificates(roots.clone());
    let mut refusal_hint = None;
    let mut config = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => {
            let cert = TlsFile::new("tls_cert", cert);
            let own = certified_key(&cert, &TlsFile::new("tls_key", key))?;
            check_acceptable(&cert, &own)?;
            refusal_hint = Some(refusal_text(settings, &cert, &roots, &own).into());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) => return Err(Error::invalid("--tls-cert has no key: add --tls-key FILE")),
        (None, Some(_)) => return Err(Error::invalid("--tls-key has no certificate: add --tls-cert FILE")),
    };
    config.alpn_protocols = match versions {
        HttpVersions::Http2 => vec![ALPN_HTTP2.to_vec()],
        HttpVersions::Any => vec![ALPN_HTTP1.to_vec()],
    };
    let server_name = settings.server_name.as_deref().map(server_name).transpose();
    let server_name = server_name.map_err(|e| e.at("--tls-server-name"))?;
    Ok(LoadedClientTls { config: Arc::new(config), server_name, refusal_hint })
}

/// Refuses a certificate that every server would: some of them end the connection without a reason that arrives.
fn check_acceptable(cert: &TlsFile, own: &CertifiedKey) -> Result<()> {
    if let Some(problem) = CertificateValidity::of(cert, own).and_then(|validity| validity.problem()) {
        return Err(problem.into());
    }
    match own.cert.first() {
        Some(certificate) if is_not_for_clients(certificate) => Err(Error::invalid(format!(
            "{cert}: the certificate is not for clients, because its extended key usage lacks clientAuth: give one of `volley certs issue DIR --user NAME`, or one with that usage"
        ))),
        _ => Ok(()),
    }
}

fn refusal_text(settings: &ClientTls, cert: &TlsFile, roots: &Arc<RootCertStore>, own: &CertifiedKey) -> String {
    let unknown = match &settings.ca {
        Some(ca) if !is_signed_by(roots, own) => {
            format!(" (it is not signed by a CA of --tls-ca {}, which is often the same)", ca.display())
        }
        _ => String::new(),
    };
    format!(
        "it ended right after the TLS handshake; the server may refuse the certificate of {cert}, which must be signed by a CA of its --tls-client-ca{unknown}: its log says why"
    )
}

fn is_signed_by(roots: &Arc<RootCertStore>, own: &CertifiedKey) -> bool {
    let [certificate, intermediates @ ..] = &own.cert[..] else { return false };
    let Ok(verifier) = IdentifiedClients::new(roots.clone(), false, |_| Ok(())) else { return false };
    let verified = verifier.verify(certificate, intermediates, UnixTime::now());
    !matches!(verified, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// The TLS of a client of another service, for HTTP/1.1. It trusts the CAs of the system; without `trusts_system` nobody, for a
/// client that uses no TLS and whose library demands a configuration.
///
/// # Errors
/// INVALID_ARGUMENT: the system has no CAs.
pub fn https_config(trusts_system: bool) -> Result<ClientConfig> {
    let no_roots = |_| {
        Error::invalid(
            "this system has no CA certificates: install them (Debian: ca-certificates), or name a file of them by the environment variable SSL_CERT_FILE",
        )
    };
    let roots = if trusts_system { system_roots().map_err(no_roots)? } else { Arc::new(RootCertStore::empty()) };
    https_config_with(roots)
}

/// The same, which trusts the CAs of the file `ca` of a setting.
///
/// # Errors
/// INVALID_ARGUMENT: the file cannot be used.
pub fn https_config_of(setting: &'static str, ca: &Path) -> Result<ClientConfig> {
    https_config_with(trust_anchors(&TlsFile::new(setting, ca))?)
}

fn https_config_with(roots: Arc<RootCertStore>) -> Result<ClientConfig> {
    let unusable = |e: rustls::Error| Error::internal(format!("TLS: {e}"));
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS).map_err(unusable)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(config)
}

/// The CAs of the system. Certificates that cannot be read are left out.
fn system_roots() -> Result<Arc<RootCertStore>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::invalid("this system has no CA certificates: name the CA of the cluster by --tls-ca FILE"));
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::ExtendedKeyUsagePurpose;

    use super::super::testing::{TestCa, TestCertificate};
    use super::*;

    fn settings(dir: &std::path::Path, ca: &TestCa, own: &TestCertificate) -> ClientTls {
        let (cert, key) = own.write(dir, "own");
        ClientTls { ca: Some(ca.write(dir, "trusted")), cert: Some(cert), key: Some(key), server_name: None }
    }

    #[test]
    fn certificate_that_every_server_refuses_is_not_used() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
        let load = |own: &TestCertificate| {
            ClientConnector::new(settings(dir.path(), &ca, own), HttpVersions::Http2).load().map_err(|e| e.message)
        };
        assert_eq!(load(&ca.issue_named("ann", &[])), Ok(()));
        assert_eq!(load(&ca.issue_member_for("node/a", ExtendedKeyUsagePurpose::ClientAuth)), Ok(()));
        let text = load(&ca.issue_expired(&["ann"])).unwrap_err();
        assert!(text.starts_with("--tls-cert") && text.contains("has expired"), "{text}");
        let text = load(&ca.issue_member_for("node/a", ExtendedKeyUsagePurpose::ServerAuth)).unwrap_err();
        assert!(text.starts_with("--tls-cert") && text.contains("lacks clientAuth"), "{text}");
    }

    #[test]
    fn hint_says_whether_the_trusted_ca_signed_the_certificate() {
        let (dir, ca, other) = (tempfile::tempdir().unwrap(), TestCa::new("ca"), TestCa::new("other"));
        let hint = |own: &TestCertificate| {
            let client = ClientConnector::new(settings(dir.path(), &ca, own), HttpVersions::Http2);
            client.load().unwrap();
            client.refusal_hint().unwrap()
        };
        let (own, foreign) = (hint(&ca.issue_named("ann", &[])), hint(&other.issue_named("ann", &[])));
        assert!(own.contains("--tls-client-ca: its log says why"), "{own}");
        assert!(foreign.contains("not signed by a CA of --tls-ca"), "{foreign}");
        let without = ClientTls { ca: Some(ca.write(dir.path(), "trusted")), ..ClientTls::default() };
        let without = ClientConnector::new(without, HttpVersions::Http2);
        without.load().unwrap();
        assert_eq!(without.refusal_hint(), None);
    }

    #[test]
    fn files_that_could_not_be_read_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let settings = ClientTls { ca: Some(dir.path().join("ca.crt")), ..ClientTls::default() };
        let client = ClientConnector::new(settings, HttpVersions::Http2);
        assert!(client.load().unwrap_err().message.contains("cannot be read"));
        TestCa::new("ca").write(dir.path(), "ca");
        assert_eq!(client.load(), Ok(()));
    }
}
