//! The HTTP/2 connections to one member, below tonic.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::connector::Connector;
use super::failover::was_not_handled;
use super::received::{LastReceived, ObservedStream};
use crate::error::is_protocol_violation;
use crate::http2::relay_budget::RelayShare;
use crate::http2::settings::{ClientSettings, StreamWindow, invalid_address};
use crate::http2::status::error_chain;
use crate::http2::{ProxyRequestBody, StreamPermit};
use crate::telemetry::trace::inject;
use crate::{Error, Result};

/// Connections to one member at most: one connection is driven by one thread at a time, and bulk streams need more.
const MAX_CONNECTIONS: usize = 4;
/// How many connections a request is tried on, as long as it was certainly not sent.
const MAX_ATTEMPTS: usize = 3;

/// The connections to one member.
pub(super) struct MemberConnections {
    addr: String,
    settings: &'static ClientSettings,
    connector: Connector,
    window: StreamWindow,
    received: Arc<LastReceived>,
    connections: Mutex<Vec<PooledConnection>>,
    /// Held while connecting, so that one caller connects for all; the last failure and its time.
    connecting: tokio::sync::Mutex<Option<(Instant, Error)>>,
}

struct PooledConnection {
    sender: SendRequest<ProxyRequestBody>,
    /// One further clone for each stream in use.
    streams: Arc<()>,
}

/// Why a request got no response: UNAVAILABLE, which names the member, unless it was refused here, the address is invalid or the
/// reply breaks HTTP/2.
#[derive(Debug)]
pub enum SendError {
    /// This process has no memory for a further reply.
    Refused(Error),
    /// The member did not receive the request, or refused to handle it.
    NotSent(Error),
    /// The connection broke after the request was sent. The request may be why, so it must not go to another member.
    Broke(Error),
    /// The member stopped answering after the request was sent.
    Silent(Error),
}

impl From<SendError> for Error {
    fn from(failed: SendError) -> Self {
        match failed {
            SendError::Refused(error)
            | SendError::NotSent(error)
            | SendError::Broke(error)
            | SendError::Silent(error) => error,
        }
    }
}

impl From<Error> for SendError {
    /// The error of [`super::ConnectionPool::while_answering`].
    fn from(error: Error) -> Self {
        SendError::Silent(error)
    }
}

/// A connection, and the clone of its counter for one stream.
type LeasedSender = (SendRequest<ProxyRequestBody>, Arc<()>);

impl MemberConnections {
    pub(super) fn new(
        addr: &str,
        settings: &'static ClientSettings,
        connector: Connector,
        window: StreamWindow,
        received: Arc<LastReceived>,
    ) -> Self {
        MemberConnections {
            addr: addr.to_string(),
            settings,
            connector,
            window,
            received,
            connections: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a request over the connection with the fewest streams.
    pub(super) async fn send(
        &self,
        mut request: http::Request<ProxyRequestBody>,
        share: Arc<RelayShare>,
    ) -> Result<(http::Response<Incoming>, StreamPermit), SendError> {
        *request.uri_mut() = self.uri(request.uri()).map_err(SendError::NotSent)?;
        *request.version_mut() = http::Version::HTTP_2;
        request.headers_mut().remove(http::header::HOST);
        inject(request.headers_mut());
        for _ in 1..MAX_ATTEMPTS {
            let (mut sender, streams) = self.lease().await.map_err(SendError::NotSent)?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, StreamPermit::new(&streams, share))),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.connection_broke(failed.error())),
                },
            }
        }
        let (mut sender, streams) = self.lease().await.map_err(SendError::NotSent)?;
        let response = sender.send_request(request).await.map_err(|e| self.connection_broke(&e))?;
        Ok((response, StreamPermit::new(&streams, share)))
    }

    fn connection_broke(&self, error: &hyper::Error) -> SendError {
        let text = error_chain(error);
        if is_protocol_violation(error) {
            return SendError::Broke(Error::internal(format!(
                "the reply of the member at {} is invalid: {text}",
                self.addr
            )));
        }
        let text = format!("the connection to the member at {} broke: {text}", self.addr);
        match was_not_handled(error) {
            true => SendError::NotSent(Error::unavailable(text)),
            false => SendError::Broke(Error::unavailable(text)),
        }
    }

    fn uri(&self, uri: &http::Uri) -> Result<http::Uri> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        format!("{}://{}{path}", self.connector.scheme(), self.addr).parse().map_err(|_| invalid_address(&self.addr))
    }

    /// An unused connection; a new one while there are few; else the least used.
    async fn lease(&self) -> Result<LeasedSender> {
        if let Some(found) = self.least_used(false) {
            return Ok(found);
        }
        let waiting_since = Instant::now();
        let mut last_failure = match self.connecting.try_lock() {
            Ok(last_failure) => last_failure,
            Err(_) => match self.least_used(true) {
                Some(found) => return Ok(found),
                None => self.connecting.lock().await,
            },
        };
        if let Some(found) = self.least_used(false) {
            return Ok(found);
        }
        if let Some((at, error)) = &*last_failure
            && *at > waiting_since
        {
            return Err(error.clone());
        }
        match self.connect().await {
            Ok(sender) => Ok(self.add(sender)),
            Err(error) => {
                *last_failure = Some((Instant::now(), error.clone()));
                self.least_used(true).ok_or(error)
            }
        }
    }

    /// The live connection with the fewest streams; unless `any`, only if it has none or no further
    /// connection may be opened.
    fn least_used(&self, any: bool) -> Option<LeasedSender> {
        let mut connections = self.connections.lock();
        connections.retain(|connection| !connection.sender.is_closed());
        let full = connections.len() >= MAX_CONNECTIONS;
        let best = connections.iter().min_by_key(|connection| Arc::strong_count(&connection.streams))?;
        let unused = Arc::strong_count(&best.streams) == 1;
        (any || full || unused).then(|| best.lease())
    }

    fn add(&self, sender: SendRequest<ProxyRequestBody>) -> LeasedSender {
        let connection = PooledConnection { sender, streams: Arc::new(()) };
        let leased = connection.lease();
        self.connections.lock().push(connection);
        leased
    }

    async fn connect(&self) -> Result<SendRequest<ProxyRequestBody>> {
        let unreachable =
            |why: String| Error::unavailable(format!("the member at {} is unreachable: {why}", self.addr));
        let connecting = self.connector.connect(&self.addr, self.settings.connect_timeout);
        let stream = connecting.await.map_err(|e| unreachable(e.to_string()))?;
        let stream = TokioIo::new(ObservedStream::new(stream, self.received.clone()));
        let handshake = self.settings.connection(self.window).handshake(stream);
        let (sender, connection) = handshake.await.map_err(|e| unreachable(error_chain(&e)))?;
        let addr = self.addr.clone();
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(member = addr, error = error_chain(&e), "a connection to a member broke");
            }
        });
        Ok(sender)
    }
}

impl PooledConnection {
    fn lease(&self) -> LeasedSender {
        (self.sender.clone(), self.streams.clone())
    }
}
