//! Threads for Raft and the peer port, apart from those that serve clients.
//!
//! A leader that sends no heartbeats for `election_ms` is replaced, and a leader that gets no answers from a majority cannot
//! commit. On threads of their own, heartbeats, votes and entries do not wait for requests, however many or heavy these are.
//! Other calls on the peer port are handed to the threads that serve clients.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle as RuntimeHandle, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tower::Service;
use volley_common::http2::{ReplyBody, grpc_error};
use volley_common::server::serve::Http2Service;
use volley_common::server::{Lifecycle, process};
use volley_common::telemetry::trace::carry;
use volley_common::tls::ListenerTls;
use volley_common::{Error, Result};

/// One for messages that wait for the other, and for connections.
const THREADS: usize = 2;
/// The beginning of the paths of Raft's messages.
const RAFT_PATHS: &str = "/volley.raft.v1.Raft/";

/// A runtime for Raft; its threads end when it is dropped.
pub struct RaftThreads(Option<Runtime>);

impl RaftThreads {
    /// Starts the threads.
    ///
    /// # Errors
    /// INTERNAL: the system refuses to create a thread.
    pub fn start() -> Result<Self> {
        let mut builder = Builder::new_multi_thread();
        process::runtime(builder.worker_threads(THREADS).thread_name("volley-raft"))
            .map(|runtime| RaftThreads(Some(runtime)))
    }

    fn handle(&self) -> Result<&RuntimeHandle> {
        self.0.as_ref().map(Runtime::handle).ok_or_else(|| Error::internal("the threads of Raft have ended"))
    }

    /// Runs a future on these threads, and what it spawns.
    ///
    /// # Errors
    /// Those of the future. INTERNAL: it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.handle()?.spawn(work).await.map_err(|e| Error::internal(format!("Raft did not start: {e}")))?
    }

    /// Serves the peer port on these threads. `service` handles all calls but Raft's on the threads that serve clients, which
    /// are those of the caller.
    ///
    /// # Errors
    /// INTERNAL: the system refuses to hand over the socket.
    pub fn serve_peers(
        &self,
        lifecycle: &Lifecycle,
        listener: TcpListener,
        tls: Arc<ListenerTls>,
        service: impl Http2Service,
    ) -> Result<()> {
        let service = OnClientThreads { service, threads: RuntimeHandle::current() };
        let _entered = self.handle()?.enter();
        // A socket belongs to the runtime in which it was registered.
        let listener = listener.into_std().and_then(TcpListener::from_std);
        let listener = listener.map_err(|e| Error::internal(format!("the peer port cannot be handed over: {e}")))?;
        lifecycle.serve_peers(listener, tls, service);
        Ok(())
    }
}

impl Drop for RaftThreads {
    /// Does not wait for the threads: a runtime cannot be waited for in another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Handles Raft's messages where they arrive, and every other call on other threads.
#[derive(Clone)]
struct OnClientThreads<S> {
    service: S,
    threads: RuntimeHandle,
}

impl<S: Http2Service> Service<Request<Incoming>> for OnClientThreads<S> {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Response<ReplyBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let is_raft = request.uri().path().starts_with(RAFT_PATHS);
        let threads = self.threads.clone();
        let mut service = self.service.clone();
        if is_raft {
            return Box::pin(service.call(request));
        }
        // Within the task: a call may need the runtime from its beginning.
        let call = async move { service.call(request).await };
        Box::pin(async move {
            match AbortOnDropHandle::new(threads.spawn(carry(call))).await {
                Ok(reply) => reply,
                Err(error) => Ok(grpc_error(Error::internal(format!("the call ended early: {error}")))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// The test's thread is the only one that could serve clients.
    #[tokio::test]
    async fn raft_goes_on_while_all_threads_of_clients_are_busy() {
        let threads = RaftThreads::start().unwrap();
        let (done, finished) = mpsc::sync_channel(1);
        let steps = async move {
            for step in 0..3 {
                tokio::task::yield_now().await;
                tokio::spawn(async move { step }).await.unwrap();
            }
            done.send(std::thread::current().name().map(String::from)).unwrap();
        };
        threads.handle().unwrap().spawn(steps);
        let name = finished.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(name.as_deref(), Some("volley-raft"));
    }
}
