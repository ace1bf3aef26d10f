//! Gets with a filter that leave messages out by the statistics of their part.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow_ipc::reader::FileReader;
use bytes::Bytes;
use futures::TryStreamExt;
use volley_common::PartId;
use volley_common::identity::Access;
use volley_common::ipc::statistics::STATISTICS_KEY;
use volley_common::wire::catalog::{self, Compression};
use volley_common::wire::cluster::{Columns, Ticket};
use volley_sql::predicate::Predicate;
use volley_sql::source::ScanCounts;

use super::cluster::{TestNode, batch, introduce, large, schema, ticket};
use super::filtered::filtered;
use super::local::copy_over;
use super::{ids, rows};
use crate::assertion::AssertedCaller;
use crate::get::part_scan::PartScanner;
use crate::storage::{BatchWrite, Part, PartSpec};

/// Gives `to` the part with other bytes in its file, which has the checksum of those.
fn copy_altered(id: PartId, from: &TestNode, to: &TestNode, alter: impl FnOnce(&Part, &mut [u8])) {
    let part = from.context.store.part(id).unwrap().unwrap();
    let mut bytes = part.slice(0..part.len()).to_vec();
    alter(&part, &mut bytes);
    let row = catalog::Part {
        id: Some(id.into()),
        write: "w".into(),
        bytes: part.len(),
        crc32c: crc32c::crc32c(&bytes),
        ..Default::default()
    };
    let mut receiver = to.context.store.receive(&row, &"t/1".parse().unwrap()).unwrap();
    receiver.write(&bytes).unwrap();
    receiver.finish().unwrap();
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

/// Where the file has the value of the statistics.
fn value_position(bytes: &[u8]) -> usize {
    let reader = FileReader::try_new(Cursor::new(bytes), None).unwrap();
    position(bytes, reader.custom_metadata()[STATISTICS_KEY].as_bytes())
}

/// As parts of earlier versions are.
fn without_statistics(_: &Part, bytes: &mut [u8]) {
    let key = position(bytes, STATISTICS_KEY.as_bytes());
    bytes[key] = b'V';
}

/// Ten messages of ten rows.
fn ascending() -> Vec<RecordBatch> {
    (0..10).map(|at| batch(at * 10, 10, &["a", "b"])).collect()
}

fn only_ids(ticket: Ticket) -> Ticket {
    Ticket { columns: Some(Columns { index: vec![0] }), ..ticket }
}

/// In all other messages each number is one that the filter selects: whoever reads them finds more rows.
fn all_but(message: usize) -> impl FnOnce(&Part, &mut [u8]) {
    move |part, bytes| {
        for (_, other) in part.batches().iter().enumerate().filter(|(at, _)| *at != message) {
            let body = &mut bytes[other.body.start as usize..other.body.end as usize];
            body.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&75_u64.to_le_bytes()));
        }
    }
}

#[tokio::test]
async fn only_messages_that_can_match_are_read() {
    let (origin, pruning, reading) = (TestNode::start().await, TestNode::start().await, TestNode::start().await);
    let id = origin.write(&ascending());
    copy_altered(id, &origin, &pruning, all_but(7));
    copy_altered(id, &origin, &reading, |part, bytes| {
        all_but(7)(part, bytes);
        without_statistics(part, bytes);
    });
    let whole = ticket(&[(id, &[])]);
    let wanted = only_ids(filtered(&whole, "id BETWEEN 70 AND 79"));
    assert_eq!(ids(&pruning.get(&wanted).await.unwrap(), 0), (70..80).collect::<Vec<_>>());
    assert_eq!(ids(&reading.get(&wanted).await.unwrap(), 0).len(), 100, "nothing is left out without statistics");
    let none = only_ids(filtered(&whole, "id BETWEEN 1075 AND 1079"));
    assert!(ids(&pruning.get(&none).await.unwrap(), 0).is_empty());
    let limited = Ticket { limit: Some(3), ..wanted };
    assert_eq!(ids(&pruning.get(&limited).await.unwrap(), 0), [70, 71, 72]);
}

#[tokio::test]
async fn scan_counts_the_messages_that_it_leaves_out() {
    let node = TestNode::start().await;
    let whole = Arc::new(ticket(&[(node.write(&ascending()), &[])]));
    let get = node.context.get.clone();
    let caller = AssertedCaller::client(Access::open(), get.cluster.clone());
    for (filter, rows, expected) in [
        ("id = 42", 1, (10, 9)),
        ("id >= 25 AND id < 35 AND id % 2 = 0", 5, (10, 8)),
        ("id < 0", 0, (10, 10)),
        ("id % 2 = 0", 50, (10, 0)),
        ("", 100, (0, 0)),
    ] {
        let predicate = (!filter.is_empty()).then(|| Predicate::parse(filter, &schema()).unwrap());
        let counts = ScanCounts::default();
        let scanner = PartScanner::new(get.clone(), caller.clone()).counting(counts.clone());
        let scan = scanner.scan(whole.clone(), schema(), 0..1, vec![0], predicate, None);
        let found: Vec<RecordBatch> = scan.try_collect().await.unwrap();
        assert_eq!(ids(&found, 0).len(), rows, "{filter}");
        assert_eq!((counts.messages(), counts.pruned()), expected, "{filter}");
    }
}

#[tokio::test]
async fn answers_are_the_same_without_statistics() {
    let (origin, old) = (TestNode::start().await, TestNode::start().await);
    for codec in [Compression::None, Compression::Lz4] {
        let id = origin.write_compressed(&ascending(), codec);
        copy_altered(id, &origin, &old, without_statistics);
        for filter in ["id >= 35 AND id < 62", "text = 'text 44'", "text IS NULL AND id > 90", "word = 'b'", "id < 0"] {
            let wanted = filtered(&ticket(&[(id, &[])]), filter);
            let (pruned, read) = (origin.get(&wanted).await.unwrap(), old.get(&wanted).await.unwrap());
            assert_eq!(rows(&pruned), rows(&read), "{filter}");
            for limit in [1, 5, 30] {
                let limited = Ticket { limit: Some(limit), ..wanted.clone() };
                let first = rows(&origin.get(&limited).await.unwrap());
                assert_eq!(first, rows(&read)[..rows(&read).len().min(limit as usize)], "{filter}, {limit} rows");
            }
        }
    }
}

#[tokio::test]
async fn damaged_statistics_change_no_answer() {
    let origin = TestNode::start().await;
    let id = origin.write(&ascending());
    let wanted = filtered(&ticket(&[(id, &[])]), "id BETWEEN 70 AND 79 OR text = 'text 11'");
    let expected = rows(&origin.get(&wanted).await.unwrap());
    assert_eq!(expected.len(), 11);
    for at in [0, 1, 2, 9, 30, 61, 100] {
        let node = TestNode::start().await;
        copy_altered(id, &origin, &node, |_, bytes| {
            let value = value_position(bytes) + at;
            bytes[value] = if bytes[value] == b'Z' { b'Y' } else { b'Z' };
        });
        assert!(node.context.store.part(id).unwrap().unwrap().statistics().unwrap().is_none(), "byte {at}");
        assert_eq!(rows(&node.get(&wanted).await.unwrap()), expected, "byte {at}");
    }
}

/// One holder has statistics and one has not; the first sends the schema, the dictionary and one batch, and breaks.
#[tokio::test]
async fn scan_continues_at_a_holder_without_statistics() {
    let stored: Vec<RecordBatch> = (0..6).map(|at| batch(at * 20_000, 20_000, &["a", "b"])).collect();
    let filter = "id >= 30000 AND id < 110000 AND id % 2 = 0";
    let expected: Vec<i64> = (30_000..110_000).filter(|id| id % 2 == 0).collect();
    for breaking_is_old in [true, false] {
        let (serving, origin) = (TestNode::start().await, TestNode::start().await);
        let (breaking, sound) = (TestNode::breaking_after(3).await, TestNode::start().await);
        introduce(&[&serving, &breaking, &sound]);
        let id = origin.write(&stored);
        let (old, new) = if breaking_is_old { (&breaking, &sound) } else { (&sound, &breaking) };
        copy_altered(id, &origin, old, without_statistics);
        copy_over(id, &origin, new);
        let whole = filtered(&ticket(&[(id, &[&breaking, &sound])]), filter);
        assert_eq!(ids(&serving.get(&whole).await.unwrap(), 0), expected);
        for limit in [9_999, 20_001, 35_000] {
            let some = Ticket { limit: Some(limit), ..whole.clone() };
            assert_eq!(ids(&serving.get(&some).await.unwrap(), 0), expected[..limit as usize], "limit {limit}");
        }
    }
}

#[tokio::test]
async fn large_messages_are_left_out_too() {
    let node = TestNode::start().await;
    let small = large(18);
    let schema = small[0].schema();
    let spec = PartSpec {
        table: "t/1".parse().unwrap(),
        shard: 0,
        write: "w".into(),
        seq: 0,
        schema: schema.clone(),
        compression: Compression::None,
    };
    let mut writer = node.context.store.create(spec).unwrap();
    // Of 6 MiB each.
    for several in small.chunks(6) {
        let batch = concat_batches(&schema, several).unwrap();
        assert_eq!(writer.write_whole(&batch, b"metadata").unwrap(), BatchWrite::Written);
    }
    let whole = Ticket { schema: Bytes::new(), ..ticket(&[(writer.seal().unwrap().id, &[])]) };
    for (filter, expected) in [("id >= 1000 AND id < 1100", 1000..1100), ("id < 5", 0..5), ("id > 5000", 0..0)] {
        let wanted = only_ids(filtered(&whole, filter));
        assert_eq!(ids(&node.get(&wanted).await.unwrap(), 0), expected.collect::<Vec<i64>>(), "{filter}");
    }
}
