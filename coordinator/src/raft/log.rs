//! The Raft log and the vote, on [`Store`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata};
use volley_common::wire::raft as wire;

use super::convert::{log_id_in, log_id_out, vote_in, vote_out};
use super::queue::Job;
use super::record;
use super::runtime::blocking;
use super::store::{LOG, Store};
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Entries of this many bytes go out in one message (one at least).
const MESSAGE_BYTES: usize = 4 << 20;
/// Durable entries kept in memory, so that followers and the state machine need not read the disk.
const TAIL_ENTRIES: usize = 1024;
/// The same in bytes.
const TAIL_BYTES: usize = 16 << 20;

/// The log; cheap to clone. Its clones are its readers.
#[derive(Clone)]
pub struct Log {
    store: Arc<Store>,
    tail: Arc<Mutex<Tail>>,
}

/// The log's end, and what else is known of it without the disk.
#[derive(Default)]
struct Tail {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    // Every entry that is not durable yet, and the newest that are: a suffix of the log.
    entries: BTreeMap<u64, (Entry, usize)>,
    bytes: usize,
    // The index up to which (exclusive) entries are durable.
    durable: u64,
}

impl Tail {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.bytes += bytes;
        self.entries.insert(entry.log_id.index, (entry, bytes));
    }

    fn remove_from(&mut self, index: u64) {
        let gone = self.entries.split_off(&index);
        self.bytes -= gone.values().map(|(_, bytes)| bytes).sum::<usize>();
    }

    fn remove_upto(&mut self, index: u64) {
        let kept = self.entries.split_off(&(index + 1));
        self.entries = kept;
        self.bytes = self.entries.values().map(|(_, bytes)| bytes).sum();
    }

    fn trim(&mut self) {
        while self.entries.len() > TAIL_ENTRIES || self.bytes > TAIL_BYTES {
            match self.entries.first_entry() {
                Some(first) if *first.key() < self.durable => self.bytes -= first.remove().1,
                _ => return,
            }
        }
    }
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the catalog's store is damaged: {error}"))
}

/// A log id's bytes, as the store has them.
pub fn log_id_bytes(id: &LogId) -> Vec<u8> {
    log_id_out(id).encode_to_vec()
}

/// A log id from the store's bytes.
pub fn log_id_from(bytes: Option<Vec<u8>>) -> io::Result<Option<LogId>> {
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let id = wire::LogId::decode(bytes.as_slice()).map_err(bad)?;
    log_id_in(Some(id)).map_err(bad)
}

impl Log {
    /// The log that is in a store. Blocks.
    pub fn open(store: Arc<Store>) -> io::Result<Log> {
        let purged = log_id_from(store.meta("purged")?)?;
        let vote = match store.meta("vote")? {
            Some(bytes) => Some(vote_in(Some(wire::Vote::decode(bytes.as_slice()).map_err(bad)?)).map_err(bad)?),
            None => None,
        };
        let table = store.begin_read()?.open_table(LOG).map_err(io::Error::other)?;
        let last = match table.last().map_err(io::Error::other)? {
            Some((_, record)) => Some(record::decode(record.value())?.log_id),
            None => purged,
        };
        let durable = last.map_or(0, |id| id.index + 1);
        let tail = Tail { vote, purged, last, durable, ..Tail::default() };
        Ok(Log { store, tail: Arc::new(Mutex::new(tail)) })
    }

    /// The vote that is durable here. Whoever was given a later one has not been told so yet.
    pub fn vote(&self) -> Option<Vote> {
        self.tail.lock().vote
    }

    /// Entries on disk now: for tests and measurements.
    pub fn len_on_disk(&self) -> io::Result<u64> {
        let table = self.store.begin_read()?.open_table(LOG).map_err(io::Error::other)?;
        table.len().map_err(io::Error::other)
    }

    /// Entries `start..end` of at most `limit` bytes together, but one at least.
    async fn get(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let (on_disk, mut in_memory) = self.split(start, end);
        if on_disk.0 >= on_disk.1 {
            return Ok(limited(in_memory, limit));
        }
        let store = self.store.clone();
        let read = move || read_entries(&store, on_disk.0, on_disk.1, limit);
        let mut found = blocking(read).await??;
        found.append(&mut in_memory);
        Ok(limited(found, limit))
    }

    /// What of a range must be read from disk, and what is here.
    fn split(&self, start: u64, end: u64) -> ((u64, u64), Vec<(Entry, usize)>) {
        let tail = self.tail.lock();
        let start = start.max(tail.purged.map_or(0, |id| id.index + 1));
        let end = end.min(tail.last.map_or(0, |id| id.index + 1));
        if start >= end {
            return ((0, 0), Vec::new());
        }
        let first = tail.entries.first_key_value().map_or(end, |(index, _)| (*index).min(end));
        let here = tail.entries.range(start..end).map(|(_, entry)| entry.clone()).collect();
        ((start, first), here)
    }
}

fn limited(entries: Vec<(Entry, usize)>, limit: usize) -> Vec<Entry> {
    let mut left = limit;
    let mut first = true;
    let fits = |(_, bytes): &(Entry, usize)| {
        let fits = std::mem::take(&mut first) || *bytes <= left;
        left = left.saturating_sub(*bytes);
        fits
    };
    entries.into_iter().take_while(fits).map(|(entry, _)| entry).collect()
}

fn read_entries(store: &Store, start: u64, end: u64, limit: usize) -> io::Result<Vec<(Entry, usize)>> {
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

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
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
        self.get(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.get(start, end, MESSAGE_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.store.write(Job::Vote(vote_out(vote).encode_to_vec())).await?;
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut tail = self.tail.lock();
            for entry in entries {
                let record = record::encode(&entry)?;
                tail.push(entry.clone(), record.len());
                records.push((entry.log_id.index, record));
            }
        }
        let upto = records.last().map_or(0, |(index, _)| index + 1);
        let tail = self.tail.clone();
        let done = move |outcome: io::Result<()>| {
            if outcome.is_ok() {
                let mut tail = tail.lock();
                tail.durable = tail.durable.max(upto);
                tail.trim();
            }
            callback.io_completed(outcome);
        };
        self.store.push(Job::Append(records), Box::new(done)).await
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
        self.store.write(Job::Truncate(from)).await?;
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
        self.store.write(Job::Purge(log_id.index, log_id_bytes(&log_id))).await
    }
}
