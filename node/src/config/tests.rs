#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use clap::Parser;
use volley_common::server::config::load_from;
use volley_common::server::process::command_line;

use super::*;

#[test]
fn defaults_are_valid() {
    NodeConfig::default().check().unwrap();
}

#[test]
fn bad_values_are_refused_by_name() {
    let refused = |word: &str, change: fn(&mut NodeConfig)| {
        let mut config = NodeConfig::default();
        change(&mut config);
        let error = config.check().unwrap_err();
        assert!(error.message.contains(word), "{word}: {error}");
    };
    refused("--insecure", |c| c.server.peer_listen = "0.0.0.0:8826".into());
    refused("--advertise", |c| (c.server.listen, c.server.insecure) = (vec!["0.0.0.0:8816".into()], true));
    refused("0.0.0.0:1", |c| c.server.advertise = vec!["grpc+tcp://0.0.0.0:1".into()]);
    refused("--coordinators", |c| c.coordinators = Vec::new());
    refused("--coordinators", |c| c.coordinators = vec!["nowhere".into()]);
    refused("without a scheme", |c| c.coordinators = vec!["grpc://c:1".into()]);
    refused("part_bytes", |c| c.part_bytes = 1);
    refused("message_bytes", |c| c.message_bytes = (64 << 10) - 1);
    refused("message_bytes", |c| c.message_bytes = MAX_SPLIT_BYTES + 1);
    refused("max_concurrent_copies", |c| c.max_concurrent_copies = 0);
    refused("high_water", |c| c.high_water = 100.1);
    refused("high_water", |c| c.high_water = f64::NAN);
    refused("low_water", |c| c.low_water = 96.0);
    refused("low_water", |c| c.low_water = 0.0);
    refused("zone", |c| c.zone = "z".repeat(3_000));
    refused("zone", |c| c.zone = "a\nb".into());
    refused("--peer-listen", |c| c.server.peer_listen = c.server.listen[0].clone());
    refused("--http-listen", |c| c.server.http_listen = c.server.peer_listen.clone());
    refused("scrub_days", |c| c.scrub_days = -1.0);
    refused("--local-socket", |c| c.local_socket = Some("run/node.sock".into()));
    refused("--local-socket", |c| c.local_socket = Some(format!("/{}", "s".repeat(107)).into()));
    refused("have no certificate", |c| {
        c.local_socket = Some("/run/node.sock".into());
        (c.server.tls.tls_cert, c.server.tls.tls_key) = (vec!["cert".into()], vec!["key".into()]);
        (c.server.tls.tls_client_ca, c.server.tls.tls_client_auth) = (vec!["ca".into()], ClientAuth::Required);
        c.server.tls.peer_ca = Some("ca".into());
        (c.server.tls.peer_cert, c.server.tls.peer_key) = (Some("cert".into()), Some("key".into()));
    });
    refused("sql_memory_bytes", |c| c.sql_memory_bytes = 1);
    refused("max_concurrent_queries", |c| c.max_concurrent_queries = 0);
    refused("statement_timeout_s", |c| c.statement_timeout_s = 0);
    refused("temporary_table_ttl_s", |c| c.temporary_table_ttl_s = 0);
    refused("temporary_table_ttl_s", |c| c.temporary_table_ttl_s = MAX_TTL_S + 1);
}

/// As JSON they would be null, which counts as not given.
#[test]
fn numbers_that_are_not_finite_are_refused_as_flags() {
    for flag in ["--high-water", "--low-water", "--scrub-days", "--orphan-retention-days"] {
        for value in ["NaN", "inf", "1e999", "much"] {
            assert!(NodeArgs::try_parse_from(["volley-node", flag, value]).is_err(), "{flag} {value}");
        }
        NodeArgs::try_parse_from(["volley-node", flag, "7.5"]).unwrap();
    }
}

#[test]
fn wide_tables_have_larger_messages() {
    let config = NodeConfig::default();
    let sizes = [1, 256, 512, 10_000].map(|columns| config.message_bytes_of(columns));
    assert_eq!(sizes, [MESSAGE_BYTES, MESSAGE_BYTES, 2 << 20, MAX_SPLIT_BYTES]);
}

#[test]
fn wildcard_peer_port_is_reached_by_the_advertised_host() {
    let server = ServerConfig {
        listen: vec!["internal=0.0.0.0:8816".into(), "external=0.0.0.0:9816".into()],
        advertise: vec!["internal=n1.example:8816".into(), "external=grpc+tcp://n1.outside:80".into()],
        peer_listen: "0.0.0.0:8826".into(),
        insecure: true,
        ..NodeConfig::default().server
    };
    let config = NodeConfig { server, ..NodeConfig::default() };
    config.check().unwrap();
    let bound = SocketAddr::from(([127, 0, 0, 1], 1));
    assert_eq!(config.peer_reachable_at(bound).unwrap(), "n1.example:8826");
}

#[test]
fn old_flags_set_the_renamed_settings() {
    let flags = ["volley-node", "--copy-rate", "1", "--copies-at-once", "2", "--scrub-rate", "3"];
    let args = NodeArgs::try_parse_from(flags).unwrap();
    let config: NodeConfig = load_from(None, [], &args).unwrap();
    let rates = (config.copy_bytes_per_second, config.max_concurrent_copies, config.scrub_bytes_per_second);
    assert_eq!(rates, (1, 2, 3));
}

#[test]
fn example_file_is_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/node.toml");
    let config: NodeConfig = load_from(Some(file.as_ref()), [], &NodeArgs::default()).unwrap();
    config.check().unwrap();
    assert_eq!(config.coordinators.len(), 3);
}

#[test]
fn flag_with_no_whole_number_says_what_one_is() {
    let command = command_line::<NodeArgs, NodeConfig>();
    let parsed = |flag: &str, value: &str| command.clone().try_get_matches_from(["volley-node", flag, value]);
    for flag in ["--capacity", "--max-message", "--max-header-bytes"] {
        for value in ["10GB", "x", "1.5", "99999999999999999999"] {
            let error = parsed(flag, value).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(value) && error.contains("whole number"), "{error}");
        }
    }
    assert_eq!(parsed("--capacity", "17").unwrap().get_one::<u64>("capacity"), Some(&17));
}
