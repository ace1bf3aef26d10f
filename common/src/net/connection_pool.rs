//! All connections of a process to members, by `HOST:PORT`.

use std::sync::Arc;

use hyper::body::Incoming;
use tonic::transport::Channel;

use super::address_map::AddressMap;
use super::member_connections::MemberConnections;
use crate::Result;
use crate::http2::proxied_body::OpenStreams;
use crate::http2::settings::{ClientSettings, MEMBER, STREAM_WINDOWS, StreamWindow};
use crate::http2::{ProxyRequestBody, StreamPermit};

/// Connections to members, by `HOST:PORT`: tonic channels for calls, HTTP/2 connections below tonic for requests that are
/// sent as they are. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct ConnectionPool {
    settings: &'static ClientSettings,
    channels: Arc<AddressMap<Channel>>,
    /// One map for each of [`STREAM_WINDOWS`].
    connections: Arc<[AddressMap<Arc<MemberConnections>>; STREAM_WINDOWS.len()]>,
    open: OpenStreams,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        ConnectionPool::new()
    }
}

impl ConnectionPool {
    /// A pool of a member, without any connection yet.
    pub fn new() -> Self {
        ConnectionPool::with_settings(&MEMBER)
    }

    /// As [`ConnectionPool::new`], with other settings for its connections.
    pub fn with_settings(settings: &'static ClientSettings) -> Self {
        ConnectionPool { settings, channels: Arc::default(), connections: Arc::default(), open: OpenStreams::default() }
    }

    /// The channel to the member at `addr`; it connects when it is first used.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not `HOST:PORT`.
    pub fn channel(&self, addr: &str) -> Result<Channel> {
        self.channels.get_or_insert(addr, || Ok(self.settings.endpoint(addr)?.connect_lazy()))
    }

    /// Sends `request` to the member at `addr`. The connection counts as used until the [`StreamPermit`] is dropped. The more
    /// streams are open in the process, the less of the response may wait for its reader.
    ///
    /// # Errors
    /// UNAVAILABLE naming `addr`: it is unreachable, or the connection broke before a response began. INVALID_ARGUMENT:
    /// `addr` is not `HOST:PORT`.
    pub async fn send<B: Into<ProxyRequestBody>>(
        &self,
        addr: &str,
        request: http::Request<B>,
    ) -> Result<(http::Response<Incoming>, StreamPermit)> {
        let (others, open) = self.open.open();
        let class = StreamWindow::among(others);
        let make = || Ok(Arc::new(MemberConnections::new(addr, self.settings, STREAM_WINDOWS[class])));
        self.connections[class].get_or_insert(addr, make)?.send(request.map(Into::into), open).await
    }
}
