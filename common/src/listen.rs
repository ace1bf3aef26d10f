//! Where a server listens for Flight clients, and how these reach it.
//!
//! A server may listen at several places: one for clients in its own network, one for those outside. Each has a name, and a
//! FlightInfo has the addresses of the listener by which its client came.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;

use crate::server::serve;
use crate::{Error, Result};

/// Names that mean ways of answering, so that no listener may have them.
const RESERVED: [&str; 3] = ["direct", "proxy", "single"];
/// The longest name.
const MAX_NAME: usize = 64;

/// A place where Flight clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name; empty for one without.
    pub name: String,
    /// Where it listens, HOST:PORT.
    pub addr: String,
    /// Where its clients reach it, `[grpc+tcp://]HOST:PORT`, unless that is `addr`.
    pub advertise: Option<String>,
}

impl Listener {
    /// HOST:PORT by which clients reach it, once it is bound.
    ///
    /// # Errors
    /// As [`reachable_at`].
    pub fn reachable_at(&self, bound: SocketAddr) -> Result<String> {
        let flag = match self.name.as_str() {
            "" => "--advertise".to_string(),
            name => format!("--advertise {name}="),
        };
        reachable_at(&flag, &self.addr, self.advertise.as_deref(), bound)
    }
}

/// A listener whose socket is bound.
#[derive(Debug)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Where clients reach it: `grpc+tcp://HOST:PORT`.
    pub uri: String,
    /// The socket.
    pub socket: TcpListener,
}

impl Bound {
    /// Binds all of them, the `first` on a socket that is bound already if it is given.
    ///
    /// # Errors
    /// Those of [`serve::bind`] and of [`Listener::reachable_at`].
    pub async fn all(listeners: &[Listener], mut first: Option<TcpListener>) -> Result<Vec<Bound>> {
        let mut all = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let socket = bound(first.take(), &listener.addr).await?;
            let uri = format!("grpc+tcp://{}", listener.reachable_at(local_addr(&socket)?)?);
            all.push(Bound { name: listener.name.clone(), uri, socket });
        }
        Ok(all)
    }
}

/// The socket that is bound already, or one that is bound now.
///
/// # Errors
/// Those of [`serve::bind`].
pub async fn bound(given: Option<TcpListener>, addr: &str) -> Result<TcpListener> {
    match given {
        Some(socket) => Ok(socket),
        None => serve::bind(addr).await,
    }
}

/// Where a socket is bound.
///
/// # Errors
/// UNAVAILABLE: the system does not say.
pub fn local_addr(socket: &TcpListener) -> Result<SocketAddr> {
    socket.local_addr().map_err(|e| Error::unavailable(format!("a listener has no address: {e}")))
}

/// The listeners of `--listen [NAME=]HOST:PORT` and `--advertise [NAME=]URI`, the members' own first.
///
/// # Errors
/// INVALID_ARGUMENT: no listener, a bad address or name, a name twice, several of which one has no name, an advertised
/// address of no listener, a place that nobody can dial. FAILED_PRECONDITION: one that is not loopback, without `insecure`.
pub fn listeners(listen: &[String], advertise: &[String], insecure: bool) -> Result<Vec<Listener>> {
    let mut listeners: Vec<Listener> = Vec::new();
    for text in listen {
        let (name, addr) = named(text);
        check_name(name).map_err(|e| e.at("--listen"))?;
        check_listen("--listen", addr, insecure)?;
        // Which of the other members' addresses its clients are to be told, nobody could say.
        if name.is_empty() && listen.len() > 1 {
            return Err(Error::invalid(format!(
                "--listen {addr} has no name: where there are several give each one, NAME={addr}, the same on every member"
            )));
        }
        if listeners.iter().any(|other| other.name == name) {
            return Err(Error::invalid(format!("--listen names {name:?} twice")));
        }
        listeners.push(Listener { name: name.into(), addr: addr.into(), advertise: None });
    }
    if listeners.is_empty() {
        return Err(Error::invalid("--listen is empty: give HOST:PORT"));
    }
    for text in advertise {
        let (name, uri) = named(text);
        check_advertise(uri).map_err(|e| e.at("--advertise"))?;
        let names: Vec<String> = listeners.iter().map(|listener| listener.name.clone()).collect();
        // Without a name it is for the only one, whatever that is called.
        let only = name.is_empty() && listeners.len() == 1;
        let Some(listener) = listeners.iter_mut().find(|listener| only || listener.name == name) else {
            let names = names.join(", ");
            return Err(Error::invalid(match name {
                "" => {
                    format!("--advertise {uri} does not say for which listener: give NAME={uri}, with one of {names}")
                }
                name => {
                    format!("--advertise names the listener {name:?}, but --listen has {names:?}: give it there too")
                }
            }));
        };
        if listener.advertise.replace(uri.into()).is_some() {
            return Err(Error::invalid(format!("--advertise is given twice for the listener {:?}", listener.name)));
        }
    }
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    listeners.iter().try_for_each(|listener| listener.reachable_at(any).map(drop))?;
    Ok(listeners)
}

/// Splits NAME=ADDRESS; the name is empty where there is none.
pub fn named(text: &str) -> (&str, &str) {
    match text.split_once('=') {
        Some((name, rest)) if !name.contains([':', '/']) => (name, rest),
        _ => ("", text),
    }
}

/// Whether a listener can have this name.
///
/// # Errors
/// INVALID_ARGUMENT: it means something else, or has letters that cannot stand in a header.
pub fn check_name(name: &str) -> Result<()> {
    if RESERVED.contains(&name) {
        return Err(Error::invalid(format!("no listener can be named {name:?}: that is a way of answering")));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > MAX_NAME || !name.chars().all(fine) {
        return Err(Error::invalid(format!(
            "{name:?} is no name for a listener: give up to {MAX_NAME} letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(())
}

/// Splits HOST:PORT, or `[V6]:PORT`; the host comes back without brackets.
///
/// # Errors
/// INVALID_ARGUMENT: no port, no host, a port above 65,535.
pub fn split_host_port(addr: &str) -> Result<(&str, u16)> {
    let bad =
        |why: &str| Error::invalid(format!("the address {addr:?} {why}: give HOST:PORT, for example 127.0.0.1:8815"));
    let (host, port) = addr.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
    let port = port.parse().map_err(|_| bad("has no valid port"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err(bad("needs [ ] around its IPv6 host"));
    }
    let host = bare.unwrap_or(host);
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@' | '?' | '#')) {
        return Err(bad("has no valid host"));
    }
    Ok((host, port))
}

/// The HOST:PORT of a URI (`grpc+tcp://HOST:PORT/…`), or of what is one already.
pub fn host_port(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// Refuses to listen elsewhere than on loopback, unless `insecure` allows it. `flag` names the setting.
///
/// # Errors
/// INVALID_ARGUMENT: not an address. FAILED_PRECONDITION: not loopback.
pub fn check_listen(flag: &str, addr: &str, insecure: bool) -> Result<()> {
    let (host, _) = split_host_port(addr).map_err(|e| e.at(flag))?;
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || insecure {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{flag} {addr} would let other machines in without authentication: listen on 127.0.0.1, or add --insecure if the network is trusted"
    )))
}

/// Checks an address that others are told, `[grpc[+tcp]://]HOST:PORT`, and gives its HOST:PORT.
///
/// # Errors
/// INVALID_ARGUMENT: not an address, or an unspecified one (0.0.0.0, `[::]`) that nobody can dial.
pub fn check_advertise(uri: &str) -> Result<&str> {
    let addr = match uri.split_once("://") {
        Some(("grpc" | "grpc+tcp", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some((scheme, _)) => {
            return Err(Error::invalid(format!(
                "the advertised address {uri:?} has the scheme {scheme:?}: give grpc+tcp://HOST:PORT"
            )));
        }
        None => uri,
    };
    let (host, _) = split_host_port(addr).map_err(|e| e.at("the advertised address"))?;
    if is_unspecified(host) {
        return Err(Error::invalid(format!(
            "the advertised address {uri:?} is no place that a client can dial: give a name or address of this machine"
        )));
    }
    Ok(addr)
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// The HOST:PORT by which others reach a listener: what is advertised, else where it listens. Port 0 stands for the
/// port that was bound. `flag` names the setting that would tell it.
///
/// # Errors
/// INVALID_ARGUMENT: as [`check_advertise`]; or it listens on every interface and nothing is advertised.
pub fn reachable_at(flag: &str, listen: &str, advertise: Option<&str>, bound: SocketAddr) -> Result<String> {
    let addr = match advertise {
        Some(uri) => check_advertise(uri).map_err(|e| e.at(flag))?,
        None => listen,
    };
    let (host, port) = split_host_port(addr)?;
    if is_unspecified(host) {
        return Err(Error::invalid(format!(
            "listening on {listen} means every interface, and others cannot be told which: add {flag} HOST:PORT with a name or address that they can dial"
        )));
    }
    let port = if port == 0 { bound.port() } else { port };
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
