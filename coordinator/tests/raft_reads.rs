//! Reads of the catalog: what is asked of the leader, and what it is asked for.
#![allow(clippy::unwrap_used)]

mod raft_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raft_support::{Running, config, leader, node, peers, serve, start};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::body::Body;
use tower::{ServiceExt, service_fn};
use volley_common::NodeId;
use volley_common::wire::cluster::Follower;
use volley_coordinator::raft::Handle;
use volley_coordinator::raft::network::Link;
use volley_coordinator::raft::surroundings::Surroundings;

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_follower_follows_is_as_good_as_its_answer_to_a_heartbeat() {
    let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
    let mut up = BTreeMap::new();
    for id in 1..=3 {
        let mut config = config(id, &peers, dir.path());
        // Nobody stands for election, and no lease runs out, while the leader is alone.
        config.election_max = Duration::from_secs(20);
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
    let (store, leader_id) = (members.get_node(&id).unwrap().store, metrics.vote.leader_id);
    let follower = Follower { id, store, term: leader_id.term, leader: leader_id.node_id };
    let read = |follower| tokio::time::timeout(Duration::from_secs(1), raft.read_index_here(follower));
    let index = read(Some(follower)).await.expect("nobody need be asked").unwrap();
    assert_eq!(Some(index), metrics.local_committed.map(|id| id.index));
    for unfit in [
        Follower { term: follower.term - 1, ..follower },
        Follower { leader: id, ..follower },
        Follower { store: store ^ 1, ..follower },
        Follower { id: 9, ..follower },
        Follower { id: leads, store: members.get_node(&leads).unwrap().store, ..follower },
    ] {
        assert!(!matches!(read(Some(unfit)).await, Ok(Ok(_))), "{unfit:?}");
    }
    assert!(!matches!(read(None).await, Ok(Ok(_))));
}

/// Ways on which nothing that is asked of one address for a read is ever answered.
#[derive(Default)]
struct Deaf {
    address: Mutex<Option<String>>,
    asked: Notify,
}

impl Deaf {
    fn around(self: &Arc<Self>, mut around: Surroundings) -> Surroundings {
        let (deaf, dial) = (self.clone(), around.dial);
        around.dial = Arc::new(move |addr: &str| {
            let (deaf, link, addr) = (deaf.clone(), dial(addr)?, addr.to_string());
            Ok(Link::new(service_fn(move |request: http::Request<Body>| {
                let reads = request.uri().path().ends_with("/ReadIndex");
                let (deaf, answer) = (deaf.clone(), link.clone().oneshot(request));
                let lost = reads && deaf.address.lock().as_ref() == Some(&addr);
                async move {
                    if lost {
                        deaf.asked.notify_one();
                        return std::future::pending().await;
                    }
                    answer.await
                }
            })))
        });
        around
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_never_answers_is_waited_for_until_there_is_another() {
    let (dir, peers, deaf) = (TempDir::new().unwrap(), peers(3).await, Arc::new(Deaf::default()));
    let mut up: BTreeMap<u64, Running> = BTreeMap::new();
    for id in 1..=3 {
        let mut config = config(id, &peers, dir.path());
        config.deadline = Duration::from_secs(60);
        let around = Surroundings::real(&config.data_dir, Arc::new(|why: &str| panic!("{why}")));
        let raft = Handle::start_in(config, deaf.around(around)).await.unwrap();
        up.insert(id, serve(raft, &peers[&id]));
    }
    let leads = leader(&up[&1].raft).await;
    up[&leads].raft.propose(node(1)).await.unwrap();
    *deaf.address.lock() = Some(peers[&leads].clone());
    let leading = up.remove(&leads).unwrap();
    let follower = up.values().next().unwrap().raft.clone();
    let read = || {
        let raft = follower.clone();
        tokio::spawn(async move { raft.read().await.map(|view| view.node(NodeId(1)).is_some()) })
    };
    let first = read();
    deaf.asked.notified().await;
    leading.shut_down().await;
    let second = read();
    for read in [first, second] {
        let answered = timeout(Duration::from_secs(20), read).await.expect("its successor need only be asked");
        assert!(answered.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_of_a_catalog_that_lags_is_made_again() {
    let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
    let mut up = BTreeMap::new();
    for id in 1..=3 {
        up.insert(id, start(config(id, &peers, dir.path())).await);
    }
    let leads = leader(&up[&1].raft).await;
    let (_, follower) = up.iter().find(|(id, _)| **id != leads).unwrap();
    // While somebody reads the catalog here, nothing is applied to it.
    let reading = follower.raft.view();
    up[&leads].raft.propose(node(1)).await.unwrap();
    let raft = follower.raft.clone();
    let known = async move { raft.read_with(|view| view.node(NodeId(1)).is_some()).await };
    let mut known = tokio::spawn(known);
    assert!(timeout(Duration::from_millis(300), &mut known).await.is_err(), "it cannot know yet");
    drop(reading);
    assert!(known.await.unwrap().unwrap());
}
