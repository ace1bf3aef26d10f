#![allow(clippy::unwrap_used)]

mod cluster;

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use tonic::{Code, Request};
use volley_common::PartId;
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster::{Columns, Ticket};

use cluster::{TestNode, batch, introduce, key, ticket};

/// Rows as values, whatever their dictionaries: (id, word, text).
fn rows(batches: &[RecordBatch]) -> Vec<(i64, String, Option<String>)> {
    let mut rows = Vec::new();
    for batch in batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let words = batch.column(1).as_dictionary::<Int32Type>();
        let words = words.downcast_dict::<arrow::array::StringArray>().unwrap();
        let texts = batch.column(2).as_string::<i32>();
        rows.extend(
            (ids.values().iter().zip(words).zip(texts))
                .map(|((id, word), text)| (*id, word.unwrap_or("-").to_string(), text.map(str::to_string))),
        );
    }
    rows
}

fn ids(batches: &[RecordBatch], column: usize) -> Vec<i64> {
    batches.iter().flat_map(|b| b.column(column).as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn first() -> Vec<RecordBatch> {
    vec![batch(0, 5, &["a", "b"]), batch(5, 5, &["a", "b"]), batch(10, 5, &["a", "b"])]
}

fn second() -> Vec<RecordBatch> {
    vec![batch(15, 5, &["x", "y", "z"]), batch(20, 5, &["x", "y", "z"])]
}

fn all() -> Vec<RecordBatch> {
    [first(), second()].concat()
}

#[tokio::test]
async fn parts_come_one_after_the_other_with_their_own_dictionaries() {
    let node = TestNode::start().await;
    let parts = [node.write(&first()), node.write(&second())];
    let got = node.get(&ticket(&parts.map(|id| (id, &[][..])))).await.unwrap();
    assert_eq!(got.len(), 5, "one message a stored batch");
    assert_eq!(got[0].schema(), cluster::schema());
    assert_eq!(rows(&got), rows(&all()));
}

#[tokio::test]
async fn a_ticket_without_parts_streams_the_schema() {
    let node = TestNode::start().await;
    assert_eq!(node.get(&ticket(&[])).await.unwrap(), []);
}

#[tokio::test]
async fn columns_come_in_the_order_asked_for() {
    let node = TestNode::start().await;
    let parts = [node.write(&first()), node.write(&second())];
    let mut ticket = ticket(&parts.map(|id| (id, &[][..])));
    for columns in [vec![2, 0], vec![1], vec![0], vec![]] {
        ticket.columns = Some(Columns { index: columns.clone() });
        let got = node.get(&ticket).await.unwrap();
        let columns: Vec<usize> = columns.iter().map(|&at| at as usize).collect();
        assert_eq!(got.len(), 5);
        for (got, put) in got.iter().zip(all()) {
            assert_eq!(*got, put.project(&columns).unwrap());
        }
    }
    ticket.columns = Some(Columns { index: vec![3] });
    assert_eq!(node.get(&ticket).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_limit_cuts_the_batch_that_it_ends_in() {
    let node = TestNode::start().await;
    let parts = [node.write(&first()), node.write(&second())];
    let mut ticket = ticket(&parts.map(|id| (id, &[][..])));
    for limit in [0, 1, 5, 7, 15, 17, 25, 26] {
        ticket.limit = Some(limit);
        ticket.columns = None;
        let got = node.get(&ticket).await.unwrap();
        let want: Vec<_> = rows(&all()).into_iter().take(limit as usize).collect();
        assert_eq!(rows(&got), want, "limit {limit}");
        ticket.columns = Some(Columns { index: vec![2, 0] });
        let got = node.get(&ticket).await.unwrap();
        assert_eq!(ids(&got, 1), want.iter().map(|row| row.0).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[tokio::test]
async fn skipped_batches_are_left_out() {
    let node = TestNode::start().await;
    let mut ticket = ticket(&[(node.write(&first()), &[])]);
    for skip in 0..5 {
        ticket.parts[0].skip_batches = skip;
        let got = node.get(&ticket).await.unwrap();
        let want = first().into_iter().skip(skip as usize).collect::<Vec<_>>();
        assert_eq!(rows(&got), rows(&want), "skip {skip}");
    }
}

#[tokio::test]
async fn parts_of_other_nodes_are_passed_on() {
    let (asked, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&asked, &holder]);
    let (here, there) = (asked.write(&first()), holder.write(&second()));
    let mut ticket = ticket(&[(there, &[&holder]), (here, &[&asked]), (there, &[&holder])]);
    let got = asked.get(&ticket).await.unwrap();
    assert_eq!(rows(&got), rows(&[second(), first(), second()].concat()));

    ticket.limit = Some(28);
    ticket.columns = Some(Columns { index: vec![0] });
    let got = asked.get(&ticket).await.unwrap();
    assert_eq!(ids(&got, 0), [15..25, 0..15, 15..18].into_iter().flatten().collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_part_is_found_at_nodes_that_the_ticket_does_not_name() {
    let (asked, holder, gone) = (TestNode::start().await, TestNode::start().await, TestNode::start().await);
    introduce(&[&asked, &holder, &gone]);
    let part = holder.write(&first());
    let ticket = ticket(&[(part, &[&gone])]);
    assert_eq!(rows(&asked.get(&ticket).await.unwrap()), rows(&first()));
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_at_the_next_message() {
    // Schema, dictionary, one batch: then it breaks. Asked again for the rest it gives the next batch.
    let (asked, breaking) = (TestNode::start().await, TestNode::breaking_after(3).await);
    introduce(&[&asked, &breaking]);
    let part = breaking.write(&first());
    let got = asked.get(&ticket(&[(part, &[&breaking])])).await.unwrap();
    assert_eq!(rows(&got), rows(&first()));
}

/// Copies a part's file from one node's disk to another's.
fn copy_over(id: PartId, from: &TestNode, to: &TestNode) {
    let part = from.state.store.part(id).unwrap().unwrap();
    let held = from.state.store.inventory().into_iter().find(|held| held.id == Some(id.into())).unwrap();
    let row = volley_common::wire::catalog::Part {
        id: held.id,
        write: held.write,
        bytes: held.bytes,
        crc32c: held.crc32c,
        ..Default::default()
    };
    let mut receiver = to.state.store.receive(&row, &"t/1".parse().unwrap()).unwrap();
    receiver.write(&part.slice(0..part.len())).unwrap();
    receiver.finish().unwrap();
}

/// What may happen to a file while it is read.
fn cut(file: &std::fs::File) {
    file.set_len(0).unwrap();
}

fn flip(file: &std::fs::File) {
    std::os::unix::fs::FileExt::write_all_at(file, &[0xee; 64], 700).unwrap();
}

#[tokio::test]
async fn a_file_that_is_changed_while_it_is_read_is_made_good_by_another_holder() {
    for harm in [cut, flip] {
        let (asked, other) = (TestNode::start().await, TestNode::start().await);
        introduce(&[&asked, &other]);
        let id = asked.write(&all_alike());
        copy_over(id, &asked, &other);
        let ticket = ticket(&[(id, &[&asked, &other])]);
        let source = super::source::Source::new(asked.state.clone(), ticket.clone(), false).unwrap();
        let mut stream = Box::pin(source.stream());
        let mut decoder = volley_common::ipc::decode::Decoder::new(1 << 30);
        let (mut got, mut frames) = (Vec::new(), 0);
        while let Some(frame) = futures::StreamExt::next(&mut stream).await {
            use bytes::Buf;
            let mut frame = frame.unwrap();
            frame.advance(5);
            let message = prost::Message::decode(frame.copy_to_bytes(frame.remaining())).unwrap();
            if let volley_common::ipc::decode::Event::Batch(batch) = decoder.push(message).unwrap() {
                got.push(batch);
            }
            frames += 1;
            if frames == 3 {
                let path = asked.file();
                harm(&std::fs::OpenOptions::new().write(true).open(path).unwrap());
            }
        }
        assert_eq!(rows(&got), rows(&all_alike()));
        // It was put aside, and is reported.
        tokio::time::timeout(Duration::from_secs(20), asked.state.store.lost_something()).await.unwrap();
        assert_eq!(asked.state.store.take_lost().0, [id]);
        assert!(!asked.state.store.holds(id) && asked.state.store.condition().damaged == 1);
        assert_eq!(rows(&asked.get(&ticket).await.unwrap()), rows(&all_alike()));
    }
}

fn all_alike() -> Vec<RecordBatch> {
    (0..6).map(|at| batch(at * 5, 5, &["a", "b"])).collect()
}

#[tokio::test]
async fn a_part_that_nobody_gives_is_unavailable_and_named() {
    let (asked, other) = (TestNode::start().await, TestNode::breaking_after(2).await);
    introduce(&[&asked, &other]);
    let part = other.write(&first());
    for id in [part, PartId::random()] {
        let ticket = ticket(&[(id, &[&other, &asked])]);
        let get = asked.get(&ticket);
        let status = tokio::time::timeout(Duration::from_secs(20), get).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("t/1") && status.message().contains(&id.to_string()), "{status}");
    }
}

#[tokio::test]
async fn a_node_that_is_asked_by_another_does_not_ask_on() {
    let (asked, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&asked, &holder]);
    let ticket = key().sign(&ticket(&[(holder.write(&first()), &[&holder])]));
    let mut request = Request::new(arrow_flight::Ticket { ticket: ticket.into() });
    request.metadata_mut().insert(super::HOP_HEADER, "1".parse().unwrap());
    assert_eq!(asked.call(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn bad_tickets_are_refused() {
    let node = TestNode::start().await;
    let good = ticket(&[(node.write(&first()), &[])]);
    let expired = Ticket { expires_ms: 1, ..good.clone() };
    assert_eq!(node.get(&expired).await.unwrap_err().code(), Code::NotFound);
    let forged = TicketKey::new(&[8; 32]).sign(&good);
    assert_eq!(node.get_bytes(forged).await.unwrap_err().code(), Code::PermissionDenied);
    for garbage in [&b""[..], b"\x01VOLLEY1", b"a//b", b"{\"limit\": 1}", b"\xff\xfe"] {
        let status = node.get_bytes(garbage).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{garbage:?}: {status}");
    }
    // A name needs a coordinator, and this node knows none.
    assert_eq!(node.get_bytes("t/1").await.unwrap_err().code(), Code::Unavailable);
    node.state.cancelled.add(&[volley_common::wire::catalog::Cancelled { flight: 5, until_ms: u64::MAX }]);
    assert_eq!(node.get(&good).await.unwrap_err().code(), Code::Cancelled);
    node.state.ticket_key.store(None);
    assert_eq!(node.get(&Ticket { flight: 6, ..good }).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn requests_that_are_no_tickets_are_refused() {
    let node = TestNode::start().await;
    for (body, code) in [
        (&b""[..], Code::InvalidArgument),
        (&[0, 0, 0, 0, 9, 1], Code::InvalidArgument),
        (&[0, 0, 0, 0, 2, 0x0a, 9], Code::InvalidArgument),
        (&[1, 0, 0, 0, 0], Code::Unimplemented),
        (&[0, 255, 255, 255, 255], Code::ResourceExhausted),
    ] {
        let request = http::Request::post(super::PATH).body(Bytes::from_static(body)).unwrap();
        let (reply, _lease) = node.state.relay.send(&node.addr, request).await.unwrap();
        let status = tonic::Status::from_header_map(reply.headers()).unwrap();
        assert_eq!(status.code(), code, "{body:?}: {status}");
    }
}

#[tokio::test]
async fn a_part_that_is_removed_meanwhile_is_read_to_its_end() {
    let node = TestNode::start().await;
    let id = node.write(&first());
    let part = node.state.store.part(id).unwrap().unwrap();
    let source = super::source::Source::new(node.state.clone(), ticket(&[(id, &[])]), true).unwrap();
    let mut stream = Box::pin(source.stream());
    let mut frames = 0;
    while let Some(frame) = futures::StreamExt::next(&mut stream).await {
        frame.unwrap();
        frames += 1;
        if frames == 2 {
            node.state.store.remove(&[id]).unwrap();
        }
    }
    assert_eq!(frames, 1 + part.dictionaries().len() + part.batches().len());
    assert!(concat_batches(&cluster::schema(), &first()).unwrap().num_rows() as u64 == part.rows());
}
