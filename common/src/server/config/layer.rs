//! One layer of a configuration: its keys under their current names, each with its source.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The prefix of environment variables that are read as configuration.
const ENV_PREFIX: &str = "VOLLEY_";
/// Variables with the prefix that are not configuration: those of the command line, the log and the file's own path.
const IGNORED_VARIABLES: [&str; 15] = [
    "cluster",
    "local",
    "log",
    "log_format",
    "config",
    "check_config",
    "tls_ca",
    "tls_client_cert",
    "tls_client_key",
    "tls_server_name",
    "user",
    "password",
    "token",
    "token_file",
    "plaintext_login",
];

/// Those of [`IGNORED_VARIABLES`] that the programs of servers read, and `volley` does not.
const PROGRAM_VARIABLES: [&str; 3] = ["log_format", "config", "check_config"];

/// The keys that only one role has. Members of both roles may share an environment, so a variable of the other role is
/// known and ignored.
pub const ROLE_KEYS: [(&str, &[&str]); 2] = [
    (
        "coordinators",
        &[
            "bootstrap_admin_file",
            "dev",
            "election_ms",
            "heartbeat_ms",
            "id",
            "join",
            "lease_ms",
            "locations",
            "max_column_name_bytes",
            "max_columns",
            "max_concurrent_plans",
            "max_endpoints",
            "max_finished_writes",
            "max_finished_writes_bytes",
            "max_nesting_depth",
            "max_open_writes",
            "max_parts_per_write",
            "max_result_rows",
            "max_schema_bytes",
            "max_shard_replicas",
            "max_tables",
            "max_ticket_ms",
            "metrics_tables",
            "node_timeout_ms",
            "peers",
            "repair_delay_ms",
            "reset_admin_file",
            "retention_ms",
            "write_id_retention_ms",
        ],
    ),
    (
        "nodes",
        &[
            "block_bytes",
            "capacity",
            "coordinators",
            "copy_bytes_per_second",
            "get_memory_bytes",
            "high_water",
            "local_socket",
            "low_water",
            "max_compressing_gets",
            "max_concurrent_copies",
            "max_concurrent_puts",
            "max_concurrent_puts_per_principal",
            "max_concurrent_queries",
            "max_decompressing_gets",
            "max_filtered_gets",
            "max_message",
            "max_queries_per_principal",
            "message_bytes",
            "message_timeout_ms",
            "orphan_retention_days",
            "part_bytes",
            "peer_advertise",
            "put_memory_bytes",
            "scrub_bytes_per_second",
            "scrub_days",
            "sql_distribute_bytes",
            "sql_memory_bytes",
            "sql_partitions",
            "sql_result_bytes",
            "sql_result_space_bytes",
            "sql_spill_bytes",
            "statement_timeout_s",
            "temporary_table_ttl_s",
            "zone",
        ],
    ),
];

/// How similar an unknown key must be to a known one to be taken for a misspelling of it, 0 to 1.
const MIN_SIMILARITY: f64 = 0.8;

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
                return Err(unknown_key(&format!("the key {given:?}{within}"), &given, known));
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

/// The error for a key that this role does not have. `what` names it and its source.
fn unknown_key(what: &str, given: &str, known: &Map<String, Value>) -> Error {
    if let Some(role) = role_of(given) {
        return Error::invalid(format!(
            "{what} is a setting of {role} only: remove it from the configuration of this server"
        ));
    }
    let score = |key: &String| strsim::jaro_winkler(given, key);
    let nearest = known.keys().max_by(|a, b| score(a).total_cmp(&score(b))).filter(|key| score(key) > MIN_SIMILARITY);
    let hint = nearest.map_or_else(String::new, |key| format!("did you mean {key:?}? "));
    Error::invalid(format!("{what} is not a configuration key: {hint}--print-config lists all keys"))
}

/// The only role that has this key; `None` if both have it, or none.
fn role_of(given: &str) -> Option<&'static str> {
    let present = renamed(given).unwrap_or(given);
    ROLE_KEYS.iter().find(|(_, keys)| keys.contains(&present)).map(|(role, _)| *role)
}

/// The current name of a key that was renamed.
fn renamed(given: &str) -> Option<&'static str> {
    RENAMED_KEYS.iter().find(|(old, _)| *old == given).map(|(_, new)| *new)
}

/// The current name of a key that may be given by its old name; `None` if it is not in `known`.
fn present_name<'a>(given: &'a str, known: &Map<String, Value>) -> Option<&'a str> {
    [Some(given), renamed(given)].into_iter().flatten().find(|key| known.contains_key(*key))
}

/// Whether this variable configures a server that has the keys `known`, by itself or by the file that it names.
pub fn configures(variable: &str, known: &Map<String, Value>) -> bool {
    let given = variable.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase);
    given.is_some_and(|given| present_name(&given, known).is_some() || PROGRAM_VARIABLES.contains(&&*given))
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
            if IGNORED_VARIABLES.contains(&&*given) || role_of(&given).is_some() || is_service_link(&given, &text) {
                continue;
            }
            return Err(unknown_key(&format!("the environment variable {name}"), &given, defaults));
        };
        let value = parse_as(default, &text).map_err(|wanted| {
            Error::invalid(format!("the environment variable {name} has the bad value {text:?}: give {wanted}"))
        })?;
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
///
/// # Errors
/// What a good value is.
fn parse_as(default: &Value, text: &str) -> std::result::Result<Value, &'static str> {
    match default {
        Value::Bool(_) => match text {
            "1" | "true" | "yes" => Ok(true.into()),
            "" | "0" | "false" | "no" => Ok(false.into()),
            _ => Err("true or false"),
        },
        Value::Number(number) if number.is_f64() => {
            let parsed = text.trim().parse::<f64>().ok().filter(|parsed| parsed.is_finite());
            parsed.map(Value::from).ok_or("a number")
        }
        Value::Number(_) => text.trim().parse::<u64>().map(Value::from).map_err(|_| "a whole number, at least 0"),
        Value::Array(_) => Ok(text.split(',').map(str::trim).filter(|s| !s.is_empty()).collect()),
        _ => Ok(text.into()),
    }
}

/// The variables of this process with the prefix.
///
/// # Errors
/// INVALID_ARGUMENT: one whose value is not UTF-8.
pub fn process_env() -> Result<Vec<(String, String)>> {
    let of_volley = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
    let variables = std::env::vars_os().filter_map(of_volley).filter(|(name, _)| name.starts_with(ENV_PREFIX));
    variables.map(|(name, value)| utf8(name, value)).collect()
}

fn utf8(name: String, value: OsString) -> Result<(String, String)> {
    match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(value) => Err(Error::invalid(format!("the environment variable {name} is not valid UTF-8: {value:?}"))),
    }
}

/// Keeps the flags that were given: the others are null, false or an empty list.
pub fn given_flags(mut flags: Map<String, Value>) -> Map<String, Value> {
    flags.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)) && *value != Value::Array(Vec::new()));
    flags
}
