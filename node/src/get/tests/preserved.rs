//! Parts whose batches have `app_metadata`.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use volley_common::PartId;
use volley_common::wire::catalog::Compression;
use volley_common::wire::cluster::{Columns, Ticket};

use super::cluster::{TestNode, batch, introduce, ticket};
use crate::storage::{BatchWrite, PartSpec};

/// Writes a part of these batches; the metadata of batch i is i times "é", the first byte of which is cut off.
fn write(node: &TestNode, batches: &[RecordBatch]) -> PartId {
    let spec = PartSpec {
        table: "t/1".parse().unwrap(),
        shard: 0,
        write: "w".into(),
        seq: 0,
        schema: batches[0].schema(),
        compression: Compression::Lz4,
    };
    let mut writer = node.context.store.create(spec).unwrap();
    for (at, batch) in batches.iter().enumerate() {
        assert_eq!(writer.write_whole(batch, &metadata(at)).unwrap(), BatchWrite::Written);
    }
    let sealed = writer.seal().unwrap();
    assert_eq!(sealed.batches, batches.len() as u32);
    sealed.id
}

fn metadata(at: usize) -> Vec<u8> {
    "é".repeat(at).into_bytes().into_iter().skip(1).collect()
}

/// An empty batch in the middle, and one at the end.
fn batches() -> Vec<RecordBatch> {
    [5, 7, 0, 3, 0].iter().map(|rows| batch(10, *rows, &["a", "b"])).collect()
}

/// Rows and metadata of the record batches; no header has what belongs into the metadata.
fn seen(messages: &[FlightData]) -> Vec<(i64, Vec<u8>)> {
    let mut seen = Vec::new();
    for data in messages {
        let message = arrow_ipc::root_as_message(&data.data_header).unwrap();
        assert!(message.custom_metadata().is_none());
        match message.header_as_record_batch() {
            Some(batch) => seen.push((batch.length(), data.app_metadata.to_vec())),
            None => assert!(data.app_metadata.is_empty()),
        }
    }
    seen
}

fn expected(rows: &[i64]) -> Vec<(i64, Vec<u8>)> {
    rows.iter().enumerate().map(|(at, rows)| (*rows, metadata(at))).collect()
}

#[tokio::test]
async fn batches_come_back_whole_with_their_metadata() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for (node, holders) in [(&serving, [&serving]), (&holder, [&holder])] {
        let whole = ticket(&[(write(node, &batches()), &holders[..])]);
        assert_eq!(seen(&serving.stream(&whole).await.unwrap()), expected(&[5, 7, 0, 3, 0]));
        assert_eq!(serving.get(&whole).await.unwrap(), batches());
        for columns in [vec![0], vec![2, 1], vec![]] {
            let some = Ticket { columns: Some(Columns { index: columns.clone() }), ..whole.clone() };
            assert_eq!(seen(&serving.stream(&some).await.unwrap()), expected(&[5, 7, 0, 3, 0]), "{columns:?}");
        }
        for (limit, rows) in [(0, &[][..]), (5, &[5]), (6, &[5, 1]), (12, &[5, 7]), (14, &[5, 7, 0, 2])] {
            let some = Ticket { limit: Some(limit), ..whole.clone() };
            assert_eq!(seen(&serving.stream(&some).await.unwrap()), expected(rows), "limit {limit}");
        }
    }
}

#[tokio::test]
async fn reader_of_some_columns_gets_no_metadata() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for (node, holders) in [(&serving, [&serving]), (&holder, [&holder])] {
        let whole = ticket(&[(write(node, &batches()), &holders[..])]);
        for decompress in [false, true] {
            let columns = Some(Columns { index: vec![2, 1] });
            let restricted = Ticket { permitted_columns: 7, columns, decompress, ..whole.clone() };
            let got = seen(&serving.stream(&restricted).await.unwrap());
            assert_eq!(got, [5, 7, 0, 3, 0].map(|rows| (rows, Vec::new())), "decompress {decompress}");
        }
    }
}

#[tokio::test]
async fn broken_holder_continues_at_the_next_preserved_batch() {
    // Each stream breaks after schema, dictionary and one batch.
    let (serving, breaking) = (TestNode::start().await, TestNode::breaking_after(3).await);
    introduce(&[&serving, &breaking]);
    let whole = ticket(&[(write(&breaking, &batches()), &[&breaking])]);
    let got = tokio::time::timeout(Duration::from_secs(20), serving.stream(&whole)).await.unwrap().unwrap();
    assert_eq!(seen(&got), expected(&[5, 7, 0, 3, 0]));
}
