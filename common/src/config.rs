//! Reading configuration: defaults < TOML file < environment (`VOLLEY_*`) < flags.
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

use std::path::Path;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The prefix of environment variables that are read as configuration.
pub const ENV_PREFIX: &str = "VOLLEY_";
/// Variables with the prefix that are meant for others: the command line, the log filter, the file's own path; and what
/// belongs to listeners, which all members of a cluster may be told alike, but is the coordinators' alone.
const OTHER_ENV: [&str; 6] = ["cluster", "log", "log_format", "config", "check_config", "locations"];

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

/// Every setting as it would be used, one a line as a file has it, and where it comes from: a flag, a variable, the file or
/// the defaults.
///
/// # Errors
/// As [`load`].
pub fn print<T, F>(file: Option<&Path>, flags: &F) -> Result<String>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    print_from::<T, F>(file, std::env::vars().collect(), flags)
}

fn print_from<T, F>(file: Option<&Path>, env: Vec<(String, String)>, flags: &F) -> Result<String>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    let internal = |e: &dyn std::fmt::Display| Error::internal(format!("configuration: {e}"));
    let all: T = load_from(file, env.clone(), flags)?;
    let of = |value: std::result::Result<Value, serde_json::Error>| match value.map_err(|e| internal(&e))? {
        Value::Object(map) => Ok(map),
        other => Err(internal(&format!("{other} is no set of keys"))),
    };
    let (all, defaults) = (of(serde_json::to_value(all))?, of(serde_json::to_value(T::default()))?);
    let flags = of(serde_json::to_value(flags))?;
    let env = from_env(&defaults.clone().into(), env)?;
    let in_file: Map<String, Value> = match file {
        Some(path) => Figment::from(Toml::file_exact(path)).extract().map_err(|e| internal(&e))?,
        None => Map::new(),
    };
    let origin = |key: &String| match file {
        _ if flags.contains_key(key) => format!("--{}", key.replace('_', "-")),
        _ if env.contains_key(key) => format!("{ENV_PREFIX}{}", key.to_uppercase()),
        Some(path) if in_file.contains_key(key) => path.display().to_string(),
        _ => "default".into(),
    };
    let line = |(key, value): (&String, &Value)| match value {
        Value::Null => format!("# {key} is not set\n"),
        value => format!("{key} = {value}  # {}\n", origin(key)),
    };
    Ok(all.iter().map(line).collect())
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
        let default = defaults.get(&key);
        let others = OTHER_ENV.contains(&key.as_str()) || is_service_link(&name.to_ascii_lowercase(), &text);
        if others && default.is_none() {
            continue;
        }
        let Some(default) = default else {
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

/// For `deserialize_with` of a list that a file may also give as one text.
///
/// # Errors
/// Neither a text nor a list of texts.
pub fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
