//! Coordinators added, removed and replaced while others go on; a majority lost for good.
#![allow(clippy::unwrap_used)]

mod raft_support;

use std::collections::BTreeMap;

use raft_support::{Running, config, leader, node, peers, start, until};
use tempfile::TempDir;
use volley_common::wire::raft as wire;
use volley_common::{Code, NodeId};
use volley_coordinator::raft::Handle;
use volley_coordinator::raft::recover::{look, recover};

/// Coordinators that come and go; `at` names the addresses of more than were formed.
struct Group {
    dir: TempDir,
    at: BTreeMap<u64, String>,
    formed: BTreeMap<u64, String>,
    up: BTreeMap<u64, Running>,
}

impl Group {
    /// The first `count` of five addresses form a cluster.
    async fn of(count: u64) -> Group {
        let at = peers(5).await;
        let formed = at.iter().filter(|(id, _)| **id <= count).map(|(id, addr)| (*id, addr.clone())).collect();
        let mut group = Group { dir: TempDir::new().unwrap(), at, formed, up: BTreeMap::new() };
        for id in 1..=count {
            group.start(id).await;
        }
        leader(&group.up[&1].raft).await;
        group
    }

    /// Those that formed the cluster start with the list of then; others join.
    async fn start(&mut self, id: u64) {
        let mut peers = self.formed.clone();
        let join = !peers.contains_key(&id);
        peers.entry(id).or_insert_with(|| self.at[&id].clone());
        let mut config = config(id, &peers, self.dir.path());
        (config.join, config.snapshot_logs) = (join, 50);
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

    /// Any that does not lead.
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

    async fn propose(&self, ids: std::ops::Range<u64>) {
        for id in ids {
            let raft = &self.up.values().next().unwrap().raft;
            match raft.propose(node(id)).await {
                Err(error) if error.message.contains("may or may not have taken effect") => {
                    raft.propose(node(id)).await.unwrap();
                }
                answer => drop(answer.unwrap()),
            }
        }
    }

    /// Every coordinator that is up answers with all of these nodes, linearizably.
    async fn expect(&self, ids: std::ops::Range<u64>) {
        for running in self.up.values() {
            let view = running.raft.read().await.unwrap();
            for id in ids.clone() {
                assert!(view.node(NodeId(id)).is_some(), "coordinator {} lacks {id}", running.raft.id());
            }
        }
    }
}

async fn ended(raft: &Handle) -> String {
    let mut ended = raft.watch_ended();
    let why = tokio::time::timeout(raft_support::PATIENCE, ended.wait_for(Option::is_some)).await;
    why.expect("it hears that it is none any more").unwrap().clone().unwrap().message
}

#[tokio::test(flavor = "multi_thread")]
async fn three_become_five_and_two_of_these_may_die() {
    let mut group = Group::of(3).await;
    group.propose(1..101).await;
    for id in [4, 5] {
        group.add(id).await;
        assert!(group.raft(1).peers().contains_key(&id));
    }
    group.propose(101..111).await;
    // Two of those that formed the cluster: with the new ones there is a majority.
    group.kill(1).await;
    group.kill(2).await;
    group.propose(111..121).await;
    group.expect(1..121).await;
    // They come back with the peer list of then.
    group.start(1).await;
    group.start(2).await;
    group.kill(4).await;
    group.kill(5).await;
    group.propose(121..131).await;
    group.expect(1..131).await;
    assert_eq!(group.raft(1).peers(), group.at);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_becomes_three_and_the_first_one_may_lose_its_folder() {
    let mut group = Group::of(1).await;
    group.propose(1..11).await;
    group.add(2).await;
    group.add(3).await;
    // Its log begins with a group in which it was alone: read again from the start, it must not take that for true.
    group.kill(1).await;
    std::fs::remove_dir_all(group.folder(1)).unwrap();
    group.propose(11..21).await;
    let name = group.raft(2).view().cluster().unwrap().id.clone();
    let mut joins = config(1, &group.at, group.dir.path());
    joins.join = true;
    group.up.insert(1, start(joins).await);
    until(group.raft(2), "three voters", |raft| raft.metrics().committed_membership_config.voter_ids().count() == 3)
        .await;
    group.expect(1..21).await;
    assert_eq!(group.raft(1).view().cluster().unwrap().id, name);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_removed_and_ends_and_its_folder_is_not_taken_again() {
    let mut group = Group::of(3).await;
    group.propose(1..11).await;
    let first = group.leader().await;
    group.raft(first).remove_coordinator(first).await.unwrap();
    let why = ended(group.raft(first)).await;
    assert!(why.contains("was removed from the cluster"), "{why}");
    group.kill(first).await;
    assert!(!group.raft(group.follower().await).peers().contains_key(&first));
    group.propose(11..21).await;
    // The folder says it too, without anybody being asked.
    let refused = Handle::start(config(first, &group.at, group.dir.path())).await.err().unwrap();
    assert_eq!(refused.message, why);
    // The mark is no more than a mark: without it others say so.
    std::fs::remove_file(group.folder(first).join("removed")).unwrap();
    group.start(first).await;
    assert_eq!(ended(group.raft(first)).await, why);
    group.kill(first).await;
    group.expect(1..21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_down_when_it_was_removed_disturbs_nobody_and_hears_of_it() {
    let mut group = Group::of(3).await;
    let gone = group.follower().await;
    group.kill(gone).await;
    let through = group.follower().await;
    group.raft(through).remove_coordinator(gone).await.unwrap();
    group.propose(1..11).await;
    let (leader, term) = (group.leader().await, group.raft(through).metrics().current_term);
    group.start(gone).await;
    let why = ended(group.raft(gone)).await;
    assert!(why.contains("was removed") && why.contains(&format!("coordinators add {gone}=")), "{why}");
    assert_eq!((group.leader().await, group.raft(through).metrics().current_term), (leader, term));
    group.kill(gone).await;
    // Emptied, it is a coordinator like any new one.
    std::fs::remove_dir_all(group.folder(gone)).unwrap();
    group.start(gone).await;
    group.raft(leader).add_coordinator(gone, &group.at[&gone]).await.unwrap();
    group.propose(11..21).await;
    group.expect(1..21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut group = Group::of(3).await;
    let raft = group.raft(1);
    let refused = |error: volley_common::Error, code: Code, words: &[&str]| {
        assert_eq!(error.code, code, "{error}");
        words.iter().for_each(|word| assert!(error.message.contains(word), "{error}: {word:?}"));
    };
    let (one, two, four) = (&group.at[&1], &group.at[&2], &group.at[&4]);
    refused(raft.add_coordinator(4, two).await.unwrap_err(), Code::AlreadyExists, &[two, "coordinator 2"]);
    refused(
        raft.add_coordinator(2, four).await.unwrap_err(),
        Code::AlreadyExists,
        &["coordinator 2", two, "remove it"],
    );
    refused(raft.add_coordinator(4, four).await.unwrap_err(), Code::Unavailable, &["coordinator 4", four]);
    raft.add_coordinator(1, one).await.unwrap();
    raft.remove_coordinator(9).await.unwrap();
    assert_eq!(raft.peers(), group.formed);

    let down = group.follower().await;
    group.kill(down).await;
    let (leader, other) = (group.leader().await, group.follower().await);
    let error = group.raft(leader).remove_coordinator(other).await.unwrap_err();
    refused(error, Code::FailedPrecondition, &[&format!("coordinator {other}"), &format!("others {down} is not up")]);
    group.raft(leader).remove_coordinator(down).await.unwrap();
    group.raft(leader).remove_coordinator(other).await.unwrap();
    let error = group.raft(leader).remove_coordinator(leader).await.unwrap_err();
    refused(error, Code::FailedPrecondition, &["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_of_another_cluster_is_not_taken_in() {
    let group = Group::of(1).await;
    let other = TempDir::new().unwrap();
    let alone = BTreeMap::from([(4, group.at[&4].clone())]);
    let stranger = start(config(4, &alone, other.path())).await;
    leader(&stranger.raft).await;
    let error = group.raft(1).add_coordinator(4, &group.at[&4]).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied, "{error}");
    assert!(error.message.contains("coordinator 4") && error.message.contains("is of cluster"), "{error}");
    assert_eq!(group.raft(1).peers(), group.formed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joining_coordinator_waits_and_says_for_what() {
    let mut group = Group::of(3).await;
    group.start(4).await;
    let command = format!("volley coordinators add 4={}", group.at[&4]);
    until(group.raft(4), "what it waits for", |raft| raft.trouble().is_some_and(|text| text.contains(&command))).await;
    assert!(group.raft(4).view().cluster().is_none());
    // It is in the way of nobody.
    group.propose(1..11).await;
    group.raft(4).read().await.err().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_goes_on_alone_and_the_lost_ones_end_when_they_come_back() {
    let mut group = Group::of(3).await;
    group.propose(1..101).await;
    let left = group.leader().await;
    let lost: Vec<u64> = (1..4).filter(|id| *id != left).collect();
    let name = group.raft(left).view().cluster().unwrap().id.clone();
    let in_use = recover(&group.folder(left), left, None).unwrap_err();
    assert!(in_use.message.contains("in use"), "{in_use}");
    for id in 1..4 {
        group.kill(id).await;
    }
    let wrong = look(&group.folder(left), left + 1).unwrap_err();
    assert!(wrong.message.contains(&format!("belongs to coordinator {left}")), "{wrong}");
    let found = look(&group.folder(left), left).unwrap();
    assert_eq!((&found.cluster, &found.members), (&name, &group.formed));
    let recovered = recover(&group.folder(left), left, None).unwrap();
    assert_eq!(recovered.found, found);
    // All of them start, with the peer list of then: the old majority must not go on beside the recovered one.
    for id in [left, lost[0], lost[1]] {
        group.start(id).await;
    }
    for id in &lost {
        let why = ended(group.raft(*id)).await;
        assert!(why.contains("left behind"), "{why}");
        group.kill(*id).await;
    }
    group.expect(1..101).await;
    group.propose(101..111).await;
    assert_eq!(group.raft(left).view().cluster().unwrap().id, recovered.cluster);
    // With empty folders they are taken in again.
    for id in &lost {
        std::fs::remove_dir_all(group.folder(*id)).unwrap();
        group.start(*id).await;
        group.raft(left).add_coordinator(*id, &group.at[id]).await.unwrap();
    }
    group.kill(left).await;
    group.propose(111..121).await;
    group.expect(1..121).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_a_cluster_is_not_recovered() {
    let dir = TempDir::new().unwrap();
    let missing = look(&dir.path().join("nowhere"), 1).unwrap_err();
    assert!(missing.message.contains("holds no catalog"), "{missing}");
    let mut joins = config(1, &peers(1).await, dir.path());
    joins.join = true;
    start(joins).await.kill().await;
    let empty = recover(&dir.path().join("c1"), 1, None).unwrap_err();
    assert!(empty.message.contains("holds no cluster"), "{empty}");
}

/// What a leader of term 1 sends a new member first: the group that the cluster had then, in which this one was alone.
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
async fn a_group_of_long_ago_with_another_folder_makes_nobody_a_leader() {
    let dir = TempDir::new().unwrap();
    let at = peers(1).await;
    let mut joins = config(1, &at, dir.path());
    joins.join = true;
    let three_elections = joins.election_max * 3;
    let one = start(joins).await;
    let asked = wire::raft_client::RaftClient::connect(format!("http://{}", at[&1])).await;
    let store = asked.unwrap().identify(wire::Identity::default()).await.unwrap().into_inner().store;
    send_first_entry(&at[&1], store, store ^ 1).await;
    let mut leads = one.raft.watch_leader();
    let led = tokio::time::timeout(three_elections, leads.wait_for(|leader| *leader == Some(1))).await;
    assert!(led.is_err(), "{}", one.raft.metrics());
    one.kill().await;
}
