//! Forwarding a call unchanged to another member.
//!
//! A forwarded call is not decoded: path, headers, body and trailers pass byte for byte in both directions, with
//! back-pressure from the slower side.

mod replayable_body;
#[cfg(test)]
mod tests;

use http::{Request, Response};

pub use replayable_body::ReplayableBody;

use crate::http2::{ProxiedBody, ProxyRequestBody, ReplyBody};
use crate::net::{ConnectionPool, Failover};
use crate::{Error, Result};

/// Forwards `request` to the member at `addr` and returns its response. If the member's connection breaks during the
/// response, the response ends with trailers UNAVAILABLE that name the member. Dropping the response body, or this future,
/// cancels the call at the member.
///
/// # Errors
/// Those of [`ConnectionPool::send`].
pub async fn forward<B: Into<ProxyRequestBody>>(
    pool: &ConnectionPool,
    addr: &str,
    request: Request<B>,
) -> Result<Response<ReplyBody>> {
    let (response, lease) = pool.send(addr, request).await?;
    let (head, incoming) = response.into_parts();
    let has_status = head.headers.contains_key("grpc-status");
    let body = ProxiedBody::new(incoming, addr.to_string(), has_status, lease);
    Ok(Response::from_parts(head, ReplyBody::Proxied(body)))
}

/// Forwards a request to one candidate after another. `make_request` creates the request for each attempt, or returns
/// `None` once its body was read. Returns `None` if no attempt succeeded: [`Failover::into_error`] has the reason.
///
/// # Errors
/// An error that `is_retriable` does not accept.
pub async fn forward_to_any(
    pool: &ConnectionPool,
    failover: &mut Failover<String>,
    is_retriable: fn(&Error) -> bool,
    make_request: impl Fn() -> Option<Request<ProxyRequestBody>>,
) -> Result<Option<Response<ReplyBody>>> {
    while let Some(addr) = failover.next_candidate() {
        let Some(request) = make_request() else { break };
        let outcome = forward(pool, &addr, request).await;
        if let Err(error) = &outcome
            && is_retriable(error)
        {
            tracing::warn!(member = addr, %error, "cannot forward a call");
        }
        if let Some(reply) = failover.record_if(outcome, is_retriable)? {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}
