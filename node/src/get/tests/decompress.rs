//! The option `decompress`: bodies of compressed parts go out uncompressed.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow_flight::FlightData;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tonic::{Code, Request};
use volley_common::PartId;
use volley_common::fairness::CallerKey;
use volley_common::wire::catalog::Compression;
use volley_common::wire::cluster::{Columns, Ticket};

use super::cluster::{TestNode, introduce, key, ticket};
use super::{all_alike, first, rows, second};
use crate::get::FRAME_BYTES;
use crate::get::reader::TicketReader;

const CODECS: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

pub(super) fn is_compressed(message: &FlightData) -> bool {
    let header = arrow_ipc::root_as_message(&message.data_header).unwrap();
    let batch = header.header_as_dictionary_batch().map_or_else(|| header.header_as_record_batch(), |d| d.data());
    batch.is_some_and(|batch| batch.compression().is_some())
}

fn plain(ticket: &Ticket) -> Ticket {
    Ticket { decompress: true, ..ticket.clone() }
}

/// How many of a get's messages are compressed, and how many are not (besides the schema).
async fn count(node: &TestNode, ticket: &Ticket) -> (usize, usize) {
    let messages = node.stream(ticket).await.unwrap();
    let compressed = messages.iter().filter(|message| is_compressed(message)).count();
    (compressed, messages.len() - 1 - compressed)
}

#[tokio::test]
async fn decompress_gives_the_same_rows_uncompressed() {
    let node = TestNode::start().await;
    for codec in CODECS {
        let parts = [node.write_compressed(&first(), codec), node.write_compressed(&second(), codec)];
        let full = ticket(&parts.map(|id| (id, &[][..])));
        assert_eq!(count(&node, &full).await, (7, 0), "compressed by default");
        assert_eq!(count(&node, &plain(&full)).await, (0, 7));
        for columns in [None, Some(vec![2, 0]), Some(vec![1]), Some(vec![])] {
            let columns = columns.map(|index| Columns { index });
            for (limit, skip) in [(None, 0), (Some(0), 0), (Some(7), 0), (Some(17), 1), (None, 2), (None, 3)] {
                let mut full = Ticket { columns: columns.clone(), limit, ..full.clone() };
                full.parts[0].skip_batches = skip;
                let got = node.get(&plain(&full)).await.unwrap();
                assert_eq!(got, node.get(&full).await.unwrap(), "{codec:?}, {columns:?}, limit {limit:?}, skip {skip}");
                assert_eq!(count(&node, &plain(&full)).await.0, 0);
            }
        }
    }
}

#[tokio::test]
async fn decompress_of_an_uncompressed_part_changes_nothing() {
    let node = TestNode::decompressing(1).await;
    let full = ticket(&[(node.write(&first()), &[])]);
    let _taken = node.context.get.decompressions.admit(&CallerKey::Cluster).unwrap();
    assert_eq!(node.stream(&plain(&full)).await.unwrap(), node.stream(&full).await.unwrap(), "it needs no place");
}

#[tokio::test]
async fn header_applies_to_a_ticket_without_the_option() {
    let node = TestNode::start().await;
    let signed = key().sign(&ticket(&[(node.write_compressed(&first(), Compression::Zstd), &[])]));
    for (header, compressed) in [(None, true), (Some("true"), false), (Some("false"), true)] {
        let mut request = Request::new(arrow_flight::Ticket { ticket: signed.clone().into() });
        if let Some(header) = header {
            request.metadata_mut().insert("x-volley-decompress", header.parse().unwrap());
        }
        let channel = volley_common::net::ConnectionPool::new().channel(&node.addr).unwrap();
        let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
        let messages: Vec<_> = client.do_get(request).await.unwrap().into_inner().try_collect().await.unwrap();
        assert_eq!(messages.iter().any(is_compressed), compressed, "{header:?}");
    }
    for value in ["yes", "1", ""] {
        let mut request = Request::new(arrow_flight::Ticket { ticket: signed.clone().into() });
        request.metadata_mut().insert("x-volley-decompress", value.parse().unwrap());
        let status = node.call(request).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("\"decompress\""), "{status}");
    }
}

#[tokio::test]
async fn part_of_another_node_is_decompressed_once() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    for codec in CODECS {
        let (here, there) = (serving.write_compressed(&first(), codec), holder.write_compressed(&second(), codec));
        let mut full = ticket(&[(there, &[&holder]), (here, &[&serving]), (there, &[&holder])]);
        assert_eq!(count(&serving, &plain(&full)).await, (0, 10));
        assert_eq!(rows(&serving.get(&plain(&full)).await.unwrap()), rows(&[second(), first(), second()].concat()));
        full.limit = Some(28);
        full.columns = Some(Columns { index: vec![2, 1] });
        assert_eq!(serving.get(&plain(&full)).await.unwrap(), serving.get(&full).await.unwrap());
        assert_eq!(count(&serving, &plain(&full)).await.0, 0);
    }
}

#[tokio::test]
async fn broken_remote_stream_continues_decompressed() {
    let (serving, breaking) = (TestNode::start().await, TestNode::breaking_after(3).await);
    introduce(&[&serving, &breaking]);
    let part = breaking.write_compressed(&all_alike(), Compression::Lz4);
    let ticket = plain(&ticket(&[(part, &[&breaking])]));
    assert_eq!(rows(&serving.get(&ticket).await.unwrap()), rows(&all_alike()));
}

/// Batches of about 1 MiB that compress well.
pub(super) fn compressible(batches: i64) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, false),
    ]));
    let batch = |at: i64| {
        let ids: Vec<i64> = (at * 1024..(at + 1) * 1024).collect();
        let texts = StringArray::from_iter_values(ids.iter().map(|id| format!("{id:0>1000}")));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids)), Arc::new(texts)];
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    };
    (0..batches).map(batch).collect()
}

fn stored_bytes(node: &TestNode, id: PartId) -> u64 {
    node.context.store.part(id).unwrap().unwrap().len()
}

#[tokio::test]
async fn memory_is_bounded_by_decompressed_bytes() {
    let node = TestNode::start().await;
    let batches = compressible(40);
    let id = node.write_compressed(&batches, Compression::Zstd);
    assert!(stored_bytes(&node, id) < 4 << 20, "all messages fit into one window as they are stored");
    let full = Ticket { schema: Bytes::new(), ..plain(&ticket(&[(id, &[])])) };
    let part = node.context.store.part(id).unwrap().unwrap();
    let mut local = crate::get::local::LocalPartReader::new(part, None, 0, None).decompressed();
    let mut batches_read = 0;
    loop {
        let messages = local.next_messages(usize::MAX).await.unwrap();
        batches_read += messages.len();
        assert_eq!(local.batches_read() as usize, batches_read);
        match messages.as_slice() {
            [] => break,
            window => assert!(window.iter().map(|m| m.size()).sum::<usize>() < 3 << 20, "{} messages", window.len()),
        }
    }
    assert_eq!(batches_read, 40);
    let got = node.get(&full).await.unwrap();
    assert_eq!(got, batches);
}

#[tokio::test]
async fn small_decompressed_messages_share_a_frame() {
    let node = TestNode::start().await;
    let batches: Vec<_> = (0..1000).map(|at| super::batch(at * 5, 5, &["a", "b"])).collect();
    let full = plain(&ticket(&[(node.write_compressed(&batches, Compression::Lz4), &[])]));
    let reader = TicketReader::new(node.context.get.clone(), full.clone(), false).unwrap();
    let frames: Vec<_> = reader.frames(FRAME_BYTES).try_collect().await.unwrap();
    assert!((2..=20).contains(&frames.len()), "{} frames", frames.len());
    assert_eq!(rows(&node.get(&full).await.unwrap()), rows(&batches));
}

#[tokio::test]
async fn gets_beyond_the_places_are_refused_at_once() {
    let node = TestNode::decompressing(2).await;
    let id = node.write_compressed(&compressible(8), Compression::Zstd);
    let full = Ticket { schema: Bytes::new(), ..plain(&ticket(&[(id, &[])])) };
    let open = || Box::pin(TicketReader::new(node.context.get.clone(), full.clone(), false).unwrap().frames(0));
    let mut unread = [open(), open()];
    for stream in &mut unread {
        assert!(stream.next().await.unwrap().is_ok());
        assert!(stream.next().await.unwrap().is_ok());
    }
    let status = node.get(&full).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("max_decompressing_gets"), "{status}");
    let ids = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().len();
    let compressed = Ticket { decompress: false, ..full.clone() };
    assert_eq!(node.get(&compressed).await.unwrap().iter().map(ids).sum::<usize>(), 8 * 1024);
    drop(unread);
    assert_eq!(node.get(&full).await.unwrap().iter().map(ids).sum::<usize>(), 8 * 1024);
}

#[tokio::test]
async fn damaged_compressed_part_fails_over() {
    let (serving, other) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &other]);
    let id = serving.write_compressed(&compressible(8), Compression::Zstd);
    super::local::copy_over(id, &serving, &other);
    let ticket = Ticket { schema: Bytes::new(), ..plain(&ticket(&[(id, &[&serving, &other])])) };
    let reader = TicketReader::new(serving.context.get.clone(), ticket, false).unwrap();
    let mut stream = Box::pin(reader.frames(0));
    let (mut frames, mut bytes) = (0, 0);
    while let Some(frame) = stream.next().await {
        bytes += frame.unwrap().len();
        frames += 1;
        if frames == 3 {
            let file = std::fs::OpenOptions::new().write(true).open(serving.file()).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xee; 64], 700).unwrap();
        }
    }
    assert!(frames == 9 && bytes > 8_000_000, "{frames} frames of {bytes} bytes");
}
