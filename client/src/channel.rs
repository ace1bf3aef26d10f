//! The channel of a client's calls: adds the credential of its session to each, an id, and the trace that the client belongs to.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt};
use volley_common::Error;
use volley_common::net::MemberChannel;
use volley_common::telemetry::trace::TRACEPARENT_HEADER;
use volley_common::transport_cause::transport_cause;

use super::request_id::RequestId;
use super::session::{LoginSession, MIN_LEFT};

/// A connection to a member, with the session of its client. It adds headers to a request and never changes its body. Cheap to
/// clone.
#[derive(Clone)]
pub struct ClientChannel {
    channel: MemberChannel,
    session: Option<Arc<LoginSession>>,
    /// The id of the call that the channel is for; without one, each request gets its own.
    request_id: Option<RequestId>,
    /// The `traceparent` of each request that has none.
    traceparent: Option<HeaderValue>,
    /// Whether messages may come compressed.
    accepts_codecs: bool,
}

impl ClientChannel {
    pub(super) fn new(
        channel: MemberChannel,
        session: Option<Arc<LoginSession>>,
        request_id: Option<RequestId>,
        traceparent: Option<HeaderValue>,
    ) -> Self {
        ClientChannel { channel, session, request_id, traceparent, accepts_codecs: false }
    }

    /// The same for a client to which messages may come compressed.
    pub(super) fn accepting_codecs(self, accepts_codecs: bool) -> Self {
        ClientChannel { accepts_codecs, ..self }
    }

    /// Whether messages may come compressed.
    pub(super) fn accepts_codecs(&self) -> bool {
        self.accepts_codecs
    }
}

impl Service<Request<Body>> for ClientChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &self.session {
            // Its call waits for readiness after the login: one that is ready would keep a place in the connection's queue
            // meanwhile, which the login needs, too.
            Some(_) => Poll::Ready(Ok(())),
            None => self.channel.poll_ready(cx).map_err(BoxError::from),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.request_id.clone().unwrap_or_else(RequestId::new).add_to(request.headers_mut());
        if let Some(parent) = &self.traceparent {
            request.headers_mut().entry(TRACEPARENT_HEADER).or_insert_with(|| parent.clone());
        }
        let Some(session) = self.session.clone() else {
            return self.channel.call(request).map_err(BoxError::from).boxed();
        };
        let mut channel = self.channel.clone();
        async move {
            // A caller may present a credential of its own.
            if !request.headers().contains_key(AUTHORIZATION) {
                let credential = session.credential(MIN_LEFT).await.map_err(Status::from)?;
                request.headers_mut().insert(AUTHORIZATION, credential.header().clone());
            }
            let response = channel.ready().await?.call(request).await?;
            Ok::<_, BoxError>(response)
        }
        .boxed()
    }
}

/// The error of a call that was not made, or got no response. UNAVAILABLE: the connection failed.
pub(super) fn failed_call(error: BoxError) -> Error {
    match error.downcast::<Status>() {
        // The login's.
        Ok(status) => (*status).into(),
        Err(error) => Error::unavailable(transport_cause(&*error)),
    }
}
