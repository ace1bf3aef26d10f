//! Checks docs/configuration.md against the servers' settings. With `VOLLEY_UPDATE_DOCS=1` it writes the page instead:
//!
//! ```text
//! VOLLEY_UPDATE_DOCS=1 cargo test -p volley --test cli configuration::
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{CommandFactory, Parser};
use serde::Serialize;
use serde_json::{Map, Value};
use volley_common::server::config::load_from;
use volley_common::server::config::{RENAMED_KEYS, ROLE_KEYS};
use volley_coordinator::CoordinatorConfig;
use volley_coordinator::config::CoordinatorArgs;
use volley_node::NodeConfig;
use volley_node::config::NodeArgs;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

const LIMITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/limits.md");

const INTRODUCTION: &str = "\
# Settings of the servers

For those who run servers: all settings of `volley-coordinator` and `volley-node`. Each can be given in four places; a later one overrides an earlier one: the default, the TOML file that `--config` names
(`key = value`), the environment (`VOLLEY_KEY`), the flag (`--key`, with dashes in place of underscores). In the environment the values of a list are separated by commas.

`--check-config` reports what is wrong and exits; `--print-config` prints every setting with its value and its source. An unknown key is an error. A variable of the other role is ignored, so
members of both roles can share an environment; a key of the other role in a file is an error.
`volley dev` has the defaults: it names the variables of settings that it ignores.

`VOLLEY_LOG` sets the log's level (`info`, or for example `info,volley_node=debug`), `VOLLEY_LOG_FORMAT` or `--log-format` its format (`text`, `json`), `VOLLEY_CONFIG` the configuration file.
Examples of files are in `deploy/config/`.

A test generates this page from the servers' flags and defaults (`cli/tests/cli/configuration.rs`).
";

/// The defaults of a configuration, by key.
fn defaults<C: Default + Serialize>() -> Map<String, Value> {
    let Value::Object(map) = serde_json::to_value(C::default()).unwrap() else { panic!("a configuration is a map") };
    map
}

/// The rows of a table for `keys`.
fn rows<A: CommandFactory>(defaults: &Map<String, Value>, keys: &BTreeSet<&String>) -> String {
    let command = A::command();
    let mut text = String::from("| key | default | meaning |\n|---|---|---|\n");
    for key in keys {
        let flag = command.get_arguments().find(|flag| flag.get_id().as_str() == key.as_str());
        let flag = flag.unwrap_or_else(|| panic!("the setting {key} has no flag"));
        let help = flag.get_long_help().or(flag.get_help()).unwrap().to_string().replace('\n', " ");
        let (meaning, of_help) =
            help.split_once(" [default: ").map_or((&*help, None), |(text, rest)| (text, Some(rest)));
        let meaning = meaning.replace('|', "\\|");
        let default = match &defaults[key.as_str()] {
            _ if of_help.is_some() => of_help.unwrap().trim_end_matches(']').into(),
            Value::Null => "none".into(),
            Value::String(text) if text.is_empty() => "empty".into(),
            Value::Array(values) if values.is_empty() => "empty".into(),
            Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        writeln!(text, "| `{key}` | {default} | {meaning} |").unwrap();
    }
    text
}

fn page() -> String {
    let (coordinator, node) = (defaults::<CoordinatorConfig>(), defaults::<NodeConfig>());
    let shared: BTreeSet<_> = coordinator.keys().filter(|key| node.contains_key(*key)).collect();
    let only = |role: &Map<String, Value>| role.keys().filter(|key| !shared.contains(key)).cloned().collect::<Vec<_>>();
    let (of_coordinators, of_nodes) = (only(&coordinator), only(&node));
    let renamed: String = RENAMED_KEYS.iter().map(|(old, new)| format!("| `{old}` | `{new}` |\n")).collect();
    format!(
        "{INTRODUCTION}\n## Both roles\n\nDefaults of a coordinator; a node's ports are 8816, 8826 and 8836, and its folder is `volley-node-data`.\n\n{}\n\
         ## Coordinators\n\n{}\n## Nodes\n\n{}\n\
         ## Renamed settings\n\nThe old names still work in every place, log a warning, and go away in the next minor version.\n\n\
         | old name | name |\n|---|---|\n{renamed}",
        rows::<CoordinatorArgs>(&coordinator, &shared),
        rows::<CoordinatorArgs>(&coordinator, &of_coordinators.iter().collect()),
        rows::<NodeArgs>(&node, &of_nodes.iter().collect()),
    )
}

#[test]
fn settings_reference_is_up_to_date() {
    let page = page();
    if std::env::var_os("VOLLEY_UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is out of date: VOLLEY_UPDATE_DOCS=1 cargo test -p volley --test cli configuration::"
    );
}

#[test]
fn every_limit_is_in_the_table_of_limits() {
    let page = std::fs::read_to_string(LIMITS).unwrap();
    for key in defaults::<CoordinatorConfig>().keys().chain(defaults::<NodeConfig>().keys()) {
        let is_limit = key.starts_with("max_") || key.ends_with("_memory_bytes");
        assert!(!is_limit || page.contains(&format!("`{key}`")), "docs/limits.md does not name {key}");
    }
}

#[test]
fn role_keys_are_those_that_one_role_has() {
    let (coordinator, node) = (defaults::<CoordinatorConfig>(), defaults::<NodeConfig>());
    for ((role, keys), (own, other)) in ROLE_KEYS.iter().zip([(&coordinator, &node), (&node, &coordinator)]) {
        let only: Vec<&String> = own.keys().filter(|key| !other.contains_key(*key)).collect();
        assert_eq!(only, *keys, "ROLE_KEYS of {role}");
    }
}

#[test]
fn every_setting_works_as_a_flag() {
    fn check<A: Parser + CommandFactory + Serialize, C: Default + Serialize + serde::de::DeserializeOwned>(name: &str) {
        for (key, default) in defaults::<C>() {
            let flag = format!("--{}", key.replace('_', "-"));
            let command = A::command();
            let argument = command.get_arguments().find(|one| one.get_id().as_str() == key.as_str());
            let choice =
                argument.and_then(|one| one.get_possible_values().first().map(|one| one.get_name().to_string()));
            let (value, wanted) = match &default {
                Value::Bool(_) => (None, Value::Bool(true)),
                Value::Number(number) if number.is_f64() => (Some("12.5"), Value::from(12.5)),
                Value::Number(_) => (Some("70001"), Value::from(70_001)),
                Value::Array(_) => (Some("a"), Value::from(vec!["a"])),
                // One of a few words.
                _ if choice.is_some() => (choice.as_deref(), Value::from(choice.clone())),
                _ => (Some("a"), Value::from("a")),
            };
            let args = A::try_parse_from([Some(name), Some(&*flag), value].into_iter().flatten()).unwrap();
            let config: C = load_from(None::<&Path>, [], &args).unwrap();
            assert_eq!(serde_json::to_value(&config).unwrap()[&key], wanted, "{flag}");
        }
    }
    check::<CoordinatorArgs, CoordinatorConfig>("volley-coordinator");
    check::<NodeArgs, NodeConfig>("volley-node");
}
