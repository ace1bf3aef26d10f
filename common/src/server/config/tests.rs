#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::json;

use super::*;
use crate::server::ServerConfig;
use crate::server::audit::AuditData;

/// A configuration with the shared settings flattened in, as both servers have it, and every renamed key.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
struct TestConfig {
    #[serde(flatten)]
    server: ServerConfig,
    peers: Vec<String>,
    zone: String,
    peer_advertise: Option<String>,
    high_water: f64,
    node_timeout_ms: u64,
    repair_delay_ms: u64,
    write_id_retention_ms: u64,
    max_concurrent_copies: usize,
    copy_bytes_per_second: u64,
    scrub_bytes_per_second: u64,
}

impl Default for TestConfig {
    fn default() -> Self {
        TestConfig {
            server: ServerConfig::new("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "data"),
            peers: Vec::new(),
            zone: String::new(),
            peer_advertise: None,
            high_water: 95.0,
            node_timeout_ms: 7,
            repair_delay_ms: 7,
            write_id_retention_ms: 7,
            max_concurrent_copies: 7,
            copy_bytes_per_second: 7,
            scrub_bytes_per_second: 7,
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

/// Resolves a file, an environment and flags.
fn resolved(toml: &str, vars: &[(&str, &str)], flags: Value) -> Result<Resolved<TestConfig>> {
    resolve(Some(file(toml).path()), env(vars), &flags)
}

fn loaded(toml: &str, vars: &[(&str, &str)], flags: Value) -> TestConfig {
    resolved(toml, vars, flags).unwrap().config
}

fn refused(toml: &str, vars: &[(&str, &str)], flags: Value) -> String {
    resolved(toml, vars, flags).err().unwrap().message
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let toml = "listen = \"a:1\"\nnode_timeout_ms = 1\npeers = [\"1=x:1\"]\n";
    let vars = [("VOLLEY_LISTEN", "b:2"), ("VOLLEY_NODE_TIMEOUT_MS", "2"), ("VOLLEY_INSECURE", "true")];
    let config = loaded(toml, &vars, json!({ "listen": ["c:3"] }));
    assert_eq!(config.server.listen, ["c:3"]);
    assert_eq!(config.peers, ["1=x:1"]);
    assert_eq!(config.node_timeout_ms, 2);
    assert!(config.server.insecure);
    assert_eq!(config.peer_advertise, None);
    assert_eq!(config.server.http_listen, "127.0.0.1:3");
}

#[test]
fn flags_that_are_not_given_leave_the_value() {
    let flags = json!({ "listen": [], "insecure": false, "zone": null, "drain_ms": 5 });
    let config = loaded("listen = \"a:1\"\ninsecure = true\nzone = \"z\"\n", &[], flags);
    assert_eq!((config.server.listen, config.server.insecure, config.zone), (vec!["a:1".into()], true, "z".into()));
    assert_eq!(config.server.drain_ms, 5);
}

#[test]
fn variables_have_the_types_of_the_defaults() {
    let vars = [
        ("VOLLEY_PEERS", "1=a:1, 2=b:2"),
        ("VOLLEY_PEER_ADVERTISE", "h:1"),
        ("VOLLEY_ZONE", "7"),
        ("VOLLEY_HIGH_WATER", "92.5"),
        ("VOLLEY_INSECURE", "yes"),
        ("VOLLEY_CLUSTER", "x"),
        ("HOME", "/"),
    ];
    let config = loaded("", &vars, json!({}));
    assert_eq!(config.peers, ["1=a:1", "2=b:2"]);
    assert_eq!(config.peer_advertise.as_deref(), Some("h:1"));
    assert_eq!((config.zone.as_str(), config.high_water, config.server.insecure), ("7", 92.5, true));
}

#[test]
fn settings_of_identity_are_read_in_every_layer() {
    let toml = "audit_log = \"/var/log/audit.log\"\naudit_data = \"all\"\npublic_reflection = true\n";
    let vars =
        [("VOLLEY_AUDIT_DATA", "writes"), ("VOLLEY_PUBLIC_METRICS", "true"), ("VOLLEY_OIDC_ISSUER", "https://i")];
    let identity = loaded(toml, &vars, json!({ "audit_log_files": 3 })).server.identity;
    assert_eq!((identity.audit_log.as_str(), identity.audit_log_files), ("/var/log/audit.log", 3));
    assert_eq!((identity.audit_data, identity.oidc_issuer.as_deref()), (AuditData::Writes, Some("https://i")));
    assert!(identity.public_metrics && identity.public_reflection && !identity.shareable_tickets);
    let bad = refused("", &[("VOLLEY_AUDIT_DATA", "some")], json!({}));
    assert!(bad.contains("VOLLEY_AUDIT_DATA") && bad.contains("writes"), "{bad}");
}

#[test]
fn unknown_keys_and_bad_values_are_named() {
    let unknown = refused("lissten = \"a\"", &[], json!({}));
    assert!(unknown.contains("\"lissten\"") && unknown.contains("configuration file"), "{unknown}");
    assert!(unknown.contains("did you mean \"listen\"?") && unknown.contains("--print-config"), "{unknown}");
    assert!(!refused("frobnicate = 1", &[], json!({})).contains("did you mean"));
    let other_role = refused("election_ms = 1000", &[], json!({}));
    assert!(other_role.contains("a setting of coordinators only"), "{other_role}");
    assert!(refused("[listen]\nx = 1", &[], json!({})).contains("listen"));
    for (toml, key) in
        [("node_timeout_ms = \"x\"", "node_timeout_ms"), ("drain_ms = -1", "drain_ms"), ("listen = 7", "listen")]
    {
        let message = refused(toml, &[], json!({}));
        assert!(message.contains(key) && message.contains("configuration file"), "{message}");
    }
    assert!(refused("node_timeout_ms =", &[], json!({})).contains("configuration file"));
    assert!(refused("", &[("VOLLEY_LISSTEN", "a")], json!({})).contains("VOLLEY_LISSTEN"));
    let soon = refused("", &[("VOLLEY_NODE_TIMEOUT_MS", "soon")], json!({}));
    assert!(soon.contains("\"soon\"") && soon.contains("a whole number"), "{soon}");
    assert!(refused("", &[("VOLLEY_HIGH_WATER", "NaN")], json!({})).contains("a number"));
    assert!(refused("", &[], json!({ "drain_ms": "x" })).contains("--drain-ms"));
    let missing = load_from::<TestConfig, _>(Some(Path::new("/no/such.toml")), env(&[]), &json!({})).unwrap_err();
    assert!(missing.message.contains("/no/such.toml"));
}

#[test]
fn old_keys_work_and_are_reported_in_every_layer() {
    for (old, new) in RENAMED_KEYS {
        let variable = |key: &str| format!("VOLLEY_{}", key.to_uppercase());
        let flag = |key: &str| format!("--{}", key.replace('_', "-"));
        let both = |old: &str, new: &str| json!({ old: 3, new: 4 });
        // The layer with the old key; the names of both keys in it; the same layer with both keys.
        let cases = [
            (
                resolved(&format!("{old} = 3"), &[], json!({})),
                (old.to_string(), new.to_string()),
                resolved(&format!("{old} = 3\n{new} = 4"), &[], json!({})),
            ),
            (
                resolved("", &[(&variable(old), "3")], json!({})),
                (variable(old), variable(new)),
                resolved("", &[(&variable(old), "3"), (&variable(new), "4")], json!({})),
            ),
            (resolved("", &[], json!({ old: 3 })), (flag(old), flag(new)), resolved("", &[], both(old, new))),
        ];
        for (old_only, (old_name, new_name), both) in cases {
            let old_only = old_only.unwrap();
            assert_eq!(to_map(&old_only.config).unwrap()[new], 3, "{old_name}");
            let [deprecation] = &old_only.deprecations[..] else { panic!("{:?}", old_only.deprecations) };
            assert!(deprecation.contains(&old_name) && deprecation.contains(&new_name), "{deprecation}");
            let message = both.err().unwrap().message;
            assert!(message.contains(&old_name) && message.contains(&new_name), "{message}");
        }
        let higher = resolved(&format!("{old} = 3"), &[(&variable(new), "4")], json!({})).unwrap();
        assert_eq!(to_map(&higher.config).unwrap()[new], 4, "{old} in a lower layer");
        let higher = resolved(&format!("{new} = 3"), &[(&variable(old), "4")], json!({})).unwrap();
        assert_eq!(to_map(&higher.config).unwrap()[new], 4, "{old} in a higher layer");
    }
}

#[test]
fn variables_of_other_programs_are_ignored() {
    let vars = [
        // Set on all members alike, but settings of one role only, one of them by its old name.
        ("VOLLEY_LOCATIONS", "external=proxy"),
        ("VOLLEY_CAPACITY", "1000"),
        ("VOLLEY_ELECTION_MS", "not even a number"),
        ("VOLLEY_LISTEN", "internal=a:1,external=b:2"),
        ("VOLLEY_BOOTSTRAP_ADMIN_FILE", "/run/secrets/admin"),
        // Of the command line.
        ("VOLLEY_USER", "alice"),
        ("VOLLEY_PASSWORD", "secret"),
        ("VOLLEY_TOKEN", "volley_x"),
        ("VOLLEY_TOKEN_FILE", "/run/secrets/token"),
        ("VOLLEY_PLAINTEXT_LOGIN", "true"),
        ("VOLLEY_LOCAL", "never"),
        // Set by Kubernetes for Services.
        ("VOLLEY_SERVICE_HOST", "10.0.0.1"),
        ("VOLLEY_COORDINATOR_SERVICE_PORT_FLIGHT", "8815"),
        ("VOLLEY_PORT", "tcp://10.0.0.1:8815"),
        ("VOLLEY_PORT_8815_TCP_ADDR", "10.0.0.1"),
        ("VOLLEY_COORDINATOR_PORT", "tcp://10.0.0.1:8815"),
    ];
    assert_eq!(loaded("", &vars, json!({})).server.listen, ["internal=a:1", "external=b:2"]);
}

#[test]
fn list_in_a_file_can_be_one_string() {
    assert_eq!(loaded("listen = \"a:1\"", &[], json!({})).server.listen, ["a:1"]);
    assert_eq!(loaded("listen = [\"x=a:1\", \"y=b:2\"]", &[], json!({})).server.listen, ["x=a:1", "y=b:2"]);
}

#[test]
fn print_shows_every_setting_with_its_source() {
    let toml = file("listen = \"a:1\"\nsilence_ms = 1\ngrace_ms = 2\n");
    let env = env(&[("VOLLEY_NODE_TIMEOUT_MS", "2"), ("VOLLEY_PEERS", "1=x:1"), ("VOLLEY_DEADLINE_MS", "9")]);
    let printed = print_from::<TestConfig, _>(Some(toml.path()), env, &json!({ "insecure": true })).unwrap();
    let path = toml.path().display();
    for line in [
        format!("listen = [\"a:1\"]  # {path}"),
        format!("repair_delay_ms = 2  # {path}"),
        "node_timeout_ms = 2  # VOLLEY_NODE_TIMEOUT_MS".into(),
        "request_timeout_ms = 9  # VOLLEY_DEADLINE_MS".into(),
        "peers = [\"1=x:1\"]  # VOLLEY_PEERS".into(),
        "insecure = true  # --insecure".into(),
        "drain_ms = 30000  # default".into(),
        "# peer_advertise is not set".into(),
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in:\n{printed}");
    }
    let again = file(&printed);
    assert_eq!(load_from::<TestConfig, _>(Some(again.path()), [], &json!({})).unwrap().node_timeout_ms, 2);
}
