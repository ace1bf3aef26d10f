#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use volley_common::server::config::load_from;
use volley_common::server::process::command_line;

use super::*;

fn check(change: impl FnOnce(&mut CoordinatorConfig)) -> Result<()> {
    let mut config = CoordinatorConfig::default();
    change(&mut config);
    config.check()
}

#[test]
fn defaults_are_valid() {
    CoordinatorConfig::default().check().unwrap();
}

#[test]
fn bad_values_are_refused_by_name() {
    let refused = |word: &str, change: fn(&mut CoordinatorConfig)| {
        let error = check(change).unwrap_err();
        assert!(error.message.contains(word), "{word}: {error}");
    };
    refused("--insecure", |c| c.server.listen = vec!["0.0.0.0:8815".into()]);
    refused("--advertise", |c| (c.server.listen, c.server.insecure) = (vec!["0.0.0.0:8815".into()], true));
    refused("0.0.0.0:1", |c| c.server.advertise = vec!["grpc+tcp://0.0.0.0:1".into()]);
    refused("request_timeout_ms", |c| c.server.request_timeout_ms = 0);
    refused("1=10.0.0.1:8825", |c| c.peers = vec!["h:1".into()]);
    refused("--locations", |c| c.locations = vec!["x=proxy".into()]);
    refused("--locations", |c| c.locations = vec!["nobody".into()]);
    refused("twice", |c| c.locations = vec!["proxy".into(), "direct".into()]);
    refused("--id 1", |c| c.peers = vec!["2=h:1".into()]);
    refused("twice", |c| c.peers = vec!["1=h:1".into(), "2=h:1".into()]);
    refused("twice", |c| c.peers = vec!["1=h:1".into(), "1=h:2".into()]);
    refused("node_timeout_ms", |c| c.node_timeout_ms = 5);
    refused("repair_delay_ms", |c| c.repair_delay_ms = c.node_timeout_ms - 1);
    refused("heartbeat_ms", |c| c.heartbeat_ms = 0);
    refused("id must", |c| c.id = 0);
    refused("max_tables", |c| c.limits.max_tables = 0);
    refused("max_calls", |c| c.server.limits.max_calls = 0);
    refused("retention_ms", |c| c.retention_ms = 0);
    refused("retention_ms", |c| c.retention_ms = u64::MAX);
    refused("lease_ms", |c| c.lease_ms = 0);
    refused("write_id_retention_ms", |c| c.write_id_retention_ms = 0);
    refused("max_endpoints", |c| c.max_endpoints = 0);
    refused("--peer-listen", |c| c.server.peer_listen = c.server.listen[0].clone());
    refused("election_ms", |c| c.election_ms = 99);
}

#[test]
fn wildcard_with_an_advertised_address_is_valid() {
    check(|c| {
        c.server.listen = vec!["external=0.0.0.0:8815".into()];
        c.server.advertise = vec!["external=grpc+tcp://volley.example:8815".into()];
        c.server.insecure = true;
    })
    .unwrap();
}

#[test]
fn old_flags_set_the_renamed_settings() {
    let flags = ["volley-coordinator", "--silence-ms", "2000", "--grace-ms", "3000", "--deadline-ms", "4000"];
    let args = CoordinatorArgs::try_parse_from(flags).unwrap();
    let config: CoordinatorConfig = load_from(None, [], &args).unwrap();
    assert_eq!((config.node_timeout_ms, config.repair_delay_ms, config.server.request_timeout_ms), (2000, 3000, 4000));
}

#[test]
fn help_shows_the_defaults_and_hides_old_flags() {
    let help = command_line::<CoordinatorArgs, CoordinatorConfig>().render_help().to_string();
    for word in
        ["[default: 127.0.0.1:8815]", "[default: volley-coordinator-data]", "[default: 10000]", "[default: direct]"]
    {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert!(!help.contains("silence"), "{help}");
}

#[test]
fn example_file_is_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/coordinator.toml");
    let config: CoordinatorConfig = load_from(Some(file.as_ref()), [], &CoordinatorArgs::default()).unwrap();
    config.check().unwrap();
    assert_eq!(config.peers.len(), 3);
}
