//! Handing a call on to another member, byte for byte, and channels for calls of one's own.
//!
//! A relayed call is not decoded: path, headers, body and trailers go through as they are, both ways,
//! no faster than the slower side takes them.

mod body;
mod loan;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

pub use body::{Relayed, ReqBody};
pub use loan::Loan;

use crate::serve::{CONNECTION_WINDOW, FRAME_SIZE, ReplyBody, STREAM_WINDOW};
use crate::{Error, Result};
use pool::Member;

/// A member that does not accept a connection for so long cannot be reached.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection's peer is pinged after so much silence...
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
/// ... and given up after so much more.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to other members, by `HOST:PORT`. Cheap to clone; all clones share them.
#[derive(Clone, Default)]
pub struct Relay {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    members: Mutex<HashMap<String, Arc<Member>>>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Relay {
    /// Without any connection yet.
    pub fn new() -> Self {
        Relay::default()
    }

    /// Hands `request` on to the member at `addr` and answers with its answer. If the member's
    /// connection breaks while it answers, the answer ends with trailers UNAVAILABLE that name it.
    /// Dropping the answer's body, or this future, cancels the call at the member.
    ///
    /// # Errors
    /// UNAVAILABLE naming `addr`: it cannot be reached, or the connection broke before an answer began.
    pub async fn forward<B: Into<ReqBody>>(
        &self,
        addr: &str,
        request: http::Request<B>,
    ) -> Result<http::Response<ReplyBody>> {
        let (response, lease) = self.send(addr, request).await?;
        let (head, incoming) = response.into_parts();
        let answered = head.headers.contains_key("grpc-status");
        let body = Relayed::new(incoming, addr.to_string(), answered, lease);
        Ok(http::Response::from_parts(head, ReplyBody::Relayed(body)))
    }

    /// Like [`Relay::forward`], for a caller that reads the answer itself. The connection counts as
    /// used until the [`Lease`] is dropped.
    pub async fn send<B: Into<ReqBody>>(
        &self,
        addr: &str,
        request: http::Request<B>,
    ) -> Result<(http::Response<Incoming>, Lease)> {
        let member =
            self.inner.members.lock().entry(addr.to_string()).or_insert_with(|| Arc::new(Member::new(addr))).clone();
        let (response, lease) = member.send(request.map(Into::into)).await?;
        Ok((response, lease))
    }

    /// A channel to the member at `addr` (`HOST:PORT`), connected when first used; the one way in which
    /// members call each other's services.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not an address.
    pub fn channel(&self, addr: &str) -> Result<Channel> {
        let mut channels = self.inner.channels.lock();
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = endpoint(addr)?.connect_lazy();
        channels.insert(addr.to_string(), channel.clone());
        Ok(channel)
    }
}

pub use pool::Lease;

fn endpoint(addr: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|_| Error::invalid(format!("{addr:?} is not a member's address: write HOST:PORT")))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true))
}
