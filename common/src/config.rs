//! Reading configuration: defaults < TOML file < environment (`VOLLEY_*`) < flags; and what addresses
//! may be listened on and told to others.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! #[derive(Deserialize, Serialize)]
//! #[serde(deny_unknown_fields, default)]
//! struct Config { listen: String }
//! impl Default for Config {
//!     fn default() -> Self { Config { listen: "127.0.0.1:8815".into() } }
//! }
//! let flags = serde_json::json!({ "listen": "127.0.0.1:9000" });
//! let config: Config = volley_common::config::load_from(None, [], &flags)?;
//! assert_eq!(config.listen, "127.0.0.1:9000");
//! # Ok::<(), volley_common::Error>(())
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The prefix of environment variables that are read as configuration.
pub const ENV_PREFIX: &str = "VOLLEY_";
/// Variables with the prefix that are meant for others: the command line, the log filter, the file's own path.
const OTHER_ENV: [&str; 4] = ["cluster", "log", "config", "check_config"];

/// Reads a configuration of type `T`: its defaults, beneath the TOML `file`, beneath this process's environment,
/// beneath `flags` (which leaves out what was not given: `skip_serializing_if`).
///
/// # Errors
/// INVALID_ARGUMENT: a file that cannot be read, an unknown key (named, with where it stands), a bad value.
pub fn load<T, F>(file: Option<&Path>, flags: &F) -> Result<T>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    load_from(file, std::env::vars(), flags)
}

/// [`load`] with a given environment.
///
/// # Errors
/// As [`load`].
pub fn load_from<T, F>(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>, flags: &F) -> Result<T>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    let defaults = serde_json::to_value(T::default()).map_err(|e| Error::internal(format!("configuration: {e}")))?;
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("cannot read the configuration file {}: {e}", path.display())))?;
        let beneath = Figment::from(Serialized::defaults(T::default())).merge(Toml::string(&text));
        beneath.extract::<T>().map_err(|e| explain(e, &format!("the configuration file {}", path.display())))?;
        figment = figment.merge(Toml::string(&text));
    }
    let env = from_env(&defaults, env)?;
    let all = figment.merge(Serialized::defaults(env)).merge(Serialized::defaults(flags));
    all.extract().map_err(|e| explain(e, "the environment and flags"))
}

fn explain(error: figment::Error, source: &str) -> Error {
    let first = error.into_iter().next();
    let Some(error) = first else { return Error::invalid(format!("{source}: bad configuration")) };
    Error::invalid(match &error.kind {
        Kind::UnknownField(key, known) => {
            format!("{source}: unknown key {key:?}; known are {}", known.join(", "))
        }
        _ => format!("{source}: {error}"),
    })
}

/// The variables that are configuration, as values of the types that the defaults have.
fn from_env(defaults: &Value, env: impl IntoIterator<Item = (String, String)>) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for (name, text) in env {
        let Some(key) = name.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase) else { continue };
        if OTHER_ENV.contains(&key.as_str()) || is_service_link(&name.to_ascii_lowercase(), &text) {
            continue;
        }
        let Some(default) = defaults.get(&key) else {
            return Err(Error::invalid(format!(
                "the environment variable {name} is no configuration key: unset it, or correct its name"
            )));
        };
        let value = typed(default, &text)
            .ok_or_else(|| Error::invalid(format!("the environment variable {name} has a bad value: {text:?}")))?;
        found.insert(key, value);
    }
    Ok(found)
}

/// What Kubernetes puts into the environment of every pod for a Service whose name begins with `volley`.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_service_host")
        || name.contains("_service_port")
        || name.contains("_port_")
        || (name.ends_with("_port") && value.contains("://"))
}

fn typed(default: &Value, text: &str) -> Option<Value> {
    match default {
        Value::Bool(_) => match text {
            "1" | "true" | "yes" => Some(true.into()),
            "" | "0" | "false" | "no" => Some(false.into()),
            _ => None,
        },
        Value::Number(_) => text.trim().parse::<u64>().ok().map(Value::from),
        Value::Array(_) => Some(text.split(',').map(str::trim).filter(|s| !s.is_empty()).collect()),
        _ => Some(text.into()),
    }
}

/// For `skip_serializing_if` of a flag that is either given or not.
pub fn is_false(flag: &bool) -> bool {
    !flag
}

/// A place to listen, with the name that its clients' addresses go by: `[NAME=]HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The listener's name; empty for the only one.
    pub name: String,
    /// HOST:PORT.
    pub addr: String,
}

impl std::str::FromStr for Listener {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, addr) = text.split_once('=').unwrap_or(("", text));
        split_host_port(addr)?;
        Ok(Listener { name: name.into(), addr: addr.into() })
    }
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
#[path = "config_tests.rs"]
mod tests;
