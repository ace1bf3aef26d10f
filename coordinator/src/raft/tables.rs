//! The redb database of a coordinator: its tables, the keys of `meta`, and the encoding of their values.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | a name, see [`meta_key`] | see there |
//! | `log` | log index | a log record, see `storage::record` |
//! | `rows` | a catalog row's key | the row, protobuf `Row` |

use std::io;

use prost::Message;
use redb::{Database, Durability, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use volley_common::wire::raft as wire;

use super::rpc::convert::{log_id_in, log_id_out, membership_in, membership_out, vote_in, vote_out};
use super::types::{LogId, SnapshotMeta, StoredMembership, Vote};

/// Values by name.
pub const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Log records by index.
pub const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// The catalog's rows by key.
pub const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// The keys of [`META`]. Numbers are 8 bytes, little-endian.
pub mod meta_key {
    /// Number: the layout of the database.
    pub const FORMAT: &str = "format";
    /// Number: the id of the coordinator that owns the folder.
    pub const COORDINATOR: &str = "coordinator";
    /// Number: the random id of the folder.
    pub const STORE: &str = "store";
    /// Protobuf `Vote`.
    pub const VOTE: &str = "vote";
    /// Protobuf `LogId`: the last entry that was purged from the log.
    pub const PURGED: &str = "purged";
    /// Protobuf `LogId`: the last entry that was applied to the rows.
    pub const APPLIED: &str = "applied";
    /// Protobuf `SnapshotHeader` with only the membership set: the membership at [`APPLIED`].
    pub const MEMBERSHIP: &str = "membership";
}

fn damaged(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the catalog's store is damaged: {error}"))
}

/// Encodes a log id.
pub fn encode_log_id(id: &LogId) -> Vec<u8> {
    log_id_out(id).encode_to_vec()
}

/// Decodes a log id; absent or empty bytes are none.
pub fn decode_log_id(bytes: Option<Vec<u8>>) -> io::Result<Option<LogId>> {
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let id = wire::LogId::decode(bytes.as_slice()).map_err(damaged)?;
    log_id_in(Some(id)).map_err(damaged)
}

/// Encodes a vote.
pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    vote_out(vote).encode_to_vec()
}

/// Decodes a vote.
pub fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    vote_in(Some(wire::Vote::decode(bytes).map_err(damaged)?)).map_err(damaged)
}

/// Encodes a membership.
pub fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    let header = wire::SnapshotHeader {
        membership_log_id: stored.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(stored.membership())),
        ..Default::default()
    };
    header.encode_to_vec()
}

/// Decodes a membership.
pub fn decode_membership(bytes: &[u8]) -> io::Result<StoredMembership> {
    let header = wire::SnapshotHeader::decode(bytes).map_err(damaged)?;
    let membership = membership_in(header.membership.unwrap_or_default()).map_err(damaged)?;
    Ok(StoredMembership::new(log_id_in(header.membership_log_id).map_err(damaged)?, membership))
}

/// Reads a value of [`META`].
pub fn read_meta(txn: &ReadTransaction, key: &str) -> io::Result<Option<Vec<u8>>> {
    let table = txn.open_table(META).map_err(io::Error::other)?;
    let value = table.get(key).map_err(io::Error::other)?;
    Ok(value.map(|guard| guard.value().to_vec()))
}

/// Reads the last applied entry and the membership.
pub fn read_applied(txn: &ReadTransaction) -> io::Result<SnapshotMeta> {
    let last_log_id = decode_log_id(read_meta(txn, meta_key::APPLIED)?)?;
    let last_membership = match read_meta(txn, meta_key::MEMBERSHIP)? {
        Some(bytes) => decode_membership(&bytes)?,
        None => StoredMembership::default(),
    };
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// Reads a number of an open [`META`] table.
pub fn meta_number(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> redb::Result<Option<u64>> {
    let value = table.get(key)?;
    Ok(value.and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes)))
}

/// Begins a transaction that is durable once it is committed, and leaves a database that opens without a repair.
pub fn begin_durable_write(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}
