//! Parts on this node's disk: windows, files that are damaged while they are read.

use std::time::Duration;

use arrow::array::AsArray;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::Code;
use volley_common::PartId;
use volley_common::grpc::retry_after;
use volley_common::wire::cluster::{Columns, Ticket};

use super::cluster::{TestNode, introduce, large, ticket};
use super::{all_alike, ids, rows};
use crate::get::local::{LocalPartReader, PAUSE};
use crate::get::reader::TicketReader;

#[tokio::test]
async fn schema_of_a_damaged_part_comes_from_another_holder() {
    let (serving, other) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &other]);
    let id = serving.write(&all_alike());
    copy_over(id, &serving, &other);
    let bare = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[&serving, &other])]) };
    // Held while the file is truncated, so that the file is not opened and verified again.
    let part = serving.context.store.part(id).unwrap().unwrap();
    cut(&std::fs::OpenOptions::new().write(true).open(serving.file()).unwrap());
    assert_eq!(part.check_unchanged().unwrap_err().code, volley_common::Code::DataLoss);
    for columns in [None, Some(Columns { index: vec![0, 1, 2] })] {
        let bare = Ticket { columns, ..bare.clone() };
        assert_eq!(rows(&serving.get(&bare).await.unwrap()), rows(&all_alike()));
    }
}

/// Copies a part's file from one node's disk to another's.
pub(super) fn copy_over(id: PartId, from: &TestNode, to: &TestNode) {
    let part = from.context.store.part(id).unwrap().unwrap();
    let held = from.context.store.inventory().into_iter().find(|held| held.id == Some(id.into())).unwrap();
    let row = volley_common::wire::catalog::Part {
        id: held.id,
        write: held.write,
        bytes: held.bytes,
        crc32c: held.crc32c,
        ..Default::default()
    };
    let mut receiver = to.context.store.receive(&row, &"t/1".parse().unwrap()).unwrap();
    receiver.write(&part.slice(0..part.len())).unwrap();
    receiver.finish().unwrap();
}

/// Damages a file while it is read.
pub(super) fn cut(file: &std::fs::File) {
    file.set_len(0).unwrap();
}

pub(super) fn flip(file: &std::fs::File) {
    std::os::unix::fs::FileExt::write_all_at(file, &[0xee; 64], 700).unwrap();
}

#[tokio::test]
async fn file_changed_while_read_fails_over_to_another_holder() {
    for damage in [cut, flip] {
        let (serving, other) = (TestNode::start().await, TestNode::start().await);
        introduce(&[&serving, &other]);
        let id = serving.write(&all_alike());
        copy_over(id, &serving, &other);
        let ticket = ticket(&[(id, &[&serving, &other])]);
        let reader = TicketReader::new(serving.context.get.clone(), ticket.clone(), false).unwrap();
        let mut stream = Box::pin(reader.frames(0));
        let mut decoder = volley_common::ipc::decode::BatchDecoder::new(1 << 30);
        let (mut got, mut frames) = (Vec::new(), 0);
        while let Some(frame) = stream.next().await {
            use bytes::Buf;
            let mut frame = frame.unwrap();
            frame.advance(5);
            let message = prost::Message::decode(frame.copy_to_bytes(frame.remaining())).unwrap();
            if let volley_common::ipc::decode::DecodedMessage::Batch(batch) = decoder.push(message).unwrap() {
                got.push(batch);
            }
            frames += 1;
            if frames == 3 {
                let path = serving.file();
                damage(&std::fs::OpenOptions::new().write(true).open(path).unwrap());
            }
        }
        assert_eq!(rows(&got), rows(&all_alike()));
        // It is quarantined and reported.
        tokio::time::timeout(Duration::from_secs(20), serving.context.store.wait_for_lost()).await.unwrap();
        assert_eq!(serving.context.store.take_lost().0, [id]);
        assert!(!serving.context.store.holds(id) && serving.context.store.status().quarantined == 1);
        assert_eq!(rows(&serving.get(&ticket).await.unwrap()), rows(&all_alike()));
    }
}

/// Evicts a part from the page cache, if the file system allows that.
fn evict(node: &TestNode, id: PartId) {
    node.context.store.evict(id);
    let file = std::fs::File::open(node.file()).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test]
async fn parts_of_many_windows_come_whole_from_memory_and_disk() {
    let node = TestNode::start().await;
    let id = node.write(&large(20));
    let mut ticket = ticket(&[(id, &[])]);
    ticket.schema = Bytes::new();
    let all: Vec<i64> = (0..20 * 128).collect();
    for cold in [false, true] {
        for (columns, limit) in [(None, None), (None, Some(1500)), (Some(vec![0]), None), (Some(vec![1, 0]), Some(300))]
        {
            if cold {
                evict(&node, id);
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
async fn window_evicted_during_a_pause_is_loaded_again() {
    let node = TestNode::start().await;
    let id = node.write(&large(6));
    let part = node.context.store.part(id).unwrap().unwrap();
    let mut local = LocalPartReader::new(part.clone(), None, 0, None);
    assert_eq!(local.next_messages(1).await.unwrap().len(), 1);
    evict(&node, id);
    tokio::time::sleep(2 * PAUSE).await;
    let messages = local.next_messages(usize::MAX).await.unwrap();
    assert_eq!(messages.len(), 5);
    let ranges = messages.iter().flat_map(|message| &message.body).filter_map(|slice| part.range_of(slice));
    assert!(part.is_resident(ranges), "a message is not in memory");
}

#[tokio::test]
async fn file_cut_between_windows_fails_over_to_another_holder() {
    let (serving, other) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &other]);
    let id = serving.write(&large(40));
    copy_over(id, &serving, &other);
    let ticket = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[&serving, &other])]) };
    let reader = TicketReader::new(serving.context.get.clone(), ticket, false).unwrap();
    let mut stream = Box::pin(reader.frames(0));
    let (mut bytes, mut frames) = (0, 0);
    while let Some(frame) = stream.next().await {
        bytes += frame.unwrap().len();
        frames += 1;
        if frames == 3 {
            std::fs::OpenOptions::new().write(true).open(serving.file()).unwrap().set_len(30 << 20).unwrap();
        }
    }
    assert!(frames == 41 && bytes > 40 << 20, "{frames} frames of {bytes} bytes were received");
    tokio::time::timeout(Duration::from_secs(20), serving.context.store.wait_for_lost()).await.unwrap();
}

#[tokio::test]
async fn aborted_get_evicts_its_part() {
    let node = TestNode::start().await;
    let id = node.write(&large(2));
    let open = || TicketReader::new(node.context.get.clone(), ticket(&[(id, &[])]), false).unwrap().frames(0);
    check_eviction(&node, id, open, 3).await;
}

/// Checks that a part stays mapped after a get that was read to its end, which has this many frames, but not after one that was
/// dropped before.
pub(super) async fn check_eviction<S: Stream>(node: &TestNode, id: PartId, open: impl Fn() -> S, frames: usize) {
    let read = async |limit: usize| open().take(limit).count().await;
    assert_eq!(read(100).await, frames);
    assert!(node.context.store.cached(id).is_some(), "kept for the next reader");
    assert_eq!(read(2).await, 2);
    let evicted = async {
        while node.context.store.cached(id).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), evicted).await.expect("the part is evicted");
}

#[tokio::test]
async fn gets_beyond_the_memory_are_refused_until_others_end() {
    // Gets of the narrowest class only.
    let node = TestNode::with_get_memory(128 << 10).await;
    let ticket = ticket(&[(node.write(&large(16)), &[])]);
    let mut unread = Vec::new();
    let status = loop {
        match node.open(&ticket).await {
            Ok(stream) => unread.push(stream),
            Err(status) => break status,
        }
    };
    assert!((4..=8).contains(&unread.len()), "{} gets", unread.len());
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("get_memory_bytes") && retry_after(&status).is_some(), "{status:?}");
    let read: Vec<_> = unread.pop().unwrap().try_collect().await.unwrap();
    assert_eq!(read.len(), 17, "a get with the least memory sends the schema and all messages");
    drop(unread);
    let admitted = async {
        while node.open(&ticket).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), admitted).await.expect("what has ended gives its memory back");
}
