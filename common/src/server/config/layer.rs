//! One layer of a configuration: its keys under their current names, each with its source.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The prefix of environment variables that are read as configuration.
const ENV_PREFIX: &str = "VOLLEY_";
/// Variables with the prefix that a server ignores unless they are keys of its configuration: those of the command line, the
/// log and the file's own path; and `locations`, since all members of a cluster may get the same settings of listeners, but
/// only coordinators use that one.
const IGNORED_VARIABLES: [&str; 6] = ["cluster", "log", "log_format", "config", "check_config", "locations"];

/// Old and new names of keys that were renamed in version 0.1; the old ones are removed with the next minor version.
pub const RENAMED_KEYS: [(&str, &str); 7] = [
    ("silence_ms", "node_timeout_ms"),
    ("grace_ms", "repair_delay_ms"),
    ("remember_writes_ms", "write_id_retention_ms"),
    ("copies_at_once", "max_concurrent_copies"),
    ("copy_rate", "copy_bytes_per_second"),
    ("scrub_rate", "scrub_bytes_per_second"),
    ("deadline_ms", "request_timeout_ms"),
];

/// The source of a layer's settings.
pub enum LayerSource<'a> {
    File(&'a Path),
    Environment,
    Flags,
}

impl LayerSource<'_> {
    /// The key as it is written in this source.
    fn name(&self, key: &str) -> String {
        match self {
            LayerSource::File(_) => key.into(),
            LayerSource::Environment => format!("{ENV_PREFIX}{}", key.to_uppercase()),
            LayerSource::Flags => format!("--{}", key.replace('_', "-")),
        }
    }
}

/// A value and its source.
pub struct Setting {
    pub value: Value,
    /// The source for `--print-config`: a path, a variable or a flag.
    pub origin: String,
    /// The key and its source for an error.
    pub place: String,
}

/// The settings of one source.
pub struct Layer {
    /// By current key.
    pub settings: BTreeMap<String, Setting>,
    /// A message for each old key.
    pub deprecations: Vec<String>,
}

impl Layer {
    /// Converts every key to its current name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key that is not in `known`, or one setting by its old and its new name.
    pub fn new(source: &LayerSource<'_>, values: Map<String, Value>, known: &Map<String, Value>) -> Result<Layer> {
        let mut layer = Layer { settings: BTreeMap::new(), deprecations: Vec::new() };
        let within = match source {
            LayerSource::File(path) => format!(" in the configuration file {}", path.display()),
            LayerSource::Environment | LayerSource::Flags => String::new(),
        };
        for (given, value) in values {
            let Some(key) = present_name(&given, known) else {
                let known: Vec<&str> = known.keys().map(String::as_str).collect();
                return Err(Error::invalid(format!("unknown key {given:?}{within}; known are {}", known.join(", "))));
            };
            let (name, present) = (source.name(&given), source.name(key));
            if name != present {
                layer.deprecations.push(format!("{name}{within} is deprecated: use its new name, {present}"));
            }
            let origin = match source {
                LayerSource::File(path) => path.display().to_string(),
                LayerSource::Environment | LayerSource::Flags => name.clone(),
            };
            let setting = Setting { value, origin, place: format!("{name}{within}") };
            if layer.settings.insert(key.into(), setting).is_some() {
                let old = RENAMED_KEYS.iter().find(|(_, new)| *new == key).map_or(&*given, |(old, _)| *old);
                return Err(Error::invalid(format!(
                    "{old} and {present}{within} are two names of one setting: remove {old}",
                    old = source.name(old)
                )));
            }
        }
        Ok(layer)
    }
}

/// The current name of a key that may be given by its old name; `None` if it is not in `known`.
fn present_name<'a>(given: &'a str, known: &Map<String, Value>) -> Option<&'a str> {
    let renamed = RENAMED_KEYS.iter().find(|(old, _)| *old == given).map(|(_, new)| *new);
    [Some(given), renamed].into_iter().flatten().find(|key| known.contains_key(*key))
}

/// Parses the variables that are configuration into values of the types that the defaults have.
///
/// # Errors
/// INVALID_ARGUMENT: a variable with the prefix that is not a key, or whose value does not parse.
pub fn parse_env(
    defaults: &Map<String, Value>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Map<String, Value>> {
    let mut values = Map::new();
    for (name, text) in env {
        let Some(given) = name.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase) else { continue };
        let Some(default) = present_name(&given, defaults).map(|key| &defaults[key]) else {
            if IGNORED_VARIABLES.contains(&&*given) || is_service_link(&given, &text) {
                continue;
            }
            return Err(Error::invalid(format!(
                "the environment variable {name} is not a configuration key: unset it, or correct its name"
            )));
        };
        let value = parse_as(default, &text)
            .ok_or_else(|| Error::invalid(format!("the environment variable {name} has a bad value: {text:?}")))?;
        values.insert(given, value);
    }
    Ok(values)
}

/// Whether Kubernetes sets this variable in every pod, for a Service whose name begins with `volley`.
fn is_service_link(key: &str, value: &str) -> bool {
    let key = format!("_{key}");
    key.ends_with("_service_host")
        || key.contains("_service_port")
        || key.contains("_port_")
        || (key.ends_with("_port") && value.contains("://"))
}

/// Parses a variable's text as the type of the default value.
fn parse_as(default: &Value, text: &str) -> Option<Value> {
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

/// Keeps the flags that were given: the others are null, false or an empty list.
pub fn given_flags(mut flags: Map<String, Value>) -> Map<String, Value> {
    flags.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)) && *value != Value::Array(Vec::new()));
    flags
}
