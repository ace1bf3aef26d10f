//! What must be: the one log, the catalog that follows from it, and what of it was acknowledged.

use std::collections::{BTreeMap, HashMap};

use openraft::EntryPayload;
use prost::Message;
use volley_common::wire::catalog::{Command, Reply, command};
use volley_coordinator::catalog::{Catalog, RowKey};
use volley_coordinator::raft::types::{Entry, LogId};
use xxhash_rust::xxh3::xxh3_64;

/// Why the run is wrong.
pub type Violation = String;

/// Every committed entry, in order, and what it came to.
#[derive(Default)]
pub struct Oracle {
    log: Vec<Committed>,
    catalog: Catalog,
    rows: BTreeMap<RowKey, u64>,
    /// At which indexes a command stands.
    places: HashMap<u64, Vec<usize>>,
    /// Entries that somebody was told of: whatever begins now comes after them.
    known: usize,
    /// How often a command was tried.
    tried: HashMap<u64, u32>,
    /// Commands of which a client was told that they were not proposed.
    refused: Vec<(u64, String)>,
}

struct Committed {
    id: LogId,
    content: u64,
    reply: Reply,
    /// Of all rows after it.
    digest: u64,
}

/// A command but for its time.
pub fn mark(op: &command::Op) -> u64 {
    xxh3_64(&Command { now_ms: 0, op: Some(op.clone()) }.encode_to_vec())
}

/// A digest of all rows, in whatever order.
pub fn digest(catalog: &Catalog) -> u64 {
    catalog.rows().fold(0, |sum, row| sum ^ xxh3_64(&row.encode_to_vec()))
}

fn content(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(op) => xxh3_64(&op.0.encode_to_vec()),
        EntryPayload::Membership(members) => xxh3_64(format!("{members:?}").as_bytes()),
    }
}

impl Oracle {
    /// The catalog after everything that is committed.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// How many entries are committed.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// A coordinator stands at this entry, which must be committed.
    pub fn stands_at(&self, who: u64, last: Option<LogId>) -> Result<usize, Violation> {
        let Some(last) = last else { return Ok(0) };
        match self.log.get(last.index as usize) {
            Some(committed) if committed.id == last => Ok(last.index as usize + 1),
            Some(committed) => {
                Err(format!("coordinator {who} stands at {last}, but {} is committed there", committed.id))
            }
            None => Err(format!("coordinator {who} stands at {last}, which nobody applied")),
        }
    }

    /// A coordinator applies an entry after `at` others: the same one as everybody else.
    pub fn applies(&mut self, who: u64, at: usize, entry: &Entry) -> Result<(), Violation> {
        let index = entry.log_id.index as usize;
        if index != at {
            return Err(format!("coordinator {who} applies {} after {at} entries", entry.log_id));
        }
        let content = content(entry);
        match self.log.get(index) {
            Some(there) if there.id == entry.log_id && there.content == content => Ok(()),
            Some(there) => Err(format!(
                "logs differ: coordinator {who} applies {} where {} was applied{}",
                entry.log_id,
                there.id,
                if there.id == entry.log_id { ", of other content" } else { "" }
            )),
            None if index == self.log.len() => {
                self.commit(entry, content);
                Ok(())
            }
            None => Err(format!("coordinator {who} applies {} before anything between", entry.log_id)),
        }
    }

    fn commit(&mut self, entry: &Entry, content: u64) {
        let mut reply = Reply::default();
        let mut digest = self.log.last().map_or(0, |last| last.digest);
        if let EntryPayload::Normal(op) = &entry.payload {
            reply = self.catalog.apply(&op.0);
            for change in self.catalog.take_changes() {
                let row = change.row.map(|row| xxh3_64(&row.encode_to_vec()));
                let old = match row {
                    Some(row) => self.rows.insert(change.key, row),
                    None => self.rows.remove(&change.key),
                };
                digest ^= old.unwrap_or(0) ^ row.unwrap_or(0);
            }
            if let Some(op) = &op.0.op {
                self.places.entry(mark(op)).or_default().push(self.log.len());
            }
        }
        self.log.push(Committed { id: entry.log_id, content, reply, digest });
    }

    /// A catalog after `at` entries is as it must be.
    pub fn compare(&self, who: u64, at: usize, found: &Catalog) -> Result<(), Violation> {
        let expected = at.checked_sub(1).map_or(0, |last| self.log[last].digest);
        if digest(found) == expected {
            return Ok(());
        }
        let mut text = format!("coordinator {who} has another catalog after {at} entries than follows from them");
        if at == self.log.len() {
            let rows = |catalog: &Catalog| catalog.rows().map(|row| format!("{row:?}")).collect::<Vec<_>>();
            let (ours, theirs) = (rows(&self.catalog), rows(found));
            let missing = ours.iter().filter(|row| !theirs.contains(row)).map(|row| format!("\n  missing: {row}"));
            let more = theirs.iter().filter(|row| !ours.contains(row)).map(|row| format!("\n  more: {row}"));
            text.extend(missing.chain(more));
        }
        Err(text)
    }

    /// What everybody could know when an operation begins.
    pub fn now(&self) -> usize {
        self.known
    }

    /// The same when a command is tried.
    pub fn tries(&mut self, op: &command::Op) -> usize {
        *self.tried.entry(mark(op)).or_default() += 1;
        self.known
    }

    /// An answer: the command stands in the log after what was known when it began, and came to just this.
    pub fn acknowledged(&mut self, op: &command::Op, began: usize, reply: &Reply) -> Result<(), Violation> {
        let places = self.places.get(&mark(op)).map_or(&[][..], Vec::as_slice);
        let place = places.iter().find(|place| **place >= began && self.log[**place].reply == *reply).copied();
        match place {
            Some(place) => {
                self.known = self.known.max(place + 1);
                Ok(())
            }
            None => {
                Err(format!("{op:?} was answered with {reply:?}, but after {began} entries it stands at {places:?}"))
            }
        }
    }

    /// A read showed the catalog after `at` entries: nothing that was known may be missing.
    pub fn read(&mut self, who: u64, began: usize, at: usize) -> Result<(), Violation> {
        if at < began {
            return Err(format!("a read from coordinator {who} is stale: it shows {at} entries, {began} were known"));
        }
        self.known = self.known.max(at);
        Ok(())
    }

    /// A client was told that a command was not proposed.
    pub fn not_proposed(&mut self, op: &command::Op, why: &str) {
        self.refused.push((mark(op), why.to_string()));
    }

    /// At the end: what was not proposed is nowhere, unless it was tried another time.
    pub fn check_refused(&self) -> Result<(), Violation> {
        let mut once = self.refused.iter().filter(|(mark, _)| self.tried.get(mark) == Some(&1));
        let found = once.find_map(|(mark, why)| Some((self.places.get(mark)?, why)));
        match found {
            Some((places, why)) => Err(format!("a command that was refused ({why}) stands in the log at {places:?}")),
            None => Ok(()),
        }
    }
}
