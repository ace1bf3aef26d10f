//! Identifies the callers of the Flight listeners, answers their handshakes, and records the calls that are refused.

#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use volley_common::grpc::{DO_ACTION, DO_GET, FLIGHT_SERVICE, HANDSHAKE, known_method};
use volley_common::identity::{
    Access, Authenticator, Credentials, Identified, Secret, certificate_needs_no_token, is_public,
};
use volley_common::server::audit::{AuditEvent, AuditKind, AuditLog, UnidentifiedCall, request_id};
use volley_common::server::http::identity::HttpLogin;
use volley_common::server::serve::PeerAddress;
use volley_common::tls::Caller;
use volley_common::{Code, Error, Result, clock};

use crate::assertion::is_own_work;
use crate::cluster_view::ClusterView;
use crate::login::LoginClient;

/// The paths of gRPC reflection, which checks identity itself if the settings ask for it.
const REFLECTION: &str = "/grpc.reflection.";
/// For the headers of a handshake: the credentials of a call of a public method, such as Handshake, are not looked at.
const HANDSHAKE_CREDENTIALS: &str = "the credentials of a handshake";
/// How long a login waits until this node knows what the coordinator that signed its token knows.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(1);
/// Identifies the callers of a node.
pub struct CallerIdentifier {
    authenticator: Authenticator,
    logins: LoginClient,
    cluster: Arc<ClusterView>,
    audit: AuditLog,
}

/// How a handshake is answered, by its headers.
pub enum HandshakeAnswer {
    /// With this token.
    Token(Secret),
    /// By the credentials of its first message: the headers have none. The access is what its certificate proves.
    ByMessage(Access),
}

impl CallerIdentifier {
    /// `cluster` has the users that `authenticator` knows, and the ticket key.
    pub fn new(authenticator: Authenticator, logins: LoginClient, cluster: Arc<ClusterView>, audit: AuditLog) -> Self {
        CallerIdentifier { authenticator, logins, cluster, audit }
    }

    /// Identifies who makes a call, and puts the [`Access`] into its extensions. Whether it suffices for the table, the action
    /// or the ticket is checked later.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the credentials are invalid, or there are none and the call needs an identity. Those of
    /// [`Authenticator::identify`] and [`LoginClient::session_token`].
    pub async fn identify(&self, head: &mut Parts) -> Result<()> {
        let (path, mut claimed) = (head.uri.path(), None);
        let access = self.access_of(head, &mut claimed).await;
        let access = access.inspect_err(|error| {
            self.record_unidentified(path, &head.headers, &head.extensions, claimed.as_deref(), error);
        })?;
        if needs_identity(path) {
            access.require_identity().inspect_err(|error| self.record_refused(path, &head.headers, &access, error))?;
        }
        head.extensions.insert(access);
        Ok(())
    }

    /// `claimed` becomes the user that the caller claims to be.
    async fn access_of(&self, head: &Parts, claimed: &mut Option<String>) -> Result<Access> {
        let (path, peer, caller) = (head.uri.path(), PeerAddress::of(&head.extensions), Caller::of(&head.extensions));
        if path == DO_GET
            && let Some(key) = self.cluster.ticket_key.load_full()
            && is_own_work(&head.headers, caller, &key, path, clock::now_ms())?
        {
            return Ok(Access::open());
        }
        // Readers of a part ask another holder at once.
        if path != DO_GET {
            self.authenticator.wait_for_directory(path).await;
        }
        match self.authenticator.identify(&head.headers, caller, peer, path)? {
            Identified::Access(access) => Ok(access),
            Identified::Login { user, password } => {
                *claimed = Some(user.clone());
                self.access_of_password(&user, &password, peer).await
            }
        }
    }

    /// The access of a user who sends its password with a call.
    ///
    /// # Errors
    /// Those of [`LoginClient::session_token`]. UNAVAILABLE: this node does not know yet what the coordinators know.
    async fn access_of_password(&self, user: &str, password: &Secret, peer: Option<SocketAddr>) -> Result<Access> {
        Ok(self.known_login(user, password, peer).await?.1)
    }

    /// The session token of a login and its access, as soon as this node accepts the token.
    async fn known_login(&self, user: &str, password: &Secret, peer: Option<SocketAddr>) -> Result<(Secret, Access)> {
        let mut directories = self.cluster.directory.subscribe();
        let token = self.log_in(user, password, peer).await?;
        let known = async {
            loop {
                match self.authenticator.access_of_token(&token, peer) {
                    Err(error) if error.code == Code::Unauthenticated => {}
                    access => return access,
                }
                if directories.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let access = match tokio::time::timeout(DIRECTORY_TIMEOUT, known).await {
            Ok(access) => access?,
            Err(_) => self.authenticator.access_of_token(&token, peer).map_err(|error| {
                Error::unavailable(format!(
                    "this node does not know yet what its coordinators know ({error}): try again"
                ))
            })?,
        };
        Ok((token, access))
    }

    async fn log_in(&self, user: &str, password: &Secret, peer: Option<SocketAddr>) -> Result<Secret> {
        let address = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
        let is_valid = |token: &Secret| self.authenticator.access_of_token(token, peer).is_ok();
        self.logins.session_token(user, password, &address, is_valid).await
    }

    /// The answer to a handshake with these headers: a session token for a password; a token that the client presents, again, if
    /// it is valid, because only coordinators sign tokens. In an open cluster a random token, which is never checked.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the credentials are invalid. Those of [`Authenticator::identify`] and
    /// [`LoginClient::session_token`].
    pub async fn answer_to_headers(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<HandshakeAnswer> {
        let mut claimed = None;
        let answer = self.answer_of(headers, extensions, &mut claimed).await;
        answer.inspect_err(|error| {
            self.record_unidentified(HANDSHAKE, headers, extensions, claimed.as_deref(), error);
        })
    }

    async fn answer_of(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        claimed: &mut Option<String>,
    ) -> Result<HandshakeAnswer> {
        let (peer, caller) = (PeerAddress::of(extensions), Caller::of(extensions));
        match self.authenticator.identify(headers, caller, peer, HANDSHAKE_CREDENTIALS)? {
            Identified::Access(access) if access.is_open() => {
                Ok(HandshakeAnswer::Token(Secret::new(format!("{:032x}", rand::random::<u128>()))))
            }
            Identified::Access(access) => Ok(match Credentials::of_headers(headers)? {
                Credentials::Bearer(token) => HandshakeAnswer::Token(token),
                Credentials::Basic { .. } | Credentials::None => HandshakeAnswer::ByMessage(access),
            }),
            Identified::Login { user, password } => {
                *claimed = Some(user.clone());
                let (token, _) = self.known_login(&user, &password, peer).await?;
                Ok(HandshakeAnswer::Token(token))
            }
        }
    }

    /// The answer to a handshake whose headers have no credentials: the session token for those of its first message.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the credentials are invalid, or there are none. FAILED_PRECONDITION: the client has only a certificate, and
    /// needs no token. Those of [`LoginClient::session_token`].
    pub async fn answer_to_message(
        &self,
        access: &Access,
        payload: &[u8],
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Secret> {
        let mut claimed = None;
        let token = match Credentials::of_handshake_payload(payload) {
            Ok(Credentials::Basic { user, password }) => {
                let login = self.known_login(&user, &password, PeerAddress::of(extensions)).await;
                claimed = Some(user);
                login.map(|(token, _)| token)
            }
            Ok(Credentials::None | Credentials::Bearer(_)) => Err(match access.principal() {
                Some(client) => certificate_needs_no_token(&client.name),
                None => Error::unauthenticated(
                    "the handshake has no credentials: send authorization: Basic with user and password, or authorization: Bearer with a token",
                ),
            }),
            Err(error) => Err(error),
        };
        token.inspect_err(|error| {
            self.record_unidentified(HANDSHAKE, headers, extensions, claimed.as_deref(), error);
        })
    }

    fn record_unidentified(
        &self,
        path: &str,
        headers: &HeaderMap,
        extensions: &Extensions,
        claimed: Option<&str>,
        error: &Error,
    ) {
        let ((operation, kind), address) = (recorded_as(path), PeerAddress::of(extensions));
        let request_id = request_id(headers);
        self.audit.record_unidentified(UnidentifiedCall { address, claimed, kind, operation, request_id, error });
    }

    fn record_refused(&self, path: &str, headers: &HeaderMap, access: &Access, error: &Error) {
        let ((operation, kind), request_id) = (recorded_as(path), request_id(headers));
        self.audit.record(AuditEvent { access, kind, operation, table: None, request_id, result: Err(error) });
    }
}

impl HttpLogin for CallerIdentifier {
    fn login<'a>(
        &'a self,
        user: &'a str,
        password: &'a Secret,
        address: Option<SocketAddr>,
    ) -> BoxFuture<'a, Result<Access>> {
        Box::pin(self.access_of_password(user, password, address))
    }
}

/// Whether this node refuses a call of nobody. Coordinators know which actions need no identity, and reflection checks its calls.
fn needs_identity(path: &str) -> bool {
    path != DO_ACTION && !path.starts_with(REFLECTION) && !is_public(path)
}

/// The name and the kind of a call in the audit log: not the path, which a client may choose.
fn recorded_as(path: &str) -> (&'static str, AuditKind) {
    let operation = known_method(path.strip_prefix(FLIGHT_SERVICE).unwrap_or_default());
    let kind = match operation {
        "Handshake" => AuditKind::Login,
        "DoAction" => AuditKind::Admin,
        "DoPut" => AuditKind::Write,
        _ => AuditKind::Read,
    };
    (operation, kind)
}
