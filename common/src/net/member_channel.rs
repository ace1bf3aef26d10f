//! The tonic channel to a server, which passes the context of the call on.

use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tower::Service;

use crate::telemetry::trace::inject;

/// A connection to a server by tonic. It adds the current trace, and the name of the client's call, to the headers of a call. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct MemberChannel(Channel);

impl MemberChannel {
    pub(super) fn new(channel: Channel) -> Self {
        MemberChannel(channel)
    }

    /// The channel, without what this adds.
    pub(crate) fn into_tonic(self) -> Channel {
        self.0
    }
}

impl Service<Request<Body>> for MemberChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        inject(request.headers_mut());
        self.0.call(request)
    }
}
