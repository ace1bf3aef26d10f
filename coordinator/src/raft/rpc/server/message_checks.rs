//! What a message of Raft must be to be passed on. openraft trusts its peers: a message that no coordinator would send ends it, or
//! damages its log.

use openraft::raft::{AppendEntriesRequest, VoteRequest};
use volley_common::tls::Caller;
use volley_common::{Error, Result};

use crate::raft::context::RaftContext;
use crate::raft::types::{LeaderId, LogId, MAX_FIRST_TERM, MAX_TERM_STEP, SnapshotMeta, TypeConfig, Vote};

/// No log is longer.
const MAX_INDEX: u64 = 1 << 62;

/// Refuses a message that its sender has no right to send: every message has the vote of its sender, for itself. Refuses a
/// message whose term is too far ahead: once a member has accepted the largest term, no leader can be elected.
///
/// # Errors
/// PERMISSION_DENIED.
pub fn check_sender(ctx: &RaftContext, caller: &Caller, vote: &Vote) -> Result<()> {
    let sender = vote.leader_id.node_id;
    caller.speaks_for_coordinator(sender)?;
    if sender == ctx.config.id {
        return Err(Error::denied(format!("coordinator {sender} sends no Raft message to itself")));
    }
    let (theirs, own) = (vote.leader_id.term, ctx.log.vote().map_or(0, |vote| vote.leader_id.term));
    // A coordinator that is being added has no term yet.
    let limit = if own == 0 { MAX_FIRST_TERM } else { own.saturating_add(MAX_TERM_STEP) };
    if theirs > limit {
        return Err(Error::denied(format!(
            "a Raft message of term {theirs} from coordinator {sender} is refused: this coordinator's term is {own}, and elections cannot have raised it beyond {limit}"
        )));
    }
    Ok(())
}

/// Checks what only a leader sends.
///
/// # Errors
/// INVALID_ARGUMENT: its sender has not been elected.
pub fn check_elected(vote: &Vote) -> Result<()> {
    match vote.committed {
        true => Ok(()),
        false => Err(malformed("only an elected leader sends it")),
    }
}

/// Checks a request for a vote.
///
/// # Errors
/// INVALID_ARGUMENT: no candidate sends this.
pub fn check_candidacy(rpc: &VoteRequest<TypeConfig>) -> Result<()> {
    if rpc.vote.committed {
        return Err(malformed("a candidate has not been elected"));
    }
    check_age("the last entry", rpc.last_log_id.as_ref(), rpc.vote.leader_id)
}

/// Checks a message with entries.
///
/// # Errors
/// INVALID_ARGUMENT: no leader sends this. PERMISSION_DENIED: its entries contradict committed ones.
pub fn check_append(ctx: &RaftContext, rpc: &AppendEntriesRequest<TypeConfig>) -> Result<()> {
    check_elected(&rpc.vote)?;
    let leader = rpc.vote.leader_id;
    check_age("the previous entry", rpc.prev_log_id.as_ref(), leader)?;
    check_age("the committed entry", rpc.leader_commit.as_ref(), leader)?;
    let mut previous = rpc.prev_log_id;
    for entry in &rpc.entries {
        let id = entry.log_id;
        let is_next = id.index == previous.map_or(0, |previous| previous.index + 1);
        if !is_next || previous.is_some_and(|previous| id.leader_id < previous.leader_id) {
            return Err(malformed(format_args!("entry {id} does not follow its previous one")));
        }
        check_age("an entry", Some(&id), leader)?;
        previous = Some(id);
    }
    let ids = rpc.prev_log_id.iter().chain(rpc.entries.iter().map(|entry| &entry.log_id));
    check_committed(ctx, ids)
}

/// Checks the header of a snapshot.
///
/// # Errors
/// INVALID_ARGUMENT: no leader sends this. PERMISSION_DENIED: the snapshot contradicts committed entries.
pub fn check_snapshot(ctx: &RaftContext, vote: &Vote, meta: &SnapshotMeta) -> Result<()> {
    check_elected(vote)?;
    let last = meta.last_log_id.as_ref();
    check_age("the last entry", last, vote.leader_id)?;
    let membership = meta.last_membership.log_id();
    if membership.as_ref() > last {
        return Err(malformed("the membership is newer than the snapshot"));
    }
    check_committed(ctx, last)
}

/// A leader has no entry of a later one.
fn check_age(what: &str, id: Option<&LogId>, leader: LeaderId) -> Result<()> {
    match id {
        Some(id) if id.leader_id > leader || id.index > MAX_INDEX => {
            Err(malformed(format_args!("{what} {id} cannot be one of leader {leader}")))
        }
        _ => Ok(()),
    }
}

/// Whoever sends a later leader's entry in the place of a committed one has another log.
fn check_committed<'a>(ctx: &RaftContext, ids: impl IntoIterator<Item = &'a LogId>) -> Result<()> {
    let Some(committed) = ctx.metrics().local_committed else { return Ok(()) };
    let mut contradicting = ids.into_iter().filter(|id| id.index <= committed.index && **id > committed);
    match contradicting.next() {
        Some(id) => Err(Error::denied(format!(
            "a Raft message is refused: its entry {id} contradicts those up to {committed}, which are committed"
        ))),
        None => Ok(()),
    }
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("a malformed Raft message: {why}"))
}
