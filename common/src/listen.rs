//! Addresses of listeners: parsing, checks, and the address by which others reach a listener.
//!
//! A server can have several Flight listeners, for example one for clients in its own network and one for clients outside.
//! Each has a name, and a FlightInfo contains the addresses of the listener that its client used.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use crate::{Error, Result};

/// Names that no listener can have: in a request they choose the addresses of a FlightInfo.
const RESERVED_NAMES: [&str; 3] = ["direct", "proxy", "single"];
/// The name of the HTTP port in settings that may name a listener.
pub const HTTP_PORT_NAME: &str = "http";
/// The longest name, in bytes.
const MAX_NAME: usize = 64;

/// The configuration of a Flight listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name; empty for one without.
    pub name: String,
    /// Where it listens, HOST:PORT.
    pub addr: String,
    /// The address for clients, `[grpc+tcp://]HOST:PORT` or `grpc+tls://HOST:PORT`, if it is not `addr`.
    pub advertise: Option<String>,
}

impl ListenerConfig {
    /// HOST:PORT by which clients reach it, once its socket is bound.
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

/// Parses the listeners of `--listen [NAME=]HOST:PORT` and `--advertise [NAME=]URI`. Members use the first one.
///
/// # Errors
/// INVALID_ARGUMENT: no listener, a bad address or name, a name twice, a listener without a name among several, an advertised
/// address without its listener, an address that cannot be dialled. FAILED_PRECONDITION: an address that is not loopback, of a
/// listener that `is_open` does not allow to be.
pub fn listeners(
    listen: &[String],
    advertise: &[String],
    is_open: impl Fn(&str) -> bool,
) -> Result<Vec<ListenerConfig>> {
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    for text in listen {
        let (name, addr) = split_name(text);
        check_name(name).map_err(|e| e.at("--listen"))?;
        check_listen("--listen", addr, is_open(name))?;
        // The names relate the listeners of different members: a FlightInfo lists the nodes' listeners of the same name.
        if name.is_empty() && listen.len() > 1 {
            return Err(Error::invalid(format!(
                "--listen {addr} has no name: give each of several listeners a name, NAME={addr}, the same on every member"
            )));
        }
        if listeners.iter().any(|other| other.name == name) {
            return Err(Error::invalid(format!("--listen names {name:?} twice")));
        }
        listeners.push(ListenerConfig { name: name.into(), addr: addr.into(), advertise: None });
    }
    if listeners.is_empty() {
        return Err(Error::invalid("--listen is empty: give HOST:PORT"));
    }
    for text in advertise {
        set_advertise(&mut listeners, text)?;
    }
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    listeners.iter().try_for_each(|listener| listener.reachable_at(any).map(drop))?;
    Ok(listeners)
}

/// Gives the address of one `--advertise` to its listener.
fn set_advertise(listeners: &mut [ListenerConfig], text: &str) -> Result<()> {
    let (name, uri) = split_name(text);
    check_advertise(uri).map_err(|e| e.at("--advertise"))?;
    let names = listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>().join(", ");
    // Without a name it is for the only listener, which may have a name.
    let only = name.is_empty() && listeners.len() == 1;
    let Some(listener) = listeners.iter_mut().find(|listener| only || listener.name == name) else {
        return Err(Error::invalid(match name {
            "" => format!("--advertise {uri} has no listener name: give NAME={uri}, with one of {names}"),
            name => format!("--advertise names the listener {name:?}, but --listen has {names:?}: add it there"),
        }));
    };
    if listener.advertise.replace(uri.into()).is_some() {
        return Err(Error::invalid(format!(
            "--advertise is given twice for the listener {name:?}",
            name = listener.name
        )));
    }
    Ok(())
}

/// Splits `[NAME=]ADDRESS`; the name is empty if there is none.
pub fn split_name(text: &str) -> (&str, &str) {
    match text.split_once('=') {
        Some((name, rest)) if !name.contains([':', '/']) => (name, rest),
        _ => ("", text),
    }
}

/// Checks the name of a listener.
///
/// # Errors
/// INVALID_ARGUMENT: it is reserved, too long, or has characters that a header cannot have.
pub fn check_name(name: &str) -> Result<()> {
    if RESERVED_NAMES.contains(&name) {
        return Err(Error::invalid(format!("no listener can have the name {name:?}: it is reserved for requests")));
    }
    if name == HTTP_PORT_NAME {
        return Err(Error::invalid(format!(
            "no listener can have the name {name:?}: it means the HTTP port in --tls-cert and --tls-key; choose another name"
        )));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > MAX_NAME || !name.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "{name:?} cannot be the name of a listener: give up to {MAX_NAME} letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(())
}

/// Splits HOST:PORT or `[V6]:PORT`; returns the host without brackets.
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

/// Joins a host, which may be an IPv6 address without brackets, and a port.
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The HOST:PORT of a URI (`grpc+tcp://HOST:PORT/…`); a plain HOST:PORT stays as it is.
pub fn host_port(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// Refuses an address other than loopback, unless `is_open` allows it: passwords, tokens and data would be sent to other
/// machines in plaintext, and members would not prove which ones they are. `flag` is the name of the setting.
///
/// # Errors
/// INVALID_ARGUMENT: not an address. FAILED_PRECONDITION: not loopback.
pub fn check_listen(flag: &str, addr: &str, is_open: bool) -> Result<()> {
    split_host_port(addr).map_err(|e| e.at(flag))?;
    if is_loopback(addr) || is_open {
        return Ok(());
    }
    let (what, remedy) = match flag {
        "--peer-listen" => (
            "without certificates, so that every machine can pass for a member",
            "demand them (--peer-ca, --peer-cert and --peer-key with --peer-tls require)",
        ),
        _ => (
            "in plaintext, in which passwords, tokens and data can be read on the way",
            "give it TLS (--tls-cert and --tls-key)",
        ),
    };
    // It is not resolved: what it means may change until the listener is bound.
    let name = match split_host_port(addr) {
        Ok((host, _)) if host.parse::<IpAddr>().is_err() => {
            format!("; of names only localhost counts as this machine alone: is {host:?} right?")
        }
        _ => String::new(),
    };
    Err(Error::precondition(format!(
        "{flag} {addr} accepts connections of other machines {what}: listen on 127.0.0.1, {remedy}, or add --insecure if the network is trusted{name}"
    )))
}

/// Whether only programs on this machine can connect to a listener at HOST:PORT.
pub fn is_loopback(addr: &str) -> bool {
    let is_local = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    split_host_port(addr).is_ok_and(|(host, _)| is_local(host))
}

/// Checks an address that others dial, `[grpc[+tcp|+tls]://]HOST:PORT`, and returns its HOST:PORT. Callers name its setting.
///
/// # Errors
/// INVALID_ARGUMENT: not an address, or an unspecified one (0.0.0.0, `[::]`), which cannot be dialled.
pub fn check_advertise(uri: &str) -> Result<&str> {
    let addr = match uri.split_once("://") {
        Some(("grpc" | "grpc+tcp" | "grpc+tls", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some((scheme, _)) => {
            return Err(Error::invalid(format!(
                "the address {uri:?} has the scheme {scheme:?}: give grpc+tcp://HOST:PORT or grpc+tls://HOST:PORT"
            )));
        }
        None => uri,
    };
    let (host, _) = split_host_port(addr)?;
    if is_unspecified(host) {
        return Err(Error::invalid(format!(
            "others cannot dial the address {uri:?}: give a name or an address of its machine"
        )));
    }
    Ok(addr)
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// HOST:PORT by which others reach a listener: the advertised address, else the listen address. Port 0 is replaced by the
/// bound port. `flag` is the name of the setting for the advertised address.
///
/// # Errors
/// INVALID_ARGUMENT: as [`check_advertise`]; or it listens on every interface and has no advertised address.
pub fn reachable_at(flag: &str, listen: &str, advertise: Option<&str>, bound: SocketAddr) -> Result<String> {
    let addr = match advertise {
        Some(uri) => check_advertise(uri).map_err(|e| e.at(flag))?,
        None => listen,
    };
    let (host, port) = split_host_port(addr)?;
    if is_unspecified(host) {
        return Err(Error::invalid(format!(
            "{listen} listens on every interface, which is not an address that others can dial: add {flag} HOST:PORT with a name or address of this machine"
        )));
    }
    let port = if port == 0 { bound.port() } else { port };
    Ok(join_host_port(host, port))
}
