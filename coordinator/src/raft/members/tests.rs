//! The Raft group is walked, step by step, to what is wanted, whatever it was.
#![allow(clippy::unwrap_used)]

use super::*;

/// A Raft group that does at once what it is told.
struct World {
    me: u64,
    wanted: BTreeMap<u64, String>,
    members: Membership,
    retired: BTreeSet<u64>,
    answers: BTreeMap<u64, Answer>,
    behind: BTreeMap<u64, u64>,
}

fn addr(id: u64) -> String {
    format!("h{id}:8825")
}

fn answer(store: u64) -> Answer {
    Answer { store, unfit: None }
}

fn group(voters: &[u64], nodes: &BTreeMap<u64, Peer>) -> Membership {
    Membership::new(vec![voters.iter().copied().collect()], nodes.clone()).unwrap()
}

impl World {
    /// Coordinators 1 to `count`, all well; the folder of each is its id times 10. 1 leads.
    fn of(count: u64) -> World {
        let ids: Vec<u64> = (1..=count).collect();
        let nodes = ids.iter().map(|id| (*id, Peer { addr: addr(*id), store: id * 10 })).collect();
        World {
            me: 1,
            wanted: ids.iter().map(|id| (*id, addr(*id))).collect(),
            members: group(&ids, &nodes),
            retired: BTreeSet::new(),
            answers: ids.iter().map(|id| (*id, answer(id * 10))).collect(),
            behind: ids.iter().map(|id| (*id, 0)).collect(),
        }
    }

    fn next(&self) -> Option<Step> {
        next_step(&Group {
            me: self.me,
            wanted: &self.wanted,
            members: &self.members,
            retired: &self.retired,
            answers: &self.answers,
            behind: &self.behind,
        })
    }

    fn voters(&self) -> Vec<u64> {
        self.members.voter_ids().collect()
    }

    fn nodes(&self) -> BTreeMap<u64, Peer> {
        self.members.nodes().map(|(id, peer)| (*id, peer.clone())).collect()
    }

    /// Does a step as openraft would, without joint groups.
    fn act(&mut self, step: Step) {
        let (mut voters, mut nodes) = (self.voters(), self.nodes());
        match step {
            Step::Retire(store) => assert!(self.retired.insert(store), "retired twice"),
            Step::HandOver => self.me = voters.iter().copied().find(|id| *id != self.me).unwrap(),
            Step::Change(ChangeMembers::AddNodes(new), _) => nodes.extend(new),
            Step::Change(ChangeMembers::AddVoterIds(ids), _) => voters.extend(ids),
            Step::Change(ChangeMembers::RemoveVoters(ids), _) => {
                assert!(!ids.contains(&self.me), "the leader removes itself");
                voters.retain(|id| !ids.contains(id));
                nodes.retain(|id, _| !ids.contains(id));
            }
            Step::Change(ChangeMembers::RemoveNodes(ids), _) => nodes.retain(|id, _| !ids.contains(id)),
            Step::Change(change, _) => panic!("{change:?}"),
            Step::Wait(why) => panic!("{why}"),
        }
        self.members = group(&voters, &nodes);
    }

    /// Goes on until nothing is to be done; says how many steps that took.
    fn settle(&mut self) -> usize {
        for steps in 0..20 {
            match self.next() {
                Some(step) => self.act(step),
                None => return steps,
            }
        }
        panic!("no end: {:?}", self.next());
    }

    fn waits_for(&self, words: &[&str]) {
        match self.next() {
            Some(Step::Wait(why)) => words.iter().for_each(|word| assert!(why.contains(word), "{why:?}: {word:?}")),
            other => panic!("{other:?}"),
        }
    }

    fn is_settled(&self) {
        assert_eq!(self.next(), None);
        let there: BTreeMap<u64, String> = self.nodes().into_iter().map(|(id, peer)| (id, peer.addr)).collect();
        assert_eq!(there, self.wanted);
        assert_eq!(self.voters(), Vec::from_iter(self.wanted.keys().copied()));
    }
}

#[test]
fn a_group_that_is_as_wanted_is_left_alone() {
    for count in 1..6 {
        World::of(count).is_settled();
    }
}

#[test]
fn a_new_coordinator_learns_first_and_votes_when_it_has_caught_up() {
    let mut world = World::of(3);
    world.wanted.insert(4, addr(4));
    assert_eq!(world.next(), None, "it does not answer yet");
    world.answers.insert(4, answer(40));
    world.behind.insert(4, CAUGHT_UP + 1);
    assert_eq!(world.settle(), 1);
    assert_eq!(world.voters(), [1, 2, 3]);
    world.behind.insert(4, CAUGHT_UP);
    assert_eq!(world.settle(), 1);
    world.is_settled();
}

#[test]
fn a_folder_that_is_unfit_is_not_taken_in_and_holds_nothing_up() {
    let mut world = World::of(3);
    world.wanted.insert(4, addr(4));
    world.answers.insert(4, Answer { store: 40, unfit: Some("empty it".into()) });
    world.waits_for(&["empty it"]);
    world.wanted.insert(5, addr(5));
    world.answers.insert(5, answer(50));
    world.behind.insert(5, 0);
    let step = world.next().unwrap();
    assert!(matches!(step, Step::Change(ChangeMembers::AddNodes(_), _)), "{step:?}");
}

#[test]
fn a_lost_folder_is_replaced_under_the_same_id_and_nothing_is_retired() {
    let mut world = World::of(3);
    world.answers.insert(3, answer(31));
    world.settle();
    world.is_settled();
    assert_eq!(world.nodes()[&3].store, 31);
    assert!(world.retired.is_empty(), "{:?}", world.retired);
}

#[test]
fn a_lost_folder_is_not_replaced_while_no_majority_remembers() {
    let mut world = World::of(3);
    world.answers.insert(3, answer(31));
    world.answers.remove(&2);
    world.waits_for(&["coordinator 3", "others 2 is not up"]);
    world.answers.insert(2, answer(21));
    world.waits_for(&["others 3 is not up"]);
}

#[test]
fn one_that_is_wanted_no_more_is_retired_before_it_leaves() {
    let mut world = World::of(5);
    world.wanted.remove(&4);
    assert_eq!(world.next(), Some(Step::Retire(40)));
    world.settle();
    world.is_settled();
    assert_eq!(world.retired, BTreeSet::from([40]));
}

#[test]
fn a_leader_hands_over_before_it_leaves() {
    let mut world = World::of(3);
    world.wanted.remove(&1);
    world.settle();
    world.is_settled();
    assert_ne!(world.me, 1);
}

#[test]
fn none_leaves_while_the_rest_would_be_no_majority() {
    let mut world = World::of(3);
    world.wanted.remove(&2);
    world.retired.insert(20);
    world.answers.remove(&3);
    world.waits_for(&["coordinator 2 cannot be taken out", "others 3"]);
    // The one that is down can be: the others are a majority before and after.
    let mut world = World::of(3);
    world.wanted.remove(&3);
    world.answers.remove(&3);
    world.settle();
    world.is_settled();
}

#[test]
fn the_same_id_at_another_address_is_another_coordinator() {
    let mut world = World::of(3);
    world.wanted.insert(3, "elsewhere:8825".into());
    world.answers.insert(3, answer(33));
    world.settle();
    world.is_settled();
    assert_eq!(world.nodes()[&3], Peer { addr: "elsewhere:8825".into(), store: 33 });
    assert_eq!(world.retired, BTreeSet::from([30]), "the old folder counts no more");
}

#[test]
fn a_change_that_an_earlier_leader_began_is_brought_to_its_end_first() {
    let mut world = World::of(3);
    let (old, new) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2]));
    world.members = Membership::new(vec![old, new], world.nodes()).unwrap();
    let step = world.next().unwrap();
    assert!(matches!(step, Step::Change(ChangeMembers::RemoveVoters(ref none), _) if none.is_empty()), "{step:?}");
}

#[test]
fn from_one_to_five_and_to_three_others() {
    let mut world = World::of(1);
    for id in 2..6 {
        world.wanted.insert(id, addr(id));
        world.answers.insert(id, answer(id * 10));
        world.behind.insert(id, 0);
    }
    world.settle();
    world.is_settled();
    world.wanted.remove(&1);
    world.wanted.remove(&2);
    world.settle();
    world.is_settled();
    assert_eq!(world.voters(), [3, 4, 5]);
}
