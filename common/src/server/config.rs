//! Loads a configuration from four layers: defaults < TOML file < environment (`VOLLEY_*`) < flags.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! #[derive(Deserialize, Serialize)]
//! struct Settings { listen: String }
//! impl Default for Settings {
//!     fn default() -> Self { Settings { listen: "127.0.0.1:8815".into() } }
//! }
//! let flags = serde_json::json!({ "listen": "127.0.0.1:9000" });
//! let settings: Settings = volley_common::server::config::load_from(None, [], &flags)?;
//! assert_eq!(settings.listen, "127.0.0.1:9000");
//! # Ok::<(), volley_common::Error>(())
//! ```
//!
//! The keys of the serialized defaults are the known keys; `deny_unknown_fields` is not needed, and would not work
//! together with serde's `flatten`. A renamed key is accepted under its old name in every layer (`RENAMED_KEYS`).
//!
//! `figment` reads the TOML file only. Its `Env` provider guesses the type of a value from its text, so that `VOLLEY_ZONE=7`
//! would not be a string and `VOLLEY_INSECURE=yes` not a boolean, and it does not split lists at commas.

mod layer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use figment::Figment;
use figment::providers::{Format, Toml};
use layer::{Layer, LayerSource};
pub use layer::{RENAMED_KEYS, ROLE_KEYS};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::expectation::in_plain_words;
use crate::{Error, Result};

/// Loads a configuration of type `T`: its defaults, then the TOML `file`, then the environment of this process, then
/// `flags`. In `flags` null, false and an empty list mean that the flag is not given. Logs a warning for each old key.
///
/// # Errors
/// INVALID_ARGUMENT: a file that cannot be read, an unknown key, a bad value, a key given by its old and its new name in one
/// layer. The message names the key and its source.
pub fn load<T, F>(file: Option<&Path>, flags: &F) -> Result<T>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    let resolved = resolve(file, layer::process_env()?, flags)?;
    resolved.deprecations.iter().for_each(|deprecation| tracing::warn!("{deprecation}"));
    Ok(resolved.config)
}

/// Does what [`load`] does with a given environment, without the warnings.
///
/// # Errors
/// As [`load`].
pub fn load_from<T, F>(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>, flags: &F) -> Result<T>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    Ok(resolve(file, env, flags)?.config)
}

/// Those of the names that are environment variables by which a server with the configuration `T` is configured.
///
/// # Errors
/// INTERNAL: `T` is not a set of keys.
pub fn variables_of<T: Default + Serialize>(names: &[String]) -> Result<Vec<&str>> {
    let known = to_map(&T::default())?;
    Ok(names.iter().map(String::as_str).filter(|name| layer::configures(name, &known)).collect())
}

/// Parses a flag's number. Infinities and NaN are none: as JSON they would count as not given.
///
/// # Errors
/// What a good value is.
pub fn finite_number(text: &str) -> std::result::Result<f64, &'static str> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite()).ok_or("give a number")
}

/// Parses a flag's whole number.
///
/// # Errors
/// What a good value is.
pub fn whole_number<N: FromStr>(text: &str) -> std::result::Result<N, &'static str> {
    text.trim().parse().map_err(|_| "give a whole number, at least 0 and without a unit, that is not too large")
}

/// Lists every setting with its value and its source (a flag, a variable, the file or the defaults) as lines of a TOML file.
///
/// # Errors
/// As [`load`].
pub fn print<T, F>(file: Option<&Path>, flags: &F) -> Result<String>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    print_from::<T, F>(file, layer::process_env()?, flags)
}

fn print_from<T, F>(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>, flags: &F) -> Result<String>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    let resolved: Resolved<T> = resolve(file, env, flags)?;
    let line = |(key, value): (&String, &Value)| match value {
        Value::Null => format!("# {key} is not set\n"),
        value => format!("{key} = {value}  # {}\n", resolved.origins.get(key).map_or("default", String::as_str)),
    };
    Ok(to_map(&resolved.config)?.iter().map(line).collect())
}

/// A configuration and the sources of its values.
struct Resolved<T> {
    config: T,
    /// The source of every key that is not a default.
    origins: BTreeMap<String, String>,
    /// A message for each old key that is in use.
    deprecations: Vec<String>,
}

fn resolve<T, F>(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>, flags: &F) -> Result<Resolved<T>>
where
    T: Default + Serialize + DeserializeOwned,
    F: Serialize,
{
    let defaults = to_map(&T::default())?;
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.push(Layer::new(&LayerSource::File(path), read_toml(path)?, &defaults)?);
    }
    layers.push(Layer::new(&LayerSource::Environment, layer::parse_env(&defaults, env)?, &defaults)?);
    layers.push(Layer::new(&LayerSource::Flags, layer::given_flags(to_map(flags)?), &defaults)?);

    let mut values = Value::Object(defaults);
    let (mut origins, mut deprecations) = (BTreeMap::new(), Vec::new());
    for layer in layers {
        deprecations.extend(layer.deprecations);
        for (key, setting) in layer.settings {
            values[&key] = setting.value;
            // Checked key by key: an error of serde's `flatten` does not say which key has the bad value.
            T::deserialize(&values)
                .map_err(|e| Error::invalid(format!("{}: {}", setting.place, in_plain_words(&e))))?;
            origins.insert(key, setting.origin);
        }
    }
    let config = T::deserialize(values).map_err(|e| Error::internal(format!("configuration: {e}")))?;
    Ok(Resolved { config, origins, deprecations })
}

fn read_toml(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::invalid(format!("cannot read the configuration file {}: {e}", path.display())))?;
    Figment::from(Toml::string(&text))
        .extract()
        .map_err(|e| Error::invalid(format!("the configuration file {}: {e}", path.display())))
}

fn to_map(settings: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::internal(format!("configuration: {other} is not a set of keys"))),
        Err(e) => Err(Error::internal(format!("configuration: {e}"))),
    }
}

/// Deserializes a list that a file may also give as one string; for `deserialize_with`.
///
/// # Errors
/// Neither a string nor a list of strings.
pub fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string, or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}
