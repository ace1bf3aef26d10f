//! Raft's messages that no coordinator would send, or not this one.
#![allow(clippy::unwrap_used)]

use tempfile::TempDir;
use tonic::Code;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use volley_common::tls::{ClientIdentity, MemberIdentity};
use volley_common::wire::PROTOCOL;
use volley_common::wire::raft::raft_client::RaftClient;
use volley_common::wire::raft::raft_server::RaftServer;

use super::*;
use crate::raft::{Handle, testing};

/// A coordinator alone, which leads, and the id of its data folder as messages name it.
async fn leader_and_store() -> (TempDir, Handle, String) {
    let (dir, raft) = testing::single_leader().await;
    let own = client_of(&raft, Caller::Plaintext).identify(identity(1)).await.unwrap().into_inner();
    (dir, raft, format!("{:016x}", own.store))
}

type RaftClientAs<I> = RaftClient<InterceptedService<RaftServer<RaftService>, I>>;

/// A client within the process, whose requests are marked as those of this caller.
fn client_of(raft: &Handle, caller: Caller) -> RaftClientAs<impl Interceptor + use<>> {
    RaftClient::new(InterceptedService::new(raft.service(), testing::calls_of(caller)))
}

fn member(role: MemberRole, name: &str) -> Caller {
    Caller::Member(Arc::new(MemberIdentity { role, name: name.into() }))
}

fn strangers() -> [Caller; 3] {
    let alice = Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() }));
    [member(MemberRole::Node, "2"), alice, Caller::Anonymous]
}

fn identity(id: u64) -> wire::Identity {
    wire::Identity { id, protocol: PROTOCOL, ..wire::Identity::default() }
}

fn addressed<T>(message: T, store: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(STORE_HEADER, store.parse().unwrap());
    request
}

fn vote(term: u64, committed: bool) -> Option<wire::Vote> {
    Some(wire::Vote { leader: Some(wire::LeaderId { term, node: 2 }), committed })
}

/// A vote for coordinator 2, which changes nothing if it is a pre-vote.
fn vote_request(term: u64, pre_vote: bool) -> wire::VoteRequest {
    wire::VoteRequest { vote: vote(term, false), last_log_id: None, leadership_transfer: !pre_vote, pre_vote }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Every message claims to be from coordinator 2.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_coordinator_are_refused() {
    let (_dir, raft, store) = leader_and_store().await;
    let term = raft.metrics().current_term;
    for caller in strangers().into_iter().chain([member(MemberRole::Coordinator, "3")]) {
        let mut client = client_of(&raft, caller.clone());
        let append = wire::AppendRequest { vote: vote(term + 1, true), ..wire::AppendRequest::default() };
        let header = wire::SnapshotHeader { vote: vote(term + 1, true), ..wire::SnapshotHeader::default() };
        let chunk = wire::SnapshotChunk { header: Some(header), ..wire::SnapshotChunk::default() };
        let transfer = wire::TransferRequest { from_leader: vote(term + 1, true), to: 1, last_log_id: None };
        let codes = [
            code(client.vote(addressed(vote_request(term + 1, false), &store)).await),
            code(client.vote(addressed(vote_request(term + 1, true), &store)).await),
            code(client.append(addressed(append, &store)).await),
            code(client.snapshot(addressed(tokio_stream::iter([chunk]), &store)).await),
            code(client.transfer(addressed(transfer, &store)).await),
            code(client.identify(identity(2)).await),
        ];
        assert_eq!(codes, [Code::PermissionDenied; 6], "{caller:?}");
    }
    let status = client_of(&raft, member(MemberRole::Node, "2"))
        .vote(addressed(vote_request(term + 1, false), &store))
        .await
        .unwrap_err();
    let text = status.message();
    assert!(text.contains("coordinator 2") && text.contains("volley://node/2"), "{text}");
    assert!(raft.is_leader() && raft.metrics().current_term == term, "{}", raft.metrics());
    raft.halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_the_log_are_for_coordinators() {
    let (_dir, raft, _) = leader_and_store().await;
    let ask = wire::LogChecksumsRequest { first: 1 };
    for caller in strangers() {
        assert_eq!(code(client_of(&raft, caller).log_checksums(ask).await), Code::PermissionDenied);
    }
    let caller = member(MemberRole::Coordinator, "3");
    assert!(!client_of(&raft, caller).log_checksums(ask).await.unwrap().into_inner().checksums.is_empty());
    raft.halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_certificates_coordinator_are_handled() {
    let (_dir, raft, store) = leader_and_store().await;
    let term = raft.metrics().current_term;
    for caller in [member(MemberRole::Coordinator, "2"), Caller::Plaintext] {
        let mut client = client_of(&raft, caller);
        client.vote(addressed(vote_request(term + 1, true), &store)).await.unwrap();
        assert_eq!(client.identify(identity(2)).await.unwrap().into_inner().id, 1);
    }
    raft.halt().await;
}

/// Passed on, each would end openraft or damage its log.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_refused() {
    let (_dir, raft, store) = leader_and_store().await;
    let term = raft.metrics().current_term + 1;
    let mut client = client_of(&raft, Caller::Plaintext);
    let id = |term, index| Some(wire::LogId { leader: Some(wire::LeaderId { term, node: 2 }), index });
    let entry = |term, index| wire::Entry {
        log_id: id(term, index),
        payload: Some(wire::entry::Payload::Blank(wire::Blank {})),
    };
    let append = |prev_log_id, entries: &[wire::Entry]| wire::AppendRequest {
        vote: vote(term, true),
        prev_log_id,
        entries: entries.to_vec(),
        leader_commit: None,
    };
    let own = Some(wire::Vote { leader: Some(wire::LeaderId { term, node: 1 }), committed: true });
    for (message, why) in [
        (append(None, &[entry(term, 100_000)]), "does not follow"),
        (append(id(term, 50), &[entry(term, 51), entry(term, 53)]), "does not follow"),
        (append(id(term, 50), &[entry(term, 51), entry(term - 1, 52)]), "does not follow"),
        (append(None, &[entry(term + 1, 0)]), "cannot be one of"),
        (append(id(term, u64::MAX), &[]), "cannot be one of"),
        (append(id(term, 0), &[entry(term, 1)]), "contradicts"),
        (wire::AppendRequest { leader_commit: id(term + 1, 5), ..append(None, &[]) }, "cannot be one of"),
        (wire::AppendRequest { vote: vote(term, false), ..append(None, &[]) }, "only an elected leader"),
        (wire::AppendRequest { vote: own, ..append(None, &[]) }, "to itself"),
    ] {
        let status = client.append(addressed(message, &store)).await.unwrap_err();
        assert!(status.message().contains(why), "{status}");
    }
    let candidacy = wire::VoteRequest { vote: vote(term, true), ..vote_request(term, false) };
    assert_eq!(code(client.vote(addressed(candidacy, &store)).await), Code::InvalidArgument);
    let candidacy = wire::VoteRequest { last_log_id: id(term + 1, 5), ..vote_request(term, true) };
    assert_eq!(code(client.vote(addressed(candidacy, &store)).await), Code::InvalidArgument);
    let transfer = wire::TransferRequest { from_leader: vote(term, false), to: 1, last_log_id: None };
    assert_eq!(code(client.transfer(addressed(transfer, &store)).await), Code::InvalidArgument);
    for (last, membership, why) in [
        (id(term, 1), None, "contradicts"),
        (id(term + 1, 50), None, "cannot be one of"),
        (id(term, 50), id(term, 51), "the membership"),
    ] {
        let header = wire::SnapshotHeader {
            vote: vote(term, true),
            last_log_id: last,
            membership_log_id: membership,
            ..wire::SnapshotHeader::default()
        };
        let chunk = wire::SnapshotChunk { header: Some(header), ..wire::SnapshotChunk::default() };
        let status = client.snapshot(addressed(tokio_stream::iter([chunk]), &store)).await.unwrap_err();
        assert!(status.message().contains(why), "{status}");
    }
    assert!(raft.is_leader() && raft.metrics().current_term == term - 1, "{}", raft.metrics());
    raft.halt().await;
}
