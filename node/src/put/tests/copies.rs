//! Copies: throttling, and nodes that are full.

use std::time::Instant;

use tonic::Code;
use volley_common::wire::cluster::CopyPart;

use super::*;
use crate::storage::DiskSpace;

/// Puts one part of 2 MiB on node 0 alone; returns the order to copy it from there.
async fn order(cluster: &InProcessCluster, background: bool) -> CopyPart {
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let part = cluster.write().parts.into_iter().next().unwrap();
    let sources = vec![cluster.nodes[0].context.addresses.peer_addr.clone()];
    CopyPart { part: Some(part), table: vec!["t".into()], sources, background }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_background_copies_are_throttled() {
    let mut took = Vec::new();
    for background in [true, false] {
        let cluster = InProcessCluster::start(2, &[&[0]], 1).await;
        let order = order(&cluster, background).await;
        let began = Instant::now();
        cluster.nodes[1].context.copier.copy(order).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(cluster.held(1), 1);
    }
    assert!(took[0] >= Duration::from_millis(900), "a MiB at least at 1 MiB/s took {:?}", took[0]);
    assert!(took[1] < took[0], "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_node_refuses_a_copy_with_the_reason() {
    let cluster = InProcessCluster::start(3, &[&[0]], 1).await;
    let order = order(&cluster, true).await;
    let full = &cluster.nodes[1].context;
    full.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let error = full.copier.copy(order.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains(&full.store.node().to_string()) && error.message.contains("98.0 % used"), "{error}");
    assert_eq!(cluster.held(1), 0);
    full.store.override_space(None);
    full.copier.copy(order).await.unwrap();
    assert_eq!(cluster.held(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_avoids_full_nodes_and_fails_if_all_are_full() {
    let cluster = InProcessCluster::start(3, &[&[0, 1]], 2).await;
    cluster.nodes[1].context.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap();
    assert!(cluster.held(1) == 0 && cluster.held(2) > 0);
    cluster.nodes[2].context.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let error = cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("98.0 % used"), "{error}");
}
