//! Settings of every HTTP/2 connection: flow control, frames, buffers, pings.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioTimer};
use tonic::transport::Endpoint;

use crate::{Error, Result};

/// Received bytes of one stream that may wait for their reader: 4 MiB, the most memory that a stalled stream takes.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;

/// The window of each stream of a connection to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamWindow {
    /// Bytes.
    pub window: u32,
    /// Bytes of a frame.
    pub max_frame_size: u32,
}

/// The largest window that HTTP/2 allows for a connection: a stalled stream must not use up the window of the
/// connection's other streams.
const UNLIMITED_CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The largest DATA frame that is accepted. Frames of 16 KiB, the default, cost three times as much. A frame is read
/// into its own buffer, which should be allocated on the heap and stay in the processor's cache: frames of 4 MiB were
/// mapped again each time.
pub(crate) const FRAME_SIZE: u32 = 256 << 10;
/// Bytes of one stream that may wait to be sent: one or two messages of the usual size.
const SEND_BUFFER: usize = 2 << 20;
/// Requests with larger header lists are refused, unless configured, bytes.
pub(crate) const HEADER_LIST: u32 = 64 << 10;

/// A connection ends when its client has broken the rules of HTTP/2 on this many streams. Each is answered with a reset.
const MAX_STREAM_ERRORS: usize = 1024;

/// A server pings a client after this much idle time and closes the connection after [`SERVER_PING_TIMEOUT`] without an
/// answer. Both are long, so that a client that does not read for a long time stays connected, but a machine that is
/// down is detected.
const SERVER_PING_INTERVAL: Duration = Duration::from_secs(20);
const SERVER_PING_TIMEOUT: Duration = Duration::from_secs(40);
/// A client pings a server after this much idle time and closes the connection after [`CLIENT_PING_TIMEOUT`] without an
/// answer: a member without processor time answers late, and the end of its connection would end all calls on it. Members that
/// hang are found sooner, by probes.
const CLIENT_PING_INTERVAL: Duration = Duration::from_secs(5);
const CLIENT_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The same between coordinators for Raft, whose messages are small and frequent: after an outage of the network a
/// connection may be slow for as long as the outage lasted, so it should not survive it.
const RAFT_PING_INTERVAL: Duration = Duration::from_secs(1);
const RAFT_PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The window of each stream of a client's connection, by how many other connections the listener has: data that waits for
/// its reader takes memory, and clients with a connection each may be many.
fn client_stream_window(other_connections: usize) -> u32 {
    match other_connections {
        0..64 => STREAM_WINDOW,
        64..512 => 512 << 10,
        _ => 64 << 10,
    }
}

/// Settings of a connection of the server loop, with at most this many concurrent streams, and this many bytes of headers of a
/// request, beside so many other connections.
///
/// PING and SETTINGS frames need no limit: h2 reads no further frame until it has sent the answer, so a client that reads none
/// is not read, and takes no memory. CONTINUATION frames are limited by `max_header_bytes`: a header list of more than four
/// times this ends the connection, and so do more frames than it can need.
///
/// As many streams as may be open may also wait to be accepted after their client has reset them; with more ("rapid reset") the
/// connection ends with ENHANCE_YOUR_CALM. A server that was stopped for a moment, or had no processor, reads all calls that were
/// given up meanwhile at once: a lower limit would end the connection, and with it the calls that still run on it.
pub(crate) fn server(
    max_concurrent_streams: u32,
    max_header_bytes: u32,
    other_connections: usize,
) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(client_stream_window(other_connections))
        .initial_connection_window_size(UNLIMITED_CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(max_concurrent_streams)
        .max_header_list_size(max_header_bytes)
        .max_pending_accept_reset_streams(max_concurrent_streams as usize)
        .max_local_error_reset_streams(MAX_STREAM_ERRORS)
        .keep_alive_interval(SERVER_PING_INTERVAL)
        .keep_alive_timeout(SERVER_PING_TIMEOUT);
    http
}

/// Settings of a client's connections.
#[derive(Clone, Copy, Debug)]
pub struct ClientSettings {
    /// A server that does not accept a connection within this time is unreachable.
    pub connect_timeout: Duration,
    /// Bytes.
    connection_window: u32,
    /// Bytes; `None`: HTTP/2's default of 16 KiB.
    max_frame_size: Option<u32>,
    ping_interval: Duration,
    ping_timeout: Duration,
    /// Whether connections without a stream are pinged too.
    ping_while_idle: bool,
}

/// Connections between members, except Raft's.
///
/// Within the timeout of 1.5 s a lost first packet is sent again once.
pub const MEMBER: ClientSettings = ClientSettings {
    connect_timeout: Duration::from_millis(1500),
    connection_window: UNLIMITED_CONNECTION_WINDOW,
    max_frame_size: Some(FRAME_SIZE),
    ping_interval: CLIENT_PING_INTERVAL,
    ping_timeout: CLIENT_PING_TIMEOUT,
    ping_while_idle: true,
};

/// Raft's connections between coordinators: small messages, short timeouts.
pub const RAFT: ClientSettings = ClientSettings {
    connect_timeout: Duration::from_secs(1),
    connection_window: 8 << 20,
    max_frame_size: None,
    ping_interval: RAFT_PING_INTERVAL,
    ping_timeout: RAFT_PING_TIMEOUT,
    ping_while_idle: true,
};

/// Connections of clients of the cluster. The window of 1 GiB has room for 256 stalled streams, so that they cannot starve the
/// one that is read.
pub const CLIENT: ClientSettings = ClientSettings {
    connect_timeout: Duration::from_secs(5),
    connection_window: 1 << 30,
    max_frame_size: Some(FRAME_SIZE),
    ping_interval: CLIENT_PING_INTERVAL,
    ping_timeout: CLIENT_PING_TIMEOUT,
    ping_while_idle: false,
};

impl ClientSettings {
    /// A tonic endpoint for `addr`, `HOST:PORT`, with the scheme `http` or `https`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not an address.
    pub fn endpoint(&self, scheme: &str, addr: &str) -> Result<Endpoint> {
        let endpoint = Endpoint::from_shared(format!("{scheme}://{addr}")).map_err(|_| invalid_address(addr))?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame_size)
            .http2_keep_alive_interval(self.ping_interval)
            .keep_alive_timeout(self.ping_timeout)
            .keep_alive_while_idle(self.ping_while_idle))
    }

    /// The same for a connection below tonic, whose streams have this window.
    pub(crate) fn connection(&self, streams: StreamWindow) -> hyper::client::conn::http2::Builder<TokioExecutor> {
        let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .adaptive_window(false)
            .initial_stream_window_size(streams.window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame_size.map(|size| size.min(streams.max_frame_size)))
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(self.ping_interval)
            .keep_alive_timeout(self.ping_timeout)
            .keep_alive_while_idle(self.ping_while_idle);
        http
    }
}

/// INVALID_ARGUMENT: `addr` is not `HOST:PORT`.
pub(crate) fn invalid_address(addr: &str) -> Error {
    Error::invalid(format!("{addr:?} is not an address of a member: write HOST:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_many_connections_are_bounded_together() {
        let of_clients: u64 = (0..5_000).map(|others| u64::from(client_stream_window(others))).sum();
        assert!(of_clients < 768 << 20, "a stream on each of 5,000 connections: {of_clients}");
    }
}
