//! HTTP/2 servers within the test's process.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use bytes::Bytes;
use futures::{Stream, stream};
use hyper::body::Incoming;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{ServerLimits, bind, serve};
use crate::Result;
use crate::http2::ReplyBody;
use crate::ipc::flight_encoder::{FlightFrame, encode_flight_data};

/// A server whose responses are produced by one closure.
pub(crate) struct TestServer {
    pub addr: String,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl TestServer {
    pub async fn start<F, Fut>(respond: F) -> Self
    where
        F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = http::Response<ReplyBody>> + Send + 'static,
    {
        TestServer::with_limits(ServerLimits::default(), respond).await
    }

    pub async fn with_limits<F, Fut>(limits: ServerLimits, respond: F) -> Self
    where
        F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = http::Response<ReplyBody>> + Send + 'static,
    {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let service = tower::service_fn(move |request| {
            let reply = respond(request);
            async move { Ok::<_, Infallible>(reply.await) }
        });
        let task = tokio::spawn(serve(listener, service, shutdown.clone(), limits));
        TestServer { addr, shutdown, task }
    }

    pub async fn client(&self) -> FlightServiceClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).unwrap();
        FlightServiceClient::new(endpoint.connect().await.unwrap())
    }
}

/// An address that accepts connections as the kernel does for a member without processor time: each is carried to the member
/// at `addr` after a delay.
pub(crate) async fn delayed(addr: &str, delay: Duration) -> String {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let (front, back) = (listener.local_addr().unwrap().to_string(), addr.to_string());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let back = back.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let mut far = TcpStream::connect(back).await.unwrap();
                // An error ends the connection.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    front
}

/// An address that refuses connections while the socket lives, which keeps its port: of a listener that was closed another test could
/// get it.
pub(crate) fn closed_address() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = socket.local_addr().unwrap().to_string();
    (socket, addr)
}

/// A message whose body is `byte`, `size` times.
pub(crate) fn message(byte: u8, size: usize) -> FlightFrame {
    encode_flight_data(b"header", None, std::iter::once(Bytes::from(vec![byte; size])))
}

/// An endless stream of messages of 1 MiB; `made` counts them.
pub(crate) fn endless(made: Arc<AtomicUsize>) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
    stream::repeat_with(move || {
        made.fetch_add(1, Ordering::SeqCst);
        Ok(message(7, 1 << 20))
    })
}

/// Waits for `what`, at most 20 s.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it did not happen within 20 s")
}
