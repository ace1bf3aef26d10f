//! Coordinators are added, removed and replaced while others continue; recovery after a majority is lost permanently.

use std::collections::BTreeMap;
use std::ops::Range;

use tempfile::TempDir;
use volley_common::Code;
use volley_common::wire::raft as wire;
use volley_coordinator::raft::Handle;
use volley_coordinator::raft::membership::unsafe_recovery::{inspect, recover};

use crate::raft_support::{TestCoordinator, config, expect_nodes, leader, peers, propose_nodes, start, wait_until};

/// A cluster to which coordinators are added.
struct GrowingCluster {
    dir: TempDir,
    /// Addresses for five coordinators.
    at: BTreeMap<u64, String>,
    /// The coordinators that formed the cluster.
    formed: BTreeMap<u64, String>,
    up: BTreeMap<u64, TestCoordinator>,
}

impl GrowingCluster {
    /// Forms a cluster of the first `count` of five addresses.
    async fn of(count: u64) -> GrowingCluster {
        let at = peers(5).await;
        let formed = at.iter().filter(|(id, _)| **id <= count).map(|(id, addr)| (*id, addr.clone())).collect();
        let mut cluster = GrowingCluster { dir: TempDir::new().unwrap(), at, formed, up: BTreeMap::new() };
        for id in 1..=count {
            cluster.start(id).await;
        }
        leader(&cluster.up[&1].raft).await;
        cluster
    }

    /// Starts a coordinator: with the original peer list if it formed the cluster, to join otherwise.
    async fn start(&mut self, id: u64) {
        let mut peers = self.formed.clone();
        let join = !peers.contains_key(&id);
        peers.entry(id).or_insert_with(|| self.at[&id].clone());
        let mut config = config(id, &peers, self.dir.path());
        (config.join, config.snapshot_interval_entries) = (join, 50);
        self.up.insert(id, start(config).await);
    }

    async fn kill(&mut self, id: u64) {
        self.up.remove(&id).unwrap().kill().await;
    }

    fn folder(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(format!("c{id}"))
    }

    fn raft(&self, id: u64) -> &Handle {
        &self.up[&id].raft
    }

    async fn leader(&self) -> u64 {
        leader(&self.up.values().next().unwrap().raft).await
    }

    /// A coordinator that does not lead.
    async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.up.keys().find(|id| **id != leader).unwrap()
    }

    async fn add(&mut self, id: u64) {
        let leader = self.leader().await;
        let through = self.up.keys().copied().find(|id| *id != leader).unwrap_or(leader);
        self.start(id).await;
        self.raft(through).add_coordinator(id, &self.at[&id]).await.unwrap();
    }

    async fn propose(&self, ids: Range<u64>) {
        propose_nodes(&self.up.values().next().unwrap().raft, ids).await;
    }

    async fn expect(&self, ids: Range<u64>) {
        expect_nodes(&self.up, ids).await;
    }
}

async fn decommissioned(raft: &Handle) -> String {
    let mut decommissioned = raft.watch_decommissioned();
    let why = tokio::time::timeout(crate::raft_support::TIMEOUT, decommissioned.wait_for(Option::is_some)).await;
    why.expect("it learns that it was decommissioned").unwrap().clone().unwrap().message
}

#[tokio::test(flavor = "multi_thread")]
async fn group_of_three_grows_to_five_and_survives_two_failures() {
    let mut cluster = GrowingCluster::of(3).await;
    cluster.propose(1..101).await;
    for id in [4, 5] {
        cluster.add(id).await;
        assert!(cluster.raft(1).peers().contains_key(&id));
    }
    cluster.propose(101..111).await;
    // Together with the new ones, the others are a majority.
    cluster.kill(1).await;
    cluster.kill(2).await;
    cluster.propose(111..121).await;
    cluster.expect(1..121).await;
    // They restart with the original peer list.
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.kill(4).await;
    cluster.kill(5).await;
    cluster.propose(121..131).await;
    cluster.expect(1..131).await;
    assert_eq!(cluster.raft(1).peers(), cluster.at);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_of_one_grows_to_three_and_survives_a_lost_folder() {
    let mut cluster = GrowingCluster::of(1).await;
    cluster.propose(1..11).await;
    cluster.add(2).await;
    cluster.add(3).await;
    // Its log begins with a membership of which it was the only voter. A new folder receives that entry again, and must not lead.
    cluster.kill(1).await;
    std::fs::remove_dir_all(cluster.folder(1)).unwrap();
    cluster.propose(11..21).await;
    let name = cluster.raft(2).view().cluster().unwrap().id.clone();
    let mut joins = config(1, &cluster.at, cluster.dir.path());
    joins.join = true;
    cluster.up.insert(1, start(joins).await);
    wait_until(cluster.raft(2), "three voters", |raft| {
        raft.metrics().committed_membership_config.voter_ids().count() == 3
    })
    .await;
    cluster.expect(1..21).await;
    assert_eq!(cluster.raft(1).view().cluster().unwrap().id, name);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_leader_ends_and_its_folder_is_refused() {
    let mut cluster = GrowingCluster::of(3).await;
    cluster.propose(1..11).await;
    let first = cluster.leader().await;
    cluster.raft(first).remove_coordinator(first).await.unwrap();
    let why = decommissioned(cluster.raft(first)).await;
    assert!(why.contains("was removed from the cluster"), "{why}");
    cluster.kill(first).await;
    assert!(!cluster.raft(cluster.follower().await).peers().contains_key(&first));
    cluster.propose(11..21).await;
    // The mark in the folder is sufficient: no other coordinator is queried.
    let refused = Handle::start(config(first, &cluster.at, cluster.dir.path())).await.err().unwrap();
    assert_eq!(refused.message, why);
    // Without the mark it is informed by the others.
    std::fs::remove_file(cluster.folder(first).join("removed")).unwrap();
    cluster.start(first).await;
    assert_eq!(decommissioned(cluster.raft(first)).await, why);
    cluster.kill(first).await;
    cluster.expect(1..21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_removed_while_down_learns_it_at_its_restart() {
    let mut cluster = GrowingCluster::of(3).await;
    let gone = cluster.follower().await;
    cluster.kill(gone).await;
    let through = cluster.follower().await;
    cluster.raft(through).remove_coordinator(gone).await.unwrap();
    cluster.propose(1..11).await;
    let (leader, term) = (cluster.leader().await, cluster.raft(through).metrics().current_term);
    cluster.start(gone).await;
    let why = decommissioned(cluster.raft(gone)).await;
    assert!(why.contains("was removed") && why.contains(&format!("coordinators add {gone}=")), "{why}");
    assert_eq!((cluster.leader().await, cluster.raft(through).metrics().current_term), (leader, term));
    cluster.kill(gone).await;
    // With an empty folder it can be added again.
    std::fs::remove_dir_all(cluster.folder(gone)).unwrap();
    cluster.start(gone).await;
    cluster.raft(leader).add_coordinator(gone, &cluster.at[&gone]).await.unwrap();
    cluster.propose(11..21).await;
    cluster.expect(1..21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_changes_are_refused_and_change_nothing() {
    let mut cluster = GrowingCluster::of(3).await;
    let raft = cluster.raft(1);
    let refused = |error: volley_common::Error, code: Code, words: &[&str]| {
        assert_eq!(error.code, code, "{error}");
        words.iter().for_each(|word| assert!(error.message.contains(word), "{error}: {word:?}"));
    };
    let (one, two, four) = (&cluster.at[&1], &cluster.at[&2], &cluster.at[&4]);
    refused(raft.add_coordinator(4, two).await.unwrap_err(), Code::AlreadyExists, &[two, "coordinator 2"]);
    refused(
        raft.add_coordinator(2, four).await.unwrap_err(),
        Code::AlreadyExists,
        &["coordinator 2", two, "remove it"],
    );
    refused(raft.add_coordinator(4, four).await.unwrap_err(), Code::Unavailable, &["coordinator 4", four]);
    raft.add_coordinator(1, one).await.unwrap();
    refused(raft.remove_coordinator(9).await.unwrap_err(), Code::NotFound, &["coordinator 9", "1, 2, 3"]);
    assert_eq!(raft.peers(), cluster.formed);

    let down = cluster.follower().await;
    cluster.kill(down).await;
    let (leader, other) = (cluster.leader().await, cluster.follower().await);
    let error = cluster.raft(leader).remove_coordinator(other).await.unwrap_err();
    refused(error, Code::FailedPrecondition, &[&format!("coordinator {other}"), &format!("others {down} is not up")]);
    cluster.raft(leader).remove_coordinator(down).await.unwrap();
    cluster.raft(leader).remove_coordinator(other).await.unwrap();
    let error = cluster.raft(leader).remove_coordinator(leader).await.unwrap_err();
    refused(error, Code::FailedPrecondition, &["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_of_another_cluster_is_not_added() {
    let cluster = GrowingCluster::of(1).await;
    let other = TempDir::new().unwrap();
    let alone = BTreeMap::from([(4, cluster.at[&4].clone())]);
    let foreign = start(config(4, &alone, other.path())).await;
    leader(&foreign.raft).await;
    let error = cluster.raft(1).add_coordinator(4, &cluster.at[&4]).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied, "{error}");
    assert!(error.message.contains("coordinator 4") && error.message.contains("is of cluster"), "{error}");
    assert_eq!(cluster.raft(1).peers(), cluster.formed);
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_coordinator_waits_and_names_the_command() {
    let mut cluster = GrowingCluster::of(3).await;
    cluster.start(4).await;
    let command = format!("volley coordinators add 4={}", cluster.at[&4]);
    wait_until(cluster.raft(4), "what it waits for", |raft| raft.fault().is_some_and(|text| text.contains(&command)))
        .await;
    assert!(cluster.raft(4).view().cluster().is_none());
    // It does not disturb the cluster.
    cluster.propose(1..11).await;
    cluster.raft(4).read().await.err().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn recovered_coordinator_continues_and_the_others_end() {
    let mut cluster = GrowingCluster::of(3).await;
    cluster.propose(1..101).await;
    let left = cluster.leader().await;
    let lost: Vec<u64> = (1..4).filter(|id| *id != left).collect();
    let name = cluster.raft(left).view().cluster().unwrap().id.clone();
    let in_use = recover(&cluster.folder(left), left, None).unwrap_err();
    assert!(in_use.message.contains("in use"), "{in_use}");
    for id in 1..4 {
        cluster.kill(id).await;
    }
    let wrong = inspect(&cluster.folder(left), left + 1).unwrap_err();
    assert!(wrong.message.contains(&format!("belongs to coordinator {left}")), "{wrong}");
    let found = inspect(&cluster.folder(left), left).unwrap();
    assert_eq!((&found.cluster, &found.members), (&name, &cluster.formed));
    let recovered = recover(&cluster.folder(left), left, None).unwrap();
    assert_eq!(recovered.before, found);
    // All start with the original peer list: the old majority must not continue beside the recovered coordinator.
    for id in [left, lost[0], lost[1]] {
        cluster.start(id).await;
    }
    for id in &lost {
        let why = decommissioned(cluster.raft(*id)).await;
        assert!(why.contains("superseded"), "{why}");
        cluster.kill(*id).await;
    }
    cluster.expect(1..101).await;
    cluster.propose(101..111).await;
    assert_eq!(cluster.raft(left).view().cluster().unwrap().id, recovered.cluster);
    // With empty folders they can be added again.
    for id in &lost {
        std::fs::remove_dir_all(cluster.folder(*id)).unwrap();
        cluster.start(*id).await;
        cluster.raft(left).add_coordinator(*id, &cluster.at[id]).await.unwrap();
    }
    cluster.kill(left).await;
    cluster.propose(111..121).await;
    cluster.expect(1..121).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_without_a_cluster_is_not_recovered() {
    let dir = TempDir::new().unwrap();
    let missing = inspect(&dir.path().join("nowhere"), 1).unwrap_err();
    assert!(missing.message.contains("holds no catalog"), "{missing}");
    let mut joins = config(1, &peers(1).await, dir.path());
    joins.join = true;
    start(joins).await.kill().await;
    let empty = recover(&dir.path().join("c1"), 1, None).unwrap_err();
    assert!(empty.message.contains("holds no cluster"), "{empty}");
}

/// What a leader of term 1 sends a new member first: the membership of that time, in which this one was alone.
async fn send_first_entry(addr: &str, to: u64, group_has: u64) {
    let leader = Some(wire::LeaderId { term: 1, node: 2 });
    let membership = wire::Membership {
        configs: vec![wire::membership::Config { voters: vec![1] }],
        peers: vec![wire::Peer { id: 1, addr: addr.into(), store: group_has }],
    };
    let first = wire::Entry {
        log_id: Some(wire::LogId { leader, index: 0 }),
        payload: Some(wire::entry::Payload::Membership(membership)),
    };
    let vote = Some(wire::Vote { leader, committed: true });
    let mut request =
        tonic::Request::new(wire::AppendRequest { vote, prev_log_id: None, entries: vec![first], leader_commit: None });
    request.metadata_mut().insert("x-volley-store", format!("{to:016x}").parse().unwrap());
    let mut client = wire::raft_client::RaftClient::connect(format!("http://{addr}")).await.unwrap();
    let reply = client.append(request).await.unwrap().into_inner().reply;
    assert!(matches!(reply, Some(wire::append_reply::Reply::Success(_))), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_with_another_folder_makes_no_leader() {
    let dir = TempDir::new().unwrap();
    let at = peers(1).await;
    let mut joins = config(1, &at, dir.path());
    joins.join = true;
    let three_elections = joins.election_timeout_max * 3;
    let one = start(joins).await;
    let asked = wire::raft_client::RaftClient::connect(format!("http://{}", at[&1])).await;
    let store = asked.unwrap().identify(wire::Identity::default()).await.unwrap().into_inner().store;
    send_first_entry(&at[&1], store, store ^ 1).await;
    let mut leads = one.raft.watch_leader();
    let led = tokio::time::timeout(three_elections, leads.wait_for(|leader| *leader == Some(1))).await;
    assert!(led.is_err(), "{}", one.raft.metrics());
    one.kill().await;
}
