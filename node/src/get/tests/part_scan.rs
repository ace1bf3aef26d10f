//! Scans of parts for queries.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use futures::TryStreamExt;
use tonic::Code;
use volley_common::identity::Access;
use volley_common::wire::catalog::Compression;
use volley_common::wire::cluster::{Columns, Ticket};
use volley_common::{Result, clock};
use volley_sql::predicate::Predicate;
use volley_sql::source::ScanCounts;

use super::cluster::{TestNode, batch, introduce, large, schema, ticket};
use super::local::copy_over;
use super::{all, first, ids, rows, second};
use crate::assertion::AssertedCaller;
use crate::get::part_scan::PartScanner;

/// What is scanned of a table whose columns are all visible.
struct WantedScan {
    parts: Range<usize>,
    columns: Vec<usize>,
    filter: &'static str,
    limit: Option<u64>,
}

const ALL: WantedScan = WantedScan { parts: 0..2, columns: Vec::new(), filter: "", limit: None };

async fn scan_of(
    node: &TestNode,
    ticket: &Ticket,
    visible: &SchemaRef,
    wanted: WantedScan,
) -> Result<Vec<RecordBatch>> {
    let get = node.context.get.clone();
    let caller = AssertedCaller::client(Access::open(), get.cluster.clone());
    let filter = (!wanted.filter.is_empty()).then(|| Predicate::parse(wanted.filter, visible).unwrap());
    let scanner = PartScanner::new(get, caller);
    let (ticket, visible) = (Arc::new(ticket.clone()), visible.clone());
    scanner.scan(ticket, visible, wanted.parts, wanted.columns, filter, wanted.limit).try_collect().await
}

async fn scan(node: &TestNode, ticket: &Ticket, wanted: WantedScan) -> Vec<RecordBatch> {
    scan_of(node, ticket, &schema(), wanted).await.unwrap()
}

#[tokio::test]
async fn bytes_of_other_nodes_are_counted() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let (here, there) = (serving.write(&first()), holder.write(&second()));
    let whole = Arc::new(ticket(&[(here, &[&serving]), (there, &[&holder])]));
    let get = serving.context.get.clone();
    let caller = AssertedCaller::client(Access::open(), get.cluster.clone());
    for (parts, is_received) in [(0..1, false), (1..2, true)] {
        let counts = ScanCounts::default();
        let scanner = PartScanner::new(get.clone(), caller.clone()).counting(counts.clone());
        let scan = scanner.scan(whole.clone(), schema(), parts.clone(), vec![0], None, None);
        let found: Vec<RecordBatch> = scan.try_collect().await.unwrap();
        assert!(!found.is_empty());
        assert_eq!(counts.received() > 0, is_received, "{parts:?}");
    }
}

#[tokio::test]
async fn scan_gives_rows_here_and_of_other_nodes() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for codec in [Compression::None, Compression::Lz4] {
        let here = serving.write_compressed(&first(), codec);
        let there = holder.write_compressed(&second(), codec);
        let whole = ticket(&[(here, &[&serving]), (there, &[&holder])]);
        let columns = vec![0, 1, 2];
        let got = scan(&serving, &whole, WantedScan { columns: columns.clone(), ..ALL }).await;
        assert_eq!(rows(&got), rows(&all()));
        assert!(got.iter().all(|batch| batch.schema() == schema()));
        let odd = WantedScan { columns: columns.clone(), filter: "id % 2 = 1", ..ALL };
        let expected: Vec<_> = rows(&all()).into_iter().filter(|row| row.0 % 2 == 1).collect();
        assert_eq!(rows(&scan(&serving, &whole, odd).await), expected);
        for (parts, expected) in [(0..0, vec![]), (0..1, first()), (1..2, second())] {
            let some = WantedScan { parts, columns: columns.clone(), ..ALL };
            assert_eq!(rows(&scan(&serving, &whole, some).await), rows(&expected));
        }
    }
}

#[tokio::test]
async fn columns_of_a_scan_come_in_any_order_or_not_at_all() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let whole = ticket(&[(serving.write(&first()), &[&serving]), (holder.write(&second()), &[&holder])]);
    for filter in ["", "text IS NOT NULL", "word <> 'b'"] {
        let everything = rows(&scan(&serving, &whole, WantedScan { columns: vec![0, 1, 2], filter, ..ALL }).await);
        let expected: Vec<i64> = everything.iter().map(|row| row.0).collect();
        let got = scan(&serving, &whole, WantedScan { columns: vec![2, 0], filter, ..ALL }).await;
        let names = Schema::new(vec![schema().field(2).clone(), schema().field(0).clone()]);
        assert!(got.iter().all(|batch| *batch.schema() == names));
        assert_eq!(ids(&got, 1), expected, "{filter}");
        let counted = scan(&serving, &whole, WantedScan { filter, ..ALL }).await;
        assert_eq!(counted.iter().map(RecordBatch::num_rows).sum::<usize>(), expected.len(), "{filter}");
        for limit in [0, 1, 14, 15, 16, 100] {
            let some = WantedScan { columns: vec![0], filter, limit: Some(limit), ..ALL };
            let got = ids(&scan(&serving, &whole, some).await, 0);
            assert_eq!(got, expected[..expected.len().min(limit as usize)], "{filter}, limit {limit}");
        }
    }
}

/// A table of which only some columns are visible: the ticket names them, and the scan counts only these.
#[tokio::test]
async fn columns_of_a_scan_are_those_that_are_visible() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let mut whole = ticket(&[(serving.write(&first()), &[&serving]), (holder.write(&second()), &[&holder])]);
    whole.columns = Some(Columns { index: vec![0, 2] });
    let visible = Arc::new(schema().project(&[0, 2]).unwrap());
    let wanted = WantedScan { columns: vec![1, 0], filter: "text IS NULL", ..ALL };
    let got = scan_of(&serving, &whole, &visible, wanted).await.unwrap();
    assert_eq!(ids(&got, 1), (0..25).filter(|id| id % 3 == 0).collect::<Vec<i64>>());
    let hidden = WantedScan { columns: vec![2], ..ALL };
    assert_eq!(scan_of(&serving, &whole, &visible, hidden).await.unwrap_err().code, Code::Internal);
    let missing = WantedScan { parts: 1..3, ..ALL };
    assert_eq!(scan_of(&serving, &whole, &visible, missing).await.unwrap_err().code, Code::Internal);
}

fn is_in(node: &TestNode, id: volley_common::PartId, data: &ArrayData) -> bool {
    let part = node.context.store.part(id).unwrap().unwrap();
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    nulls.into_iter().chain(data.buffers()).any(|buffer| part.range_of(buffer).is_some())
        || data.child_data().iter().any(|child| is_in(node, id, child))
}

#[tokio::test]
async fn batches_of_a_scan_are_small_and_own_their_memory() {
    let node = TestNode::start().await;
    let (small, big) = (node.write(&all_of_one_dictionary()), node.write(&large(20)));
    for (id, visible, rows, filters) in [
        (small, schema(), 600, ["", "id >= 0", "id % 3 > 0 OR word = 'a'"]),
        (big, large(1)[0].schema(), 2560, ["", "id >= 0", "id % 5 > 0"]),
    ] {
        let whole =
            Ticket { schema: node.context.store.part(id).unwrap().unwrap().schema_message(), ..ticket(&[(id, &[])]) };
        for filter in filters {
            let columns = (0..visible.fields().len()).collect();
            let wanted = WantedScan { parts: 0..1, columns, filter, limit: None };
            let got = scan_of(&node, &whole, &visible, wanted).await.unwrap();
            let count: usize = got.iter().map(RecordBatch::num_rows).sum();
            assert!(if filter.contains('%') { count < rows } else { count == rows }, "{filter}: {count} rows");
            for batch in &got {
                assert!(batch.get_array_memory_size() < 3 << 20, "{filter}");
                assert!(batch.columns().iter().all(|column| !is_in(&node, id, &column.to_data())), "{filter}");
            }
        }
    }
}

fn all_of_one_dictionary() -> Vec<RecordBatch> {
    (0..6).map(|at| batch(at * 100, 100, &["a", "b"])).collect()
}

#[tokio::test]
async fn scan_continues_at_another_holder() {
    // It sends the schema, the dictionary and one batch.
    let (serving, breaking, sound) =
        (TestNode::start().await, TestNode::breaking_after(3).await, TestNode::start().await);
    introduce(&[&serving, &breaking, &sound]);
    let stored: Vec<_> = (0..4).map(|at| batch(at * 20_000, 20_000, &["a", "b"])).collect();
    let part = breaking.write(&stored);
    copy_over(part, &breaking, &sound);
    let whole = ticket(&[(part, &[&breaking, &sound])]);
    for filter in ["", "id % 2 = 0"] {
        let wanted = WantedScan { parts: 0..1, columns: vec![0, 1, 2], filter, limit: None };
        let expected = rows(&stored).into_iter().filter(|row| filter.is_empty() || row.0 % 2 == 0);
        assert_eq!(rows(&scan(&serving, &whole, wanted).await), expected.collect::<Vec<_>>(), "{filter}");
    }
}

#[tokio::test]
async fn scan_of_a_cancelled_flight_ends() {
    let node = TestNode::start().await;
    let whole = ticket(&[(node.write(&first()), &[])]);
    let until_ms = clock::now_ms() + 600_000;
    let cancelled = volley_common::wire::catalog::Cancelled { flight: whole.flight, until_ms };
    node.context.cluster.cancelled.add(&[cancelled]);
    let wanted = WantedScan { parts: 0..1, columns: vec![0], ..ALL };
    assert_eq!(scan_of(&node, &whole, &schema(), wanted).await.unwrap_err().code, Code::Cancelled);
}
