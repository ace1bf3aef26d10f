//! Parts are deleted only if nobody can need them: after a recovery, with a restored catalog, on a member's request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use volley_common::options::Options;
use volley_tests::cluster::files_below;
use volley_tests::process::run;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn small() -> ClusterOptions {
    ClusterOptions { coordinators: 1, nodes: 2, ..ClusterOptions::default() }
}

fn orphans(cluster: &TestCluster) -> Vec<PathBuf> {
    cluster.nodes.iter().flat_map(|node| files_below(&node.folder.join("orphaned"))).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Puts `kept`, copies the coordinator's folder, puts `lost`, and puts the copy in the folder's place. Returns the parts of
/// `lost`. Nothing runs but the nodes.
async fn lose_a_commit(cluster: &mut TestCluster) -> Vec<PathBuf> {
    rows::put(&cluster.client().await, "kept", &Options::default(), 0..1000).await.unwrap();
    assert!(cluster.coordinators[0].stop().await.success());
    let (folder, copy) = (cluster.coordinators[0].folder.clone(), cluster.folder().join("copy"));
    copy_folder(&folder, &copy);
    cluster.coordinators[0].restart().await;
    cluster.settle().await;
    let before = cluster.part_files();
    for at in 0..5 {
        rows::put(&cluster.client().await, "lost", &Options::default(), at..at + 1000).await.unwrap();
    }
    let lost: Vec<PathBuf> = cluster.part_files().into_iter().filter(|file| !before.contains(file)).collect();
    assert!(lost.len() >= 2, "{lost:?}");
    // How far the catalog was reaches the nodes with their next session or order.
    for node in &mut cluster.nodes {
        assert!(node.stop().await.success());
        node.restart().await;
    }
    cluster.settle().await;
    assert!(cluster.coordinators[0].stop().await.success());
    copy_folder(&copy, &folder);
    lost
}

async fn lost_parts_are_set_aside(cluster: &mut TestCluster, lost: Vec<PathBuf>) {
    let name = |path: &PathBuf| path.file_name().unwrap().to_owned();
    let mut expected: Vec<_> = lost.iter().map(name).collect();
    expected.sort();
    wait_for(SOON, "the parts that the catalog does not know are set aside", async || {
        let mut found: Vec<_> = orphans(cluster).iter().map(name).collect();
        found.sort();
        (found == expected).then_some(())
    })
    .await;
    let reported = wait_for(SOON, "the nodes report them", async || {
        let status = cluster.status().await?;
        let of = |node: &Value| node["orphaned"].as_u64().unwrap_or(0);
        let sum: u64 = status["nodes"].as_array()?.iter().map(of).sum();
        (sum == lost.len() as u64).then_some(status)
    })
    .await;
    assert!(reported["nodes"][0]["orphaned_bytes"].is_u64());
    let coordinator = cluster.coordinators[0].address.clone();
    let doctor = run("volley", &["--cluster", &coordinator, "doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("that the catalog does not know in orphaned/"), "{said}");
    // A new write ends as usual, and its parts are not set aside.
    let client = cluster.client().await;
    rows::put(&client, "after", &Options::default(), 0..100).await.unwrap();
    assert_eq!(rows::get(&client, "kept").await.unwrap(), Vec::from_iter(0..1000));
    // The nodes are reconciled now: nothing else is set aside after a restart.
    for node in &mut cluster.nodes {
        assert!(node.stop().await.success());
        node.restart().await;
    }
    cluster.settle().await;
    assert_eq!(orphans(cluster).len(), lost.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_keeps_parts_of_lost_commits_aside() {
    let mut cluster = TestCluster::start_with(small()).await;
    let lost = lose_a_commit(&mut cluster).await;
    let folder = cluster.coordinators[0].folder.display().to_string();
    let done = run("volley-coordinator", &["recover", "--data-dir", &folder, "--id", "1", "--yes-lose-unreplicated"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    cluster.coordinators[0].restart().await;
    lost_parts_are_set_aside(&mut cluster, lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_older_catalog_keeps_unknown_parts_aside() {
    let mut cluster = TestCluster::start_with(small()).await;
    let lost = lose_a_commit(&mut cluster).await;
    cluster.coordinators[0].restart().await;
    lost_parts_are_set_aside(&mut cluster, lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_removed_when_their_time_is_over() {
    let options =
        ClusterOptions { node_flags: ["--orphan-retention-days", "0.0001"].map(String::from).to_vec(), ..small() };
    let mut cluster = TestCluster::start_with(options).await;
    lose_a_commit(&mut cluster).await;
    cluster.coordinators[0].restart().await;
    wait_for(SOON, "they are set aside", async || (!orphans(&cluster).is_empty()).then_some(())).await;
    wait_for(SOON, "they are removed", async || orphans(&cluster).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_folder_is_refused_to_any_other_process() {
    let mut cluster = TestCluster::start_with(small()).await;
    let (coordinator, node) = (cluster.coordinators[0].folder.clone(), cluster.nodes[0].folder.clone());
    let unrelated = cluster.folder().join("unrelated");
    fs::create_dir(&unrelated).unwrap();
    fs::write(unrelated.join("notes.txt"), b"x").unwrap();
    let intruder = cluster.add_node();
    for (folder, reason) in [
        (&coordinator, "belongs to volley-coordinator"),
        (&node, "in use by another process"),
        (&unrelated, "notes.txt"),
    ] {
        intruder.set_flag("--data-dir", &folder.display().to_string());
        let said = intruder.start_fails().await;
        assert!(said.contains(reason) && said.contains(&folder.display().to_string()), "{said}");
    }
    assert!(!coordinator.join("control").exists() && !coordinator.join("parts").exists());
    assert_eq!(files_below(&unrelated).len(), 1, "nothing in it changed");
    cluster.nodes.pop();
    rows::put(&cluster.client().await, "t", &Options::default(), 0..100).await.unwrap();
    assert!(cluster.nodes[1].stop().await.success());
    let folder = cluster.nodes[1].folder.display().to_string();
    assert!(cluster.coordinators[0].stop().await.success());
    cluster.coordinators[0].set_flag("--data-dir", &folder);
    let said = cluster.coordinators[0].start_fails().await;
    assert!(said.contains("belongs to volley-node"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_open_files_recovers_by_itself() {
    let mut cluster = TestCluster::start_with(small()).await;
    assert!(cluster.nodes[0].stop().await.success());
    let limited = ["sh", "-c", "ulimit -n 150; exec \"$0\" \"$@\""].map(String::from).to_vec();
    cluster.nodes[0].run_under(limited);
    cluster.nodes[0].restart().await;
    cluster.settle().await;
    let there = cluster.nodes[0].client().await;
    // A file is open for each shard of a put.
    let wide = Options { shards: Some(400), shard_by: Some(vec!["id".into()]), ..Options::default() };
    let error = rows::put(&there, "wide", &wide, 0..100_000).await.unwrap_err();
    assert!(error.message.contains("open files"), "{error}");
    rows::put(&there, "narrow", &Options::default(), 0..1000).await.unwrap();
    assert_eq!(rows::get(&there, "narrow").await.unwrap(), Vec::from_iter(0..1000));
    let log = cluster.nodes[0].log();
    assert!(!log.contains("stopped accepting parts"), "{log}");
    let status = cluster.status().await.unwrap();
    assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["condition"] == "ok"), "{status}");
    wait_for(SOON, "nothing is left of the put that failed", async || {
        let is_left = |file: &PathBuf| file.components().any(|part| part.as_os_str() == "wide");
        cluster.part_files().iter().all(|file| !is_left(file)).then_some(())
    })
    .await;
}
