//! The TLS between members: each side proves by its certificate which member it is.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client};

use super::certificate_verifier::{DialledMember, IdentifiedClients};
use super::failure::{describe, explained_connect};
use super::identity::{MemberIdentity, MemberRole};
use super::pem::{CertificateValidity, FileError, TlsFile, certified_key, trust_anchors};
use super::provider::{ALPN_HTTP2, VERSIONS, provider};
use super::reload::{FileValue, Reloaded};
use crate::{Error, Result};

/// The server name by which a member asks a Flight listener for the TLS of members. No client has it.
pub const MEMBER_SNI: &str = "member.volley.internal";

/// What a member accepts of other members, and how it dials them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PeerTlsMode {
    /// Accepts TLS and plaintext, dials plaintext: the first step of a rolling change to TLS.
    Accept,
    /// Accepts TLS and plaintext, dials TLS: the second step.
    Prefer,
    /// Accepts and dials only TLS.
    Require,
}

/// The files of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFiles {
    /// The CAs of all members.
    pub ca: PathBuf,
    /// This member's certificate, then its intermediate CAs.
    pub cert: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
}

/// The TLS of a member towards other members.
pub struct PeerTls {
    mode: PeerTlsMode,
    keys: Reloaded<PeerKeys>,
}

/// What is read from the files.
pub(super) struct PeerKeys {
    pub(super) server: Arc<ServerConfig>,
    to_any: Arc<ClientConfig>,
    to_coordinators: Arc<ClientConfig>,
    to_nodes: Arc<ClientConfig>,
    validity: Option<CertificateValidity>,
}

impl FileValue for PeerKeys {
    fn validity(&self) -> Option<&CertificateValidity> {
        self.validity.as_ref()
    }
}

impl PeerTls {
    /// Reads the files, and again whenever they change. `check_identity` says whether the certificate is this member's. The
    /// first identity is that of the process: a later certificate that names another one is a bad file, as the catalog and the
    /// other members know this process by its first one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a file cannot be used; the certificate names no member, or another one; it is not signed by a CA of
    /// `ca`, so that no other member would accept it.
    pub fn load(
        mode: PeerTlsMode,
        files: &PeerFiles,
        check_identity: impl Fn(&MemberIdentity) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let ca = TlsFile::new("peer_ca", &files.ca);
        let cert = TlsFile::new("peer_cert", &files.cert);
        let key = TlsFile::new("peer_key", &files.key);
        let watched = vec![ca.clone(), cert.clone(), key.clone()];
        let first = OnceLock::new();
        let is_own = move |found: &MemberIdentity| {
            check_identity(found)?;
            check_unchanged(first.get_or_init(|| found.clone()), found)
        };
        let keys = Reloaded::new(watched, move || load_keys(&ca, &cert, &key, &is_own))?;
        Ok(PeerTls { mode, keys })
    }

    /// What it accepts, and how it dials.
    pub fn mode(&self) -> PeerTlsMode {
        self.mode
    }

    /// Whether other members are dialled by TLS.
    pub fn dials_tls(&self) -> bool {
        self.mode != PeerTlsMode::Accept
    }

    /// Loads changed files. Blocks.
    pub fn poll(&self) {
        self.keys.poll();
    }

    /// Why changed files cannot be used.
    pub fn failure(&self) -> Option<String> {
        self.keys.failure()
    }

    /// How long the certificate in use is valid.
    pub fn validity(&self) -> Option<CertificateValidity> {
        self.keys.current().validity.clone()
    }

    /// The keys, as [`Reloaded`] has them.
    pub(super) fn keys(&self) -> &Reloaded<PeerKeys> {
        &self.keys
    }

    /// The handshake with a member that this process dialled. `expected`: the role that its certificate must name.
    ///
    /// # Errors
    /// The other side's certificate is not such a member's, or it refuses that of this process; both in words.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        expected: Option<MemberRole>,
    ) -> io::Result<client::TlsStream<S>> {
        let name = ServerName::try_from(MEMBER_SNI).map_err(io::Error::other)?;
        let keys = self.keys.current();
        let config = match expected {
            None => &keys.to_any,
            Some(MemberRole::Coordinator) => &keys.to_coordinators,
            Some(MemberRole::Node) => &keys.to_nodes,
        };
        TlsConnector::from(config.clone()).connect(name, stream).await.map_err(explained_connect)
    }
}

fn load_keys(
    ca: &TlsFile,
    cert: &TlsFile,
    key: &TlsFile,
    check_identity: &dyn Fn(&MemberIdentity) -> Result<()>,
) -> Result<PeerKeys, FileError> {
    let bad = |message: String| FileError { setting: cert.setting, message: format!("{cert}: {message}") };
    let (roots, certified) = (trust_anchors(ca)?, certified_key(cert, key)?);
    let identity = MemberIdentity::of_certificate(&certified.cert[0]).map_err(|e| bad(e.message))?;
    check_identity(&identity).map_err(|e| bad(e.message))?;
    check_accepted(&roots, &certified).map_err(|e| bad(refusal_by_members(&e, ca)))?;
    let unusable = |e: String| FileError { setting: ca.setting, message: format!("{ca}: {e}") };
    let dialling = |expected| client_config(&roots, expected, &certified).map_err(|e| bad(e.to_string()));
    Ok(PeerKeys {
        server: server_config(&roots, &certified).map_err(unusable)?,
        to_any: dialling(None)?,
        to_coordinators: dialling(Some(MemberRole::Coordinator))?,
        to_nodes: dialling(Some(MemberRole::Node))?,
        validity: CertificateValidity::of(cert, &certified),
    })
}

/// Whether other members accept a certificate, as that of the member that they dial and as that of the member that dials them.
fn check_accepted(roots: &Arc<RootCertStore>, own: &CertifiedKey) -> Result<(), rustls::Error> {
    let [certificate, intermediates @ ..] = &own.cert[..] else { return Err(rustls::Error::NoCertificatesPresented) };
    let now = UnixTime::now();
    let dialled = DialledMember::new(roots.clone(), None).verify(certificate, intermediates, now);
    let dialling = member_verifier(roots).map_err(rustls::Error::General)?;
    let dialling = dialling.verify(certificate, intermediates, now).map(drop);
    [dialled, dialling].into_iter().try_for_each(|verified| match verified {
        // A warning is logged.
        Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Ok(()),
        verified => verified,
    })
}

fn refusal_by_members(error: &rustls::Error, ca: &TlsFile) -> String {
    use CertificateError::{InvalidPurpose, InvalidPurposeContext, UnknownIssuer};
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => format!(
            "the certificate is not signed by a CA of {ca}, so no other member would accept it: issue it by such a CA, or add its CA to that file"
        ),
        rustls::Error::InvalidCertificate(InvalidPurpose | InvalidPurposeContext { .. }) => {
            "the certificate lacks an extended key usage, so no other member would accept it: issue it with both serverAuth and clientAuth".into()
        }
        other => format!("no other member would accept the certificate, because {}: issue another one", describe(other)),
    }
}

/// Verifies the certificates of members that dial this one.
fn member_verifier(roots: &Arc<RootCertStore>) -> Result<Arc<IdentifiedClients>, String> {
    let is_member = |certificate: &CertificateDer<'_>| MemberIdentity::of_certificate(certificate).map(drop);
    IdentifiedClients::new(roots.clone(), false, is_member)
}

fn server_config(roots: &Arc<RootCertStore>, own: &Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, String> {
    let verifier = member_verifier(roots)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
    let builder = builder.map_err(|e| e.to_string())?.with_client_cert_verifier(verifier);
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    // Connections between members are few and long. Each handshake verifies the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    roots: &Arc<RootCertStore>,
    expected: Option<MemberRole>,
    own: &Arc<CertifiedKey>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = Arc::new(DialledMember::new(roots.clone(), expected));
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whether a certificate names this member.
///
/// # Errors
/// INVALID_ARGUMENT: it names a member of the other role, or another id.
pub fn check_own_identity(found: &MemberIdentity, role: MemberRole, id: Option<u64>) -> Result<()> {
    let is_own = found.role == role && id.is_none_or(|id| found.coordinator_id() == Some(id));
    if is_own {
        return Ok(());
    }
    let wanted = match id {
        Some(id) => format!("volley://{role}/{id}"),
        None => format!("volley://{role}/NAME"),
    };
    Err(Error::invalid(format!(
        "the certificate names {found}, and this member is {wanted}: give it its own certificate"
    )))
}

/// Whether a changed certificate names the member that this process began as.
fn check_unchanged(first: &MemberIdentity, found: &MemberIdentity) -> Result<()> {
    if first == found {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the certificate names {found}, and this process began as {first}: give it a certificate of that name, or restart it to change its name"
    )))
}
