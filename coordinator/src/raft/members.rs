//! Pure: what is to be done next, so that the Raft group becomes what the catalog wants.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;

use super::types::{Membership, Peer};

/// A learner that is so many entries behind at most may vote.
const CAUGHT_UP: u64 = 100;

/// What the leader knows at one moment.
pub struct Group<'a> {
    /// The leader.
    pub me: u64,
    /// The coordinators that the catalog wants.
    pub wanted: &'a BTreeMap<u64, String>,
    /// The Raft group, as the leader has it.
    pub members: &'a Membership,
    /// Folders of coordinators that were removed.
    pub retired: &'a BTreeSet<u64>,
    /// Who answers, the leader among them.
    pub answers: &'a BTreeMap<u64, Answer>,
    /// By how many entries others are behind.
    pub behind: &'a BTreeMap<u64, u64>,
}

/// What a coordinator said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its data folder.
    pub store: u64,
    /// Why that folder cannot be taken in; none: it can.
    pub unfit: Option<String>,
}

/// What the leader does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Has the catalog remember that a folder belongs to nobody any more.
    Retire(u64),
    /// Gives the leadership to another: this coordinator is to leave.
    HandOver,
    /// Changes the Raft group; the text says why.
    Change(ChangeMembers<u64, Peer>, &'static str),
    /// Nothing can be done; the text says what must happen first.
    Wait(String),
}

/// The next step; none: all is as it should be, or must first catch up.
pub fn next_step(group: &Group<'_>) -> Option<Step> {
    if group.members.get_joint_config().len() > 1 {
        // An earlier leader died in the middle of a change.
        let finish = ChangeMembers::RemoveVoters(BTreeSet::new());
        return Some(Step::Change(finish, "a change of the coordinators is brought to its end"));
    }
    let leaving = group.members.nodes().filter_map(|(id, peer)| leave(group, *id, peer));
    let entering = group.wanted.iter().filter_map(|(id, addr)| enter(group, *id, addr));
    let (waiting, possible): (Vec<Step>, Vec<Step>) =
        leaving.chain(entering).partition(|step| matches!(step, Step::Wait(_)));
    possible.into_iter().chain(waiting).next()
}

/// What to do about a member that is not wanted, or not there.
fn leave(group: &Group<'_>, id: u64, peer: &Peer) -> Option<Step> {
    let wanted = group.wanted.get(&id) == Some(&peer.addr) && !group.retired.contains(&peer.store);
    if wanted {
        return None;
    }
    Some(match () {
        () if !group.retired.contains(&peer.store) => Step::Retire(peer.store),
        () if id == group.me => Step::HandOver,
        () => take_out(group, id, "a coordinator is removed"),
    })
}

/// What brings a wanted coordinator nearer to being a voter with the folder that it has.
fn enter(group: &Group<'_>, id: u64, addr: &str) -> Option<Step> {
    let answer = group.answers.get(&id)?;
    match group.members.get_node(&id) {
        Some(peer) if peer.store != answer.store => {
            Some(take_out(group, id, "a coordinator lost its data folder: it is replaced"))
        }
        Some(_) if votes(group, id) => None,
        Some(_) => group.behind.get(&id).filter(|behind| **behind <= CAUGHT_UP).map(|_| {
            Step::Change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), "a coordinator caught up and votes")
        }),
        None => Some(match &answer.unfit {
            Some(why) => Step::Wait(why.clone()),
            None => {
                let peer = BTreeMap::from([(id, Peer { addr: addr.into(), store: answer.store })]);
                Step::Change(ChangeMembers::AddNodes(peer), "a coordinator with a new data folder catches up")
            }
        }),
    }
}

fn take_out(group: &Group<'_>, id: u64, why: &'static str) -> Step {
    let one = BTreeSet::from([id]);
    if !votes(group, id) {
        return Step::Change(ChangeMembers::RemoveNodes(one), why);
    }
    match missing_without(group.members, group.answers, id) {
        Some(missing) => Step::Wait(missing),
        None => Step::Change(ChangeMembers::RemoveVoters(one), why),
    }
}

fn votes(group: &Group<'_>, id: u64) -> bool {
    group.members.voter_ids().any(|voter| voter == id)
}

/// Why the group cannot do without a voter: too few of the others are up with the folder that they had. None: it can.
pub fn missing_without(members: &Membership, answers: &BTreeMap<u64, Answer>, id: u64) -> Option<String> {
    let up = |voter: &&u64| members.get_node(voter).is_some_and(|peer| is_up(answers, **voter, peer));
    for voters in members.get_joint_config() {
        let rest: BTreeSet<u64> = voters.iter().copied().filter(|voter| *voter != id).collect();
        let agree_now = voters.iter().filter(up).count() > voters.len() / 2;
        let agree_then = rest.iter().filter(up).count() > rest.len() / 2;
        if agree_now && agree_then {
            continue;
        }
        let down: Vec<String> = rest.iter().filter(|voter| !up(voter)).map(u64::to_string).collect();
        return Some(format!(
            "coordinator {id} cannot be taken out: of the others {} is not up with the data folder that it had, and the rest would be no majority; start it, or remove it first",
            down.join(", ")
        ));
    }
    None
}

fn is_up(answers: &BTreeMap<u64, Answer>, id: u64, peer: &Peer) -> bool {
    answers.get(&id).is_some_and(|answer| answer.store == peer.store)
}

#[cfg(test)]
mod tests;
