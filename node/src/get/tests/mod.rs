#![allow(clippy::unwrap_used)]

pub mod cluster;
mod compressing;
mod decompress;
mod filtered;
mod filtered_types;
mod local;
mod part_scan;
mod preserved;
mod pruned;
mod relayed;

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use tonic::{Code, Request};
use volley_common::PartId;
use volley_common::identity::{ASSERTION_HEADER, Access};
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster::{Columns, Ticket};

use super::is_hop;
use super::reader::TicketReader;
use super::remote::HOP_HEADER;
use crate::callers::tests::{TestUsers, with_token};
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
async fn parts_come_in_order_with_their_own_dictionaries() {
    let node = TestNode::start().await;
    let parts = [node.write(&first()), node.write(&second())];
    let got = node.get(&ticket(&parts.map(|id| (id, &[][..])))).await.unwrap();
    assert_eq!(got.len(), 5, "one message a stored batch");
    assert_eq!(got[0].schema(), cluster::schema());
    assert_eq!(rows(&got), rows(&all()));
}

#[tokio::test]
async fn ticket_without_parts_streams_the_schema() {
    let node = TestNode::start().await;
    assert_eq!(node.get(&ticket(&[])).await.unwrap(), []);
}

#[tokio::test]
async fn ticket_without_schema_gets_it_from_the_first_part() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let (here, there) = (serving.write(&first()), holder.write(&second()));
    for (parts, all) in [([here, there], [first(), second()]), ([there, here], [second(), first()])] {
        let holders = [&holder];
        let full = ticket(&parts.map(|id| (id, &holders[..])));
        for columns in [None, Some(vec![2, 0]), Some(vec![1]), Some(vec![])] {
            let columns = columns.map(|index| Columns { index });
            for limit in [None, Some(0), Some(1), Some(17)] {
                let full = Ticket { columns: columns.clone(), limit, ..full.clone() };
                let bare = Ticket { schema: Bytes::new(), ..full.clone() };
                let (got, want) = (serving.stream(&bare).await.unwrap(), serving.stream(&full).await.unwrap());
                assert_eq!(got, want, "{columns:?}, limit {limit:?}");
            }
        }
        let bare = Ticket { schema: Bytes::new(), ..full };
        assert_eq!(rows(&serving.get(&bare).await.unwrap()), rows(&all.concat()));
        let bare = Ticket { columns: Some(Columns { index: vec![3] }), ..bare };
        assert_eq!(serving.get(&bare).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let nothing = Ticket { schema: Bytes::new(), ..ticket(&[]) };
    assert_eq!(serving.get(&nothing).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn columns_come_in_the_requested_order() {
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
async fn limit_cuts_the_batch_in_which_it_ends() {
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
async fn parts_of_other_nodes_are_forwarded() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let (here, there) = (serving.write(&first()), holder.write(&second()));
    let mut ticket = ticket(&[(there, &[&holder]), (here, &[&serving]), (there, &[&holder])]);
    let got = serving.get(&ticket).await.unwrap();
    assert_eq!(rows(&got), rows(&[second(), first(), second()].concat()));

    ticket.limit = Some(28);
    ticket.columns = Some(Columns { index: vec![0] });
    let got = serving.get(&ticket).await.unwrap();
    assert_eq!(ids(&got, 0), [15..25, 0..15, 15..18].into_iter().flatten().collect::<Vec<i64>>());
}

#[tokio::test]
async fn part_is_found_at_nodes_that_the_ticket_does_not_name() {
    let (serving, holder, gone) = (TestNode::start().await, TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder, &gone]);
    let part = holder.write(&first());
    let ticket = ticket(&[(part, &[&gone])]);
    assert_eq!(rows(&serving.get(&ticket).await.unwrap()), rows(&first()));
}

#[tokio::test]
async fn broken_remote_stream_continues_at_the_next_message() {
    // Each stream breaks after schema, dictionary and one batch; the next attempt gives the next batch.
    let (serving, breaking) = (TestNode::start().await, TestNode::breaking_after(3).await);
    introduce(&[&serving, &breaking]);
    let part = breaking.write(&first());
    let got = serving.get(&ticket(&[(part, &[&breaking])])).await.unwrap();
    assert_eq!(rows(&got), rows(&first()));
}

#[tokio::test]
async fn small_messages_share_a_frame() {
    let node = TestNode::start().await;
    let batches: Vec<_> = (0..1000).map(|at| batch(at * 5, 5, &["a", "b"])).collect();
    let full = ticket(&[(node.write(&batches), &[])]);
    for (bytes, least, most) in [(0, 1002, 1002), (64 << 10, 5, 20), (super::FRAME_BYTES, 2, 5)] {
        let reader = TicketReader::new(node.context.get.clone(), full.clone(), false).unwrap();
        let frames: Vec<_> = futures::TryStreamExt::try_collect(reader.frames(bytes)).await.unwrap();
        assert!((least..=most).contains(&frames.len()), "{} frames of up to {bytes} bytes", frames.len());
        assert!(bytes == 0 || frames.iter().all(|frame| frame.len() < bytes + (8 << 10)));
    }
    assert_eq!(rows(&node.get(&full).await.unwrap()), rows(&batches));
}

fn all_alike() -> Vec<RecordBatch> {
    (0..6).map(|at| batch(at * 5, 5, &["a", "b"])).collect()
}

#[tokio::test]
async fn part_on_no_node_is_unavailable_and_named() {
    let (serving, other) = (TestNode::start().await, TestNode::breaking_after(2).await);
    introduce(&[&serving, &other]);
    let part = other.write(&first());
    for id in [part, PartId::random()] {
        let ticket = ticket(&[(id, &[&other, &serving])]);
        let get = serving.get(&ticket);
        let status = tokio::time::timeout(Duration::from_secs(20), get).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("t/1") && status.message().contains(&id.to_string()), "{status}");
    }
}

#[tokio::test]
async fn get_from_a_node_asks_no_further_node() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let ticket = key().sign(&ticket(&[(holder.write(&first()), &[&holder])]));
    let mut request = Request::new(arrow_flight::Ticket { ticket: ticket.into() });
    request.metadata_mut().insert(HOP_HEADER, "1".parse().unwrap());
    assert_eq!(serving.call(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn hop_header_of_a_client_is_ignored() {
    let users = TestUsers::new();
    let (serving, holder) = (users.node().await, users.node().await);
    introduce(&[&serving, &holder]);
    let planned = Ticket { principal: "ann".into(), ..ticket(&[(holder.write(&first()), &[&holder])]) };
    let mut request = with_token(arrow_flight::Ticket { ticket: key().sign(&planned).into() }, &users.token("ann"));
    request.metadata_mut().insert(HOP_HEADER, "1".parse().unwrap());
    assert_eq!(rows(&serving.call(request).await.unwrap()), rows(&first()));
}

#[test]
fn hop_is_recognised_by_the_assertion_of_a_member() {
    let (open, nobody) = (Access::open(), Access::of(&http::Extensions::new()));
    let headers = |names: &[&'static str]| {
        let value = http::HeaderValue::from_static("1");
        names.iter().map(|name| (http::HeaderName::from_static(name), value.clone())).collect::<http::HeaderMap>()
    };
    let asserted = headers(&[HOP_HEADER, ASSERTION_HEADER]);
    assert!(is_hop(&asserted, &nobody) && is_hop(&headers(&[HOP_HEADER]), &open));
    assert!(!is_hop(&headers(&[HOP_HEADER]), &nobody) && !is_hop(&headers(&[ASSERTION_HEADER]), &nobody));
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
    node.context.cluster.cancelled.add(&[volley_common::wire::catalog::Cancelled { flight: 5, until_ms: u64::MAX }]);
    assert_eq!(node.get(&good).await.unwrap_err().code(), Code::Cancelled);
    node.context.cluster.ticket_key.store(None);
    assert_eq!(node.get(&Ticket { flight: 6, ..good }).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn requests_without_a_ticket_are_refused() {
    let node = TestNode::start().await;
    for (body, code) in [
        (&b""[..], Code::InvalidArgument),
        (&[0, 0, 0, 0, 9, 1], Code::InvalidArgument),
        (&[0, 0, 0, 0, 2, 0x0a, 9], Code::InvalidArgument),
        (&[1, 0, 0, 0, 0], Code::Unimplemented),
        (&[0, 255, 255, 255, 255], Code::ResourceExhausted),
    ] {
        let request = http::Request::post(volley_common::grpc::DO_GET).header("content-type", "application/grpc");
        let request = request.body(Bytes::from_static(body)).unwrap();
        let (reply, _lease) = node.context.pool.send(&node.addr, request).await.unwrap();
        let status = tonic::Status::from_header_map(reply.headers()).unwrap();
        assert_eq!(status.code(), code, "{body:?}: {status}");
    }
}

#[tokio::test]
async fn part_removed_while_read_is_read_to_its_end() {
    let node = TestNode::start().await;
    let id = node.write(&first());
    let part = node.context.store.part(id).unwrap().unwrap();
    let reader = TicketReader::new(node.context.get.clone(), ticket(&[(id, &[])]), true).unwrap();
    let mut stream = Box::pin(reader.frames(0));
    let mut frames = 0;
    while let Some(frame) = futures::StreamExt::next(&mut stream).await {
        frame.unwrap();
        frames += 1;
        if frames == 2 {
            node.context.store.remove(&[id]).unwrap();
        }
    }
    assert_eq!(frames, 1 + part.dictionaries().len() + part.batches().len());
    assert!(concat_batches(&cluster::schema(), &first()).unwrap().num_rows() as u64 == part.rows());
}

#[test]
fn only_members_send_tickets_of_any_size() {
    use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
    let headers = |name| HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("1"))]);
    let (hop, asserted) = (headers(super::HOP_HEADER), headers(super::ASSERTION_HEADER));
    let (open, closed) = (super::Access::open(), super::Access::of(&Extensions::new()));
    let max = |headers: &HeaderMap, caller: super::Caller, access: &super::Access| {
        super::max_ticket(headers, &caller, access) == super::MAX_PEER_MESSAGE
    };
    assert!(max(&hop, super::Caller::Plaintext, &open) && max(&asserted, super::Caller::Plaintext, &closed));
    assert!(!max(&hop, super::Caller::Plaintext, &closed), "a client may send that header");
    assert!(!max(&HeaderMap::new(), super::Caller::Plaintext, &open));
    for access in [&open, &closed] {
        assert!(!max(&hop, super::Caller::Anonymous, access) && !max(&asserted, super::Caller::Anonymous, access));
    }
}
