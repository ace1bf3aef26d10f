//! Copies: how fast, and to whom not.

use std::time::Instant;

use tonic::Code;
use volley_common::wire::cluster::CopyPart;

use super::*;
use crate::storage::DiskSpace;

/// Puts one part of 2 MiB on node 0 alone, and gives the order to copy it from there.
async fn order(cluster: &Cluster, background: bool) -> CopyPart {
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let part = cluster.write().parts.into_iter().next().unwrap();
    let sources = vec![cluster.nodes[0].0.peer_addr.clone()];
    CopyPart { part: Some(part), table: vec!["t".into()], sources, background }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_background_copies_are_throttled() {
    let mut took = Vec::new();
    for background in [true, false] {
        let cluster = Cluster::start(2, &[&[0]], 1).await;
        let order = order(&cluster, background).await;
        let began = Instant::now();
        cluster.nodes[1].0.copier.copy(order).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(cluster.held(1), 1);
    }
    assert!(took[0] >= Duration::from_millis(900), "a MiB at least at 1 MiB/s took {:?}", took[0]);
    assert!(took[1] < took[0], "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_takes_no_copy_and_says_why() {
    let cluster = Cluster::start(3, &[&[0]], 1).await;
    let order = order(&cluster, true).await;
    let full = &cluster.nodes[1].0;
    full.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let error = full.copier.copy(order.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains(&full.node().to_string()) && error.message.contains("98.0 % used"), "{error}");
    assert_eq!(cluster.held(1), 0);
    full.store.override_space(None);
    full.copier.copy(order).await.unwrap();
    assert_eq!(cluster.held(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_goes_to_another_node_than_a_full_one_and_fails_when_all_are() {
    let cluster = Cluster::start(3, &[&[0, 1]], 2).await;
    cluster.nodes[1].0.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap();
    assert!(cluster.held(1) == 0 && cluster.held(2) > 0);
    cluster.nodes[2].0.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let error = cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("98.0 % used"), "{error}");
}
