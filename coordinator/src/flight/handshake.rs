//! Handshake: exchanges a user and its password, or a token, for a session token.
//!
//! There are two ways. Clients of today send `authorization` and no message, or an empty one, and get the token as a header.
//! Older ones send user and password in their first message, and get the token as the reply to it; they wait for that reply
//! before they close their side. In an open cluster every client gets a random token, which no call checks.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use arrow_flight::{HandshakeRequest, HandshakeResponse};
use futures::stream::{BoxStream, try_unfold};
use futures::{Stream, StreamExt, TryStreamExt};
use http::{Extensions, HeaderMap};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};
use volley_common::grpc::NOW_HEADER;
use volley_common::identity::{Access, Authenticator, Credentials, Secret, certificate_needs_no_token};
use volley_common::server::audit::{AuditKind, AuditLog, UnidentifiedCall, request_id};
use volley_common::server::serve::PeerAddress;
use volley_common::tls::Caller;
use volley_common::{Code, Error, Result, clock};

use super::call_context::CallContext;
use crate::service::Services;
use crate::service::login::{LoginService, no_credentials};

/// Maximum number of messages of one handshake.
const MAX_MESSAGES: usize = 16;
/// The name of a handshake in the audit log.
const OPERATION: &str = "Handshake";

/// The replies of one handshake.
type HandshakeReplies = BoxStream<'static, Result<HandshakeResponse, Status>>;

/// Answers handshakes. Cheap to clone.
#[derive(Clone)]
pub struct Handshakes {
    authenticator: Authenticator,
    login: LoginService,
    audit: AuditLog,
}

/// The caller of a handshake: its certificate, address and headers.
struct HandshakeCaller {
    caller: Caller,
    peer: Option<SocketAddr>,
    headers: HeaderMap,
}

impl Handshakes {
    /// Answers with these services.
    pub fn new(services: &Services) -> Self {
        let (authenticator, login, audit) =
            (services.authenticator.clone(), services.login.clone(), services.audit.clone());
        Handshakes { authenticator, login, audit }
    }

    /// Answers a handshake: with the token in the header as soon as the headers of the request have credentials, and with the
    /// token as the reply to every message.
    ///
    /// # Errors
    /// UNAUTHENTICATED: wrong or no credentials. FAILED_PRECONDITION: the client has only a certificate, and needs no token.
    /// PERMISSION_DENIED: the cluster is open, and the client is on another machine.
    pub async fn reply(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<HandshakeReplies>, Status> {
        let (metadata, extensions, messages) = request.into_parts();
        self.answer(metadata.into_headers(), &extensions, messages).await
    }

    async fn answer(
        &self,
        headers: HeaderMap,
        extensions: &Extensions,
        messages: impl Stream<Item = Result<HandshakeRequest, Status>> + Send + Unpin + 'static,
    ) -> Result<Response<HandshakeReplies>, Status> {
        let (caller, peer) = (Caller::of(extensions).clone(), PeerAddress::of(extensions));
        let known = self.token_of_headers(&headers, &caller, peer).await?;
        let bearer = known.as_ref().map(|token| AsciiMetadataValue::try_from(format!("Bearer {}", token.expose())));
        let bearer = bearer.transpose().map_err(|_| Error::internal("the token is no valid header"))?;
        let from = HandshakeCaller { caller, peer, headers };
        let replies = self.clone().replies(from, messages, known);
        let mut response = Response::new(replies.take(MAX_MESSAGES).boxed());
        if let Some(mut bearer) = bearer {
            bearer.set_sensitive(true);
            response.metadata_mut().insert("authorization", bearer);
        }
        response.metadata_mut().insert(NOW_HEADER, clock::now_ms().into());
        Ok(response)
    }

    /// The token for the credentials in the headers; `None` if they have none.
    async fn token_of_headers(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        peer: Option<SocketAddr>,
    ) -> Result<Option<Secret>> {
        if self.authenticator.directory().is_none_or(|directory| directory.is_open()) {
            // Refuses whom the cluster does not serve; by the path of no method, because everybody may shake hands.
            self.authenticator.identify(&HeaderMap::new(), caller, peer, "")?;
            return Ok(Some(Secret::new(format!("{:032x}", rand::random::<u128>()))));
        }
        match Credentials::of_headers(headers) {
            Ok(Credentials::None) => Ok(None),
            presented => self.exchange(presented, caller, peer, headers).await.map(Some),
        }
    }

    /// The replies to the messages, each as its message arrives, because a client may wait for the reply before it closes its
    /// side. Without a token the first message has the credentials. The request's body limits how long messages are waited for.
    fn replies(
        self,
        from: HandshakeCaller,
        messages: impl Stream<Item = Result<HandshakeRequest, Status>> + Send + Unpin + 'static,
        token: Option<Secret>,
    ) -> impl Stream<Item = Result<HandshakeResponse, Status>> + Send + 'static {
        try_unfold((self, from, messages, token), |(this, from, mut messages, token)| async move {
            let (request, token) = match (messages.try_next().await?, token) {
                (Some(request), Some(token)) => (request, token),
                (None, Some(_)) => return Ok(None),
                (next, None) => {
                    let request = next.unwrap_or_default();
                    let presented = Credentials::of_handshake_payload(&request.payload);
                    let token = this.exchange(presented, &from.caller, from.peer, &from.headers).await?;
                    (request, token)
                }
            };
            let payload = token.expose().to_string().into();
            let response = HandshakeResponse { protocol_version: request.protocol_version, payload };
            Ok::<_, Status>(Some((response, (this, from, messages, Some(token)))))
        })
    }

    /// Exchanges credentials for a token, and records that in the audit log.
    async fn exchange(
        &self,
        presented: Result<Credentials>,
        caller: &Caller,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Result<Secret> {
        let claimed = match &presented {
            Ok(Credentials::Basic { user, .. }) => Some(user.clone()),
            _ => None,
        };
        let result = match presented {
            Ok(presented) => self.token_for(presented, caller, peer).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(token) => {
                let access = self.authenticator.access_of_token(token, peer).unwrap_or_else(|_| nobody());
                CallContext::new(access, self.audit.clone(), headers).record(AuditKind::Login, OPERATION, Ok(()));
            }
            Err(error) if error.code == Code::Unavailable => {}
            Err(error) => self.audit.record_unidentified(UnidentifiedCall {
                address: peer,
                claimed: claimed.as_deref(),
                kind: AuditKind::Login,
                operation: OPERATION,
                request_id: request_id(headers),
                error,
            }),
        }
        result
    }

    async fn token_for(&self, presented: Credentials, caller: &Caller, peer: Option<SocketAddr>) -> Result<Secret> {
        let issued = match (presented, caller) {
            (Credentials::Basic { user, password }, _) => {
                let address = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
                self.login.login(&user, &password, &address).await?
            }
            (Credentials::Bearer(token), _) => self.login.renew(&token, peer).await?,
            (Credentials::None, Caller::Client(client)) => return Err(certificate_needs_no_token(&client.name)),
            (Credentials::None, _) => return Err(no_credentials()),
        };
        Ok(issued.token)
    }
}

/// Of a login whose user this coordinator's directory does not have yet.
fn nobody() -> Access {
    Access::of(&Extensions::new())
}
