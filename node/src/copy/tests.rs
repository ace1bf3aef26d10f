//! Copies on nodes that run in this process.

use std::time::Duration;

use futures::stream;
use volley_common::wire::catalog;

use super::*;
use crate::put::tests::cluster::{InProcessCluster, batch, megabytes, messages};

fn panicking() -> Result<HeldPart> {
    panic!("a test")
}

#[tokio::test(flavor = "multi_thread")]
async fn part_whose_copy_panicked_is_copied_by_the_next_order() {
    let cluster = InProcessCluster::start(2, &[&[0]], 1).await;
    cluster.put(stream::iter(messages("t", vec![batch(0, 10)]).await)).await.unwrap();
    let part = cluster.write().parts.into_iter().next().unwrap();
    let (id, copier) = (part.part_id(), &cluster.nodes[1].context.copier);
    let outcome = {
        // As an order does: the copy that has ended is removed only after it was added.
        let mut copies = copier.0.copies.lock();
        let outcome = copier.spawn(id, false, async { panicking() });
        let cancel = CancellationToken::new();
        copies.running.insert(id, RunningCopy { outcome: outcome.clone(), cancel, background: false });
        outcome
    };
    assert_eq!(outcome.await.unwrap_err().code, Code::Internal);
    assert!(copier.0.copies.lock().running.is_empty());

    let sources = vec![cluster.nodes[0].context.addresses.peer_addr.clone()];
    let order = CopyPart { part: Some(part), table: vec!["t".into()], sources, background: false };
    copier.copy(order).await.unwrap();
    assert_eq!(cluster.held(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_for_puts_are_not_throttled() {
    let cluster = InProcessCluster::start(2, &[&[0]], 1).await;
    cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap();
    let part = cluster.write().parts.into_iter().next();
    let copier = &cluster.nodes[1].context.copier;
    // From now on copies in the background wait for days.
    assert!(copier.0.background_rate.take(1 << 40) > Duration::from_secs(86_400));
    let sources = vec![cluster.nodes[0].context.addresses.peer_addr.clone()];
    let order = CopyPart { part, table: vec!["t".into()], sources, background: false };
    tokio::time::timeout(Duration::from_secs(20), copier.copy(order)).await.unwrap().unwrap();
    assert_eq!(cluster.held(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_node_copies_parts_when_they_are_complete() {
    for rows in [megabytes(4), vec![batch(0, 10)]] {
        let cluster = InProcessCluster::start(3, &[&[1, 2]], 2).await;
        cluster.coordinator.state.lock().spec.shard_by = vec!["n".into()];
        let copier = &cluster.nodes[1].context.copier;
        let all = |places: &Arc<Semaphore>, count: usize| places.clone().try_acquire_many_owned(count as u32).unwrap();
        let _busy = [all(&copier.0.open, MAX_OPEN_COPIES), all(&copier.0.contents, MAX_CONTENT_COPIES)];
        for content in [Bytes::new(), Bytes::from_static(b"x")] {
            let part = Some(catalog::Part::default());
            let order =
                CopyOpenPartRequest { part, table: vec!["t".into()], content, ..CopyOpenPartRequest::default() };
            assert_eq!(copier.copy_open(order).await.unwrap(), CopyOpenPartReply { end: None, busy: true });
        }
        cluster.put(stream::iter(messages("t", rows).await)).await.unwrap();
        cluster.settles(&[0, 1, 1]).await;
    }
}
