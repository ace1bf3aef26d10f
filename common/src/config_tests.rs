#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Config {
    listen: String,
    peers: Vec<String>,
    silence_ms: u64,
    insecure: bool,
    advertise: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config { listen: "127.0.0.1:1".into(), peers: vec![], silence_ms: 7, insecure: false, advertise: None }
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
    let env = env(&[("VOLLEY_LISTEN", "b:2"), ("VOLLEY_SILENCE_MS", "2"), ("VOLLEY_INSECURE", "true")]);
    let config: Config = load_from(Some(toml.path()), env, &json!({ "listen": "c:3" })).unwrap();
    assert_eq!(
        config,
        Config { listen: "c:3".into(), peers: vec!["1=x:1".into()], silence_ms: 2, insecure: true, advertise: None }
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
    assert!(wrong("silence_ms = \"x\"", &[]).contains("silence_ms"));
    assert!(wrong("silence_ms =", &[]).contains("configuration file"));
    assert!(wrong("", &[("VOLLEY_LISSTEN", "a")]).contains("VOLLEY_LISSTEN"));
    assert!(wrong("", &[("VOLLEY_SILENCE_MS", "soon")]).contains("soon"));
    let missing = load_from::<Config, _>(Some(Path::new("/no/such.toml")), env(&[]), &json!({})).unwrap_err();
    assert!(missing.message.contains("/no/such.toml"));
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
fn only_loopback_needs_no_leave() {
    for addr in ["127.0.0.1:1", "[::1]:1", "localhost:0"] {
        check_listen("--listen", addr, false).unwrap();
    }
    for addr in ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "example.org:1"] {
        let error = check_listen("--listen", addr, false).unwrap_err();
        assert!(error.message.contains("--insecure") && error.message.contains(addr), "{error}");
        check_listen("--listen", addr, true).unwrap();
    }
}

#[test]
fn addresses_that_nobody_can_dial_are_refused() {
    assert_eq!(check_advertise("grpc+tcp://h:1").unwrap(), "h:1");
    assert_eq!(check_advertise("[fe80::1]:8815").unwrap(), "[fe80::1]:8815");
    for bad in ["0.0.0.0:1", "grpc://[::]:1", "http://h:1", "h", "h:x", ":1", "::1:5", "grpc+tcp://h:1/x", "a b:1", ""]
    {
        assert!(check_advertise(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_bound_port_fills_port_zero() {
    let bound: SocketAddr = "127.0.0.1:4242".parse().unwrap();
    let at = |listen, advertise| reachable_at("--advertise", listen, advertise, bound);
    assert_eq!(at("127.0.0.1:0", None).unwrap(), "127.0.0.1:4242");
    assert_eq!(at("[::1]:0", None).unwrap(), "[::1]:4242");
    assert_eq!(at("0.0.0.0:0", Some("grpc+tcp://h:0")).unwrap(), "h:4242");
    assert_eq!(at("0.0.0.0:0", Some("h:80")).unwrap(), "h:80");
    assert!(at("0.0.0.0:0", None).unwrap_err().message.contains("--advertise"));
}

#[test]
fn listeners_may_have_names() {
    let listener: Listener = "internal=0.0.0.0:8815".parse().unwrap();
    assert_eq!((listener.name.as_str(), listener.addr.as_str()), ("internal", "0.0.0.0:8815"));
    assert_eq!("h:1".parse::<Listener>().unwrap().name, "");
    assert!("nowhere".parse::<Listener>().is_err());
}
