//! Linearizable reads of the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::body::Body;
use tower::{ServiceExt, service_fn};
use volley_common::NodeId;
use volley_common::wire::cluster::Follower;
use volley_coordinator::raft::Handle;
use volley_coordinator::raft::environment::RaftEnvironment;
use volley_coordinator::raft::rpc::network::PeerChannel;

use crate::raft_support::{TestCoordinator, config, leader, node, peers, serve, start};

#[tokio::test(flavor = "multi_thread")]
async fn follower_that_names_its_leader_confirms_the_read() {
    let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
    let mut up = BTreeMap::new();
    for id in 1..=3 {
        let mut config = config(id, &peers, dir.path());
        // No election starts, and no lease expires, while the leader is alone.
        config.election_timeout_max = Duration::from_secs(20);
        up.insert(id, start(config).await);
    }
    let leads = leader(&up[&1].raft).await;
    up[&leads].raft.propose(node(1)).await.unwrap();
    let followers: Vec<u64> = up.keys().copied().filter(|id| *id != leads).collect();
    for id in &followers {
        up.remove(id).unwrap().kill().await;
    }
    let raft = &up[&leads].raft;
    let metrics = raft.metrics();
    let (id, members) = (followers[0], metrics.membership_config.membership());
    let (store, leader_id) = (members.get_node(&id).unwrap().store_id, metrics.vote.leader_id);
    let follower = Follower { id, store, term: leader_id.term, leader: leader_id.node_id, now_ms: 0 };
    let read = |follower| tokio::time::timeout(Duration::from_secs(1), raft.read_index_local(follower));
    let index = read(Some(follower)).await.expect("it needs no other answer").unwrap();
    assert_eq!(Some(index), metrics.local_committed.map(|id| id.index));
    for unfit in [
        Follower { term: follower.term - 1, ..follower },
        Follower { leader: id, ..follower },
        Follower { store: store ^ 1, ..follower },
        Follower { id: 9, ..follower },
        Follower { id: leads, store: members.get_node(&leads).unwrap().store_id, ..follower },
    ] {
        assert!(!matches!(read(Some(unfit)).await, Ok(Ok(_))), "{unfit:?}");
    }
    assert!(!matches!(read(None).await, Ok(Ok(_))));
}

/// Channels on which read-index requests to one address never get an answer.
#[derive(Default)]
struct ReadIndexBlackhole {
    address: Mutex<Option<String>>,
    received: Notify,
}

impl ReadIndexBlackhole {
    fn install(self: &Arc<Self>, mut env: RaftEnvironment) -> RaftEnvironment {
        let (blackhole, dial) = (self.clone(), env.dial);
        env.dial = Arc::new(move |id: u64, addr: &str| {
            let (blackhole, channel, addr) = (blackhole.clone(), dial(id, addr)?, addr.to_string());
            Ok(PeerChannel::new(service_fn(move |request: http::Request<Body>| {
                let reads = request.uri().path().ends_with("/ReadIndex");
                let (blackhole, answer) = (blackhole.clone(), channel.clone().oneshot(request));
                let lost = reads && blackhole.address.lock().as_ref() == Some(&addr);
                async move {
                    if lost {
                        blackhole.received.notify_one();
                        return std::future::pending().await;
                    }
                    answer.await
                }
            })))
        });
        env
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_fails_over_from_a_leader_that_never_answers() {
    let (dir, peers, blackhole) = (TempDir::new().unwrap(), peers(3).await, Arc::new(ReadIndexBlackhole::default()));
    let mut up: BTreeMap<u64, TestCoordinator> = BTreeMap::new();
    for id in 1..=3 {
        let mut config = config(id, &peers, dir.path());
        config.request_timeout = Duration::from_secs(60);
        let env = RaftEnvironment::real(&config.data_dir, Arc::new(|why: &str| panic!("{why}")));
        let raft = Handle::start_in(config, blackhole.install(env)).await.unwrap();
        up.insert(id, serve(raft, &peers[&id]));
    }
    let leads = leader(&up[&1].raft).await;
    up[&leads].raft.propose(node(1)).await.unwrap();
    *blackhole.address.lock() = Some(peers[&leads].clone());
    let leading = up.remove(&leads).unwrap();
    let follower = up.values().next().unwrap().raft.clone();
    let read = || {
        let raft = follower.clone();
        tokio::spawn(async move { raft.read().await.map(|view| view.node(NodeId(1)).is_some()) })
    };
    let first = read();
    blackhole.received.notified().await;
    leading.shut_down().await;
    let second = read();
    for read in [first, second] {
        let answered = timeout(Duration::from_secs(20), read).await.expect("its successor answers");
        assert!(answered.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_on_a_stale_catalog_is_repeated() {
    let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
    let mut up = BTreeMap::new();
    for id in 1..=3 {
        up.insert(id, start(config(id, &peers, dir.path())).await);
    }
    let leads = leader(&up[&1].raft).await;
    let (_, follower) = up.iter().find(|(id, _)| **id != leads).unwrap();
    // While the catalog is locked for reading, nothing is applied to it.
    let reading = follower.raft.view();
    up[&leads].raft.propose(node(1)).await.unwrap();
    let raft = follower.raft.clone();
    let known = async move { raft.read_with(|view| view.node(NodeId(1)).is_some()).await };
    let mut known = tokio::spawn(known);
    assert!(timeout(Duration::from_millis(300), &mut known).await.is_err(), "the entry cannot be applied yet");
    drop(reading);
    assert!(known.await.unwrap().unwrap());
}
