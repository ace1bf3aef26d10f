//! Data folders and configuration files of earlier versions.

use volley_common::options::{Mode, Options};
use volley_tests::launch::ProcessRole;
use volley_tests::process::run;
use volley_tests::recorded::{RecordedCluster, config_file, records};
use volley_tests::rows;

/// The record whose servers had the configuration keys of version 0.1.
const OLD_KEYS: &str = "0.1-old-keys";

#[tokio::test(flavor = "multi_thread")]
async fn data_folders_of_earlier_versions_open() {
    assert!(!records().is_empty(), "nothing was recorded");
    for record in records() {
        let mut cluster = RecordedCluster::open(&record).await;
        // Twice: what this version adds to the old folders must be readable too.
        for start in 0..2 {
            cluster.coordinator.restart().await;
            cluster.node.restart().await;
            let client = cluster.coordinator.client().await;
            let last = 2000 + start * 100;
            let keyed = rows::get_sorted(&client, "by/key").await.unwrap();
            assert_eq!(keyed, Vec::from_iter(0..1000), "{record}, start {start}");
            let ordered = rows::get(&client, "in order").await.unwrap();
            assert_eq!(ordered, Vec::from_iter(0..last), "{record}, start {start}");
            let (mode, write_id) = (Some(Mode::Append), Some(format!("later-{start}")));
            let append = Options { mode, write_id, ..Options::default() };
            rows::put(&client, "in order", &append, last..last + 100).await.unwrap();
            // The old parts have no statistics, the new ones have.
            let filter = Some(format!("id BETWEEN 990 AND 1009 OR id >= {last}"));
            let selective = Options { filter, ..Options::default() };
            let (_, found) = client.get_all(&rows::name("in order"), &selective).await.unwrap();
            let expected: Vec<i64> = (990..1010).chain(last..last + 100).collect();
            assert_eq!(rows::ids(&found), expected, "{record}, start {start}");
            assert!(cluster.node.stop().await.success() && cluster.coordinator.stop().await.success());
        }
    }
}

#[test]
fn configuration_keys_of_0_1_are_still_read() {
    let coordinator = [
        ("silence_ms", "node_timeout_ms"),
        ("grace_ms", "repair_delay_ms"),
        ("remember_writes_ms", "write_id_retention_ms"),
        ("deadline_ms", "request_timeout_ms"),
    ];
    let node = [
        ("copies_at_once", "max_concurrent_copies"),
        ("copy_rate", "copy_bytes_per_second"),
        ("scrub_rate", "scrub_bytes_per_second"),
        ("deadline_ms", "request_timeout_ms"),
    ];
    for (role, keys) in [(ProcessRole::Coordinator, coordinator), (ProcessRole::Node, node)] {
        let path = config_file(OLD_KEYS, role).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let program = format!("volley-{}", role.name());
        let output = run(&program, &["--config", path.to_str().unwrap(), "--print-config"]);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for (old, new) in keys {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{old} = "))).unwrap();
            let expected = format!("{new} = {value}");
            assert!(printed.lines().any(|line| line.starts_with(&expected)), "no {expected:?} in:\n{printed}");
        }
    }
}
