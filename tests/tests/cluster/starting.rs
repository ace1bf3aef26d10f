//! Members that are started wrongly say why in one sentence, and the others go on.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use volley_common::options::Options;
use volley_tests::{Cluster, Shape, rows, wait_for};

fn small() -> Shape {
    Shape { coordinators: 1, nodes: 2, ..Shape::default() }
}

fn says(reason: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(reason.contains(word), "{reason:?} does not say {word:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_a_folder_in_use_is_named() {
    let mut cluster = Cluster::of(small()).await;
    let (first, second) = cluster.nodes.split_at_mut(1);
    second[0].kill9();
    let taken = TcpListener::bind(&second[0].address).unwrap();
    says(&second[0].refuses().await, &["port", &second[0].address.clone()]);
    drop(taken);
    second[0].set_flag("--data-dir", first[0].folder.to_str().unwrap());
    says(&second[0].refuses().await, &["data folder", first[0].folder.to_str().unwrap()]);
    let coordinator = &mut cluster.coordinators[0];
    coordinator.kill9();
    let taken = TcpListener::bind(&coordinator.address).unwrap();
    says(&coordinator.refuses().await, &["port", &coordinator.address.clone()]);
    drop(taken);
    coordinator.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_nobody_can_reach_are_refused() {
    let mut cluster = Cluster::of(small()).await;
    for member in cluster.members() {
        member.kill9();
        let good = member.uri();
        member.set_flag("--advertise", "grpc+tcp://0.0.0.0:8816");
        says(&member.refuses().await, &["0.0.0.0", "--advertise"]);
        member.set_flag("--advertise", &good);
        member.set_flag("--http-listen", "0.0.0.0:0");
        says(&member.refuses().await, &["--http-listen", "--insecure"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_a_newer_format_or_damaged_are_refused() {
    let mut cluster = Cluster::of(small()).await;
    let node = &mut cluster.nodes[0];
    node.kill9();
    let control = node.folder.join("control");
    let intact = fs::read(&control).unwrap();
    let mut newer = intact.clone();
    newer[8] = 9;
    fs::write(&control, newer).unwrap();
    says(&node.refuses().await, &["format 9", control.to_str().unwrap()]);
    for damaged in [&intact[..intact.len() - 1], &intact[..4], b"", b"something else entirely, not a control file"] {
        fs::write(&control, damaged).unwrap();
        says(&node.refuses().await, &[control.to_str().unwrap()]);
    }
    fs::write(&control, intact).unwrap();
    node.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_and_keeps_its_parts() {
    let mut one = Cluster::of(small()).await;
    let mut other = Cluster::of(small()).await;
    rows::put(&one.client().await, "t", &Options::default(), 0..1000).await.unwrap();
    let before = one.files();
    let home = one.coordinators[0].address.replace(":8815", ":8825");
    let abroad = other.coordinators[0].address.replace(":8815", ":8825");
    let stray = &mut one.nodes[0];
    stray.kill9();
    stray.set_flag("--coordinators", &abroad);
    says(&stray.refuses().await, &["cluster", stray.folder.clone().to_str().unwrap()]);
    assert_eq!(one.files(), before);
    assert_eq!(other.nodes_alive().await, Some(2));
    one.nodes[0].set_flag("--coordinators", &home);
    one.nodes[0].start();
    one.settle().await;
    assert_eq!(rows::get(&one.client().await, "t").await.unwrap(), Vec::from_iter(0..1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_with_different_peer_lists_say_so_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start().await;
    let follower = (cluster.leader().await + 1) % 3;
    let peer = |at: usize| format!("{}={}", at + 1, cluster.coordinators[at].address.replace(":8815", ":8825"));
    let mut wrong: Vec<String> = (0..3).map(peer).collect();
    cluster.coordinators[follower].kill9();
    // One of the others is said to be where nobody is.
    let another = (follower + 1) % 3;
    wrong[another] = format!("{}={}", another + 1, cluster.nodes[0].address.replace(":8816", ":8899"));
    cluster.coordinators[follower].set_flag("--peers", &wrong.join(","));
    cluster.coordinators[follower].start();
    wait_for(Duration::from_secs(30), "the difference is reported", async || {
        let logs = cluster.coordinators.iter().map(|coordinator| coordinator.log()).collect::<String>();
        logs.contains("another peer list").then_some(())
    })
    .await;
    let client = cluster.coordinators[another].client().await;
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..10));
}
