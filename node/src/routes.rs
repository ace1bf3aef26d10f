//! Which call goes where: DoGet below tonic, puts to tonic, metadata to a coordinator.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tonic::service::Routes;
use tower::Service;
use volley_common::serve::{ReplyBody, Whole, grpc_error};
use volley_common::{Code, Error, Result};

use crate::get;
use crate::state::Shared;

/// Flight calls that coordinators answer.
const METADATA: [&str; 6] = ["ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoAction", "ListActions"];
const SERVICE: &str = "/arrow.flight.protocol.FlightService/";
/// The largest request that is handed on to a coordinator: it is kept until one has answered.
const MAX_REQUEST: usize = 16 << 20;
/// A header that is sent back as it came.
const MIDDLEWARE: &str = "x-middleware";

/// A node's Flight listener.
#[derive(Clone)]
pub struct Router {
    state: Arc<Shared>,
    tonic: Routes,
}

impl Router {
    /// `tonic`: what answers the calls that are not taken out here.
    pub fn new(state: Arc<Shared>, tonic: Routes) -> Self {
        Router { state, tonic }
    }

    async fn route(self, request: Request<Incoming>) -> Response<ReplyBody> {
        let method = request.uri().path().strip_prefix(SERVICE);
        if method == Some("DoGet") {
            return get::serve_get(self.state, request).await;
        }
        if method.is_some_and(|m| METADATA.contains(&m)) {
            return to_coordinator(&self.state, request).await.unwrap_or_else(grpc_error);
        }
        let request = request.map(|body| tonic::body::Body::new(Whole(body)));
        let mut tonic = self.tonic;
        match tonic.call(request).await {
            Ok(response) => response.map(ReplyBody::Tonic),
            Err(never) => match never {},
        }
    }
}

impl Service<Request<Incoming>> for Router {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let router = self.clone();
        let echo: Option<HeaderValue> = request.headers().get(MIDDLEWARE).cloned();
        Box::pin(async move {
            let mut response = router.route(request).await;
            if let Some(value) = echo {
                response.headers_mut().entry(MIDDLEWARE).or_insert(value);
            }
            Ok(response)
        })
    }
}

/// Hands a call about metadata to a coordinator; to another one if it cannot be reached.
async fn to_coordinator(state: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<ReplyBody>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST)
        .collect()
        .await
        .map_err(|e| Error::exhausted(format!("the request is broken, or over {MAX_REQUEST} bytes: {e}")))?
        .to_bytes();
    let addrs = state.members.load().coordinator_flight.clone();
    let mut last = Error::unavailable("this node knows no coordinator yet: try again");
    for addr in addrs.iter().filter(|addr| !addr.is_empty()) {
        let request: Request<Bytes> = Request::from_parts(head.clone(), body.clone());
        match state.relay.forward(crate::state::host_port(addr), request).await {
            Ok(response) => return Ok(response),
            Err(error) if error.code == Code::Unavailable => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last.at("no coordinator can be reached"))
}
