//! The TLS of one listener: its own certificate for clients, and the TLS of members beside it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, server};

use super::certificate_verifier::IdentifiedClients;
use super::failure::explained_accept;
use super::identity::{Caller, ClientIdentity, MemberIdentity};
use super::peers::{MEMBER_SNI, PeerTls, PeerTlsMode};
use super::pem::{CertificateValidity, FileError, TlsFile, certified_key, trust_anchors};
use super::provider::{ALPN_HTTP1, ALPN_HTTP2, VERSIONS, provider};
use super::reload::{FileValue, Reloaded};
use crate::Result;

/// The fatal alert `unrecognized_name`, as a record of TLS 1.2.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// A client without a certificate is accepted as anonymous; one with a bad certificate is refused.
    #[default]
    Optional,
    /// Every client needs a certificate.
    Required,
}

/// The files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFiles {
    /// The certificate, then its intermediate CAs.
    pub cert: TlsFile,
    /// The key of the certificate.
    pub key: TlsFile,
    /// The CAs of clients' certificates.
    pub client_ca: Option<TlsFile>,
}

/// The TLS of one listener.
pub struct ListenerTls {
    own: Option<Reloaded<OwnKeys>>,
    members: Option<Arc<PeerTls>>,
    /// Every TLS connection is a member's, whatever the server name.
    is_peer_port: bool,
    accepts_plaintext: bool,
}

/// What is read from the files of a listener.
struct OwnKeys {
    config: Arc<ServerConfig>,
    validity: Option<CertificateValidity>,
}

impl FileValue for OwnKeys {
    fn validity(&self) -> Option<&CertificateValidity> {
        self.validity.as_ref()
    }
}

/// Who may connect by HTTP/1 besides HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersions {
    /// Only HTTP/2, as gRPC.
    Http2,
    /// Both.
    Any,
}

impl ListenerTls {
    /// A listener for clients. With `files` every client needs TLS; with `members` members may use theirs.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a file cannot be used.
    pub fn for_clients(
        files: Option<ListenerFiles>,
        auth: ClientAuth,
        versions: HttpVersions,
        members: Option<Arc<PeerTls>>,
    ) -> Result<Self> {
        let own = match files {
            Some(files) => {
                let watched = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
                let watched = watched.into_iter().flatten().cloned().collect();
                Some(Reloaded::new(watched, move || own_keys(&files, auth, versions))?)
            }
            None => None,
        };
        Ok(ListenerTls { accepts_plaintext: own.is_none(), own, members, is_peer_port: false })
    }

    /// The listener for members.
    pub fn for_members(members: Option<Arc<PeerTls>>) -> Self {
        let accepts_plaintext = members.as_ref().is_none_or(|members| members.mode() != PeerTlsMode::Require);
        ListenerTls { own: None, members, is_peer_port: true, accepts_plaintext }
    }

    /// A listener without TLS.
    pub fn none() -> Self {
        ListenerTls { own: None, members: None, is_peer_port: false, accepts_plaintext: true }
    }

    /// Whether a connection without TLS is accepted.
    pub fn accepts_plaintext(&self) -> bool {
        self.accepts_plaintext
    }

    /// Whether any connection may have TLS.
    pub fn has_tls(&self) -> bool {
        self.own.is_some() || self.members.is_some()
    }

    /// Loads changed files of the listener's own. Blocks.
    pub fn poll(&self) {
        self.own.iter().for_each(Reloaded::poll);
    }

    /// Why changed files of the listener's own cannot be used.
    pub fn failure(&self) -> Option<String> {
        self.own.as_ref().and_then(Reloaded::failure)
    }

    /// How long the listener's own certificate in use is valid.
    pub fn validity(&self) -> Option<CertificateValidity> {
        self.own.as_ref().and_then(|own| own.current().validity.clone())
    }

    /// The TLS handshake of a connection that `stream` yields from its first byte; and who is at its other end. It must be
    /// complete within `limit`.
    ///
    /// # Errors
    /// Why the connection is refused, in words; TIMED_OUT after `limit`.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        limit: Duration,
    ) -> io::Result<(server::TlsStream<S>, Caller)> {
        match tokio::time::timeout(limit, self.handshake(stream)).await {
            Ok(accepted) => accepted.map_err(explained_accept),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no complete TLS handshake in time")),
        }
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(server::TlsStream<S>, Caller)> {
        let mut started = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        match self.config_for(&started.client_hello()) {
            Some((config, true)) => {
                let stream = started.into_stream(config).await?;
                let member = member_of(&stream)?;
                Ok((stream, member))
            }
            Some((config, false)) => {
                let stream = started.into_stream(config).await?;
                let client = client_of(&stream)?;
                Ok((stream, client))
            }
            None => {
                started.io.write_all(&UNRECOGNIZED_NAME).await?;
                Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "TLS of a client on a port that has TLS for members only: clients connect by grpc+tcp://, or give the listener --tls-cert",
                ))
            }
        }
    }

    /// The configuration for a connection, and whether it is that of members; `None` if it has none.
    fn config_for(&self, hello: &ClientHello<'_>) -> Option<(Arc<ServerConfig>, bool)> {
        let wants_member = self.is_peer_port || hello.server_name() == Some(MEMBER_SNI);
        match (&self.members, &self.own) {
            (Some(members), _) if wants_member => Some((members.keys().current().server.clone(), true)),
            (_, Some(own)) => Some((own.current().config.clone(), false)),
            (_, None) => None,
        }
    }
}

fn own_keys(files: &ListenerFiles, auth: ClientAuth, versions: HttpVersions) -> Result<OwnKeys, FileError> {
    let bad = |file: &TlsFile, why: String| FileError { setting: file.setting, message: format!("{file}: {why}") };
    let own = certified_key(&files.cert, &files.key)?;
    let validity = CertificateValidity::of(&files.cert, &own);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|e| bad(&files.cert, e.to_string()))?;
    let builder = match &files.client_ca {
        Some(ca) => {
            let names_client = |certificate: &CertificateDer<'_>| ClientIdentity::of_certificate(certificate).map(drop);
            let verifier = IdentifiedClients::new(trust_anchors(ca)?, auth == ClientAuth::Optional, names_client);
            builder.with_client_cert_verifier(verifier.map_err(|e| bad(ca, e))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = match versions {
        HttpVersions::Http2 => vec![ALPN_HTTP2.to_vec()],
        HttpVersions::Any => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
    };
    if files.client_ca.is_some() {
        // A resumed session would not verify the certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(OwnKeys { config: Arc::new(config), validity })
}

fn member_of<S>(stream: &server::TlsStream<S>) -> io::Result<Caller> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("it presented no certificate"))?;
    let member = MemberIdentity::of_certificate(certificate).map_err(io::Error::other)?;
    Ok(Caller::Member(Arc::new(member)))
}

fn client_of<S>(stream: &server::TlsStream<S>) -> io::Result<Caller> {
    match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
        Some(certificate) => {
            let client = ClientIdentity::of_certificate(certificate).map_err(io::Error::other)?;
            Ok(Caller::Client(Arc::new(client)))
        }
        None => Ok(Caller::Anonymous),
    }
}
