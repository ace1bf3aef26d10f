//! Parts of other nodes when there is no memory for whole messages: they are passed on as they arrive.

use tonic::Code;
use volley_common::wire::cluster::Columns;

use super::cluster::{TestNode, introduce, ticket};
use super::{first, ids, rows, second};

/// Memory for streams, but not for their messages.
const NARROW: u64 = 1 << 20;

#[tokio::test]
async fn relayed_parts_are_what_their_holders_send() {
    let (serving, holder) = (TestNode::with_relay_memory(NARROW).await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let (here, there) = (serving.write(&first()), holder.write(&second()));
    let mut ticket = ticket(&[(there, &[&holder]), (here, &[&serving]), (there, &[&holder])]);
    let got = serving.get(&ticket).await.unwrap();
    assert_eq!(rows(&got), rows(&[second(), first(), second()].concat()));

    // The rows of what is passed on are not counted; the ticket has them.
    for part in [0, 2] {
        ticket.parts[part].rows = second().iter().map(|batch| batch.num_rows() as u64).sum();
    }
    ticket.limit = Some(28);
    ticket.columns = Some(Columns { index: vec![0] });
    let got = serving.get(&ticket).await.unwrap();
    assert_eq!(ids(&got, 0), [15..25, 0..15, 15..18].into_iter().flatten().collect::<Vec<i64>>());
}

#[tokio::test]
async fn relayed_stream_that_breaks_names_the_holder() {
    let (serving, breaking) = (TestNode::with_relay_memory(NARROW).await, TestNode::breaking_after(3).await);
    introduce(&[&serving, &breaking]);
    let part = breaking.write(&first());
    let status = serving.get(&ticket(&[(part, &[&breaking])])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&breaking.context.store.node().to_string()), "{status}");
}

#[tokio::test]
async fn get_without_relay_memory_is_refused() {
    let (serving, holder) = (TestNode::with_relay_memory(0).await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let there = holder.write(&first());
    let status = serving.get(&ticket(&[(there, &[&holder])])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("relay_memory_bytes"), "{status}");
}
