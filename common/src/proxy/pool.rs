//! Connections to one member.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::{CONNECT_TIMEOUT, PING_EVERY, PING_TIMEOUT, ReqBody};
use crate::serve::{CONNECTION_WINDOW, FRAME_SIZE, SEND_BUFFER, STREAM_WINDOW};
use crate::{Error, Result};

/// Connections to one member at most: one is served by one thread at a time, and bulk streams need
/// more than that.
const CONNECTIONS: usize = 4;
/// How often a request that surely did not leave is given to another connection.
const TRIES: usize = 3;

/// One member and the connections to it.
pub(super) struct Member {
    addr: String,
    connections: Mutex<Vec<Connection>>,
    /// Held while dialling, so that one dials for all; the last failure and its time.
    dial: tokio::sync::Mutex<Option<(Instant, Error)>>,
}

struct Connection {
    sender: SendRequest<ReqBody>,
    /// One clone for each stream in use.
    streams: Arc<()>,
}

/// A stream's share in a connection: while it lives the connection counts as used.
#[derive(Clone, Debug)]
pub struct Lease {
    _stream: Arc<()>,
}

type Borrowed = (SendRequest<ReqBody>, Lease);

impl Member {
    pub(super) fn new(addr: &str) -> Self {
        Member { addr: addr.to_string(), connections: Mutex::default(), dial: tokio::sync::Mutex::default() }
    }

    /// Sends a request over the connection with the fewest streams.
    pub(super) async fn send(&self, mut request: http::Request<ReqBody>) -> Result<(http::Response<Incoming>, Lease)> {
        *request.uri_mut() = self.uri(request.uri())?;
        *request.version_mut() = http::Version::HTTP_2;
        request.headers_mut().remove(http::header::HOST);
        for _ in 1..TRIES {
            let (mut sender, lease) = self.borrow().await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(failed.error())),
                },
            }
        }
        let (mut sender, lease) = self.borrow().await?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        Ok((response, lease))
    }

    fn broken(&self, error: &hyper::Error) -> Error {
        Error::unavailable(format!("the connection to the member at {} broke: {}", self.addr, chain(error)))
    }

    fn uri(&self, uri: &http::Uri) -> Result<http::Uri> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        format!("http://{}{path}", self.addr)
            .parse()
            .map_err(|_| Error::invalid(format!("{:?} is not a member's address: write HOST:PORT", self.addr)))
    }

    /// An unused connection; a new one while there are few; else the least used.
    async fn borrow(&self) -> Result<Borrowed> {
        if let Some(found) = self.least_used(false) {
            return Ok(found);
        }
        let waiting_since = Instant::now();
        let mut failure = match self.dial.try_lock() {
            Ok(failure) => failure,
            Err(_) => match self.least_used(true) {
                Some(found) => return Ok(found),
                None => self.dial.lock().await,
            },
        };
        if let Some(found) = self.least_used(false) {
            return Ok(found);
        }
        if let Some((at, error)) = &*failure
            && *at > waiting_since
        {
            return Err(error.clone());
        }
        match self.dial().await {
            Ok(sender) => Ok(self.keep(sender)),
            Err(error) => {
                *failure = Some((Instant::now(), error.clone()));
                self.least_used(true).ok_or(error)
            }
        }
    }

    /// The live connection with the fewest streams; unless `any`, only if it has none or no further
    /// connection may be opened.
    fn least_used(&self, any: bool) -> Option<Borrowed> {
        let mut connections = self.connections.lock();
        connections.retain(|connection| !connection.sender.is_closed());
        let full = connections.len() >= CONNECTIONS;
        let best = connections.iter().min_by_key(|connection| Arc::strong_count(&connection.streams))?;
        let unused = Arc::strong_count(&best.streams) == 1;
        (any || full || unused).then(|| best.borrow())
    }

    fn keep(&self, sender: SendRequest<ReqBody>) -> Borrowed {
        let connection = Connection { sender, streams: Arc::new(()) };
        let borrowed = connection.borrow();
        self.connections.lock().push(connection);
        borrowed
    }

    async fn dial(&self) -> Result<SendRequest<ReqBody>> {
        let refused = |why: String| Error::unavailable(format!("the member at {} cannot be reached: {why}", self.addr));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.addr))
            .await
            .map_err(|_| refused(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|e| refused(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| refused(e.to_string()))?;
        let (sender, connection) = settings().handshake(TokioIo::new(stream)).await.map_err(|e| refused(chain(&e)))?;
        let addr = self.addr.clone();
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(member = addr, error = chain(&e), "a connection to a member broke");
            }
        });
        Ok(sender)
    }
}

impl Connection {
    fn borrow(&self) -> Borrowed {
        (self.sender.clone(), Lease { _stream: self.streams.clone() })
    }
}

fn settings() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    http
}

/// An error and what is behind it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
