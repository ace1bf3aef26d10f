//! Puts into a table that preserves batches.

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::FlightDescriptor;
use arrow_flight::utils::batches_to_flight_data;
use futures::stream;
use volley_common::ipc::batch_header::{MAX_APP_METADATA, split_app_metadata};
use volley_common::wire::catalog::WriteState;
use volley_common::{Code, Result};

use super::cluster::{InProcessCluster, batch};

async fn cluster() -> InProcessCluster {
    let cluster = InProcessCluster::start(2, &[&[0, 1]], 2).await;
    cluster.coordinator.state.lock().spec.preserve_batches = true;
    cluster
}

/// The messages of a put; batch i has the i-th metadata.
fn messages(batches: &[RecordBatch], metadata: &[&[u8]]) -> Vec<Result<FlightData>> {
    let mut messages = batches_to_flight_data(&batch(0, 0).schema(), batches.to_vec()).unwrap();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_path(vec!["t".into()]));
    messages[1..].iter_mut().zip(metadata).for_each(|(data, own)| data.app_metadata = own.to_vec().into());
    messages.into_iter().map(Ok).collect()
}

/// Rows and metadata of the stored batches, in order.
fn stored(cluster: &InProcessCluster) -> Vec<(u64, Vec<u8>)> {
    let store = &cluster.nodes[0].context.store;
    let mut parts = cluster.write().parts;
    parts.sort_by_key(|part| part.seq);
    let mut found = Vec::new();
    for row in parts {
        let part = store.part(row.part_id()).unwrap().unwrap();
        assert_eq!(row.batches as usize, part.batches().len());
        for message in part.batches() {
            let metadata = split_app_metadata(&part.slice(message.header.clone())).unwrap().1;
            assert_eq!(message.has_app_metadata, !metadata.is_empty());
            found.push((message.rows, metadata.to_vec()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_stored_as_sent_and_acknowledged_one_by_one() {
    let cluster = cluster().await;
    // A batch of 8 MB, which no split makes smaller; a batch without rows.
    let batches = [batch(0, 1_000_000), batch(1, 1), batch(2, 0), batch(3, 40)];
    let metadata: [&[u8]; 4] = [b"zero", &[0xff; 3000], b"two", b""];
    let acks = cluster.put(stream::iter(messages(&batches, &metadata))).await.unwrap();
    assert_eq!(acks, metadata, "no outcome: the client expects as many results as batches");
    assert_eq!(cluster.write().state(), WriteState::Committed);
    let expected: Vec<_> = [1_000_000, 1, 0, 40].into_iter().zip(metadata.map(<[u8]>::to_vec)).collect();
    assert_eq!(stored(&cluster), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_without_metadata_ends_with_its_outcome() {
    let cluster = cluster().await;
    let acks = cluster.put(stream::iter(messages(&[batch(0, 0), batch(0, 2)], &[]))).await.unwrap();
    assert_eq!(acks.len(), 3);
    assert!(acks[2].starts_with(b"{"));
    assert_eq!(stored(&cluster), [(0, vec![]), (2, vec![])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_over_the_limit_is_refused_with_figures() {
    let cluster = cluster().await;
    let most = vec![7; MAX_APP_METADATA];
    cluster.put(stream::iter(messages(&[batch(0, 1)], &[&most]))).await.unwrap();
    assert_eq!(stored(&cluster), [(1, most)]);

    let cluster = self::cluster().await;
    let over = vec![7; MAX_APP_METADATA + 1];
    let error = cluster.put(stream::iter(messages(&[batch(0, 1)], &[&over]))).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(["1048577", "1048576", "\"t\""].iter().all(|word| error.message.contains(word)), "{error}");
    cluster.settles(&[0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_over_the_limit_is_refused_with_figures() {
    let cluster = cluster().await;
    let large = batch(0, (64 << 17) + 1000);
    let error = cluster.put(stream::iter(messages(&[large], &[]))).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(["67108864", "a batch", "preserve_batches"].iter().all(|word| error.message.contains(word)), "{error}");
    cluster.settles(&[0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tiny_batches_are_no_excessive_growth() {
    let cluster = cluster().await;
    let batches: Vec<_> = (0..70_000).map(|at| batch(at, 1)).collect();
    cluster.put(stream::iter(messages(&batches, &[]))).await.unwrap();
    assert_eq!(stored(&cluster).len(), 70_000);
    assert!(cluster.write().parts.iter().all(|part| part.batches <= 1 << 16));
}
