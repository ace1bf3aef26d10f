//! Going on without a majority, when it is lost for good: one stopped data folder is made a cluster of its own.
//!
//! The folder keeps its whole log. Two entries are put behind it, in a term of their own: a Raft group of which this
//! coordinator is the only member, and the command that gives the cluster its next id (see
//! [`volley_common::cluster_id`]) and makes this the only coordinator wanted. Started again it elects itself and applies
//! both. Everything happens in one transaction of the folder's database.
//!
//! What becomes of the lost ones, should they come back? The folder has a new id, so no Raft message of theirs reaches it.
//! The cluster has a new id, so nodes that met it go to them no more; and as soon as one of them and the recovered one
//! can reach each other, it hears that it was left behind, and ends.

use std::collections::BTreeMap;
use std::path::Path;

use openraft::EntryPayload;
use prost::Message;
use redb::{Builder, Database, Durability, ReadableTable, WriteTransaction};
use volley_common::cluster_id::recovered;
use volley_common::wire::catalog::{Command, CoordinatorPeer, RecoverCluster, Row, command, row};
use volley_common::{Error, Result, clock};

use super::convert::{membership_in, vote_in, vote_out};
use super::files::{Disk, Folder};
use super::log::log_id_from;
use super::record;
use super::retired;
use super::runtime::random;
use super::store::{LOG, META, ROWS};
use super::types::{Entry, LeaderId, LogId, Membership, Op, Peer, Vote};
use crate::catalog::RowKey;
use volley_common::wire::raft as wire;

/// What a stopped data folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The cluster's id.
    pub cluster: String,
    /// The coordinators that the folder knows, and their peer addresses.
    pub members: BTreeMap<u64, String>,
    /// The term of the last entry of the log. Of several folders the one with the highest term has the most, and of
    /// those with the same term the one with the highest index.
    pub term: u64,
    /// The index of the last entry of the log.
    pub index: u64,
    /// The index of the last entry that is known to have been committed.
    pub applied: u64,
    store: u64,
    vote_term: u64,
}

/// What a recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// What the folder held.
    pub found: Found,
    /// The cluster's id from now on.
    pub cluster: String,
    /// Where this coordinator is reached.
    pub peer: String,
}

/// Looks into a stopped data folder. Blocks.
///
/// # Errors
/// FAILED_PRECONDITION: the folder is in use, empty, of another coordinator, or of a removed one.
pub fn look(dir: &Path, id: u64) -> Result<Found> {
    let db = open(dir)?;
    let at = |e: redb::Error| damaged(dir, e);
    find(&begin(&db).map_err(at)?, dir, id)
}

/// Makes the coordinator of a stopped data folder go on alone, at `peer` or where it was. Blocks.
///
/// # Errors
/// As [`look`]; FAILED_PRECONDITION if its peer address is not known.
pub fn recover(dir: &Path, id: u64, peer: Option<String>) -> Result<Recovered> {
    let db = open(dir)?;
    let at = |e: redb::Error| damaged(dir, e);
    let txn = begin(&db).map_err(at)?;
    let found = find(&txn, dir, id)?;
    let peer = peer.or_else(|| found.members.get(&id).cloned());
    let peer = peer.ok_or_else(|| Error::invalid("the folder does not know its coordinator's address: give --peer"))?;
    let cluster = recovered(&found.cluster, random() as u32);
    let recovered = Recovered { found, cluster, peer };
    write(&txn, id, &recovered)?;
    txn.commit().map_err(|e| at(e.into()))?;
    Ok(recovered)
}

fn damaged(dir: &Path, error: impl std::fmt::Display) -> Error {
    Error::data_loss(format!("the data folder {}: {error}", dir.display()))
}

fn open(dir: &Path) -> Result<Database> {
    let refuse = |why: &str| Error::precondition(format!("the data folder {} {why}", dir.display()));
    let disk = Folder(dir.to_path_buf());
    retired::check(&disk)?;
    if !dir.join("catalog.redb").exists() {
        return Err(refuse("holds no catalog"));
    }
    disk.database(&Builder::new()).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => refuse("is in use: stop the coordinator first"),
        other => damaged(dir, other),
    })
}

fn begin(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

/// What the folder holds; of the log only its end is read, and the membership entries that were not applied.
fn find(txn: &WriteTransaction, dir: &Path, id: u64) -> Result<Found> {
    let at = |e: redb::Error| damaged(dir, e);
    let bad = |e: std::io::Error| damaged(dir, e);
    let owner = number(txn, "coordinator").map_err(at)?.unwrap_or_default();
    if owner != id {
        let dir = dir.display();
        return Err(Error::precondition(format!("the data folder {dir} belongs to coordinator {owner}, not to {id}")));
    }
    let applied = log_id_from(meta(txn, "applied").map_err(at)?).map_err(bad)?;
    let purged = log_id_from(meta(txn, "purged").map_err(at)?).map_err(bad)?;
    let (logged, members) = read_log(txn, applied, dir)?;
    let last = logged.max(applied).max(purged);
    let cluster = cluster_id(txn).map_err(at)?;
    let (Some(last), false) = (last, cluster.is_empty()) else {
        return Err(Error::precondition(format!("the data folder {} holds no cluster yet", dir.display())));
    };
    let vote = meta(txn, "vote").map_err(at)?.and_then(|bytes| wire::Vote::decode(bytes.as_slice()).ok());
    let vote_term = vote_in(vote).map_or(0, |vote| vote.leader_id.term);
    let members = members.nodes().map(|(id, peer)| (*id, peer.addr.clone())).collect();
    Ok(Found {
        cluster,
        members,
        term: last.leader_id.term,
        index: last.index,
        applied: applied.map_or(0, |id| id.index),
        store: number(txn, "store").map_err(at)?.unwrap_or_default(),
        vote_term,
    })
}

/// The id of the last log entry, and the newest membership.
fn read_log(txn: &WriteTransaction, applied: Option<LogId>, dir: &Path) -> Result<(Option<LogId>, Membership)> {
    let at = |e: redb::Error| damaged(dir, e);
    let bad = |e: std::io::Error| damaged(dir, e);
    let header = meta(txn, "membership").map_err(at)?;
    let header = header.and_then(|bytes| wire::SnapshotHeader::decode(bytes.as_slice()).ok()).unwrap_or_default();
    let mut members = membership_in(header.membership.unwrap_or_default())?;
    let mut last = None;
    let log = txn.open_table(LOG).map_err(|e| at(e.into()))?;
    for record in log.range(applied.map_or(0, |id| id.index)..).map_err(|e| at(e.into()))? {
        let entry = record::decode(record.map_err(|e| at(e.into()))?.1.value()).map_err(bad)?;
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
    Ok(meta(txn, key)?.and_then(|bytes| bytes.try_into().ok().map(u64::from_le_bytes)))
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

/// The vote, the two entries and the folder's new id.
fn write(txn: &WriteTransaction, id: u64, recovered: &Recovered) -> Result<()> {
    let at = |e: redb::Error| Error::data_loss(format!("the data folder cannot be written: {e}"));
    let bad = |e: std::io::Error| Error::internal(format!("the new log entries: {e}"));
    let found = &recovered.found;
    let leader_id = LeaderId { term: found.term.max(found.vote_term) + 1, node_id: id };
    let store = loop {
        let store = random();
        if store != 0 && store != found.store {
            break store;
        }
    };
    let alone = Membership::new(
        vec![std::collections::BTreeSet::from([id])],
        BTreeMap::from([(id, Peer { addr: recovered.peer.clone(), store })]),
    );
    let alone = alone.map_err(|e| Error::internal(format!("a group of one: {e}")))?;
    let coordinator = Some(CoordinatorPeer { id, peer: recovered.peer.clone() });
    let op = Some(command::Op::RecoverCluster(RecoverCluster { id: recovered.cluster.clone(), coordinator }));
    let command = Command { now_ms: clock::now_ms(), op };
    let payloads = [EntryPayload::Membership(alone), EntryPayload::Normal(Op(command.into()))];
    let vote = Vote { leader_id, committed: false };
    put(txn, "vote", &vote_out(&vote).encode_to_vec()).map_err(at)?;
    put(txn, "store", &store.to_le_bytes()).map_err(at)?;
    for (index, payload) in (found.index + 1..).zip(payloads) {
        let entry = Entry { log_id: LogId { leader_id, index }, payload };
        let record = record::encode(&entry).map_err(bad)?;
        let insert = || -> Result<(), redb::Error> {
            txn.open_table(LOG)?.insert(index, record.as_slice())?;
            Ok(())
        };
        insert().map_err(at)?;
    }
    close_gap(txn, found).map_err(at)
}

/// After a snapshot was installed the log may end before what was applied: nothing may be missing between that and the
/// new entries.
fn close_gap(txn: &WriteTransaction, found: &Found) -> Result<(), redb::Error> {
    let has_last = txn.open_table(LOG)?.get(found.index)?.is_some();
    if has_last || found.applied < found.index {
        return Ok(());
    }
    let Some(applied) = meta(txn, "applied")? else { return Ok(()) };
    txn.open_table(LOG)?.retain_in(..=found.index, |_, _| false)?;
    put(txn, "purged", &applied)
}

fn put(txn: &WriteTransaction, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    txn.open_table(META)?.insert(key, value)?;
    Ok(())
}
