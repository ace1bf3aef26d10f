//! Local reads over a pair of sockets.
#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;

use arrow::array::RecordBatch;
use tokio::io::AsyncWriteExt;
use volley_common::Code;
use volley_common::PartId;
use volley_common::ipc::mapped_part::MappedPart;
use volley_common::local_read::frames::send_bytes;
use volley_common::local_read::{MAX_REPLY, frames::MAX_DESCRIPTORS};
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster::{Columns, Query, QueryResult};

use super::*;
use crate::callers::tests::TestUsers;
use crate::get::tests::cluster::{TestNode, batch, key, ticket};

const SOCKET_ID: u64 = 77;

/// A client of a node's local socket, which has said hello.
async fn connect(node: &TestNode) -> UnixStream {
    let (client, served) = UnixStream::pair().unwrap();
    let service = LocalReadService::new(&node.context, SOCKET_ID);
    tokio::spawn(service.serve(served, CancellationToken::new()));
    send_bytes(&client, &PREFACE, &[]).await.unwrap();
    let (hello, _) = receive_frame::<LocalHello>(&client, MAX_REPLY).await.unwrap().unwrap();
    assert_eq!(hello.id, SOCKET_ID);
    client
}

async fn ask(client: &UnixStream, request: &LocalReadRequest) -> (LocalReadReply, Vec<OwnedFd>) {
    send_frame(client, request, &[]).await.unwrap();
    receive_frame::<LocalReadReply>(client, MAX_REPLY).await.unwrap().unwrap()
}

fn request(ticket: &Ticket) -> LocalReadRequest {
    LocalReadRequest { ticket: key().sign(ticket).into(), ..LocalReadRequest::default() }
}

async fn read(node: &TestNode, ticket: &Ticket) -> (LocalReadReply, Vec<OwnedFd>) {
    ask(&connect(node).await, &request(ticket)).await
}

/// Why a read is refused.
async fn refusal(node: &TestNode, request: &LocalReadRequest) -> (u32, String) {
    let (reply, descriptors) = ask(&connect(node).await, request).await;
    assert!(descriptors.is_empty() && reply.parts.is_empty() && !reply.message.is_empty(), "{reply:?}");
    (reply.code, reply.reason)
}

fn batches(from: i64) -> Vec<RecordBatch> {
    vec![batch(from, 5, &["a", "b"]), batch(from + 5, 5, &["a", "b"])]
}

fn rows_of(part: &LocalPart, descriptor: &OwnedFd) -> Vec<RecordBatch> {
    let part = MappedPart::open(descriptor, part.bytes, None).unwrap();
    (0..part.batch_count()).map(|at| part.batch(at).unwrap()).collect()
}

#[tokio::test]
async fn descriptors_give_the_parts_in_order() {
    let node = TestNode::start().await;
    let parts = [node.write(&batches(0)), node.write(&batches(10))];
    let mut planned = ticket(&parts.map(|id| (id, &[][..])));
    planned.parts[0].skip_batches = 1;
    planned.columns = Some(Columns { index: vec![2, 0] });
    planned.limit = Some(7);
    let (reply, descriptors) = read(&node, &planned).await;
    assert_eq!((reply.code, reply.ticket_parts, descriptors.len()), (Code::Ok as u32, 2, 2), "{reply:?}");
    assert_eq!((reply.columns, reply.limit), (planned.columns, Some(7)));
    assert_eq!((reply.parts[0].skip_batches, reply.parts[1].skip_batches), (1, 0));
    for (at, (part, descriptor)) in reply.parts.iter().zip(&descriptors).enumerate() {
        let found = rows_of(part, descriptor);
        assert_eq!(found, batches(10 * at as i64), "part {at}");
    }
}

#[tokio::test]
async fn removed_part_stays_readable_by_its_descriptor() {
    let node = TestNode::start().await;
    let id = node.write(&batches(0));
    let (reply, descriptors) = read(&node, &ticket(&[(id, &[])])).await;
    node.context.store.remove(&[id]).unwrap();
    assert_eq!(rows_of(&reply.parts[0], &descriptors[0]), batches(0));
    let (_, reason) = refusal(&node, &request(&ticket(&[(id, &[])]))).await;
    assert_eq!(reason, "absent");
}

#[tokio::test]
async fn many_parts_come_in_several_replies() {
    let node = TestNode::start().await;
    let parts: Vec<PartId> = (0..MAX_DESCRIPTORS as i64 + 3).map(|at| node.write(&batches(10 * at))).collect();
    let planned = ticket(&parts.iter().map(|id| (*id, &[][..])).collect::<Vec<_>>());
    let client = connect(&node).await;
    let (mut first_part, mut found) = (0, Vec::new());
    for expected in [MAX_DESCRIPTORS, 3, 0] {
        let (reply, descriptors) = ask(&client, &LocalReadRequest { first_part, ..request(&planned) }).await;
        assert_eq!((reply.parts.len(), descriptors.len()), (expected, expected));
        assert_eq!(reply.ticket_parts as usize, parts.len());
        first_part += expected as u32;
        found.extend(reply.parts.iter().zip(&descriptors).flat_map(|(part, descriptor)| rows_of(part, descriptor)));
    }
    let wanted: Vec<RecordBatch> = (0..parts.len() as i64).flat_map(|at| batches(10 * at)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn read_is_recorded_from_whichever_part_it_begins() {
    let recorded = RecordedReads::default();
    let requests = [(1, false), (1, false), (1, true), (1, true), (2, true), (2, false), (1, false)];
    let added = requests.map(|(read, begins)| recorded.add(read, begins));
    assert_eq!(added, [true, false, true, true, true, false, false]);
    (0..MAX_RECORDED).for_each(|read| assert!(recorded.add((Some("ann"), read), false)));
    assert!(recorded.add(2, false), "it is forgotten, and recorded again");
    assert_eq!(recorded.reads.lock().len(), MAX_RECORDED);
}

#[tokio::test]
async fn tickets_whose_rows_are_selected_go_by_the_wire() {
    let node = TestNode::start().await;
    let good = ticket(&[(node.write(&batches(0)), &[])]);
    let refused = async |ticket: Ticket| refusal(&node, &request(&ticket)).await;
    let precondition = Code::FailedPrecondition as u32;
    assert_eq!(refused(Ticket { filter: "id > 1".into(), ..good.clone() }).await, (precondition, "filter".into()));
    assert_eq!(refused(Ticket { query: Some(Query::default()), ..good.clone() }).await.1, "filter");
    assert_eq!(refused(Ticket { permitted_columns: 9, ..good.clone() }).await, (precondition, "columns".into()));
    assert_eq!(refused(Ticket { expires_ms: 1, ..good.clone() }).await, (Code::NotFound as u32, "ticket".into()));
    assert_eq!(refused(ticket(&[(PartId::random(), &[])])).await, (Code::NotFound as u32, "absent".into()));
    let forged = LocalReadRequest { ticket: TicketKey::new(&[8; 32]).sign(&good).into(), ..request(&good) };
    assert_eq!(refusal(&node, &forged).await, (Code::PermissionDenied as u32, "ticket".into()));
    let name = LocalReadRequest { ticket: "t/1".into(), ..request(&good) };
    assert_eq!(refusal(&node, &name).await.1, "ticket");
    let result = Ticket { result: Some(QueryResult::default()), ..good };
    assert_eq!(read(&node, &result).await.1.len(), 1, "a stored result is read whole");
}

#[tokio::test]
async fn rights_are_those_of_the_credential() {
    let users = TestUsers::new();
    let node = users.node().await;
    let planned = Ticket { principal: "ann".into(), ..ticket(&[(node.write(&batches(0)), &[])]) };
    let with = |user: &str, ticket: &Ticket| {
        let authorization = format!("Bearer {}", users.token(user));
        LocalReadRequest { authorization, request_id: "r1".into(), ..request(ticket) }
    };
    let (reply, descriptors) = ask(&connect(&node).await, &with("ann", &planned)).await;
    assert_eq!((reply.code, descriptors.len()), (Code::Ok as u32, 1), "{reply:?}");
    assert_eq!(refusal(&node, &request(&planned)).await, (Code::Unauthenticated as u32, "credentials".into()));
    let wrong = LocalReadRequest { authorization: "Bearer x".into(), ..request(&planned) };
    assert_eq!(refusal(&node, &wrong).await, (Code::Unauthenticated as u32, "credentials".into()));
    assert_eq!(refusal(&node, &with("eve", &planned)).await, (Code::PermissionDenied as u32, "rights".into()));
    // Who has no grant of its own may see what the ticket says, and a file says more.
    let shared = Ticket { shareable: true, limit: Some(1), ..planned };
    assert_eq!(refusal(&node, &with("eve", &shared)).await.1, "rights");
}

#[tokio::test]
async fn client_with_another_preface_is_disconnected() {
    let node = TestNode::start().await;
    for preface in [&b"\x01VOLLEYX"[..], &PREFACE[..4]] {
        let (mut client, served) = UnixStream::pair().unwrap();
        let service = LocalReadService::new(&node.context, SOCKET_ID);
        let serving = tokio::spawn(service.serve(served, CancellationToken::new()));
        client.write_all(preface).await.unwrap();
        client.shutdown().await.unwrap();
        serving.await.unwrap();
        assert!(receive_frame::<LocalHello>(&client, MAX_REPLY).await.unwrap().is_none());
    }
}
