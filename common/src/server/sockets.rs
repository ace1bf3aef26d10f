//! The sockets of a server: its Flight listeners, its peer port and its HTTP port.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::ServerConfig;
use crate::listen::ListenerConfig;
use crate::server::serve;
use crate::{Error, Result};

/// What an operator reads at each start with `insecure`.
const INSECURE: &str = "--insecure is set: listeners without TLS accept other machines, so passwords, tokens and data can be read on the way; while the cluster has no users, everybody who reaches a listener may do everything";

/// Sockets that a caller bound before, since it must know the ports of several servers before it starts the first. What is
/// `None` is bound as the configuration says; a bound socket replaces the address in the configuration.
#[derive(Default)]
pub struct PreboundSockets {
    /// For Flight clients, of the first listener.
    pub flight: Option<TcpListener>,
    /// For members.
    pub peer: Option<TcpListener>,
    /// For health and metrics.
    pub http: Option<TcpListener>,
}

/// All sockets of a server, bound.
#[derive(Debug)]
pub struct ServerSockets {
    /// For Flight clients; at least one.
    pub flight: Vec<BoundListener>,
    /// For members.
    pub peer: TcpListener,
    /// For health and metrics.
    pub http: TcpListener,
}

/// A Flight listener whose socket is bound.
#[derive(Debug)]
pub struct BoundListener {
    /// Its name; empty for one without.
    pub name: String,
    /// Where clients reach it: `grpc+tcp://HOST:PORT`, or `grpc+tls://HOST:PORT`.
    pub uri: String,
    /// Whether the configuration gives that address (`--advertise`); otherwise it is where the listener listens.
    pub is_advertised: bool,
    /// The socket.
    pub socket: TcpListener,
}

/// The addresses of a running server.
#[derive(Clone, Debug)]
pub struct ServerAddresses {
    /// The address of the first Flight listener.
    pub flight: SocketAddr,
    /// Where clients reach it: `grpc+tcp://HOST:PORT`, or `grpc+tls://HOST:PORT`.
    pub flight_uri: String,
    /// The address of the peer port.
    pub peer: SocketAddr,
    /// The address of health and metrics.
    pub http: SocketAddr,
}

impl ServerSockets {
    /// Binds what is not bound yet, and warns if the configuration is insecure.
    ///
    /// # Errors
    /// Those of [`ServerConfig::listeners`], [`serve::bind`] and [`ListenerConfig::reachable_at`].
    pub async fn bind(config: &ServerConfig, prebound: PreboundSockets) -> Result<Self> {
        if config.insecure {
            tracing::warn!("{INSECURE}");
        }
        Ok(ServerSockets {
            flight: bind_listeners(config, prebound.flight).await?,
            peer: bind_unless(prebound.peer, &config.peer_listen).await?,
            http: bind_unless(prebound.http, &config.http_listen).await?,
        })
    }

    /// The listener of members and of clients that need no other.
    ///
    /// # Errors
    /// INTERNAL: there is none.
    pub fn first(&self) -> Result<&BoundListener> {
        self.flight.first().ok_or_else(|| Error::internal("the server has no listener"))
    }

    /// The bound addresses.
    ///
    /// # Errors
    /// UNAVAILABLE: the system does not give the address of a socket.
    pub fn addresses(&self) -> Result<ServerAddresses> {
        let first = self.first()?;
        Ok(ServerAddresses {
            flight: local_addr(&first.socket)?,
            flight_uri: first.uri.clone(),
            peer: local_addr(&self.peer)?,
            http: local_addr(&self.http)?,
        })
    }
}

/// Binds all listeners; the first one takes the prebound socket if there is one.
async fn bind_listeners(config: &ServerConfig, mut first: Option<TcpListener>) -> Result<Vec<BoundListener>> {
    let listeners = config.listeners()?;
    let mut bound = Vec::with_capacity(listeners.len());
    for listener in &listeners {
        let socket = bind_unless(first.take(), &listener.addr).await?;
        let scheme = scheme_of(listener, config.tls.is_tls(&listener.name));
        let uri = format!("{scheme}://{}", listener.reachable_at(local_addr(&socket)?)?);
        let is_advertised = listener.advertise.is_some();
        bound.push(BoundListener { name: listener.name.clone(), uri, is_advertised, socket });
    }
    Ok(bound)
}

/// The scheme of a listener's URI. What is before a listener without TLS may have it: then the advertised address says so.
fn scheme_of(listener: &ListenerConfig, is_tls: bool) -> &'static str {
    let advertises_tls = listener.advertise.as_deref().is_some_and(|uri| uri.starts_with("grpc+tls://"));
    if is_tls || advertises_tls { "grpc+tls" } else { "grpc+tcp" }
}

async fn bind_unless(prebound: Option<TcpListener>, addr: &str) -> Result<TcpListener> {
    match prebound {
        Some(socket) => Ok(socket),
        None => serve::bind(addr).await,
    }
}

fn local_addr(socket: &TcpListener) -> Result<SocketAddr> {
    socket.local_addr().map_err(|e| Error::unavailable(format!("a listener has no address: {e}")))
}
