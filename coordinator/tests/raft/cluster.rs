//! Three coordinators: bootstrap, failures, restarts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, RenewWrite};
use volley_common::{Code, NodeId, clock};
use volley_coordinator::raft::environment::RaftEnvironment;
use volley_coordinator::raft::{Handle, RaftConfig};

use crate::raft_support::{
    TestCoordinator, config, expect_nodes, leader, node, peers, propose_nodes, serve, start, wait_until,
};

struct RaftTestCluster {
    dir: TempDir,
    peers: BTreeMap<u64, String>,
    up: BTreeMap<u64, TestCoordinator>,
    snapshot_interval_entries: u64,
}

impl RaftTestCluster {
    async fn new(order: &[u64], snapshot_interval_entries: u64) -> RaftTestCluster {
        let mut cluster = RaftTestCluster {
            dir: TempDir::new().unwrap(),
            peers: peers(3).await,
            up: BTreeMap::new(),
            snapshot_interval_entries,
        };
        for id in order {
            cluster.start(*id).await;
        }
        cluster
    }

    async fn start(&mut self, id: u64) {
        let mut config = config(id, &self.peers, self.dir.path());
        config.snapshot_interval_entries = self.snapshot_interval_entries;
        self.up.insert(id, start(config).await);
    }

    fn any(&self) -> &volley_coordinator::raft::Handle {
        &self.up.values().next().unwrap().raft
    }

    async fn leader(&self) -> u64 {
        leader(self.any()).await
    }

    async fn kill(&mut self, id: u64) {
        self.up.remove(&id).unwrap().kill().await;
    }

    fn lose_folder(&self, id: u64) {
        std::fs::remove_dir_all(self.dir.path().join(format!("c{id}"))).unwrap();
    }

    async fn propose(&self, ids: Range<u64>) {
        propose_nodes(self.any(), ids).await;
    }

    async fn expect(&self, ids: Range<u64>) {
        expect_nodes(&self.up, ids).await;
    }

    async fn until_voter(&self, id: u64) {
        let what = format!("coordinator {id} as a voter with its new folder");
        wait_until(self.any(), &what, |raft| {
            let metrics = raft.metrics();
            let members = &metrics.committed_membership_config;
            members.voter_ids().any(|voter| voter == id)
                && members.voter_ids().count() == 3
                && members.get_joint_config().len() == 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_forms_in_any_start_order() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let cluster = RaftTestCluster::new(&order, 1000).await;
        cluster.leader().await;
        let mut cluster_ids = Vec::new();
        for coordinator in cluster.up.values() {
            let view = coordinator.raft.read().await.unwrap();
            let cluster = view.cluster().unwrap();
            assert_eq!(cluster.ticket_key.len(), 32);
            cluster_ids.push(cluster.id.clone());
        }
        assert!(cluster_ids.iter().all(|id| *id == cluster_ids[0]), "{cluster_ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_proposes_and_reads_through_the_leader() {
    let cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    let leader = cluster.leader().await;
    for (id, coordinator) in &cluster.up {
        coordinator.raft.propose(node(*id)).await.unwrap();
    }
    cluster.expect(1..4).await;
    let follower = cluster.up.iter().find(|(id, _)| **id != leader).unwrap().1;
    let refused = follower.raft.propose_local(volley_common::wire::catalog::Command::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    follower.raft.read_index_local(None).await.unwrap_err();
}

/// Otherwise the former leader would keep the nodes' sessions, and its successor would have none.
#[tokio::test(flavor = "multi_thread")]
async fn leader_without_quorum_is_none_until_it_returns() {
    let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
    let mut up = BTreeMap::new();
    let config = |id| RaftConfig { quorum_ack_timeout: Duration::from_secs(1), ..config(id, &peers, dir.path()) };
    for id in 1..=3 {
        up.insert(id, start(config(id)).await);
    }
    let leads = leader(&up[&1].raft).await;
    let followers: Vec<u64> = up.keys().copied().filter(|id| *id != leads).collect();
    for id in &followers {
        up.remove(id).unwrap().kill().await;
    }
    wait_until(&up[&leads].raft, "the end of its leadership", |raft| raft.leader().is_none()).await;
    assert_eq!(up[&leads].raft.metrics().current_leader, Some(leads), "in openraft's view");
    for id in followers {
        up.insert(id, start(config(id)).await);
    }
    leader(&up[&leads].raft).await;
}

/// Seen under faults: a partitioned leader declared a node unreachable. The command was forwarded to its successor,
/// which already had a session with the node, and excluded the node permanently.
#[tokio::test(flavor = "multi_thread")]
async fn decision_of_a_former_leader_is_not_forwarded() {
    let cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    let leads = cluster.leader().await;
    cluster.up[&leads].raft.propose_if_leader(node(1)).await.unwrap();
    let follower = cluster.up.iter().find(|(id, _)| **id != leads).unwrap().1;
    let refused = follower.raft.propose_if_leader(node(2)).await.unwrap_err();
    assert!(refused.code == Code::Unavailable && refused.message.contains("does not lead"), "{refused}");
    cluster.up[&leads].raft.propose_if_leader(node(3)).await.unwrap();
    let catalog = cluster.up[&leads].raft.read().await.unwrap();
    let known: Vec<u64> = catalog.nodes().map(|node| node.id).collect();
    assert_eq!(known, [1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leader_is_replaced_and_no_write_is_lost() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    let first = cluster.leader().await;
    cluster.propose(1..21).await;
    cluster.kill(first).await;
    cluster.propose(21..41).await;
    cluster.expect(1..41).await;
    assert_ne!(cluster.leader().await, first);
    cluster.start(first).await;
    cluster.expect(1..41).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_and_reads_fail_without_a_majority() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    let first = cluster.leader().await;
    let others: Vec<u64> = (1..4).filter(|id| *id != first).collect();
    cluster.kill(others[0]).await;
    cluster.kill(first).await;
    let left = &cluster.up[&others[1]].raft;
    let error = left.propose(node(1)).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    let error = left.read().await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(error.message.contains("leader"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_of_all_coordinators_keeps_the_catalog() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 20).await;
    cluster.leader().await;
    cluster.propose(1..101).await;
    for coordinator in std::mem::take(&mut cluster.up).into_values() {
        coordinator.shut_down().await;
    }
    for id in [2, 1, 3] {
        cluster.start(id).await;
    }
    cluster.expect(1..101).await;
    cluster.propose(101..111).await;
    cluster.expect(1..111).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_of_the_leader_transfers_leadership() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    let first = cluster.leader().await;
    cluster.propose(1..6).await;
    let follower = (1..4).find(|id| *id != first).unwrap();
    let mut seen = cluster.up[&follower].raft.watch_leader();
    cluster.up.remove(&first).unwrap().shut_down().await;
    let next = seen.wait_for(|leader| leader.is_some_and(|id| id != first));
    tokio::time::timeout(crate::raft_support::TIMEOUT, next).await.unwrap().unwrap();
    cluster.expect(1..6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_stays_bounded() {
    let cluster = RaftTestCluster::new(&[1, 2, 3], 20).await;
    cluster.leader().await;
    cluster.propose(1..301).await;
    for coordinator in cluster.up.values() {
        wait_until(&coordinator.raft, "a purge", |raft| raft.metrics().purged.is_some_and(|id| id.index > 250)).await;
        let entries = coordinator.raft.log_len().await.unwrap();
        assert!(entries < 80, "{entries} entries");
    }
    cluster.expect(1..301).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_that_was_down_catches_up_by_snapshot() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 20).await;
    let first = cluster.leader().await;
    let away = (1..4).find(|id| *id != first).unwrap();
    cluster.kill(away).await;
    cluster.propose(1..201).await;
    cluster.start(away).await;
    let back = &cluster.up[&away].raft;
    wait_until(back, "the entries that it missed", |raft| raft.view().node(NodeId(200)).is_some()).await;
    wait_until(back, "a log that starts after a snapshot", |raft| {
        raft.metrics().purged.is_some_and(|id| id.index > 100)
    })
    .await;
    cluster.expect(1..201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_that_lost_its_folder_rejoins() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 20).await;
    let first = cluster.leader().await;
    cluster.propose(1..101).await;
    let lost = (1..4).find(|id| *id != first).unwrap();
    cluster.kill(lost).await;
    cluster.lose_folder(lost);
    cluster.propose(101..111).await;
    cluster.start(lost).await;
    wait_until(&cluster.up[&lost].raft, "the catalog", |raft| raft.view().node(NodeId(110)).is_some()).await;
    cluster.until_voter(lost).await;
    cluster.expect(1..111).await;
    // It is a voter again: with one other coordinator it is a majority.
    let other = (1..4).find(|id| *id != lost).unwrap();
    cluster.kill(other).await;
    cluster.propose(111..121).await;
    cluster.expect(1..121).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lowest_coordinator_with_a_lost_folder_forms_no_cluster() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    cluster.leader().await;
    cluster.propose(1..11).await;
    let name = cluster.any().view().cluster().unwrap().id.clone();
    cluster.kill(1).await;
    cluster.lose_folder(1);
    cluster.start(1).await;
    wait_until(&cluster.up[&1].raft, "the old cluster", |raft| raft.view().cluster().is_some_and(|c| c.id == name))
        .await;
    cluster.until_voter(1).await;
    cluster.expect(1..11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_with_a_lost_folder_does_not_vote() {
    let mut cluster = RaftTestCluster::new(&[1, 2, 3], 1000).await;
    cluster.leader().await;
    cluster.propose(1..11).await;
    // One has its folder, one has lost it, one is down: there is no majority with its folders.
    cluster.kill(2).await;
    cluster.kill(3).await;
    cluster.lose_folder(3);
    cluster.start(3).await;
    cluster.any().propose(node(11)).await.unwrap_err();
    assert!(cluster.up[&3].raft.view().cluster().is_none());
    cluster.start(2).await;
    cluster.propose(12..15).await;
    cluster.until_voter(3).await;
    cluster.expect(1..11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn different_peer_lists_form_no_cluster_and_are_reported() {
    let dir = TempDir::new().unwrap();
    let right = peers(3).await;
    let mut wrong = right.clone();
    wrong.insert(3, "127.0.0.1:9".into());
    let one = start(config(1, &right, dir.path())).await;
    let two = start(config(2, &wrong, dir.path())).await;
    for coordinator in [&one, &two] {
        wait_until(&coordinator.raft, "the difference", |raft| {
            raft.fault().is_some_and(|fault| fault.contains("127.0.0.1:9") && fault.contains("--peers"))
        })
        .await;
        assert!(coordinator.raft.view().cluster().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_coordinator_forms_a_cluster_and_restarts() {
    let dir = TempDir::new().unwrap();
    let peers = peers(1).await;
    let one = start(config(1, &peers, dir.path())).await;
    assert_eq!(leader(&one.raft).await, 1);
    one.raft.propose(node(1)).await.unwrap();
    one.kill().await;
    let one = start(config(1, &peers, dir.path())).await;
    assert!(one.raft.read().await.unwrap().node(NodeId(1)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_run_by_the_clock_of_the_leader() {
    let (dir, peers) = (TempDir::new().unwrap(), peers(3).await);
    let (mut up, mut skews) = (BTreeMap::new(), BTreeMap::new());
    for id in 1..=3 {
        let config = config(id, &peers, dir.path());
        let mut env = RaftEnvironment::real(&config.data_dir, Arc::new(|why: &str| panic!("{why}")));
        let skew = Arc::new(AtomicI64::new(0));
        skews.insert(id, skew.clone());
        env.clock = Arc::new(move || clock::now_ms().saturating_add_signed(skew.load(Ordering::Relaxed)));
        up.insert(id, serve(Handle::start_in(config, env).await.unwrap(), &peers[&id]));
    }
    let leads = leader(&up[&1].raft).await;
    let followers: Vec<u64> = up.keys().copied().filter(|id| *id != leads).collect();
    skews[&followers[0]].store(-30_000, Ordering::Relaxed);
    skews[&followers[1]].store(30_000, Ordering::Relaxed);
    let write = |id: &str| {
        let (id, table) = (id.to_string(), vec!["t".to_string()]);
        Op::BeginWrite(BeginWrite { id, table, staged: true, lease_ms: 5_000, ..BeginWrite::default() })
    };
    let lease = |raft: &Handle, id: &str| raft.view().write(id).unwrap().lease_until_ms;
    for (id, name) in followers.iter().zip(["behind", "ahead"]) {
        let before = clock::now_ms();
        up[id].raft.propose(write(name)).await.unwrap();
        let until = lease(&up[&leads].raft, name);
        assert!((before + 5_000..=clock::now_ms() + 5_000).contains(&until), "{name}: {until}, it was {before}");
    }
    // The leader's own clock is set back: time stands nearly still, but does not go back.
    let until = lease(&up[&leads].raft, "ahead");
    skews[&leads].store(-60_000, Ordering::Relaxed);
    up[&leads].raft.propose(Op::RenewWrite(RenewWrite { write: "ahead".into(), lease_ms: 5_000 })).await.unwrap();
    up[&leads].raft.propose(write("after")).await.unwrap();
    assert!(lease(&up[&leads].raft, "after") >= until);
    // What is decided without a command goes by the same time.
    assert!(up[&leads].raft.now_ms() + 5_000 >= until);
    for (_, coordinator) in up {
        coordinator.shut_down().await;
    }
}
