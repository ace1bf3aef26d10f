//! Forwarding a call unchanged to another member.
//!
//! A forwarded call is not decoded: path, headers, body and trailers pass byte for byte in both directions, with
//! back-pressure from the slower side.

mod replayable_body;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{Request, Response};

pub use replayable_body::ReplayableBody;

use crate::http2::{ProxiedBody, ProxyRequestBody, ReplyBody};
use crate::net::{Attempt, ConnectionPool, Failover, SendError};
use crate::{Error, Result};

/// A call that may take effect twice is sent to a second member if the first has not begun its response by then.
const HEDGE_AFTER: Duration = Duration::from_millis(300);

/// What the error of a member says that stopped answering while it may have had a call that is sent only once.
const MAY_HAVE_THE_CALL: &str =
    "; it may have got the call, which was therefore sent to no other member: repeat it, and a put with its write_id";

/// Whether a forwarded call may be sent to more than one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// It reads: it is hedged, and sent again if the member does not answer.
    Yes,
    /// Once it was sent to a member, it goes to no other.
    No,
    /// Its body is a [`ReplayableBody`]: once something of that was read, it goes to no other member.
    WhileUnread,
}

/// Why no response to a forwarded call began.
#[derive(Debug)]
pub enum ForwardFailure {
    /// There is no candidate.
    NoCandidate,
    /// No candidate got the call: the error of the last attempt.
    NotAccepted(Error),
    /// A candidate may have got the call, or this process refused it, so it went to no other.
    Final(Error),
}

/// Forwards `request` to the member at `addr` and returns its response. If the member's connection breaks during the
/// response, or the member hangs, the response ends with trailers UNAVAILABLE that name the member. Dropping the response
/// body, or this future, cancels the call at the member.
///
/// # Errors
/// Those of [`ConnectionPool::send`]; the member does not answer.
pub async fn forward<B: Into<ProxyRequestBody>>(
    pool: &ConnectionPool,
    addr: &str,
    request: Request<B>,
) -> Result<Response<ReplyBody>, SendError> {
    let (response, permit) = pool.while_answering(addr, pool.send(addr, request)).await?;
    let (head, incoming) = response.into_parts();
    let has_status = head.headers.contains_key("grpc-status");
    let body = ProxiedBody::new(incoming, addr.to_string(), has_status, permit, pool.silence(addr));
    Ok(Response::from_parts(head, ReplyBody::Proxied(body)))
}

/// Forwards a request to one of the candidates: in their order, but those that hang last. `make_request` creates the request
/// for each attempt, or returns `None` once its body was read. A request whose connection broke goes to no other candidate,
/// because it may be what ended the member. If none answers in time, a request that is sent only once waits for the first of
/// those that may only be busy.
///
/// # Errors
/// The last attempt's.
pub async fn forward_to_any(
    pool: &ConnectionPool,
    mut candidates: Vec<String>,
    repeatable: Repeatable,
    make_request: impl Fn() -> Option<Request<ProxyRequestBody>>,
) -> Result<Response<ReplyBody>, ForwardFailure> {
    pool.sort_by_health(&mut candidates);
    let mut failover = Failover::new(candidates.clone());
    let hedge_after = (repeatable == Repeatable::Yes).then_some(HEDGE_AFTER);
    let attempt = |addr: String| forward_once(pool, addr, repeatable, &make_request);
    if let Some(outcome) = pool.attempt_any(&mut failover, hedge_after, attempt).await {
        return outcome.map_err(ForwardFailure::Final);
    }
    if repeatable != Repeatable::Yes
        && let Some(addr) = pool.first_to_answer(&candidates).await
    {
        match forward_once(pool, addr, repeatable, &make_request).await {
            Attempt::Done(outcome) => return outcome.map_err(ForwardFailure::Final),
            Attempt::TryNext(error) => failover.record_error(error),
        }
    }
    Err(failover.into_error().map_or(ForwardFailure::NoCandidate, ForwardFailure::NotAccepted))
}

async fn forward_once(
    pool: &ConnectionPool,
    addr: String,
    repeatable: Repeatable,
    make_request: &impl Fn() -> Option<Request<ProxyRequestBody>>,
) -> Attempt<Response<ReplyBody>> {
    let Some(request) = make_request() else {
        return Attempt::Done(Err(Error::unavailable("the request was sent already and cannot be repeated")));
    };
    if repeatable != Repeatable::Yes && !pool.health(&addr).answers().await {
        return Attempt::TryNext(Error::unavailable(format!("the member at {addr} does not answer")));
    }
    match forward(pool, &addr, request).await {
        Ok(reply) => Attempt::Done(Ok(reply)),
        Err(failed) => {
            let may_try_next = match &failed {
                SendError::NotSent(_) => true,
                SendError::Silent(_) => match repeatable {
                    Repeatable::Yes => true,
                    Repeatable::No => false,
                    // The member has at most the head, which has no effect. Its attempt reads nothing from now on.
                    Repeatable::WhileUnread => make_request().is_some(),
                },
                SendError::Broke(_) | SendError::Refused(_) => false,
            };
            let is_outcome_unknown = !may_try_next && matches!(failed, SendError::Silent(_));
            let mut error = Error::from(failed);
            if is_outcome_unknown {
                error.message += MAY_HAVE_THE_CALL;
            }
            tracing::warn!(member = addr, %error, "cannot forward a call");
            if may_try_next { Attempt::TryNext(error) } else { Attempt::Done(Err(error)) }
        }
    }
}
