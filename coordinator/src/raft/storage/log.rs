//! The Raft log and the vote, on a [`RaftStore`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use redb::{ReadableTable, ReadableTableMetadata};

use super::queue::StoreWrite;
use super::record;
use super::store::RaftStore;
use crate::raft::runtime::blocking;
use crate::raft::tables::{LOG, decode_log_id, decode_vote, encode_log_id, encode_vote, meta_key};
use crate::raft::types::{LogId, RaftLogEntry, TypeConfig, Vote};

/// Maximum bytes of entries in one message to a follower, unless a single entry is larger.
const MESSAGE_BYTES: usize = 4 << 20;
/// Maximum number of durable entries that stay in memory, so that replication and the state machine need not read the disk.
const TAIL_ENTRIES: usize = 1024;
/// Maximum bytes of these entries.
const TAIL_BYTES: usize = 16 << 20;

/// The log. Its clones share its state and serve as its readers.
#[derive(Clone)]
pub struct RaftLog {
    store: Arc<RaftStore>,
    tail: Arc<Mutex<LogTail>>,
}

/// The end of the log, and the log's state, in memory.
#[derive(Default)]
struct LogTail {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Every entry that is not durable yet, and the newest durable ones, each with its length: a suffix of the log.
    entries: BTreeMap<u64, (RaftLogEntry, usize)>,
    bytes: usize,
    /// Entries below this index are durable.
    durable: u64,
    /// Entries from this index on were appended since the log was opened.
    opened: u64,
}

impl LogTail {
    fn push(&mut self, entry: RaftLogEntry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.bytes += bytes;
        self.entries.insert(entry.log_id.index, (entry, bytes));
    }

    fn remove_from(&mut self, index: u64) {
        let removed = self.entries.split_off(&index);
        self.bytes -= removed.values().map(|(_, bytes)| bytes).sum::<usize>();
    }

    fn remove_upto(&mut self, index: u64) {
        self.entries = self.entries.split_off(&(index + 1));
        self.bytes = self.entries.values().map(|(_, bytes)| bytes).sum();
    }

    /// Evicts durable entries beyond the limits.
    fn evict(&mut self) {
        while self.entries.len() > TAIL_ENTRIES || self.bytes > TAIL_BYTES {
            match self.entries.first_entry() {
                Some(first) if *first.key() < self.durable => self.bytes -= first.remove().1,
                _ => return,
            }
        }
    }
}

impl RaftLog {
    /// Opens the log in a store. Blocks.
    pub fn open(store: Arc<RaftStore>) -> io::Result<RaftLog> {
        let purged = decode_log_id(store.meta(meta_key::PURGED)?)?;
        let vote = store.meta(meta_key::VOTE)?.map(|bytes| decode_vote(&bytes)).transpose()?;
        let table = store.begin_read()?.open_table(LOG).map_err(io::Error::other)?;
        let last = match table.last().map_err(io::Error::other)? {
            Some((_, record)) => Some(record::decode(record.value())?.log_id),
            None => purged,
        };
        let durable = last.map_or(0, |id| id.index + 1);
        let tail = LogTail { vote, purged, last, durable, opened: durable, ..LogTail::default() };
        Ok(RaftLog { store, tail: Arc::new(Mutex::new(tail)) })
    }

    /// The durable vote. A later one that is not durable yet has not been sent to anyone.
    pub fn vote(&self) -> Option<Vote> {
        self.tail.lock().vote
    }

    /// Entries `start..end`, as far as the log still has them.
    pub async fn entries(&self, start: u64, end: u64) -> io::Result<Vec<RaftLogEntry>> {
        self.read(start, end, MESSAGE_BYTES).await
    }

    /// The index from which on the log has entries that were appended since it was opened.
    pub fn first_appended(&self) -> u64 {
        let tail = self.tail.lock();
        tail.opened.max(tail.purged.map_or(0, |id| id.index + 1))
    }

    /// Entries on disk, for tests and measurements. Blocks.
    pub fn len_on_disk(&self) -> io::Result<u64> {
        let table = self.store.begin_read()?.open_table(LOG).map_err(io::Error::other)?;
        table.len().map_err(io::Error::other)
    }

    /// Returns entries `start..end`: at least one, and together at most `limit` bytes beyond it.
    async fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<RaftLogEntry>> {
        let ((disk_start, disk_end), mut in_memory) = self.split_range(start, end);
        if disk_start >= disk_end {
            return Ok(take_up_to(in_memory, limit));
        }
        let store = self.store.clone();
        let mut found = blocking(move || read_entries(&store, disk_start, disk_end, limit)).await??;
        found.append(&mut in_memory);
        Ok(take_up_to(found, limit))
    }

    /// Splits a range into the part to read from disk and the entries in memory.
    fn split_range(&self, start: u64, end: u64) -> ((u64, u64), Vec<(RaftLogEntry, usize)>) {
        let tail = self.tail.lock();
        let start = start.max(tail.purged.map_or(0, |id| id.index + 1));
        let end = end.min(tail.last.map_or(0, |id| id.index + 1));
        if start >= end {
            return ((0, 0), Vec::new());
        }
        let first_in_memory = tail.entries.first_key_value().map_or(end, |(index, _)| (*index).min(end));
        let in_memory = tail.entries.range(start..end).map(|(_, entry)| entry.clone()).collect();
        ((start, first_in_memory), in_memory)
    }
}

fn take_up_to(entries: Vec<(RaftLogEntry, usize)>, limit: usize) -> Vec<RaftLogEntry> {
    let mut left = limit;
    let mut first = true;
    let fits = |(_, bytes): &(RaftLogEntry, usize)| {
        let fits = std::mem::take(&mut first) || *bytes <= left;
        left = left.saturating_sub(*bytes);
        fits
    };
    entries.into_iter().take_while(fits).map(|(entry, _)| entry).collect()
}

fn read_entries(store: &RaftStore, start: u64, end: u64, limit: usize) -> io::Result<Vec<(RaftLogEntry, usize)>> {
    let table = store.begin_read()?.open_table(LOG).map_err(io::Error::other)?;
    let mut entries = Vec::new();
    let mut total = 0;
    for row in table.range(start..end).map_err(io::Error::other)? {
        let (_, record) = row.map_err(io::Error::other)?;
        let bytes = record.value().len();
        entries.push((record::decode(record.value())?, bytes));
        total += bytes;
        if total > limit {
            break;
        }
    }
    Ok(entries)
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftLogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => *index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => *index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftLogEntry>> {
        self.read(start, end, MESSAGE_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.store.write(StoreWrite::SaveVote(encode_vote(vote))).await?;
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftLogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut tail = self.tail.lock();
            for entry in entries {
                let record = record::encode(&entry)?;
                let index = entry.log_id.index;
                tail.push(entry, record.len());
                records.push((index, record));
            }
        }
        let end = records.last().map_or(0, |(index, _)| index + 1);
        let tail = self.tail.clone();
        let completion = move |outcome: io::Result<()>| {
            if outcome.is_ok() {
                let mut tail = tail.lock();
                tail.durable = tail.durable.max(end);
                tail.evict();
            }
            callback.io_completed(outcome);
        };
        self.store.push(StoreWrite::AppendLog(records), Box::new(completion)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        {
            let mut tail = self.tail.lock();
            tail.remove_from(from);
            if tail.last.is_some_and(|last| last.index >= from) {
                tail.last = last_log_id;
            }
        }
        self.store.write(StoreWrite::TruncateLog(from)).await?;
        let mut tail = self.tail.lock();
        tail.durable = tail.durable.min(from);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        {
            let mut tail = self.tail.lock();
            tail.purged = tail.purged.max(Some(log_id));
            tail.last = tail.last.max(Some(log_id));
            tail.remove_upto(log_id.index);
        }
        self.store.write(StoreWrite::PurgeLog(log_id.index, encode_log_id(&log_id))).await
    }
}
