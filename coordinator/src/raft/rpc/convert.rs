//! Converts openraft's types to protobuf (`_out`) and back (`_in`).
//!
//! Conversions from protobuf fail with INVALID_ARGUMENT if the message is incomplete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use volley_common::wire::raft as wire;
use volley_common::wire::raft::{append_reply, entry};
use volley_common::{Error, Result};

use crate::raft::types::{
    LeaderId, LogCommand, LogId, RaftLogEntry, RaftMembership, RaftPeer, SnapshotMeta, StoredMembership, TypeConfig,
    Vote,
};

fn missing(what: &str) -> Error {
    Error::invalid(format!("a Raft message without {what}"))
}

/// A vote to send.
pub fn vote_out(vote: &Vote) -> wire::Vote {
    wire::Vote { leader: Some(leader_out(&vote.leader_id)), committed: vote.committed }
}

/// A received vote.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn vote_in(vote: Option<wire::Vote>) -> Result<Vote> {
    let vote = vote.ok_or_else(|| missing("a vote"))?;
    Ok(Vote { leader_id: leader_in(vote.leader)?, committed: vote.committed })
}

fn leader_out(leader: &LeaderId) -> wire::LeaderId {
    wire::LeaderId { term: leader.term, node: leader.node_id }
}

fn leader_in(leader: Option<wire::LeaderId>) -> Result<LeaderId> {
    let leader = leader.ok_or_else(|| missing("a leader's id"))?;
    Ok(LeaderId { term: leader.term, node_id: leader.node })
}

/// A log id to send.
pub fn log_id_out(id: &LogId) -> wire::LogId {
    wire::LogId { leader: Some(leader_out(&id.leader_id)), index: id.index }
}

/// Converts a log id; none stays none.
pub fn log_id_in(id: Option<wire::LogId>) -> Result<Option<LogId>> {
    id.map(|id| Ok(LogId { leader_id: leader_in(id.leader)?, index: id.index })).transpose()
}

/// A membership to send.
pub fn membership_out(membership: &RaftMembership) -> wire::Membership {
    let config = |voters: &BTreeSet<u64>| wire::membership::Config { voters: voters.iter().copied().collect() };
    wire::Membership {
        configs: membership.get_joint_config().iter().map(config).collect(),
        peers: membership
            .nodes()
            .map(|(id, peer)| wire::Peer { id: *id, addr: peer.addr.clone(), store: peer.store_id })
            .collect(),
    }
}

/// A received membership; empty if it has nobody.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn membership_in(membership: wire::Membership) -> Result<RaftMembership> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|config| config.voters.into_iter().collect()).collect();
    let peers: BTreeMap<u64, RaftPeer> =
        membership.peers.into_iter().map(|p| (p.id, RaftPeer { addr: p.addr, store_id: p.store })).collect();
    if configs.is_empty() && peers.is_empty() {
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(configs, peers).map_err(|e| Error::invalid(format!("bad Raft membership: {e}")))
}

/// A log entry to send.
pub fn entry_out(entry: &RaftLogEntry) -> wire::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => entry::Payload::Blank(wire::Blank {}),
        EntryPayload::Normal(command) => entry::Payload::Command(command.0.as_ref().clone()),
        EntryPayload::Membership(membership) => entry::Payload::Membership(membership_out(membership)),
    };
    wire::Entry { log_id: Some(log_id_out(&entry.log_id)), payload: Some(payload) }
}

/// A received log entry.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn entry_in(entry: wire::Entry) -> Result<RaftLogEntry> {
    let log_id = log_id_in(entry.log_id)?.ok_or_else(|| missing("an entry's id"))?;
    let payload = match entry.payload.ok_or_else(|| missing("an entry's payload"))? {
        entry::Payload::Blank(_) => EntryPayload::Blank,
        entry::Payload::Command(command) => EntryPayload::Normal(LogCommand(Arc::new(command))),
        entry::Payload::Membership(membership) => EntryPayload::Membership(membership_in(membership)?),
    };
    Ok(RaftLogEntry { log_id, payload })
}

/// A message with entries to send.
pub fn append_out(rpc: &AppendEntriesRequest<TypeConfig>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(vote_out(&rpc.vote)),
        prev_log_id: rpc.prev_log_id.as_ref().map(log_id_out),
        entries: rpc.entries.iter().map(entry_out).collect(),
        leader_commit: rpc.leader_commit.as_ref().map(log_id_out),
    }
}

/// A received message with entries.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn append_in(rpc: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>> {
    Ok(AppendEntriesRequest {
        vote: vote_in(rpc.vote)?,
        prev_log_id: log_id_in(rpc.prev_log_id)?,
        entries: rpc.entries.into_iter().map(entry_in).collect::<Result<_>>()?,
        leader_commit: log_id_in(rpc.leader_commit)?,
    })
}

/// The reply to entries to send.
pub fn append_reply_out(reply: &AppendEntriesResponse<TypeConfig>) -> wire::AppendReply {
    use AppendEntriesResponse::{Conflict, HigherVote, PartialSuccess, Success};
    let reply = match reply {
        Success => append_reply::Reply::Success(wire::Blank {}),
        // An empty id means that no entry matched yet.
        PartialSuccess(id) => append_reply::Reply::Partial(id.as_ref().map(log_id_out).unwrap_or_default()),
        Conflict => append_reply::Reply::Conflict(wire::Blank {}),
        HigherVote(vote) => append_reply::Reply::HigherVote(vote_out(vote)),
    };
    wire::AppendReply { reply: Some(reply) }
}

/// A received reply to entries.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn append_reply_in(reply: wire::AppendReply) -> Result<AppendEntriesResponse<TypeConfig>> {
    Ok(match reply.reply.ok_or_else(|| missing("a reply"))? {
        append_reply::Reply::Success(_) => AppendEntriesResponse::Success,
        append_reply::Reply::Partial(id) if id.leader.is_none() => AppendEntriesResponse::PartialSuccess(None),
        append_reply::Reply::Partial(id) => AppendEntriesResponse::PartialSuccess(log_id_in(Some(id))?),
        append_reply::Reply::Conflict(_) => AppendEntriesResponse::Conflict,
        append_reply::Reply::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_in(Some(vote))?),
    })
}

/// A request for a vote to send.
pub fn vote_request_out(rpc: &VoteRequest<TypeConfig>, pre_vote: bool) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_out(&rpc.vote)),
        last_log_id: rpc.last_log_id.as_ref().map(log_id_out),
        leadership_transfer: rpc.leadership_transfer,
        pre_vote,
    }
}

/// A received request for a vote.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn vote_request_in(rpc: wire::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(vote_in(rpc.vote)?, log_id_in(rpc.last_log_id)?);
    request.leadership_transfer = rpc.leadership_transfer;
    Ok(request)
}

/// The reply to a request for a vote to send.
pub fn vote_reply_out(reply: &VoteResponse<TypeConfig>) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(vote_out(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(log_id_out),
    }
}

/// A received reply to a request for a vote.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn vote_reply_in(reply: wire::VoteReply) -> Result<VoteResponse<TypeConfig>> {
    Ok(VoteResponse::new(vote_in(reply.vote)?, log_id_in(reply.last_log_id)?, reply.granted))
}

/// For messages, and for snapshot files, which hold no vote.
pub fn header_out(meta: &SnapshotMeta, vote: Option<&Vote>) -> wire::SnapshotHeader {
    wire::SnapshotHeader {
        vote: vote.map(vote_out),
        last_log_id: meta.last_log_id.as_ref().map(log_id_out),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(meta.last_membership.membership())),
        snapshot_id: String::new(),
    }
}

/// A received snapshot's meta, or that of a snapshot file.
///
/// # Errors
/// INVALID_ARGUMENT: it is incomplete.
pub fn header_in(header: wire::SnapshotHeader) -> Result<SnapshotMeta> {
    let membership = membership_in(header.membership.unwrap_or_default())?;
    Ok(SnapshotMeta {
        last_log_id: log_id_in(header.last_log_id)?,
        last_membership: StoredMembership::new(log_id_in(header.membership_log_id)?, membership),
    })
}
