//! Raft messages that no correct member sends.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Request};
use volley_common::NodeId;
use volley_common::wire::PROTOCOL;
use volley_common::wire::catalog::Command;
use volley_common::wire::raft as wire;
use volley_common::wire::raft::raft_client::RaftClient;
use volley_coordinator::raft::Handle;
use volley_coordinator::raft::rpc::network::STORE_HEADER;

use crate::raft_support::{TestCoordinator, config, leader, node, peers, start, wait_until};

struct HostileGroup {
    dir: TempDir,
    peers: BTreeMap<u64, String>,
    up: Vec<TestCoordinator>,
}

impl HostileGroup {
    async fn start() -> Self {
        let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
        let mut up = Vec::new();
        for id in 1..=3 {
            let mut config = config(id, &peers, dir.path());
            config.log_comparison_interval = Duration::from_millis(100);
            up.push(start(config).await);
        }
        let group = HostileGroup { dir, peers, up };
        group.up[0].raft.propose(node(1)).await.unwrap();
        group
    }

    /// A client of a coordinator's peer port, and the id of its data folder, which anyone can ask for.
    async fn connect(&self, id: u64) -> (RaftClient<Channel>, String) {
        let mut client = RaftClient::connect(format!("http://{}", self.peers[&id])).await.unwrap();
        let asking = wire::Identity { id: 9, protocol: PROTOCOL, ..wire::Identity::default() };
        let store = client.identify(asking).await.unwrap().into_inner().store;
        (client, format!("{store:016x}"))
    }
}

fn addressed<T>(message: T, store: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(STORE_HEADER, store.parse().unwrap());
    request
}

fn vote(term: u64, node: u64, committed: bool) -> Option<wire::Vote> {
    Some(wire::Vote { leader: Some(wire::LeaderId { term, node }), committed })
}

#[tokio::test(flavor = "multi_thread")]
async fn message_of_an_absurd_term_is_refused() {
    let group = HostileGroup::start().await;
    for id in 1..=3 {
        let (mut client, store) = group.connect(id).await;
        for term in [u64::MAX, 1 << 40] {
            let ask = wire::VoteRequest {
                vote: vote(term, 2, false),
                last_log_id: Some(wire::LogId { leader: Some(wire::LeaderId { term, node: 2 }), index: u64::MAX - 1 }),
                leadership_transfer: true,
                pre_vote: false,
            };
            let append = wire::AppendRequest { vote: vote(term, 2, true), ..wire::AppendRequest::default() };
            let transfer = wire::TransferRequest { from_leader: vote(term, 2, true), to: id, last_log_id: None };
            let codes = [
                client.vote(addressed(ask, &store)).await.unwrap_err().code(),
                client.append(addressed(append, &store)).await.unwrap_err().code(),
                client.transfer(addressed(transfer, &store)).await.unwrap_err().code(),
            ];
            assert_eq!(codes, [Code::PermissionDenied; 3]);
        }
    }
    let raft = &group.up[0].raft;
    raft.propose(node(2)).await.unwrap();
    assert!(raft.metrics().current_term < 100, "{}", raft.metrics());
}

/// A process that claims to be the leader adds an entry, and the leader's own entry gets the same id.
#[tokio::test(flavor = "multi_thread")]
async fn follower_with_another_entry_is_reported() {
    let group = HostileGroup::start().await;
    let leading = leader(&group.up[0].raft).await;
    let (leader, follower) = (&group.up[leading as usize - 1].raft, if leading == 1 { 2 } else { 1 });
    wait_until(leader, "the follower has the whole log", |raft| raft.progress()[&follower].lag == Some(0)).await;
    let (mut client, store) = group.connect(follower).await;
    let metrics = leader.metrics();
    let (term, last) = (metrics.current_term, metrics.last_log_index.unwrap());
    let id = |index| Some(wire::LogId { leader: Some(wire::LeaderId { term, node: leading }), index });
    let forged = Command { now_ms: 1, op: Some(node(666)) };
    let message = wire::AppendRequest {
        vote: vote(term, leading, true),
        prev_log_id: id(last),
        entries: vec![wire::Entry { log_id: id(last + 1), payload: Some(wire::entry::Payload::Command(forged)) }],
        leader_commit: id(last),
    };
    client.append(addressed(message, &store)).await.unwrap();
    assert!(leader.diverged().is_empty());
    leader.propose(node(2)).await.unwrap();
    wait_until(leader, "the difference is found", |raft| raft.diverged().contains_key(&follower)).await;
    let text = leader.diverged()[&follower].clone();
    assert!(text.contains(&format!("entry {}", last + 1)) && text.contains("empty its data folder"), "{text}");
    assert_eq!(leader.diverged().len(), 1, "the other follower has the leader's log");
}

/// An earlier program may have stored them without the fields that it did not know.
#[tokio::test(flavor = "multi_thread")]
async fn entries_from_before_the_start_are_not_compared() {
    let mut group = HostileGroup::start().await;
    let follower = if leader(&group.up[0].raft).await == 3 { 2 } else { 3 };
    let config = config(follower, &group.peers, group.dir.path());
    let at = follower as usize - 1;
    let stopped = group.up.remove(at);
    let has_node = |raft: &Handle, id| raft.view().node(NodeId(id)).is_some();
    wait_until(&stopped.raft, "it has the entry", |raft| has_node(raft, 1)).await;
    let before = stopped.raft.metrics().last_log_index.unwrap();
    let ask = wire::LogChecksumsRequest { first: 1 };
    let (mut client, _) = group.connect(follower).await;
    let reply = client.log_checksums(ask).await.unwrap().into_inner();
    assert!(reply.first == 1 && !reply.checksums.is_empty(), "{reply:?}");
    stopped.kill().await;

    group.up.insert(at, start(config).await);
    group.up[0].raft.propose(node(2)).await.unwrap();
    wait_until(&group.up[at].raft, "it has the entry", |raft| has_node(raft, 2)).await;
    let (mut client, _) = group.connect(follower).await;
    let reply = client.log_checksums(ask).await.unwrap().into_inner();
    assert!(reply.first > before && !reply.checksums.is_empty(), "{reply:?}, and {before} was the last entry");
}
