//! A member with a wrong option exits with one sentence, and the others continue.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use volley_common::options::Options;
use volley_tests::cluster::files_below;
use volley_tests::process::run;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

fn small() -> ClusterOptions {
    ClusterOptions { coordinators: 1, nodes: 2, ..ClusterOptions::default() }
}

fn says(reason: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(reason.contains(word), "{reason:?} does not say {word:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_names_a_port_or_folder_in_use() {
    let mut cluster = TestCluster::start_with(small()).await;
    let (first, second) = cluster.nodes.split_at_mut(1);
    second[0].kill();
    let taken = TcpListener::bind(&second[0].address).unwrap();
    says(&second[0].start_fails().await, &["port", &second[0].address.clone()]);
    drop(taken);
    second[0].set_flag("--data-dir", first[0].folder.to_str().unwrap());
    says(&second[0].start_fails().await, &["data folder", first[0].folder.to_str().unwrap()]);
    let coordinator = &mut cluster.coordinators[0];
    coordinator.kill();
    let taken = TcpListener::bind(&coordinator.address).unwrap();
    says(&coordinator.start_fails().await, &["port", &coordinator.address.clone()]);
    drop(taken);
    coordinator.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_addresses_are_refused() {
    let mut cluster = TestCluster::start_with(small()).await;
    for member in cluster.members() {
        member.kill();
        let good = member.uri();
        member.set_flag("--advertise", "grpc+tcp://0.0.0.0:8816");
        says(&member.start_fails().await, &["0.0.0.0", "--advertise"]);
        member.set_flag("--advertise", &good);
        member.set_flag("--http-listen", "0.0.0.0:0");
        says(&member.start_fails().await, &["--http-listen", "--insecure"]);
    }
}

#[test]
fn listeners_without_usable_addresses_are_refused() {
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = run("volley-coordinator", &[arguments, &["--check-config"]].concat());
        assert_eq!(output.status.code(), Some(1));
        says(&String::from_utf8(output.stderr).unwrap(), words);
    };
    let two = ["--listen", "internal=127.0.0.1:1", "--listen"];
    refused(&[&two[..], &["127.0.0.1:2"]].concat(), &["127.0.0.1:2 has no name", "NAME=127.0.0.1:2"]);
    refused(&[&two[..], &["direct=127.0.0.1:2"]].concat(), &["\"direct\""]);
    let ways = ["--locations", "proxy", "--locations", "direct"];
    refused(&ways, &["--locations is given twice"]);
    let everywhere = ["--listen", "0.0.0.0:8815", "--insecure"];
    refused(&everywhere, &["--advertise"]);
    let published = [&everywhere[..], &["--advertise", "grpc+tcp://127.0.0.1:8815", "--check-config"]].concat();
    let published = run("volley-coordinator", &published);
    assert!(published.status.success(), "a port may be published on loopback");
    assert_eq!(String::from_utf8(published.stdout).unwrap(), "the configuration is valid\n");
}

#[test]
fn settings_are_printed_with_their_origin() {
    for (program, flag, printed) in [
        ("volley-coordinator", "--drain-ms", "drain_ms = 7  # --drain-ms"),
        ("volley-node", "--drain-ms", "drain_ms = 7  # --drain-ms"),
    ] {
        let output = run(program, &["--print-config", flag, "7"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.lines().any(|line| line == printed), "{program}:\n{text}");
        assert!(text.lines().any(|line| line.starts_with("http_listen = ") && line.ends_with("# default")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_log_has_one_object_per_line() {
    let json = vec!["--log-format".to_string(), "json".into()];
    let options = ClusterOptions { coordinator_flags: json.clone(), node_flags: json, ..small() };
    let mut cluster = TestCluster::start_with(options).await;
    for member in cluster.members() {
        let log = member.log();
        assert!(!log.is_empty(), "{} logs nothing", member.name);
        for line in log.lines() {
            let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_a_newer_format_or_damaged_are_refused() {
    let mut cluster = TestCluster::start_with(small()).await;
    let node = &mut cluster.nodes[0];
    node.kill();
    let control = node.folder.join("control");
    let intact = fs::read(&control).unwrap();
    let mut newer = intact.clone();
    newer[8] = 9;
    fs::write(&control, newer).unwrap();
    says(&node.start_fails().await, &["format 9", control.to_str().unwrap()]);
    for damaged in [&intact[..intact.len() - 1], &intact[..4], b"", b"something else entirely, not a control file"] {
        fs::write(&control, damaged).unwrap();
        says(&node.start_fails().await, &[control.to_str().unwrap()]);
    }
    fs::write(&control, intact).unwrap();
    node.restart().await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// The folders of the members, and the files of the catalog, that others than their owner may use.
fn open_to_others(cluster: &TestCluster) -> Vec<String> {
    let folders = cluster.coordinators.iter().chain(&cluster.nodes).map(|member| member.folder.clone());
    let files = cluster.coordinators.iter().flat_map(|coordinator| files_below(&coordinator.folder));
    let paths = folders.chain(files).filter(|path| path.exists() && mode(path) & 0o077 != 0);
    paths.map(|path| format!("{:o} {}", mode(&path), path.display())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_folders_are_their_owners_alone() {
    let mut cluster = TestCluster::start_with(small()).await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..100).await.unwrap();
    assert_eq!(open_to_others(&cluster), Vec::<String>::new());
    let catalog = cluster.coordinators[0].folder.join("catalog.redb");
    assert_eq!(mode(&catalog), 0o600);
    // As earlier versions made them.
    for member in cluster.members() {
        assert!(member.stop().await.success());
        fs::set_permissions(&member.folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&catalog, fs::Permissions::from_mode(0o644)).unwrap();
    for member in cluster.members() {
        member.start();
    }
    cluster.settle().await;
    assert_eq!(open_to_others(&cluster), Vec::<String>::new());
    assert_eq!(rows::get(&cluster.client().await, "t").await.unwrap(), Vec::from_iter(0..100));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_cluster_is_refused_and_keeps_its_parts() {
    let mut one = TestCluster::start_with(small()).await;
    let other = TestCluster::start_with(small()).await;
    rows::put(&one.client().await, "t", &Options::default(), 0..1000).await.unwrap();
    let before = one.part_files();
    let own_peer = one.coordinators[0].address.replace(":8815", ":8825");
    let other_peer = other.coordinators[0].address.replace(":8815", ":8825");
    let node = &mut one.nodes[0];
    node.kill();
    node.set_flag("--coordinators", &other_peer);
    says(&node.start_fails().await, &["cluster", node.folder.clone().to_str().unwrap()]);
    assert_eq!(one.part_files(), before);
    assert_eq!(other.nodes_alive().await, Some(2));
    one.nodes[0].set_flag("--coordinators", &own_peer);
    one.nodes[0].start();
    one.settle().await;
    assert_eq!(rows::get(&one.client().await, "t").await.unwrap(), Vec::from_iter(0..1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn different_peer_lists_are_logged_and_the_cluster_works() {
    let mut cluster = TestCluster::start().await;
    let follower = (cluster.leader().await + 1) % 3;
    let peer = |at: usize| format!("{}={}", at + 1, cluster.coordinators[at].address.replace(":8815", ":8825"));
    let mut wrong: Vec<String> = (0..3).map(peer).collect();
    cluster.coordinators[follower].kill();
    // One of the others has a wrong address.
    let another = (follower + 1) % 3;
    wrong[another] = format!("{}={}", another + 1, cluster.nodes[0].address.replace(":8816", ":8899"));
    cluster.coordinators[follower].set_flag("--peers", &wrong.join(","));
    cluster.coordinators[follower].start();
    wait_for(Duration::from_secs(30), "the difference is reported", async || {
        let logs = cluster.coordinators.iter().map(|coordinator| coordinator.log()).collect::<String>();
        logs.contains("--peers differs").then_some(())
    })
    .await;
    let client = cluster.coordinators[another].client().await;
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..10));
}
