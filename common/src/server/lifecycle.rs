//! Runs the tasks of a server and stops them in two stages: first the service for clients, then the service for members.
//!
//! While the streams of clients drain, other members still need this server: a node's peers pull the parts of its last puts,
//! and a leader transfers leadership. Health and metrics are served until the second stage too.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::health::ServingReporter;
use super::http::{self, HttpPages, HttpStatus};
use crate::local_read::socket_file::SocketFile;
use crate::server::serve::member_rights::{MemberRights, PlaintextMembers};
use crate::server::serve::{self, Http2Service, InProcessFlight, LocalProtocol, ServerLimits};
use crate::telemetry;
use crate::tls::{Caller, ListenerTls};

/// The tasks of one server, and what stops them.
#[derive(Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    stop_peers: CancellationToken,
    client_tasks: TaskTracker,
    peer_tasks: TaskTracker,
    /// Whether the stop is complete. Locked during the stop, so that concurrent callers of `shutdown` wait for its end.
    stopped: Mutex<bool>,
}

impl Lifecycle {
    /// Cancelled when the stop begins.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Serves health, metrics and `pages` until the second stage. The guard ends that if the start fails; disarm it once the
    /// server runs.
    pub fn serve_http(
        &self,
        listener: TcpListener,
        tls: Arc<ListenerTls>,
        status: impl HttpStatus,
        pages: HttpPages,
    ) -> DropGuard {
        // Before anything is counted: what is counted without a recorder is lost.
        telemetry::install();
        self.peer_tasks.spawn(http::serve(listener, tls, status, pages, self.stop_peers.clone()));
        self.stop_peers.clone().drop_guard()
    }

    /// The service of a Flight listener for the HTTP port. Its calls drain as those of [`Lifecycle::serve_clients`].
    pub fn serve_in_process(&self, service: impl Http2Service, limits: ServerLimits) -> InProcessFlight {
        InProcessFlight::new(service, limits, self.stop.clone(), self.client_tasks.clone())
    }

    /// Serves Flight clients until the stop begins; then drains.
    pub fn serve_clients(
        &self,
        listener: TcpListener,
        tls: Arc<ListenerTls>,
        service: impl Http2Service,
        limits: ServerLimits,
    ) {
        self.client_tasks.spawn(serve::serve_tls(listener, tls, service, self.stop.clone(), limits));
    }

    /// Serves clients on this machine until the stop begins, as [`serve::serve_unix`]; then drains, and removes the socket's file.
    pub fn serve_local(
        &self,
        (listener, file): (UnixListener, SocketFile),
        caller: Caller,
        service: impl Http2Service,
        local: impl LocalProtocol,
        limits: ServerLimits,
    ) {
        let serving = serve::serve_unix(listener, caller, service, local, self.stop.clone(), limits);
        self.client_tasks.spawn(async move {
            serving.await;
            drop(file);
        });
    }

    /// Serves members until the second stage, each with the rights of its role.
    pub fn serve_peers(&self, listener: TcpListener, tls: Arc<ListenerTls>, service: impl Http2Service) {
        let service = MemberRights::new(service, PlaintextMembers::accepted_if(tls.accepts_plaintext()));
        let (stop, limits) = (self.stop_peers.clone(), ServerLimits::for_peers());
        self.peer_tasks.spawn(serve::serve_tls(listener, tls, service, stop, limits));
    }

    /// Reports gRPC health: SERVING while `is_serving` holds for the watched value, until the stop begins.
    pub fn report_health<T: Send + Sync + 'static>(
        &self,
        reporter: ServingReporter,
        watched: watch::Receiver<T>,
        is_serving: impl Fn(&T) -> bool + Send + 'static,
    ) {
        self.client_tasks.spawn(reporter.follow(watched, is_serving, self.stop.clone()));
    }

    /// Runs a task that ends when the stop begins, and that the first stage waits for.
    pub fn spawn_client_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.client_tasks.spawn(task);
    }

    /// Runs a task that ends when the stop begins, and that the second stage waits for.
    pub fn spawn_peer_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.peer_tasks.spawn(task);
    }

    /// Waits until the streams of clients have ended; for the first stage of [`Lifecycle::shutdown`].
    pub async fn clients_ended(&self) {
        self.client_tasks.close();
        self.client_tasks.wait().await;
    }

    /// Stops the server: no new calls of clients, then `first_stage`, then no new calls of members. Returns when all tasks
    /// have ended. May be called again, also after a call whose future was dropped.
    pub async fn shutdown(&self, first_stage: impl Future<Output = ()>) {
        self.stop.cancel();
        let mut stopped = self.stopped.lock().await;
        if *stopped {
            return;
        }
        first_stage.await;
        self.stop_peers.cancel();
        self.peer_tasks.close();
        self.peer_tasks.wait().await;
        *stopped = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peer_tasks_run_until_client_tasks_have_ended() {
        let lifecycle = Arc::new(Lifecycle::default());
        let (end_client, client_may_end) = tokio::sync::oneshot::channel::<()>();
        lifecycle.spawn_client_task(async move { drop(client_may_end.await) });
        let stop_peers = lifecycle.stop_peers.clone();
        lifecycle.spawn_peer_task(stop_peers.clone().cancelled_owned());
        let stopping = tokio::spawn({
            let lifecycle = lifecycle.clone();
            async move { lifecycle.shutdown(lifecycle.clients_ended()).await }
        });
        lifecycle.stop_token().cancelled().await;
        tokio::task::yield_now().await;
        assert!(!stop_peers.is_cancelled(), "a client is still served");
        end_client.send(()).unwrap();
        stopping.await.unwrap();
        assert!(stop_peers.is_cancelled());
        lifecycle.shutdown(std::future::pending()).await;
    }
}
