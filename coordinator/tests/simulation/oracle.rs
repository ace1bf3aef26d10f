//! The expected state: the committed log, the catalog that results from it, and the acknowledged entries.

use std::collections::{BTreeMap, HashMap};

use openraft::EntryPayload;
use prost::Message;
use volley_common::wire::catalog::{Command, Reply, command};
use volley_coordinator::catalog::{Catalog, RowKey};
use volley_coordinator::raft::types::{LogId, RaftLogEntry};
use xxhash_rust::xxh3::xxh3_64;

/// Why a run failed.
pub type SimViolation = String;

/// Every committed entry, in order, and its result.
#[derive(Default)]
pub struct Oracle {
    log: Vec<CommittedEntry>,
    catalog: Catalog,
    rows: BTreeMap<RowKey, u64>,
    /// The indexes at which a command was committed.
    positions: HashMap<u64, Vec<usize>>,
    /// The number of acknowledged entries: every operation that starts now comes after them.
    acknowledged: usize,
    /// The number of attempts to propose a command.
    attempts: HashMap<u64, u32>,
    /// Commands that were answered with "not proposed", and the message.
    not_proposed: Vec<(u64, String)>,
}

struct CommittedEntry {
    id: LogId,
    content: u64,
    reply: Reply,
    /// Digest of all rows after it.
    digest: u64,
}

/// Identifies a command, without its time.
fn fingerprint(op: &command::Op) -> u64 {
    xxh3_64(&Command { now_ms: 0, op: Some(op.clone()) }.encode_to_vec())
}

/// A digest of all rows, independent of their order.
pub fn digest(catalog: &Catalog) -> u64 {
    catalog.rows().fold(0, |sum, row| sum ^ xxh3_64(&row.encode_to_vec()))
}

fn content(entry: &RaftLogEntry) -> u64 {
    match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(command) => xxh3_64(&command.0.encode_to_vec()),
        EntryPayload::Membership(membership) => xxh3_64(format!("{membership:?}").as_bytes()),
    }
}

impl Oracle {
    /// The catalog after everything that is committed.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The number of committed entries.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Checks that the entry to which a coordinator was restored is committed; returns the number of entries applied.
    pub fn restored(&self, who: u64, last: Option<LogId>) -> Result<usize, SimViolation> {
        let Some(last) = last else { return Ok(0) };
        match self.log.get(last.index as usize) {
            Some(committed) if committed.id == last => Ok(last.index as usize + 1),
            Some(committed) => {
                Err(format!("coordinator {who} was restored to {last}, but {} is committed there", committed.id))
            }
            None => Err(format!("coordinator {who} was restored to {last}, which is not committed")),
        }
    }

    /// Checks that an entry, which a coordinator applies after `at` others, is the same as on every other coordinator.
    pub fn applying(&mut self, who: u64, at: usize, entry: &RaftLogEntry) -> Result<(), SimViolation> {
        let index = entry.log_id.index as usize;
        if index != at {
            return Err(format!("coordinator {who} applies {} after {at} entries", entry.log_id));
        }
        let content = content(entry);
        match self.log.get(index) {
            Some(there) if there.id == entry.log_id && there.content == content => Ok(()),
            Some(there) => Err(format!(
                "logs differ: coordinator {who} applies {} where {} is committed{}",
                entry.log_id,
                there.id,
                if there.id == entry.log_id { ", with other content" } else { "" }
            )),
            None if index == self.log.len() => {
                self.commit(entry, content);
                Ok(())
            }
            None => Err(format!("coordinator {who} applies {} before the entries in between", entry.log_id)),
        }
    }

    fn commit(&mut self, entry: &RaftLogEntry, content: u64) {
        let mut reply = Reply::default();
        let mut digest = self.log.last().map_or(0, |last| last.digest);
        if let EntryPayload::Normal(command) = &entry.payload {
            reply = self.catalog.apply(&command.0);
            for change in self.catalog.take_changes() {
                let row = change.row.map(|row| xxh3_64(&row.encode_to_vec()));
                let old = match row {
                    Some(row) => self.rows.insert(change.key, row),
                    None => self.rows.remove(&change.key),
                };
                digest ^= old.unwrap_or(0) ^ row.unwrap_or(0);
            }
            if let Some(op) = &command.0.op {
                self.positions.entry(fingerprint(op)).or_default().push(self.log.len());
            }
        }
        self.log.push(CommittedEntry { id: entry.log_id, content, reply, digest });
    }

    /// Checks a catalog after `at` entries.
    pub fn compare(&self, who: u64, at: usize, found: &Catalog) -> Result<(), SimViolation> {
        let expected = at.checked_sub(1).map_or(0, |last| self.log[last].digest);
        if digest(found) == expected {
            return Ok(());
        }
        let mut text = format!("the catalog of coordinator {who} after {at} entries is not the expected one");
        if at == self.log.len() {
            let rows = |catalog: &Catalog| catalog.rows().map(|row| format!("{row:?}")).collect::<Vec<_>>();
            let (ours, theirs) = (rows(&self.catalog), rows(found));
            let missing = ours.iter().filter(|row| !theirs.contains(row)).map(|row| format!("\n  missing: {row}"));
            let more = theirs.iter().filter(|row| !ours.contains(row)).map(|row| format!("\n  unexpected: {row}"));
            text.extend(missing.chain(more));
        }
        Err(text)
    }

    /// The number of acknowledged entries: an operation that starts now must see them.
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged
    }

    /// Counts an attempt to propose a command; returns the number of acknowledged entries.
    pub fn attempt(&mut self, op: &command::Op) -> usize {
        *self.attempts.entry(fingerprint(op)).or_default() += 1;
        self.acknowledged
    }

    /// Checks that an answered command was committed after the `start` entries that were acknowledged when it was proposed, with
    /// the result that was answered.
    pub fn acknowledged(&mut self, op: &command::Op, start: usize, reply: &Reply) -> Result<(), SimViolation> {
        let positions = self.positions.get(&fingerprint(op)).map_or(&[][..], Vec::as_slice);
        let found = positions.iter().find(|at| **at >= start && self.log[**at].reply == *reply).copied();
        match found {
            Some(at) => {
                self.acknowledged = self.acknowledged.max(at + 1);
                Ok(())
            }
            None => Err(format!(
                "{op:?} was answered with {reply:?}, but after {start} entries it is in the log at {positions:?}"
            )),
        }
    }

    /// Checks that a read, which showed the catalog after `at` entries, saw the `start` entries that were acknowledged before it.
    pub fn read(&mut self, who: u64, start: usize, at: usize) -> Result<(), SimViolation> {
        if at < start {
            return Err(format!(
                "a read from coordinator {who} is stale: it shows {at} entries, {start} were acknowledged before"
            ));
        }
        self.acknowledged = self.acknowledged.max(at);
        Ok(())
    }

    /// Notes that a command was answered with "not proposed".
    pub fn not_proposed(&mut self, op: &command::Op, why: &str) {
        self.not_proposed.push((fingerprint(op), why.to_string()));
    }

    /// Checks that commands that were not proposed are not in the log, unless they were proposed another time.
    pub fn check_not_proposed(&self) -> Result<(), SimViolation> {
        let mut once = self.not_proposed.iter().filter(|(command, _)| self.attempts.get(command) == Some(&1));
        let found = once.find_map(|(command, why)| Some((self.positions.get(command)?, why)));
        match found {
            Some((positions, why)) => {
                Err(format!("a command that was not proposed ({why}) is in the log at {positions:?}"))
            }
            None => Ok(()),
        }
    }
}
