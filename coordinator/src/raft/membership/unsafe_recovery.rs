//! Recovery after a majority is lost permanently: makes one stopped data folder a cluster of its own.
//!
//! The folder keeps its whole log. Two entries are appended, in a new term: a membership of which this coordinator is the
//! only member, and the command that gives the cluster its next id (see [`volley_common::cluster_id`]) and makes this the only
//! desired coordinator. At its next start the coordinator elects itself and applies both. All changes are one transaction of the
//! folder's database.
//!
//! If the lost coordinators come back: the folder has a new id, so it refuses their Raft messages. The cluster has a
//! new id, so nodes that have joined the recovered cluster refuse them too. As soon as one of them and the recovered
//! one can reach each other, the lost one detects that it was superseded, and stops.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use openraft::EntryPayload;
use prost::Message;
use redb::{Builder, Database, ReadableTable, WriteTransaction};
use volley_common::cluster_id::recovered;
use volley_common::wire::catalog::{Command, CoordinatorPeer, RecoverCluster, Row, command, row};
use volley_common::{Error, Result, clock};

use super::decommission;
use crate::catalog::RowKey;
use crate::raft::runtime::random;
use crate::raft::storage::files::{DataDir, LocalDataDir};
use crate::raft::storage::{decode_record, encode_record};
use crate::raft::tables::{
    LOG, META, ROWS, begin_durable_write, decode_log_id, decode_membership, decode_vote, encode_vote, meta_key,
    meta_number,
};
use crate::raft::types::{LeaderId, LogCommand, LogId, RaftLogEntry, RaftMembership, RaftPeer, Vote};

/// The content of a stopped data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSummary {
    /// The cluster's id.
    pub cluster: String,
    /// The coordinators that the folder knows, and their peer addresses.
    pub members: BTreeMap<u64, String>,
    /// The term of the last log entry. Of several folders, the one with the highest term has the most entries; of those
    /// with the same term, the one with the highest index.
    pub term: u64,
    /// The index of the last log entry.
    pub index: u64,
    /// The index of the last entry that is known to be committed.
    pub applied: u64,
    store_id: u64,
    vote_term: u64,
}

/// What a recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryOutcome {
    /// The folder's content before.
    pub before: FolderSummary,
    /// The cluster's new id.
    pub cluster: String,
    /// This coordinator's peer address.
    pub peer: String,
}

/// Inspects a stopped data folder. Blocks.
///
/// # Errors
/// FAILED_PRECONDITION: the folder is in use, empty, another coordinator's, or a removed coordinator's. DATA_LOSS: it is
/// damaged.
pub fn inspect(dir: &Path, id: u64) -> Result<FolderSummary> {
    let db = open(dir)?;
    let txn = begin_durable_write(&db).map_err(|e| damaged(dir, e))?;
    summarize(&txn, dir, id)
}

/// Makes the coordinator of a stopped data folder the only one of its cluster, at `peer` or at its present address. Blocks.
///
/// # Errors
/// As [`inspect`]. INVALID_ARGUMENT: its peer address is not known.
pub fn recover(dir: &Path, id: u64, peer: Option<String>) -> Result<RecoveryOutcome> {
    let db = open(dir)?;
    let txn = begin_durable_write(&db).map_err(|e| damaged(dir, e))?;
    let before = summarize(&txn, dir, id)?;
    let peer = peer.or_else(|| before.members.get(&id).cloned());
    let peer = peer.ok_or_else(|| Error::invalid("the folder does not know its coordinator's address: give --peer"))?;
    let cluster = recovered(&before.cluster, random() as u32);
    let outcome = RecoveryOutcome { before, cluster, peer };
    write(&txn, id, &outcome)?;
    txn.commit().map_err(|e| damaged(dir, e))?;
    Ok(outcome)
}

fn damaged(dir: &Path, error: impl std::fmt::Display) -> Error {
    Error::data_loss(format!("the data folder {}: {error}", dir.display()))
}

fn open(dir: &Path) -> Result<Database> {
    let refuse = |why: &str| Error::precondition(format!("the data folder {} {why}", dir.display()));
    let data_dir = LocalDataDir(dir.to_path_buf());
    decommission::check(&data_dir)?;
    if !dir.join("catalog.redb").exists() {
        return Err(refuse("holds no catalog"));
    }
    data_dir.database(&Builder::new()).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => refuse("is in use: stop the coordinator first"),
        other => damaged(dir, other),
    })
}

/// Summarizes a folder. Reads only the end of the log, and the membership entries that are not applied.
fn summarize(txn: &WriteTransaction, dir: &Path, id: u64) -> Result<FolderSummary> {
    let redb_error = |e: redb::Error| damaged(dir, e);
    let io_error = |e: std::io::Error| damaged(dir, e);
    let owner = number(txn, meta_key::COORDINATOR).map_err(redb_error)?.unwrap_or_default();
    if owner != id {
        let dir = dir.display();
        return Err(Error::precondition(format!("the data folder {dir} belongs to coordinator {owner}, not to {id}")));
    }
    let applied = decode_log_id(meta(txn, meta_key::APPLIED).map_err(redb_error)?).map_err(io_error)?;
    let purged = decode_log_id(meta(txn, meta_key::PURGED).map_err(redb_error)?).map_err(io_error)?;
    let (logged, members) = read_log_end(txn, applied, dir)?;
    let last = logged.max(applied).max(purged);
    let cluster = cluster_id(txn).map_err(redb_error)?;
    let (Some(last), false) = (last, cluster.is_empty()) else {
        return Err(Error::precondition(format!("the data folder {} holds no cluster yet", dir.display())));
    };
    let vote = meta(txn, meta_key::VOTE).map_err(redb_error)?.and_then(|bytes| decode_vote(&bytes).ok());
    Ok(FolderSummary {
        cluster,
        members: members.nodes().map(|(id, peer)| (*id, peer.addr.clone())).collect(),
        term: last.leader_id.term,
        index: last.index,
        applied: applied.map_or(0, |id| id.index),
        store_id: number(txn, meta_key::STORE).map_err(redb_error)?.unwrap_or_default(),
        vote_term: vote.map_or(0, |vote| vote.leader_id.term),
    })
}

/// The id of the last log entry, and the latest membership.
fn read_log_end(txn: &WriteTransaction, applied: Option<LogId>, dir: &Path) -> Result<(Option<LogId>, RaftMembership)> {
    let at = |e: redb::Error| damaged(dir, e);
    let stored = meta(txn, meta_key::MEMBERSHIP).map_err(at)?;
    let stored = stored.map(|bytes| decode_membership(&bytes)).transpose().map_err(|e| damaged(dir, e))?;
    let stored = stored.unwrap_or_default();
    let mut members = stored.membership().clone();
    let mut last = None;
    let log = txn.open_table(LOG).map_err(|e| at(e.into()))?;
    for record in log.range(applied.map_or(0, |id| id.index)..).map_err(|e| at(e.into()))? {
        let (_, record) = record.map_err(|e| at(e.into()))?;
        let entry = decode_record(record.value()).map_err(|e| damaged(dir, e))?;
        last = Some(entry.log_id);
        if let EntryPayload::Membership(newer) = entry.payload {
            members = newer;
        }
    }
    Ok((last, members))
}

fn meta(txn: &WriteTransaction, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = txn.open_table(META)?;
    let value = table.get(key)?.map(|value| value.value().to_vec());
    Ok(value)
}

fn number(txn: &WriteTransaction, key: &str) -> Result<Option<u64>, redb::Error> {
    Ok(meta_number(&txn.open_table(META)?, key)?)
}

fn cluster_id(txn: &WriteTransaction) -> Result<String, redb::Error> {
    let rows = txn.open_table(ROWS)?;
    let row = rows.get(RowKey::Cluster.to_bytes().as_slice())?;
    let row = row.and_then(|row| Row::decode(row.value()).ok()).and_then(|row| row.row);
    Ok(match row {
        Some(row::Row::Cluster(cluster)) => cluster.id,
        _ => String::new(),
    })
}

/// Writes the vote, the two entries and the folder's new id.
fn write(txn: &WriteTransaction, id: u64, outcome: &RecoveryOutcome) -> Result<()> {
    let cannot_write = |e: redb::Error| Error::data_loss(format!("the data folder cannot be written: {e}"));
    let before = &outcome.before;
    let leader_id = LeaderId { term: before.term.max(before.vote_term) + 1, node_id: id };
    let store_id = loop {
        let store_id = random();
        if store_id != 0 && store_id != before.store_id {
            break store_id;
        }
    };
    let alone = RaftMembership::new(
        vec![BTreeSet::from([id])],
        BTreeMap::from([(id, RaftPeer { addr: outcome.peer.clone(), store_id })]),
    );
    let alone = alone.map_err(|e| Error::internal(format!("a membership of one: {e}")))?;
    let coordinator = Some(CoordinatorPeer { id, peer: outcome.peer.clone() });
    let op = Some(command::Op::RecoverCluster(RecoverCluster { id: outcome.cluster.clone(), coordinator }));
    let command = Command { now_ms: clock::now_ms(), op };
    let payloads = [EntryPayload::Membership(alone), EntryPayload::Normal(LogCommand(command.into()))];
    let vote = Vote { leader_id, committed: false };
    put(txn, meta_key::VOTE, &encode_vote(&vote)).map_err(cannot_write)?;
    put(txn, meta_key::STORE, &store_id.to_le_bytes()).map_err(cannot_write)?;
    for (index, payload) in (before.index + 1..).zip(payloads) {
        let entry = RaftLogEntry { log_id: LogId { leader_id, index }, payload };
        let record = encode_record(&entry).map_err(|e| Error::internal(format!("the new log entries: {e}")))?;
        let insert = || -> Result<(), redb::Error> {
            txn.open_table(LOG)?.insert(index, record.as_slice())?;
            Ok(())
        };
        insert().map_err(cannot_write)?;
    }
    close_gap(txn, before).map_err(cannot_write)
}

/// Purges the log if it ends before the last applied entry, as it may after a snapshot was installed: no entry may be missing
/// before the new ones.
fn close_gap(txn: &WriteTransaction, before: &FolderSummary) -> Result<(), redb::Error> {
    let has_last = txn.open_table(LOG)?.get(before.index)?.is_some();
    if has_last || before.applied < before.index {
        return Ok(());
    }
    let Some(applied) = meta(txn, meta_key::APPLIED)? else { return Ok(()) };
    txn.open_table(LOG)?.retain_in(..=before.index, |_, _| false)?;
    put(txn, meta_key::PURGED, &applied)
}

fn put(txn: &WriteTransaction, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    txn.open_table(META)?.insert(key, value)?;
    Ok(())
}
