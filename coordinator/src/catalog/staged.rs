//! Staged writes: the parts of each stream are a row of their own, so that a stream costs the same however many streams
//! the write has.

use std::collections::{BTreeMap, HashSet};

use volley_common::wire::catalog::{Part, StageParts, StagedStream, Write, reply};
use volley_common::{Error, Result};

use super::apply::{done, renew};
use super::fencing::check_stream;
use super::{Catalog, RowKey};

/// The streams of one open write.
#[derive(Default)]
pub(super) struct StagedStreams {
    by_index: BTreeMap<u64, StagedStream>,
    ids: HashSet<u64>,
    parts: u64,
}

impl StagedStreams {
    fn insert(&mut self, row: StagedStream) {
        self.remove(row.index);
        self.ids.insert(row.stream);
        self.parts += row.parts.len() as u64;
        self.by_index.insert(row.index, row);
    }

    fn remove(&mut self, index: u64) {
        if let Some(old) = self.by_index.remove(&index) {
            self.ids.remove(&old.stream);
            self.parts -= old.parts.len() as u64;
        }
    }
}

impl Catalog {
    pub(super) fn stage_parts(&mut self, op: &StageParts, now: u64) -> Result<reply::Reply> {
        let mut write = self.open_write(&op.write)?.clone();
        if !write.staged {
            return Err(Error::precondition(format!(
                "write {:?} is a single put, not one begun by begin_write: nothing can be staged into it",
                op.write
            )));
        }
        check_stream(&write, op)?;
        let staged = self.staged.get(&op.write);
        if write.streams.contains(&op.stream) || staged.is_some_and(|staged| staged.ids.contains(&op.stream)) {
            return Ok(done());
        }
        if !write.schema.is_empty() && !op.schema.is_empty() && write.schema != op.schema {
            return Err(Error::invalid(format!(
                "the stream's schema differs from that of the streams before it in write {:?}: all must have the same schema",
                op.write
            )));
        }
        if !write.transaction.is_empty() {
            self.check_stream_in_transaction(&write, op)?;
        }
        self.check_parts(&write, &op.parts)?;
        if write.schema.is_empty() {
            write.schema.clone_from(&op.schema);
        }
        let first = write.parts.len() as u64 + staged.map_or(0, |staged| staged.parts);
        let last = staged.and_then(|staged| staged.by_index.keys().next_back());
        let numbered = (first..).zip(&op.parts);
        let parts = numbered.map(|(seq, part)| Part { seq, write: op.write.clone(), ..part.clone() }).collect();
        let index = last.map_or(0, |last| last + 1);
        self.upsert_staged(StagedStream { write: op.write.clone(), index, stream: op.stream, parts });
        renew(&mut write, op.lease_ms, now);
        self.upsert_write(write);
        Ok(done())
    }

    /// The parts that were staged into an open write, in the order of staging.
    pub fn staged_parts<'a>(&'a self, write: &'a Write) -> impl Iterator<Item = &'a Part> {
        let staged = self.staged.get(&write.id);
        let streams = staged.into_iter().flat_map(|staged| staged.by_index.values());
        write.parts.iter().chain(streams.flat_map(|stream| &stream.parts))
    }

    /// How many parts were staged into an open write.
    fn staged_part_count(&self, write: &Write) -> u64 {
        write.parts.len() as u64 + self.staged.get(&write.id).map_or(0, |staged| staged.parts)
    }

    /// How many parts were staged into an open write, and into the others of its transaction.
    pub fn staged_with(&self, write: &Write) -> u64 {
        match self.transaction(&write.transaction) {
            Some(transaction) => self.writes_of(transaction).map(|write| self.staged_part_count(write)).sum(),
            None => self.staged_part_count(write),
        }
    }

    /// Whether a stream was staged into an open write, perhaps without rows.
    pub fn has_streams(&self, write: &str) -> bool {
        self.staged.contains_key(write)
    }

    /// How many writes are open.
    pub fn open_write_count(&self) -> usize {
        self.open.len()
    }

    /// Every stream of an open staged write, in key order.
    pub(super) fn staged_streams(&self) -> impl Iterator<Item = &StagedStream> {
        self.staged.values().flat_map(|staged| staged.by_index.values())
    }

    pub(super) fn staged_stream(&self, write: &str, index: u64) -> Option<&StagedStream> {
        self.staged.get(write)?.by_index.get(&index)
    }

    fn upsert_staged(&mut self, row: StagedStream) {
        self.touched.insert(RowKey::StagedStream { write: row.write.clone(), index: row.index });
        self.index_staged(row);
    }

    pub(super) fn index_staged(&mut self, row: StagedStream) {
        self.staged.entry(row.write.clone()).or_default().insert(row);
    }

    pub(super) fn unindex_staged(&mut self, write: &str, index: u64) {
        if let Some(staged) = self.staged.get_mut(write) {
            staged.remove(index);
            if staged.by_index.is_empty() {
                self.staged.remove(write);
            }
        }
    }

    /// Removes the streams of a write that has ended.
    pub(super) fn remove_staged(&mut self, write: &str) {
        let Some(staged) = self.staged.remove(write) else { return };
        let key = |index: &u64| RowKey::StagedStream { write: write.to_string(), index: *index };
        self.touched.extend(staged.by_index.keys().map(key));
    }
}
