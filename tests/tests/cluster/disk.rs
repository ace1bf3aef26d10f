//! Nodes whose disks lose bytes or files, or are full.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arrow_flight::FlightEndpoint;
use volley_client::{Client, FetchOptions};
use volley_common::Code;
use volley_common::options::Options;
use volley_tests::cluster::files_below;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);
/// Rows of a table too large for the flow control windows of a client that does not read: some 60 MB.
const LARGE: i64 = 2_000_000;

fn keyed() -> Options {
    Options { shards: Some(8), shard_by: Some(vec!["id".into()]), ..Options::default() }
}

/// Every part is read again within nine seconds.
fn scrubbed_often() -> ClusterOptions {
    ClusterOptions { node_flags: ["--scrub-days", "0.0001"].map(String::from).to_vec(), ..ClusterOptions::default() }
}

fn parts(node: &ServerProcess) -> Vec<PathBuf> {
    files_below(&node.folder.join("parts"))
}

/// Waits until the node has exactly the parts of table `t` that the catalog assigns to it: their files.
async fn settled(cluster: &TestCluster, client: &Client, node: usize) -> Vec<PathBuf> {
    let node = &cluster.nodes[node];
    wait_for(SOON, "every copy is made, and no extra one is left", async || {
        let info = client.info(&rows::name("t"), &Options::default()).await.ok()?;
        let here = |e: &&FlightEndpoint| e.location.iter().any(|location| location.uri == node.uri());
        let found = parts(node);
        (!found.is_empty() && found.len() == info.endpoint.iter().filter(here).count()).then_some(found)
    })
    .await
}

fn writable(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Flips a bit, truncates, or zeroes: in turn.
fn corrupt(at: usize, path: &Path) {
    let (file, length) = (writable(path), fs::metadata(path).unwrap().len());
    match at % 3 {
        0 => {
            let middle = fs::read(path).unwrap()[length as usize / 2];
            file.write_all_at(&[middle ^ 4], length / 2).unwrap();
        }
        1 => file.set_len(length / 2).unwrap(),
        _ => file.write_all_at(&vec![0; length as usize], 0).unwrap(),
    }
}

/// Waits until these parts have their original bytes again.
async fn wait_for_repair(wanted: &[PathBuf], originals: &[Vec<u8>]) {
    wait_for(SOON, "the damaged parts are repaired", async || {
        let whole = wanted.iter().zip(originals).all(|(path, bytes)| fs::read(path).is_ok_and(|now| now == *bytes));
        whole.then_some(())
    })
    .await;
}

fn read_all(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_parts_are_not_served_and_are_repaired() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(), 0..100_000).await.unwrap();
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    let held = settled(&cluster, &client, 0).await;
    let originals = read_all(&held);
    held.iter().enumerate().for_each(|(at, path)| corrupt(at, path));
    // Every ticket is redeemed at the node itself, which must return the right rows or none.
    let there = cluster.nodes[0].client().await;
    let mut all = Vec::new();
    for endpoint in &info.endpoint {
        all.extend(there.do_get(endpoint.ticket.clone().unwrap()).await.unwrap().1);
    }
    let mut ids = rows::ids(&all);
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..100_000));
    assert_eq!(files_below(&cluster.nodes[0].folder.join("damaged")).len(), held.len());
    wait_for_repair(&held, &originals).await;
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn scrub_repairs_damaged_parts_that_nothing_reads() {
    let mut cluster = TestCluster::start_with(scrubbed_often()).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(), 0..100_000).await.unwrap();
    let held = settled(&cluster, &client, 1).await;
    let originals = read_all(&held);
    held.iter().enumerate().for_each(|(at, path)| corrupt(at, path));
    wait_for_repair(&held, &originals).await;
    assert_eq!(files_below(&cluster.nodes[1].folder.join("damaged")).len(), held.len());
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_damaged_while_their_node_was_down_are_not_served() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(), 0..100_000).await.unwrap();
    let held = settled(&cluster, &client, 2).await;
    let originals = read_all(&held);
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    // The byte after magic, version and length says whether the node stopped cleanly.
    let clean_mark = |node: &ServerProcess| fs::read(node.folder.join("checked")).map_or(0, |bytes| bytes[16]);
    for clean in [true, false] {
        if clean {
            assert!(cluster.nodes[2].stop().await.success());
        } else {
            cluster.nodes[2].kill();
        }
        assert_eq!(clean_mark(&cluster.nodes[2]), u8::from(clean));
        held.iter().enumerate().for_each(|(at, path)| corrupt(at, path));
        cluster.nodes[2].restart().await;
        let there = cluster.nodes[2].client().await;
        for endpoint in &info.endpoint {
            rows::ids(&there.do_get(endpoint.ticket.clone().unwrap()).await.unwrap().1);
        }
        wait_for_repair(&held, &originals).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_survives_files_truncated_under_it() {
    let mut cluster = TestCluster::start_with(scrubbed_often()).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options { shards: Some(2), ..Options::default() }, 0..LARGE).await.unwrap();
    let how = FetchOptions { streams: 8, window_bytes: 1 };
    let mut fetch = client.get(&rows::name("t"), &Options::default(), how).await.unwrap();
    let first = futures::StreamExt::next(&mut fetch).await.unwrap().unwrap();
    let victim = cluster.node_index(&format!("grpc+tcp://{}", first.from));
    let held = settled(&cluster, &client, victim).await;
    let originals = read_all(&held);
    for path in &held {
        // Within a page, so that zeros follow the rest of the file.
        let length = fs::metadata(path).unwrap().len();
        writable(path).set_len(length / 3 / 4096 * 4096 + 1000).unwrap();
    }
    let mut batches = vec![first.batch];
    while let Some(part) = futures::StreamExt::next(&mut fetch).await {
        batches.push(part.unwrap().batch);
    }
    // This compares every text with its id: no wrong row was delivered.
    let mut ids = rows::ids(&batches);
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..LARGE));
    // The node may have exited with a reason in its log. Then it starts again, as under a supervisor.
    if !cluster.nodes[victim].is_running() {
        let log = cluster.nodes[victim].log_tail();
        assert!(log.contains("SIGBUS: the file of part"), "{log}");
        cluster.nodes[victim].kill();
        cluster.nodes[victim].restart().await;
    }
    wait_for_repair(&held, &originals).await;
    assert!(rows::get(&client, "t").await.unwrap().into_iter().eq(0..LARGE));
}

/// A small file system in place of a node's data folder, with its control file; unmounted when dropped.
struct TmpfsDisk(PathBuf);

impl TmpfsDisk {
    /// None, with the reason printed, where mounting is not permitted. The node must not run.
    fn under(node: &ServerProcess, size: &str) -> Option<TmpfsDisk> {
        let control = fs::read(node.folder.join("control")).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(&node.folder)
            .output();
        match mount {
            Ok(done) if done.status.success() => {}
            other => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here: {other:?}");
                return None;
            }
        }
        fs::write(node.folder.join("control"), control).unwrap();
        Some(TmpfsDisk(node.folder.clone()))
    }

    fn ballast(&self, bytes: usize) {
        fs::write(self.0.join("ballast"), vec![1; bytes]).unwrap();
    }
}

impl Drop for TmpfsDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_puts_and_accepts_them_again() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "before", &keyed(), 0..1000).await.unwrap();
    assert!(cluster.nodes[0].stop().await.success());
    let Some(disk) = TmpfsDisk::under(&cluster.nodes[0], "16m") else { return };
    for (flag, percent) in [("--low-water", "90"), ("--high-water", "95")] {
        cluster.nodes[0].set_flag(flag, percent);
    }
    cluster.nodes[0].restart().await;
    cluster.settle().await;
    let there = cluster.nodes[0].client().await;

    // The disk fills up in the middle of a part: the put is refused with a reason, and no file is left.
    let error = rows::put(&there, "large", &Options::default(), 0..LARGE).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains(&disk.0.display().to_string()) && error.message.contains("free of"), "{error}");
    let unknown = client.info(&rows::name("large"), &Options::default()).await.unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
    let tmp = disk.0.join("tmp");
    wait_for(SOON, "no file is left", async || files_below(&tmp).is_empty().then_some(())).await;

    // Above the high watermark: this node forwards puts to others, and still serves.
    disk.ballast(15_700_000);
    for table in ["a", "b"] {
        rows::put(&there, table, &keyed(), 0..50_000).await.unwrap();
        assert_eq!(rows::get_sorted(&there, table).await.unwrap(), Vec::from_iter(0..50_000));
    }
    // Puts through the coordinators work too, however large.
    rows::put(&client, "large", &Options::default(), 0..LARGE).await.unwrap();
    assert_eq!(rows::get(&client, "large").await.unwrap(), Vec::from_iter(0..LARGE));
    assert!(cluster.nodes[0].log().contains("new parts are refused in"), "{}", cluster.nodes[0].log_tail());

    // With enough space it accepts parts again.
    disk.ballast(0);
    wait_for(SOON, "it accepts parts again", async || {
        cluster.nodes[0].log().contains(" again: its disk is ").then_some(())
    })
    .await;
    rows::put(&there, "after", &keyed(), 0..10_000).await.unwrap();
    assert_eq!(rows::get_sorted(&client, "after").await.unwrap(), Vec::from_iter(0..10_000));
    assert_eq!(rows::get_sorted(&client, "before").await.unwrap(), Vec::from_iter(0..1000));
    assert!(cluster.nodes[0].is_running());
}
