//! The Raft group reaches the desired membership step by step, from any initial membership.
#![allow(clippy::unwrap_used)]

use super::*;

/// A Raft group that executes every step immediately.
struct FakeGroup {
    leader: u64,
    desired: BTreeMap<u64, String>,
    members: RaftMembership,
    retired_stores: BTreeSet<u64>,
    statuses: BTreeMap<u64, PeerStatus>,
    lag: BTreeMap<u64, u64>,
}

fn addr(id: u64) -> String {
    format!("h{id}:8825")
}

fn joinable(store_id: u64) -> PeerStatus {
    PeerStatus { store_id, rejection: None }
}

fn membership(voters: &[u64], nodes: &BTreeMap<u64, RaftPeer>) -> RaftMembership {
    RaftMembership::new(vec![voters.iter().copied().collect()], nodes.clone()).unwrap()
}

impl FakeGroup {
    /// Coordinators 1 to `count`, all up; the store id of each is its id times 10. 1 leads.
    fn of(count: u64) -> FakeGroup {
        let ids: Vec<u64> = (1..=count).collect();
        let nodes = ids.iter().map(|id| (*id, RaftPeer { addr: addr(*id), store_id: id * 10 })).collect();
        FakeGroup {
            leader: 1,
            desired: ids.iter().map(|id| (*id, addr(*id))).collect(),
            members: membership(&ids, &nodes),
            retired_stores: BTreeSet::new(),
            statuses: ids.iter().map(|id| (*id, joinable(id * 10))).collect(),
            lag: ids.iter().map(|id| (*id, 0)).collect(),
        }
    }

    fn next(&self) -> Option<MembershipStep> {
        next_step(&MembershipView {
            leader: self.leader,
            desired: &self.desired,
            members: &self.members,
            retired_stores: &self.retired_stores,
            statuses: &self.statuses,
            lag: &self.lag,
        })
    }

    fn voters(&self) -> Vec<u64> {
        self.members.voter_ids().collect()
    }

    fn nodes(&self) -> BTreeMap<u64, RaftPeer> {
        self.members.nodes().map(|(id, peer)| (*id, peer.clone())).collect()
    }

    /// Executes a step as openraft would, without joint configurations.
    fn execute(&mut self, step: MembershipStep) {
        let (mut voters, mut nodes) = (self.voters(), self.nodes());
        match step {
            MembershipStep::RetireStore(store) => assert!(self.retired_stores.insert(store), "retired twice"),
            MembershipStep::TransferLeadership => {
                self.leader = voters.iter().copied().find(|id| *id != self.leader).unwrap()
            }
            MembershipStep::ChangeMembers(ChangeMembers::AddNodes(new), _) => nodes.extend(new),
            MembershipStep::ChangeMembers(ChangeMembers::AddVoterIds(ids), _) => voters.extend(ids),
            MembershipStep::ChangeMembers(ChangeMembers::RemoveVoters(ids), _) => {
                assert!(!ids.contains(&self.leader), "the leader removes itself");
                voters.retain(|id| !ids.contains(id));
                nodes.retain(|id, _| !ids.contains(id));
            }
            MembershipStep::ChangeMembers(ChangeMembers::RemoveNodes(ids), _) => {
                nodes.retain(|id, _| !ids.contains(id))
            }
            MembershipStep::ChangeMembers(change, _) => panic!("{change:?}"),
            MembershipStep::Blocked(why) => panic!("{why}"),
        }
        self.members = membership(&voters, &nodes);
    }

    /// Executes steps until there is none; returns how many.
    fn settle(&mut self) -> usize {
        for steps in 0..20 {
            match self.next() {
                Some(step) => self.execute(step),
                None => return steps,
            }
        }
        panic!("no end: {:?}", self.next());
    }

    fn assert_blocked(&self, words: &[&str]) {
        match self.next() {
            Some(MembershipStep::Blocked(why)) => {
                words.iter().for_each(|word| assert!(why.contains(word), "{why:?}: {word:?}"))
            }
            other => panic!("{other:?}"),
        }
    }

    fn assert_settled(&self) {
        assert_eq!(self.next(), None);
        let addresses: BTreeMap<u64, String> = self.nodes().into_iter().map(|(id, peer)| (id, peer.addr)).collect();
        assert_eq!(addresses, self.desired);
        assert_eq!(self.voters(), Vec::from_iter(self.desired.keys().copied()));
    }
}

#[test]
fn desired_group_needs_no_step() {
    for count in 1..6 {
        FakeGroup::of(count).assert_settled();
    }
}

#[test]
fn new_coordinator_learns_and_votes_once_caught_up() {
    let mut group = FakeGroup::of(3);
    group.desired.insert(4, addr(4));
    assert_eq!(group.next(), None, "it does not answer yet");
    group.statuses.insert(4, joinable(40));
    group.lag.insert(4, CAUGHT_UP_ENTRIES + 1);
    assert_eq!(group.settle(), 1);
    assert_eq!(group.voters(), [1, 2, 3]);
    group.lag.insert(4, CAUGHT_UP_ENTRIES);
    assert_eq!(group.settle(), 1);
    group.assert_settled();
}

#[test]
fn rejected_folder_does_not_join_and_blocks_no_other() {
    let mut group = FakeGroup::of(3);
    group.desired.insert(4, addr(4));
    group.statuses.insert(4, PeerStatus { store_id: 40, rejection: Some("empty it".into()) });
    group.assert_blocked(&["empty it"]);
    group.desired.insert(5, addr(5));
    group.statuses.insert(5, joinable(50));
    group.lag.insert(5, 0);
    let step = group.next().unwrap();
    assert!(matches!(step, MembershipStep::ChangeMembers(ChangeMembers::AddNodes(_), _)), "{step:?}");
}

#[test]
fn lost_folder_is_replaced_under_its_id_and_not_retired() {
    let mut group = FakeGroup::of(3);
    group.statuses.insert(3, joinable(31));
    group.settle();
    group.assert_settled();
    assert_eq!(group.nodes()[&3].store_id, 31);
    assert!(group.retired_stores.is_empty(), "{:?}", group.retired_stores);
}

#[test]
fn lost_folder_is_not_replaced_without_a_majority() {
    let mut group = FakeGroup::of(3);
    group.statuses.insert(3, joinable(31));
    group.statuses.remove(&2);
    group.assert_blocked(&["coordinator 3", "others 2 is not up"]);
    group.statuses.insert(2, joinable(21));
    group.assert_blocked(&["others 3 is not up"]);
}

#[test]
fn removed_coordinator_is_retired_before_it_leaves() {
    let mut group = FakeGroup::of(5);
    group.desired.remove(&4);
    assert_eq!(group.next(), Some(MembershipStep::RetireStore(40)));
    group.settle();
    group.assert_settled();
    assert_eq!(group.retired_stores, BTreeSet::from([40]));
}

#[test]
fn removed_leader_transfers_leadership_first() {
    let mut group = FakeGroup::of(3);
    group.desired.remove(&1);
    group.settle();
    group.assert_settled();
    assert_ne!(group.leader, 1);
}

#[test]
fn voter_is_not_removed_if_the_rest_is_no_majority() {
    let mut group = FakeGroup::of(3);
    group.desired.remove(&2);
    group.retired_stores.insert(20);
    group.statuses.remove(&3);
    group.assert_blocked(&["coordinator 2 cannot be removed", "others 3"]);
    // The coordinator that is down can be removed: the others are a majority before and after.
    let mut group = FakeGroup::of(3);
    group.desired.remove(&3);
    group.statuses.remove(&3);
    group.settle();
    group.assert_settled();
}

#[test]
fn same_id_at_another_address_is_another_coordinator() {
    let mut group = FakeGroup::of(3);
    group.desired.insert(3, "elsewhere:8825".into());
    group.statuses.insert(3, joinable(33));
    group.settle();
    group.assert_settled();
    assert_eq!(group.nodes()[&3], RaftPeer { addr: "elsewhere:8825".into(), store_id: 33 });
    assert_eq!(group.retired_stores, BTreeSet::from([30]), "the old folder is retired");
}

#[test]
fn joint_configuration_of_an_earlier_leader_is_left_first() {
    let mut group = FakeGroup::of(3);
    let (old, new) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2]));
    group.members = RaftMembership::new(vec![old, new], group.nodes()).unwrap();
    let step = group.next().unwrap();
    assert!(
        matches!(step, MembershipStep::ChangeMembers(ChangeMembers::RemoveVoters(ref none), _) if none.is_empty()),
        "{step:?}"
    );
}

#[test]
fn group_grows_from_one_to_five_and_shrinks_to_three_others() {
    let mut group = FakeGroup::of(1);
    for id in 2..6 {
        group.desired.insert(id, addr(id));
        group.statuses.insert(id, joinable(id * 10));
        group.lag.insert(id, 0);
    }
    group.settle();
    group.assert_settled();
    group.desired.remove(&1);
    group.desired.remove(&2);
    group.settle();
    group.assert_settled();
    assert_eq!(group.voters(), [3, 4, 5]);
}

#[test]
fn peer_list_differences_name_changed_and_absent_entries() {
    let here = BTreeMap::from([(1, addr(1)), (2, addr(2)), (3, addr(3))]);
    assert!(peer_list_differences(&here, &here).is_empty());
    let there = BTreeMap::from([(1, addr(1)), (2, addr(9)), (4, addr(4))]);
    let expected = [
        "2 is h2:8825 here and h9:8825 there",
        "3 is h3:8825 here and absent there",
        "4 is absent here and h4:8825 there",
    ];
    assert_eq!(peer_list_differences(&here, &there), expected);
}
