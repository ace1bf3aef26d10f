#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Config {
    #[serde(deserialize_with = "one_or_many")]
    listen: Vec<String>,
    peers: Vec<String>,
    node_timeout_ms: u64,
    insecure: bool,
    advertise: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: vec!["127.0.0.1:1".into()],
            peers: vec![],
            node_timeout_ms: 7,
            insecure: false,
            advertise: None,
        }
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let toml = file("listen = \"a:1\"\nsilence_ms = 1\npeers = [\"1=x:1\"]\n");
    let env = env(&[("VOLLEY_LISTEN", "b:2"), ("VOLLEY_NODE_TIMEOUT_MS", "2"), ("VOLLEY_INSECURE", "true")]);
    let config: Config = load_from(Some(toml.path()), env, &json!({ "listen": ["c:3"] })).unwrap();
    assert_eq!(
        config,
        Config {
            listen: vec!["c:3".into()],
            peers: vec!["1=x:1".into()],
            node_timeout_ms: 2,
            insecure: true,
            advertise: None
        }
    );
}

#[test]
fn the_environment_takes_lists_and_options() {
    let env =
        env(&[("VOLLEY_PEERS", "1=a:1, 2=b:2"), ("VOLLEY_ADVERTISE", "h:1"), ("VOLLEY_CLUSTER", "x"), ("HOME", "/")]);
    let config: Config = load_from(None, env, &json!({})).unwrap();
    assert_eq!(config.peers, ["1=a:1", "2=b:2"]);
    assert_eq!(config.advertise.as_deref(), Some("h:1"));
}

#[test]
fn wrong_keys_and_values_are_named() {
    let wrong = |toml: &str, vars: &[(&str, &str)]| {
        let toml = file(toml);
        load_from::<Config, _>(Some(toml.path()), env(vars), &json!({})).unwrap_err().message
    };
    assert!(wrong("lissten = \"a\"", &[]).contains("\"lissten\""));
    assert!(wrong("node_timeout_ms = \"x\"", &[]).contains("node_timeout_ms"));
    assert!(wrong("node_timeout_ms =", &[]).contains("configuration file"));
    assert!(wrong("", &[("VOLLEY_LISSTEN", "a")]).contains("VOLLEY_LISSTEN"));
    assert!(wrong("", &[("VOLLEY_NODE_TIMEOUT_MS", "soon")]).contains("soon"));
    let missing = load_from::<Config, _>(Some(Path::new("/no/such.toml")), env(&[]), &json!({})).unwrap_err();
    assert!(missing.message.contains("/no/such.toml"));
}

#[test]
fn what_only_coordinators_are_told_is_no_mistake_at_a_node() {
    let env = env(&[("VOLLEY_LOCATIONS", "external=proxy"), ("VOLLEY_LISTEN", "internal=a:1,external=b:2")]);
    let config: Config = load_from(None, env, &json!({})).unwrap();
    assert_eq!(config.listen, ["internal=a:1", "external=b:2"]);
}

#[test]
fn variables_that_kubernetes_makes_are_no_configuration() {
    let vars = [
        ("VOLLEY_SERVICE_HOST", "10.0.0.1"),
        ("VOLLEY_COORDINATOR_SERVICE_PORT_FLIGHT", "8815"),
        ("VOLLEY_PORT", "tcp://10.0.0.1:8815"),
        ("VOLLEY_PORT_8815_TCP_ADDR", "10.0.0.1"),
        ("VOLLEY_COORDINATOR_PORT", "tcp://10.0.0.1:8815"),
    ];
    load_from::<Config, _>(None, env(&vars), &json!({})).unwrap();
}

#[test]
fn a_list_of_one_may_be_written_as_what_is_in_it() {
    let listen = |toml: &str| {
        let toml = file(toml);
        load_from::<Config, _>(Some(toml.path()), env(&[]), &json!({})).map(|config| config.listen)
    };
    assert_eq!(listen("listen = \"a:1\"").unwrap(), ["a:1"]);
    assert_eq!(listen("listen = [\"x=a:1\", \"y=b:2\"]").unwrap(), ["x=a:1", "y=b:2"]);
    assert!(listen("listen = 7").unwrap_err().message.contains("listen"));
}

#[test]
fn every_setting_is_printed_with_where_it_comes_from() {
    let toml = file("listen = \"a:1\"\nsilence_ms = 1\n");
    let env = env(&[("VOLLEY_NODE_TIMEOUT_MS", "2"), ("VOLLEY_PEERS", "1=x:1")]);
    let printed = print_from::<Config, _>(Some(toml.path()), env, &json!({ "insecure": true })).unwrap();
    let path = toml.path().display();
    for line in [
        format!("listen = [\"a:1\"]  # {path}"),
        "node_timeout_ms = 2  # VOLLEY_NODE_TIMEOUT_MS".into(),
        "peers = [\"1=x:1\"]  # VOLLEY_PEERS".into(),
        "insecure = true  # --insecure".into(),
        "# advertise is not set".into(),
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in:\n{printed}");
    }
    let again = file(&printed);
    assert_eq!(load_from::<Config, _>(Some(again.path()), [], &json!({})).unwrap().node_timeout_ms, 2, "it is a file");
}
