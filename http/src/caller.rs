//! Who calls, and its Flight calls.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use volley_common::Result;
use volley_common::server::audit::REQUEST_ID_HEADER;
use volley_common::server::serve::PeerAddress;
use volley_common::tls::Caller;
use xxhash_rust::xxh3::xxh3_64;

use crate::budget::RequestShare;
use crate::flight_calls::FlightCalls;
use crate::state::HttpState;

/// Headers of a request that its Flight calls carry: no others, so that no client of the HTTP port can claim to be a member, or
/// give an option that its page does not know.
fn forwarded() -> [HeaderName; 2] {
    [AUTHORIZATION, HeaderName::from_static(REQUEST_ID_HEADER)]
}

/// The caller of a request. Nothing of it is verified: each Flight call is, by the member's Flight service.
#[derive(Clone)]
pub struct HttpCaller {
    state: HttpState,
    /// The headers of its Flight calls.
    headers: HeaderMap,
    peer: PeerAddress,
    caller: Caller,
}

impl HttpCaller {
    /// Connects to this member's Flight service, for the calls of this request.
    ///
    /// # Errors
    /// UNAVAILABLE: the member is starting or stopping.
    pub async fn flight(&self) -> Result<FlightCalls> {
        let channel = self.state.flight()?.connect(self.peer, self.caller.clone()).await?;
        Ok(FlightCalls::new(channel, self.headers.clone()))
    }

    /// The same caller with other credentials.
    pub(crate) fn with_authorization(&self, credentials: HeaderValue) -> Self {
        let mut caller = self.clone();
        caller.headers.insert(AUTHORIZATION, credentials);
        caller
    }

    /// Whether it sends credentials in a header.
    pub(crate) fn has_credentials(&self) -> bool {
        self.headers.contains_key(AUTHORIZATION)
    }

    /// Whether its connection has TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        !matches!(self.caller, Caller::Plaintext)
    }

    /// Takes memory for this request.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is none.
    pub(crate) fn take_memory(&self, bytes: u64) -> Result<RequestShare> {
        self.state.memory().take(&self.owner(), bytes)
    }

    /// Takes disk for the body of this request.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is none.
    pub(crate) fn take_spool(&self, bytes: u64) -> Result<RequestShare> {
        self.state.spool().take(&self.owner(), bytes)
    }

    /// What all pages share.
    pub(crate) fn state(&self) -> &HttpState {
        &self.state
    }

    /// Whose share of a budget it takes: that of its credentials, or of its address.
    fn owner(&self) -> Arc<str> {
        match self.headers.get(AUTHORIZATION) {
            Some(credentials) => format!("{:016x}", xxh3_64(credentials.as_bytes())).into(),
            None => self.peer.0.ip().to_string().into(),
        }
    }
}

impl FromRequestParts<HttpState> for HttpCaller {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Parts, state: &HttpState) -> Result<Self, Infallible> {
        let mut headers = HeaderMap::new();
        for name in forwarded() {
            // Two different credentials are refused, as by Flight.
            for value in head.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let peer = head.extensions.get().copied().unwrap_or(PeerAddress(unknown));
        let caller = Caller::of(&head.extensions).clone();
        Ok(HttpCaller { state: state.clone(), headers, peer, caller })
    }
}
