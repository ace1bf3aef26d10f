//! Decides the next step that brings the Raft group closer to the desired state in the catalog. Pure.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;

use crate::raft::types::{RaftMembership, RaftPeer};

/// A learner that lacks at most this many entries may become a voter.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// What the leader knows at one moment.
pub struct MembershipView<'a> {
    /// The leader.
    pub leader: u64,
    /// The coordinators that the catalog lists, and their addresses.
    pub desired: &'a BTreeMap<u64, String>,
    /// The Raft group, as the leader knows it.
    pub members: &'a RaftMembership,
    /// Data folders of coordinators that were removed.
    pub retired_stores: &'a BTreeSet<u64>,
    /// The coordinators that answer, and the leader itself.
    pub statuses: &'a BTreeMap<u64, PeerStatus>,
    /// Entries that each other member lacks.
    pub lag: &'a BTreeMap<u64, u64>,
}

/// What a coordinator answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The id of its data folder.
    pub store_id: u64,
    /// Why that folder cannot join; none if it can.
    pub rejection: Option<String>,
}

/// What the leader does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    /// Records in the catalog that a data folder is retired.
    RetireStore(u64),
    /// Transfers leadership, because the leader is being removed.
    TransferLeadership,
    /// Changes the Raft group, for the reason in the text.
    ChangeMembers(ChangeMembers<u64, RaftPeer>, &'static str),
    /// Does nothing; the text describes what must happen first.
    Blocked(String),
}

/// The next step; none if the group is as desired, or a member must catch up first.
pub fn next_step(view: &MembershipView<'_>) -> Option<MembershipStep> {
    if view.members.get_joint_config().len() > 1 {
        // An earlier leader crashed during a change. A change that removes no voter leaves the joint configuration.
        let finish = ChangeMembers::RemoveVoters(BTreeSet::new());
        return Some(MembershipStep::ChangeMembers(finish, "finishing a change of the coordinators"));
    }
    let removals = view.members.nodes().filter_map(|(id, peer)| removal_step(view, *id, peer));
    let additions = view.desired.iter().filter_map(|(id, addr)| addition_step(view, *id, addr));
    let (blocked, possible): (Vec<MembershipStep>, Vec<MembershipStep>) =
        removals.chain(additions).partition(|step| matches!(step, MembershipStep::Blocked(_)));
    possible.into_iter().chain(blocked).next()
}

/// The step for a member that is not desired, or is desired at another address.
fn removal_step(view: &MembershipView<'_>, id: u64, peer: &RaftPeer) -> Option<MembershipStep> {
    let is_retired = view.retired_stores.contains(&peer.store_id);
    match view.desired.get(&id) == Some(&peer.addr) {
        true if !is_retired => None,
        _ if !is_retired => Some(MembershipStep::RetireStore(peer.store_id)),
        _ if id == view.leader => Some(MembershipStep::TransferLeadership),
        _ => Some(remove(view, id, "removing a coordinator")),
    }
}

/// The step that brings a desired coordinator nearer to being a voter with its present folder.
fn addition_step(view: &MembershipView<'_>, id: u64, addr: &str) -> Option<MembershipStep> {
    let status = view.statuses.get(&id)?;
    match view.members.get_node(&id) {
        Some(peer) if peer.store_id != status.store_id => {
            Some(remove(view, id, "removing a coordinator that lost its data folder, to replace it"))
        }
        Some(_) if is_voter(view, id) => None,
        Some(_) => view.lag.get(&id).filter(|lag| **lag <= CAUGHT_UP_ENTRIES).map(|_| {
            let promote = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
            MembershipStep::ChangeMembers(promote, "making a coordinator that caught up a voter")
        }),
        None => Some(match &status.rejection {
            Some(why) => MembershipStep::Blocked(why.clone()),
            None => {
                let peer = BTreeMap::from([(id, RaftPeer { addr: addr.into(), store_id: status.store_id })]);
                MembershipStep::ChangeMembers(
                    ChangeMembers::AddNodes(peer),
                    "adding a coordinator with a new data folder as a learner",
                )
            }
        }),
    }
}

fn remove(view: &MembershipView<'_>, id: u64, why: &'static str) -> MembershipStep {
    let one = BTreeSet::from([id]);
    if !is_voter(view, id) {
        return MembershipStep::ChangeMembers(ChangeMembers::RemoveNodes(one), why);
    }
    match quorum_loss_without(view.members, view.statuses, id) {
        Some(why) => MembershipStep::Blocked(why),
        None => MembershipStep::ChangeMembers(ChangeMembers::RemoveVoters(one), why),
    }
}

fn is_voter(view: &MembershipView<'_>, id: u64) -> bool {
    view.members.voter_ids().any(|voter| voter == id)
}

/// Why the group cannot lose a voter: too few of the others are up with the folder that they had. None if it can.
pub fn quorum_loss_without(members: &RaftMembership, statuses: &BTreeMap<u64, PeerStatus>, id: u64) -> Option<String> {
    let is_up = |voter: &&u64| {
        let peer = members.get_node(voter);
        peer.is_some_and(|peer| statuses.get(voter).is_some_and(|status| status.store_id == peer.store_id))
    };
    for voters in members.get_joint_config() {
        let rest: BTreeSet<u64> = voters.iter().copied().filter(|voter| *voter != id).collect();
        let quorum_before = voters.iter().filter(is_up).count() > voters.len() / 2;
        let quorum_after = rest.iter().filter(is_up).count() > rest.len() / 2;
        if quorum_before && quorum_after {
            continue;
        }
        let down: Vec<String> = rest.iter().filter(|voter| !is_up(voter)).map(u64::to_string).collect();
        return Some(format!(
            "coordinator {id} cannot be removed: of the others {} is not up with the data folder that it had, so the rest would not be a majority; start it, or remove it first",
            down.join(", ")
        ));
    }
    None
}

/// Describes the entries in which two peer lists differ: this coordinator's (`here`) and another one (`there`).
pub fn peer_list_differences(here: &BTreeMap<u64, String>, there: &BTreeMap<u64, String>) -> Vec<String> {
    let ids: BTreeSet<u64> = there.keys().chain(here.keys()).copied().collect();
    let show = |addr: Option<&String>| addr.map_or("absent".to_string(), Clone::clone);
    let different = ids.into_iter().filter(|id| here.get(id) != there.get(id));
    different.map(|id| format!("{id} is {} here and {} there", show(here.get(&id)), show(there.get(&id)))).collect()
}

#[cfg(test)]
mod tests;
