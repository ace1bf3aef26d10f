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
use volley_common::telemetry::trace::{TRACEPARENT_HEADER, TRACESTATE_HEADER};
use volley_common::tls::Caller;
use xxhash_rust::xxh3::xxh3_64;

use crate::budget::RequestShare;
use crate::flight_calls::FlightCalls;
use crate::state::HttpState;

/// Headers of a request that its Flight calls carry: no others, so that no client of the HTTP port can claim to be a member, or
/// give an option that its page does not know.
fn forwarded() -> [HeaderName; 4] {
    let [id, parent, state] = [REQUEST_ID_HEADER, TRACEPARENT_HEADER, TRACESTATE_HEADER].map(HeaderName::from_static);
    [AUTHORIZATION, id, parent, state]
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::Request;
    use volley_common::server::ServerConfig;

    use super::*;

    #[tokio::test]
    async fn calls_carry_identity_name_and_trace_alone() {
        let carried = [
            ("authorization", "Bearer t"),
            ("authorization", "Bearer u"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
            ("x-request-id", "job-7"),
        ];
        let others = [("x-volley-decompress", "true"), ("x-volley-assertion", "x"), ("grpc-timeout", "1n")];
        let mut request = Request::builder();
        for (name, value) in carried.into_iter().chain(others) {
            request = request.header(name, value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let state = HttpState::new(&ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data"));
        let caller = HttpCaller::from_request_parts(&mut head, &state).await.unwrap();
        let mut sent: Vec<_> =
            caller.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        sent.sort_unstable();
        assert_eq!(sent, carried);
    }
}
