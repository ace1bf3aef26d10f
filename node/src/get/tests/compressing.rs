//! Messages that are compressed on the way, for readers that accept it.

use std::net::IpAddr;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use tonic::Request;
use volley_common::fairness::CallerKey;
use volley_common::ipc::accepted_codecs::{ACCEPT_CODECS_HEADER, ALL_CODECS};
use volley_common::ipc::compress::BodyCodec;
use volley_common::net::ConnectionPool;
use volley_common::wire::catalog::Compression;
use volley_common::wire::cluster::{Columns, Ticket};

use super::cluster::{TestNode, introduce, key, ticket};
use super::decompress::{compressible, is_compressed};
use super::filtered::filtered;
use crate::get::remote::HOP_HEADER;

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

/// The messages of a get with these headers, after a stream to the same client that ended with `known`.
async fn messages(
    node: &TestNode,
    ticket: &Ticket,
    headers: &[(&'static str, &'static str)],
    known: Option<BodyCodec>,
) -> Vec<FlightData> {
    node.context.get.compression.remember_link(IpAddr::from(LOCALHOST), known);
    let mut request = Request::new(arrow_flight::Ticket { ticket: key().sign(ticket).into() });
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let channel = ConnectionPool::new().channel(&node.addr).unwrap();
    let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
    client.do_get(request).await.unwrap().into_inner().try_collect().await.unwrap()
}

/// How many messages are compressed, and how many are not, besides the schema.
fn count(messages: &[FlightData]) -> (usize, usize) {
    let compressed = messages.iter().filter(|message| is_compressed(message)).count();
    (compressed, messages.len() - 1 - compressed)
}

async fn decoded(messages: Vec<FlightData>) -> Vec<arrow::array::RecordBatch> {
    FlightRecordBatchStream::new_from_flight_data(stream::iter(messages.into_iter().map(Ok)))
        .try_collect()
        .await
        .unwrap()
}

fn all_codecs() -> [(&'static str, &'static str); 1] {
    [(ACCEPT_CODECS_HEADER, ALL_CODECS)]
}

#[tokio::test]
async fn slow_link_gets_compressed_messages_of_the_same_rows() {
    let node = TestNode::start().await;
    let rows = compressible(8);
    let full = Ticket { schema: Bytes::new(), ..ticket(&[(node.write(&rows), &[])]) };
    let plain = messages(&node, &full, &[], Some(BodyCodec::Lz4)).await;
    for codec in [BodyCodec::Lz4, BodyCodec::Zstd] {
        let got = messages(&node, &full, &all_codecs(), Some(codec)).await;
        assert_eq!(count(&got), (8, 0), "{codec:?}");
        let bytes = |messages: &[FlightData]| messages.iter().map(|message| message.data_body.len()).sum::<usize>();
        assert!(bytes(&got) < bytes(&plain) / 3, "{codec:?}: {} of {}", bytes(&got), bytes(&plain));
        assert_eq!(decoded(got).await, rows);
    }
    assert_eq!(decoded(plain).await, rows);
    let columns = Ticket { columns: Some(Columns { index: vec![1] }), limit: Some(1500), ..full.clone() };
    let got = messages(&node, &columns, &all_codecs(), Some(BodyCodec::Lz4)).await;
    let plain = messages(&node, &columns, &[], None).await;
    assert_eq!((count(&got), count(&plain)), ((2, 0), (0, 2)));
    assert_eq!(decoded(got).await, decoded(plain).await);
}

#[tokio::test]
async fn rows_that_a_filter_selects_are_compressed() {
    let node = TestNode::start().await;
    let rows = compressible(2);
    let full = Ticket { schema: Bytes::new(), ..ticket(&[(node.write(&rows), &[])]) };
    let full = filtered(&full, "id >= 1000");
    let got = messages(&node, &full, &all_codecs(), Some(BodyCodec::Zstd)).await;
    assert!(count(&got).0 > 0, "{:?}", count(&got));
    assert_eq!(decoded(got).await.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1048);
    assert_eq!(count(&messages(&node, &full, &[], Some(BodyCodec::Zstd)).await).0, 0);
}

#[tokio::test]
async fn reader_gets_only_what_it_accepts() {
    let node = TestNode::start().await;
    let full = Ticket { schema: Bytes::new(), ..ticket(&[(node.write(&compressible(2)), &[])]) };
    let known = Some(BodyCodec::Lz4);
    for headers in [
        &[][..],
        &[(ACCEPT_CODECS_HEADER, "")],
        &[(ACCEPT_CODECS_HEADER, "zstd, later")],
        &[(ACCEPT_CODECS_HEADER, ALL_CODECS), ("x-volley-decompress", "true")],
        &[(ACCEPT_CODECS_HEADER, ALL_CODECS), (HOP_HEADER, "1")],
    ] {
        assert_eq!(count(&messages(&node, &full, headers, known).await), (0, 2), "{headers:?}");
    }
    // A link that is not known to be slow.
    assert_eq!(count(&messages(&node, &full, &all_codecs(), None).await), (0, 2));
    assert_eq!(count(&messages(&node, &full, &all_codecs(), known).await), (2, 0));
}

#[tokio::test]
async fn stored_compression_stays() {
    let node = TestNode::start().await;
    let id = node.write_compressed(&compressible(2), Compression::Lz4);
    let full = Ticket { schema: Bytes::new(), ..ticket(&[(id, &[])]) };
    let stored = messages(&node, &full, &[], None).await;
    assert_eq!(messages(&node, &full, &all_codecs(), Some(BodyCodec::Zstd)).await, stored);
}

#[tokio::test]
async fn part_of_another_node_is_compressed_where_the_client_is() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let rows = compressible(3);
    let full = Ticket { schema: Bytes::new(), ..ticket(&[(holder.write(&rows), &[&holder])]) };
    let got = messages(&serving, &full, &all_codecs(), Some(BodyCodec::Lz4)).await;
    assert_eq!(count(&got), (3, 0));
    assert_eq!(decoded(got).await, rows);
}

#[tokio::test]
async fn get_without_a_place_is_sent_plain() {
    for places in [0, 1] {
        let node = TestNode::compressing(places).await;
        let full = Ticket { schema: Bytes::new(), ..ticket(&[(node.write(&compressible(2)), &[])]) };
        let taken = node.context.get.compression.take_place(&CallerKey::Cluster);
        assert_eq!(taken.is_some(), places == 1);
        let known = Some(BodyCodec::Lz4);
        assert_eq!(count(&messages(&node, &full, &all_codecs(), known).await), (0, 2));
        drop(taken);
        assert_eq!(count(&messages(&node, &full, &all_codecs(), known).await).0, 2 * places);
    }
}
