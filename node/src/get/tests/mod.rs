#![allow(clippy::unwrap_used)]

pub mod cluster;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
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
async fn without_a_schema_in_the_ticket_it_comes_from_the_first_part() {
    let (asked, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&asked, &holder]);
    let (here, there) = (asked.write(&first()), holder.write(&second()));
    for (parts, all) in [([here, there], [first(), second()]), ([there, here], [second(), first()])] {
        let holders = [&holder];
        let full = ticket(&parts.map(|id| (id, &holders[..])));
        for columns in [None, Some(vec![2, 0]), Some(vec![1]), Some(vec![])] {
            let columns = columns.map(|index| Columns { index });
            for limit in [None, Some(0), Some(1), Some(17)] {
                let full = Ticket { columns: columns.clone(), limit, ..full.clone() };
                let bare = Ticket { schema: Bytes::new(), ..full.clone() };
                let (got, want) = (asked.stream(&bare).await.unwrap(), asked.stream(&full).await.unwrap());
                assert_eq!(got, want, "{columns:?}, limit {limit:?}");
            }
        }
        let bare = Ticket { schema: Bytes::new(), ..full };
        assert_eq!(rows(&asked.get(&bare).await.unwrap()), rows(&all.concat()));
        let bare = Ticket { columns: Some(Columns { index: vec![3] }), ..bare };
        assert_eq!(asked.get(&bare).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let nothing = Ticket { schema: Bytes::new(), ..ticket(&[]) };
    assert_eq!(asked.get(&nothing).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_schema_of_a_damaged_part_comes_from_another_holder() {
    let (asked, other) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&asked, &other]);
    let id = asked.write(&all_alike());
    copy_over(id, &asked, &other);
    let bare = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[&asked, &other])]) };
    // Held while the file is cut: it is not opened, and so not verified, anew.
    let part = asked.state.store.part(id).unwrap().unwrap();
    cut(&std::fs::OpenOptions::new().write(true).open(asked.file()).unwrap());
    assert_eq!(part.check_unchanged().unwrap_err().code, volley_common::Code::DataLoss);
    for columns in [None, Some(Columns { index: vec![0, 1, 2] })] {
        let bare = Ticket { columns, ..bare.clone() };
        assert_eq!(rows(&asked.get(&bare).await.unwrap()), rows(&all_alike()));
    }
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
        let mut stream = Box::pin(source.stream(0));
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
        tokio::time::timeout(Duration::from_secs(20), asked.state.store.wait_for_lost()).await.unwrap();
        assert_eq!(asked.state.store.take_lost().0, [id]);
        assert!(!asked.state.store.holds(id) && asked.state.store.status().quarantined == 1);
        assert_eq!(rows(&asked.get(&ticket).await.unwrap()), rows(&all_alike()));
    }
}

/// Rows of 8 KiB each: batches that fill windows.
fn large(batches: i64) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("filler", DataType::FixedSizeBinary(8192), false),
    ]));
    let batch = |at: i64| {
        let ids: Vec<i64> = (at * 128..(at + 1) * 128).collect();
        let filler = ids.iter().map(|id| vec![*id as u8; 8192]);
        let filler = FixedSizeBinaryArray::try_from_iter(filler).unwrap();
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(ids)), Arc::new(filler)]).unwrap()
    };
    (0..batches).map(batch).collect()
}

/// Has the kernel forget what it has of a file in memory, where the file system allows that.
fn forget(node: &TestNode, id: PartId) {
    node.state.store.evict(id);
    let file = std::fs::File::open(node.file()).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test]
async fn parts_of_many_windows_come_whole_from_memory_and_from_disk() {
    let node = TestNode::start().await;
    let id = node.write(&large(20));
    let mut ticket = ticket(&[(id, &[])]);
    ticket.schema = Bytes::new();
    let all: Vec<i64> = (0..20 * 128).collect();
    for cold in [false, true] {
        for (columns, limit) in [(None, None), (None, Some(1500)), (Some(vec![0]), None), (Some(vec![1, 0]), Some(300))]
        {
            if cold {
                forget(&node, id);
            }
            let at = columns.as_ref().map_or(0, |columns| columns.iter().position(|&column| column == 0).unwrap());
            ticket.columns = columns.map(|index| Columns { index });
            ticket.limit = limit;
            let got = node.get(&ticket).await.unwrap();
            assert_eq!(ids(&got, at), all[..limit.unwrap_or(2560) as usize], "cold: {cold}, limit {limit:?}");
            let fillers = got.iter().filter_map(|batch| batch.column_by_name("filler"));
            let fillers = fillers.flat_map(|column| column.as_fixed_size_binary().iter().flatten());
            assert!(fillers.zip(&all).all(|(filler, id)| filler == vec![*id as u8; 8192]));
        }
    }
}

#[tokio::test]
async fn what_left_memory_while_the_reader_paused_is_brought_in_before_it_is_handed_out() {
    let node = TestNode::start().await;
    let id = node.write(&large(6));
    let part = node.state.store.part(id).unwrap().unwrap();
    let mut local = super::local::LocalPart::new(part.clone(), None, 0, None);
    assert_eq!(local.next(1).await.unwrap().len(), 1);
    forget(&node, id);
    tokio::time::sleep(2 * super::local::PAUSED).await;
    let pieces = local.next(usize::MAX).await.unwrap();
    assert_eq!(pieces.len(), 5);
    let ranges = pieces.iter().flat_map(|piece| &piece.body).filter_map(|slice| part.range_of(slice));
    assert!(part.is_resident(ranges), "handed out, and not in memory");
}

#[tokio::test]
async fn a_file_that_is_cut_between_windows_is_made_good_by_another_holder() {
    let (asked, other) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&asked, &other]);
    let id = asked.write(&large(40));
    copy_over(id, &asked, &other);
    let ticket = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[&asked, &other])]) };
    let source = super::source::Source::new(asked.state.clone(), ticket, false).unwrap();
    let mut stream = Box::pin(source.stream(0));
    let (mut bytes, mut frames) = (0, 0);
    while let Some(frame) = futures::StreamExt::next(&mut stream).await {
        bytes += frame.unwrap().len();
        frames += 1;
        if frames == 3 {
            std::fs::OpenOptions::new().write(true).open(asked.file()).unwrap().set_len(30 << 20).unwrap();
        }
    }
    assert!(frames == 41 && bytes > 40 << 20, "{frames} frames of {bytes} bytes came");
    tokio::time::timeout(Duration::from_secs(20), asked.state.store.wait_for_lost()).await.unwrap();
}

#[tokio::test]
async fn small_messages_go_out_together() {
    let node = TestNode::start().await;
    let batches: Vec<_> = (0..1000).map(|at| batch(at * 5, 5, &["a", "b"])).collect();
    let full = ticket(&[(node.write(&batches), &[])]);
    for (bytes, least, most) in [(0, 1002, 1002), (64 << 10, 5, 20), (super::FRAME, 2, 5)] {
        let source = super::source::Source::new(node.state.clone(), full.clone(), false).unwrap();
        let frames: Vec<_> = futures::TryStreamExt::try_collect(source.stream(bytes)).await.unwrap();
        assert!((least..=most).contains(&frames.len()), "{} frames of up to {bytes} bytes", frames.len());
        assert!(bytes == 0 || frames.iter().all(|frame| frame.len() < bytes + (8 << 10)));
    }
    assert_eq!(rows(&node.get(&full).await.unwrap()), rows(&batches));
}

#[tokio::test]
async fn a_stream_that_breaks_off_lets_go_of_its_mapping() {
    let node = TestNode::start().await;
    let id = node.write(&large(2));
    let read = async |frames: usize| {
        let source = super::source::Source::new(node.state.clone(), ticket(&[(id, &[])]), false).unwrap();
        let stream = futures::StreamExt::take(source.stream(0), frames);
        futures::StreamExt::collect::<Vec<_>>(stream).await.len()
    };
    assert_eq!(read(100).await, 3);
    assert!(node.state.store.cached(id).is_some(), "kept for the next reader");
    assert_eq!(read(2).await, 2);
    let let_go = async {
        while node.state.store.cached(id).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), let_go).await.expect("it is let go of");
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
        let request = http::Request::post(volley_common::grpc::DO_GET).body(Bytes::from_static(body)).unwrap();
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
    let mut stream = Box::pin(source.stream(0));
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
