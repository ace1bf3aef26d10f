//! Gets with a filter.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use futures::StreamExt;
use tonic::{Code, Request};
use volley_common::PartId;
use volley_common::fairness::CallerKey;
use volley_common::identity::{Access, Directory, LoginMethod, Principal};
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::wire::catalog::{Compression, Grant, Role};
use volley_common::wire::cluster::{Columns, IdentitySnapshot, Ticket};

use super::cluster::{TestNode, batch, introduce, key, large, ticket};
use super::local::{check_eviction, copy_over, cut, flip};
use super::{all, first, ids, rows, second};
use crate::assertion::AssertedCaller;
use crate::get::FRAME_BYTES;
use crate::get::filtered::FilteredReader;
use crate::get::remote::HOP_HEADER;

type TestRow = (i64, String, Option<String>);
type FilterCase = (&'static str, fn(&TestRow) -> bool);

const FILTERS: [FilterCase; 6] = [
    ("id > 3 AND id < 22", |(id, _, _)| *id > 3 && *id < 22),
    ("word = 'a' OR word = 'y'", |(_, word, _)| word == "a" || word == "y"),
    ("text IS NULL", |(_, _, text)| text.is_none()),
    ("text = 'text 7' OR id % 5 = 0", |(id, _, text)| text.as_deref() == Some("text 7") || id % 5 == 0),
    ("id >= 0", |_| true),
    ("id < 0", |_| false),
];

pub(super) fn filtered(ticket: &Ticket, filter: &str) -> Ticket {
    Ticket { filter: filter.into(), ..ticket.clone() }
}

fn selected(filter: FilterCase) -> Vec<TestRow> {
    rows(&all()).into_iter().filter(filter.1).collect()
}

#[tokio::test]
async fn filter_selects_rows_here_and_on_other_nodes() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let write = |node: &TestNode| [node.write_compressed(&first(), codec), node.write_compressed(&second(), codec)];
        let (here, there) = (write(&serving), write(&holder));
        let parts: [[(PartId, &[&TestNode]); 2]; 3] = [
            [(here[0], &[&serving]), (here[1], &[&serving])],
            [(there[0], &[&holder]), (there[1], &[&holder])],
            [(there[0], &[&holder]), (here[1], &[&serving])],
        ];
        for (parts, filter) in parts.iter().flat_map(|parts| FILTERS.map(|filter| (parts, filter))) {
            for schema in [ticket(parts).schema, Bytes::new()] {
                let got = serving.get(&filtered(&Ticket { schema, ..ticket(parts) }, filter.0)).await.unwrap();
                assert_eq!(rows(&got), selected(filter), "{codec:?}, {}", filter.0);
            }
        }
    }
}

#[tokio::test]
async fn columns_of_the_filter_need_not_be_sent() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for (node, holders) in [(&serving, [&serving]), (&holder, [&holder])] {
        let whole = ticket(&[(node.write(&first()), &holders[..]), (node.write(&second()), &holders[..])]);
        for filter in FILTERS {
            let expected: Vec<i64> = selected(filter).into_iter().map(|row| row.0).collect();
            for (columns, at) in [(vec![0], 0), (vec![2, 0], 1), (vec![1, 0], 1)] {
                let some = Ticket { columns: Some(Columns { index: columns }), ..filtered(&whole, filter.0) };
                assert_eq!(ids(&serving.get(&some).await.unwrap(), at), expected, "{}", filter.0);
            }
            let none = Ticket { columns: Some(Columns::default()), ..filtered(&whole, filter.0) };
            let got = serving.get(&none).await.unwrap();
            assert_eq!(got.iter().map(RecordBatch::num_rows).sum::<usize>(), expected.len(), "{}", filter.0);
        }
    }
}

#[tokio::test]
async fn limit_counts_the_selected_rows() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let (here, there) = (serving.write(&first()), holder.write(&second()));
    let whole = ticket(&[(here, &[&serving]), (there, &[&holder]), (here, &[&serving])]);
    let expected: Vec<i64> = (0..15).chain(15..25).chain(0..15).filter(|id| id % 2 == 0).collect();
    for limit in 0..=expected.len() + 1 {
        let some = Ticket { limit: Some(limit as u64), ..filtered(&whole, "id % 2 = 0") };
        let got = ids(&serving.get(&some).await.unwrap(), 0);
        assert_eq!(got, expected[..limit.min(expected.len())], "limit {limit}");
    }
}

#[tokio::test]
async fn stream_without_matching_rows_has_the_same_schema() {
    let node = TestNode::start().await;
    let whole = ticket(&[(node.write(&first()), &[])]);
    for columns in [None, Some(vec![2, 1]), Some(vec![])] {
        let some = Ticket { columns: columns.map(|index| Columns { index }), ..whole.clone() };
        let unfiltered = node.stream(&some).await.unwrap();
        let got = node.stream(&filtered(&some, "id < 0")).await.unwrap();
        assert_eq!(got, unfiltered[..1], "no dictionary either");
    }
    let without_parts = filtered(&ticket(&[]), "id < 0");
    assert_eq!(node.stream(&without_parts).await.unwrap().len(), 1);
}

#[tokio::test]
async fn filtered_messages_are_never_compressed() {
    let node = TestNode::start().await;
    let whole = ticket(&[(node.write_compressed(&first(), Compression::Zstd), &[])]);
    let messages = node.stream(&filtered(&whole, "word = 'a'")).await.unwrap();
    let mut dictionaries = 0;
    for data in &messages {
        let message = arrow_ipc::root_as_message(&data.data_header).unwrap();
        let dictionary = message.header_as_dictionary_batch();
        dictionaries += usize::from(dictionary.is_some());
        let batch = dictionary.map_or_else(|| message.header_as_record_batch(), |dictionary| dictionary.data());
        assert!(batch.is_none_or(|batch| batch.compression().is_none()));
    }
    assert_eq!((messages.len(), dictionaries), (3, 1), "the few rows are one batch");
}

/// Batches that are a message each also after a filter.
fn separate() -> Vec<RecordBatch> {
    (0..4).map(|at| batch(at * 20_000, 20_000, &["a", "b", "c"])).collect()
}

#[tokio::test]
async fn broken_holder_is_continued_at_the_next_row() {
    // It sends the schema, the dictionary and one batch.
    let (serving, breaking, sound) =
        (TestNode::start().await, TestNode::breaking_after(3).await, TestNode::start().await);
    introduce(&[&serving, &breaking, &sound]);
    let part = breaking.write(&separate());
    copy_over(part, &breaking, &sound);
    let whole = ticket(&[(part, &[&breaking, &sound])]);
    let expected: Vec<TestRow> = rows(&separate()).into_iter().filter(|row| row.0 % 2 == 0).collect();
    assert_eq!(rows(&serving.get(&filtered(&whole, "id % 2 = 0")).await.unwrap()), expected);
    for limit in [9_999, 10_000, 10_001, 25_000, 40_000] {
        let some = Ticket { limit: Some(limit), ..filtered(&whole, "id % 2 = 0") };
        assert_eq!(rows(&serving.get(&some).await.unwrap()), expected[..limit as usize], "limit {limit}");
    }
}

#[tokio::test]
async fn filtered_part_that_only_breaking_nodes_have_is_unavailable() {
    let (serving, breaking) = (TestNode::start().await, TestNode::breaking_after(3).await);
    introduce(&[&serving, &breaking]);
    let whole = ticket(&[(breaking.write(&separate()), &[&breaking])]);
    let wanted = filtered(&whole, "id % 2 = 0");
    let get = serving.get(&wanted);
    let status = tokio::time::timeout(Duration::from_secs(20), get).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

fn open_reader(node: &TestNode, ticket: Ticket) -> FilteredReader {
    let get = node.context.get.clone();
    let caller = AssertedCaller::client(Access::open(), get.cluster.clone());
    FilteredReader::new(get, ticket, &Access::open(), caller, false).unwrap()
}

#[tokio::test]
async fn file_changed_while_filtered_fails_over_at_the_next_row() {
    for damage in [cut, flip] {
        let (serving, other) = (TestNode::start().await, TestNode::start().await);
        introduce(&[&serving, &other]);
        let id = serving.write(&large(40));
        copy_over(id, &serving, &other);
        let whole = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[&serving, &other])]) };
        let reader = open_reader(&serving, filtered(&whole, "id % 128 <> 5"));
        let (mut stream, mut decoder) = (Box::pin(reader.frames(0)), BatchDecoder::new(1 << 30));
        let (mut got, mut frames) = (Vec::new(), 0);
        while let Some(frame) = stream.next().await {
            use bytes::Buf;
            let mut frame = frame.unwrap();
            frame.advance(5);
            let message = prost::Message::decode(frame.copy_to_bytes(frame.remaining())).unwrap();
            if let DecodedMessage::Batch(batch) = decoder.push(message).unwrap() {
                got.push(batch);
            }
            frames += 1;
            if frames == 3 {
                // A step that reads a file in the moment in which it is truncated ends the process.
                let _paused = serving.context.get.scan_threads.pause().await;
                damage(&std::fs::OpenOptions::new().write(true).open(serving.file()).unwrap());
            }
        }
        assert_eq!(ids(&got, 0), (0..40 * 128).filter(|id| id % 128 != 5).collect::<Vec<_>>());
        // It is quarantined and reported.
        tokio::time::timeout(Duration::from_secs(20), serving.context.store.wait_for_lost()).await.unwrap();
        assert_eq!(serving.context.store.take_lost().0, [id]);
    }
}

#[tokio::test]
async fn frames_of_a_filtered_get_are_small() {
    let node = TestNode::start().await;
    let whole = ticket(&[(node.write(&large(40)), &[])]);
    // Nothing is selected of the first half, so the scan reads ever more at a time.
    let reader = open_reader(&node, filtered(&Ticket { schema: Bytes::new(), ..whole }, "id >= 2560"));
    let frames: Vec<_> = reader.frames(FRAME_BYTES).map(|frame| frame.unwrap().len()).collect().await;
    assert!(frames.iter().all(|bytes| *bytes < 2 * FRAME_BYTES), "{frames:?}");
    assert!(frames.iter().sum::<usize>() > 20 << 20, "{frames:?}");
}

/// What ann may see: two of the three columns.
fn access_of_ann() -> Access {
    let grant = Grant {
        to: "user:ann".into(),
        role: Role::Reader.into(),
        prefix: vec!["t".into()],
        columns: vec!["id".into(), "word".into()],
        ..Grant::default()
    };
    let snapshot = IdentitySnapshot { epoch: 7, grants: vec![grant], closed: true, ..IdentitySnapshot::default() };
    let ann =
        Principal { name: "ann".into(), groups: Vec::new(), method: LoginMethod::Password, credential: String::new() };
    Access::of_principal(ann, Arc::new(Directory::new(&snapshot)))
}

#[tokio::test]
async fn hidden_column_does_not_exist_for_a_filter() {
    let node = TestNode::start().await;
    let (get, access) = (node.context.get.clone(), access_of_ann());
    let mut planned = ticket(&[(node.write(&first()), &[])]);
    planned.columns = Some(Columns { index: vec![0, 1] });
    access.bind_ticket(&mut planned, false);
    let open = |filter: &str| {
        let caller = AssertedCaller::client(access.clone(), get.cluster.clone());
        FilteredReader::new(get.clone(), filtered(&planned, filter), &access, caller, false)
    };
    let refusal = |filter: &str| open(filter).err().unwrap();
    let (hidden, missing) = (refusal("text IS NULL"), refusal("none IS NULL"));
    assert_eq!((hidden.code, missing.code), (Code::InvalidArgument, Code::InvalidArgument));
    assert!(hidden.message.contains("text") && missing.message.contains("none"), "{hidden}; {missing}");
    assert_eq!(refusal("id > 3 AND text IS NULL").code, Code::InvalidArgument);
    let frames: Vec<_> = open("word = 'a'").unwrap().frames(FRAME_BYTES).collect().await;
    assert!(frames.len() > 1 && frames.iter().all(Result::is_ok), "{frames:?}");
}

#[tokio::test]
async fn wrong_filters_are_refused_here_and_by_holders() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for (node, holders) in [(&serving, [&serving]), (&holder, [&holder])] {
        let whole = ticket(&[(node.write(&first()), &holders[..])]);
        // The last one fails for a row.
        for filter in ["none > 1", "id +", "id", "id > 1; DROP TABLE t", "10 / (id - 12) > 0"] {
            for schema in [whole.schema.clone(), Bytes::new()] {
                let wrong = Ticket { schema, ..filtered(&whole, filter) };
                let status = serving.get(&wrong).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{filter}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn batches_to_skip_are_refused_with_a_filter() {
    let node = TestNode::start().await;
    let mut wrong = filtered(&ticket(&[(node.write(&first()), &[])]), "id > 1");
    wrong.parts[0].skip_batches = 1;
    assert_eq!(node.get(&wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn filtered_get_from_a_node_asks_no_further_node() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let wanted = filtered(&ticket(&[(holder.write(&first()), &[&holder])]), "id > 1");
    let mut request = Request::new(arrow_flight::Ticket { ticket: key().sign(&wanted).into() });
    request.metadata_mut().insert(HOP_HEADER, "1".parse().unwrap());
    assert_eq!(serving.call(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn filtered_gets_beyond_the_limit_are_refused() {
    let (serving, full) = (TestNode::start().await, TestNode::filtering(1).await);
    introduce(&[&serving, &full]);
    let wanted = &ticket(&[(full.write(&first()), &[&full])]);
    for node in [&serving, &full] {
        let taken = full.context.get.filters.admit(&CallerKey::Cluster).unwrap();
        let status = node.get(&filtered(wanted, "id > 3")).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("max_filtered_gets"), "{status}");
        assert_eq!(rows(&node.get(wanted).await.unwrap()), rows(&first()), "a get without a filter needs no place");
        drop(taken);
        assert_eq!(ids(&node.get(&filtered(wanted, "id > 3")).await.unwrap(), 0), (4..15).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn aborted_filtered_get_evicts_its_part() {
    let node = TestNode::start().await;
    let id = node.write(&large(8));
    let whole = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[])]) };
    check_eviction(&node, id, || open_reader(&node, filtered(&whole, "id >= 0")).frames(0), 9).await;
}

#[tokio::test]
async fn metadata_of_the_schema_comes_with_filtered_rows() {
    let node = TestNode::start().await;
    let field = Field::new("id", DataType::Int64, false).with_metadata([("unit".into(), "m".into())].into());
    let schema = Schema::new_with_metadata(vec![field], [("origin".into(), "a test".into())].into());
    let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]).unwrap();
    let whole = Ticket { schema: Bytes::new(), ..ticket(&[(node.write(std::slice::from_ref(&rows)), &[])]) };
    assert_eq!(node.get(&filtered(&whole, "id > 1")).await.unwrap(), [rows.slice(1, 2)]);
}
