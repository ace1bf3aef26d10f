//! The one place that dials: plaintext, TLS between members, or the TLS of a client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::member_channel::MemberChannel;
use super::received::{LastReceived, ObservedStream};
use crate::Result;
use crate::http2::settings::ClientSettings;
use crate::tls::client::ClientConnector;
use crate::tls::{MaybeTls, MemberIdentity, MemberRole, PeerTls};

/// A connection as tonic uses it.
type DialledStream = TokioIo<ObservedStream<MaybeTls<TcpStream>>>;

/// Whom the certificate of a dialled member must name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpectedMember {
    /// Any member.
    #[default]
    Any,
    /// A member of this role.
    Role(MemberRole),
    /// The coordinator with this id.
    Coordinator(u64),
}

impl ExpectedMember {
    fn role(self) -> Option<MemberRole> {
        match self {
            ExpectedMember::Any => None,
            ExpectedMember::Role(role) => Some(role),
            ExpectedMember::Coordinator(_) => Some(MemberRole::Coordinator),
        }
    }

    /// Checks a member whose role is as expected.
    ///
    /// # Errors
    /// It is another coordinator.
    fn check(self, found: &MemberIdentity) -> io::Result<()> {
        match self {
            ExpectedMember::Coordinator(id) if found.coordinator_id() != Some(id) => Err(io::Error::other(format!(
                "its certificate names {found}, and coordinator {id} is expected at this address"
            ))),
            _ => Ok(()),
        }
    }
}

/// How servers are dialled. Cheap to clone.
#[derive(Clone, Default)]
pub enum Connector {
    /// Without TLS.
    #[default]
    Plaintext,
    /// As a member, at any port of another member, which must be this one.
    Member(Arc<PeerTls>, ExpectedMember),
    /// As a client, at a listener with TLS.
    Client(ClientConnector),
}

impl Connector {
    /// Dials members as `peers` says; without TLS if there is none, or if its mode is to dial plaintext.
    pub fn to_members(peers: Option<&Arc<PeerTls>>) -> Self {
        match peers {
            Some(peers) if peers.dials_tls() => Connector::Member(peers.clone(), ExpectedMember::Any),
            _ => Connector::Plaintext,
        }
    }

    /// The same, for members of one role: a certificate of the other role is refused.
    #[must_use]
    pub fn expecting(self, role: MemberRole) -> Self {
        self.expecting_member(ExpectedMember::Role(role))
    }

    /// The same, for the coordinator with this id: every other certificate is refused.
    #[must_use]
    pub fn expecting_coordinator(self, id: u64) -> Self {
        self.expecting_member(ExpectedMember::Coordinator(id))
    }

    fn expecting_member(self, expected: ExpectedMember) -> Self {
        match self {
            Connector::Member(peers, _) => Connector::Member(peers, expected),
            other => other,
        }
    }

    /// Whether it dials by TLS.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Connector::Plaintext)
    }

    /// The scheme of requests.
    pub fn scheme(&self) -> &'static str {
        if self.is_tls() { "https" } else { "http" }
    }

    /// A channel to `addr`, HOST:PORT; it connects when it is first used.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not an address.
    pub fn channel(&self, settings: &ClientSettings, addr: &str) -> Result<MemberChannel> {
        self.observed_channel(settings, addr, Arc::default())
    }

    /// The same; `received` says when something came from the member.
    pub(super) fn observed_channel(
        &self,
        settings: &ClientSettings,
        addr: &str,
        received: Arc<LastReceived>,
    ) -> Result<MemberChannel> {
        let endpoint = settings.endpoint(self.scheme(), addr)?;
        let channel = endpoint.connect_with_connector_lazy(self.service(addr, settings.connect_timeout, received));
        Ok(MemberChannel::new(channel))
    }

    /// A channel that is connected to `addr`, HOST:PORT; `received` says when something came from the member.
    ///
    /// # Errors
    /// Why there is no connection. INVALID_ARGUMENT, as the outer error: `addr` is not an address.
    pub(super) async fn connected_channel(
        &self,
        settings: &ClientSettings,
        addr: &str,
        received: Arc<LastReceived>,
    ) -> Result<Result<MemberChannel, tonic::transport::Error>> {
        let endpoint = settings.endpoint(self.scheme(), addr)?;
        let connected = endpoint.connect_with_connector(self.service(addr, settings.connect_timeout, received)).await;
        Ok(connected.map(MemberChannel::new))
    }

    /// A connection to `addr`, HOST:PORT, within `limit`, the handshake included.
    ///
    /// # Errors
    /// The system's; TIMED_OUT; why the handshake failed, in words.
    pub async fn connect(&self, addr: &str, limit: Duration) -> io::Result<MaybeTls<TcpStream>> {
        match tokio::time::timeout(limit, self.open(addr, limit)).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))),
        }
    }

    /// `limit` is for the TCP part, and divided among the addresses of the host.
    async fn open(&self, addr: &str, limit: Duration) -> io::Result<MaybeTls<TcpStream>> {
        let stream = connect_tcp(addr, limit).await?;
        Ok(match self {
            Connector::Plaintext => MaybeTls::Plain(stream),
            Connector::Member(peers, expected) => {
                // The handshake verifies the certificate; nothing is sent before its name is compared.
                let stream = peers.connect(stream, expected.role()).await?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let certificate = certificate.ok_or_else(|| io::Error::other("it presented no certificate"))?;
                expected
                    .check(&MemberIdentity::of_certificate(certificate).map_err(|e| io::Error::other(e.message))?)?;
                MaybeTls::tls(stream)
            }
            Connector::Client(client) => {
                let stream = client.connect(stream, addr).await?;
                MaybeTls::tls(stream).with_end_hint(client.refusal_hint())
            }
        })
    }

    /// What tonic calls to connect. The endpoint's own timeout limits it.
    fn service(
        &self,
        addr: &str,
        limit: Duration,
        received: Arc<LastReceived>,
    ) -> impl tower::Service<
        Uri,
        Response = DialledStream,
        Error = io::Error,
        Future = BoxFuture<'static, io::Result<DialledStream>>,
    > + Send
    + 'static {
        let (connector, addr) = (self.clone(), addr.to_string());
        tower::service_fn(move |_: Uri| {
            let (connector, addr, received) = (connector.clone(), addr.clone(), received.clone());
            async move {
                let opened = connector.open(&addr, limit).await;
                opened.map(|stream| TokioIo::new(ObservedStream::new(stream, received)))
            }
            .boxed()
        })
    }
}

/// Connects as tonic does without TLS: if a host has addresses of IPv4 and IPv6, the other family is tried beside one that
/// does not answer soon.
///
/// # Errors
/// The system's, of the last address. `InvalidInput`: `addr` is not HOST:PORT.
async fn connect_tcp(addr: &str, limit: Duration) -> io::Result<TcpStream> {
    let uri: Option<Uri> = format!("http://{addr}").parse().ok();
    let Some(uri) = uri.filter(|uri| uri.port().is_some()) else {
        let text = format!("{addr:?} is not HOST:PORT: give a host and a port");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    connector.oneshot(uri).await.map(TokioIo::into_inner).map_err(|e| system_error(&e))
}

/// The system's error among the causes of an error, which says whether the machine or the port is the problem.
fn system_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut cause = Some(error);
    while let Some(found) = cause {
        if let Some(io) = found.downcast_ref::<io::Error>() {
            return match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            };
        }
        cause = found.source();
    }
    io::Error::other(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_connection_keeps_the_errors_of_the_system() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let limit = Duration::from_secs(10);
        assert!(connect_tcp(&addr, limit).await.unwrap().nodelay().unwrap());
        drop(listener);
        let kind = async |addr: &str| connect_tcp(addr, limit).await.unwrap_err().kind();
        assert_eq!(kind(&addr).await, io::ErrorKind::ConnectionRefused);
        for invalid in ["127.0.0.1", "", "a b:1"] {
            assert_eq!(kind(invalid).await, io::ErrorKind::InvalidInput, "{invalid}");
        }
    }

    #[test]
    fn other_coordinator_than_the_expected_one_is_refused() {
        let other: MemberIdentity = "volley://coordinator/2".parse().unwrap();
        let text = ExpectedMember::Coordinator(1).check(&other).unwrap_err().to_string();
        assert!(text.contains("volley://coordinator/2") && text.contains("coordinator 1 is expected"), "{text}");
        for expected in
            [ExpectedMember::Any, ExpectedMember::Role(MemberRole::Coordinator), ExpectedMember::Coordinator(2)]
        {
            expected.check(&other).unwrap();
        }
        assert_eq!(ExpectedMember::Coordinator(1).role(), Some(MemberRole::Coordinator));
    }
}
