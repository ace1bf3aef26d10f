//! Finished writes: what a repeated write id is answered with, for a bounded time, number and size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use volley_common::wire::catalog::{Expire, Write, WriteOutcome, WriteState};

/// About how many finished writes one `Expire` removes at most: all its changes are one transaction of every coordinator.
const MAX_EXPIRED: usize = 10_000;
/// Maximum bytes of an abort reason that are kept.
const MAX_REASON: usize = 512;

/// The finished writes, by id and by age. A write costs the length of its row (some 80 bytes), and about 250 bytes for its
/// id and the two indexes.
#[derive(Default)]
pub(super) struct FinishedWrites {
    rows: BTreeMap<Arc<str>, FinishedWrite>,
    /// (end time, id), the oldest first.
    by_age: BTreeSet<(u64, Arc<str>)>,
    bytes: u64,
}

/// A finished write as its row: encoded, because hardly any is read again.
struct FinishedWrite {
    ended_ms: u64,
    encoded: Box<[u8]>,
}

impl FinishedWrites {
    /// Inserts a write without what only an open one needs.
    pub(super) fn insert(&mut self, write: Write) {
        let compact = compact(write);
        let encoded = compact.encode_to_vec().into_boxed_slice();
        self.remove(&compact.id);
        let id: Arc<str> = compact.id.into();
        self.bytes += encoded.len() as u64;
        self.by_age.insert((compact.ended_ms, id.clone()));
        self.rows.insert(id, FinishedWrite { ended_ms: compact.ended_ms, encoded });
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        let Some((id, old)) = self.rows.remove_entry(id) else { return false };
        self.bytes -= old.encoded.len() as u64;
        self.by_age.remove(&(old.ended_ms, id))
    }

    pub(super) fn get(&self, id: &str) -> Option<Write> {
        self.rows.get(id).map(|row| decode(&row.encoded))
    }

    /// By id.
    pub(super) fn iter(&self) -> impl Iterator<Item = Write> {
        self.rows.values().map(|row| decode(&row.encoded))
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The limits of an `Expire` that removes the oldest of the writes that are past `limits`, but not many more than
    /// [`MAX_EXPIRED`]: larger limits, rather than a rule of the command, because coordinators of an earlier version apply
    /// it too.
    pub(super) fn expiry_step(&self, limits: &Expire, now: u64) -> Expire {
        if self.expired(limits, now).nth(MAX_EXPIRED).is_none() {
            return *limits;
        }
        let first_kept = self.by_age.iter().nth(MAX_EXPIRED).map_or(now, |(ended, _)| *ended);
        let oldest = self.by_age.iter().take(MAX_EXPIRED).filter_map(|(_, id)| self.rows.get(id));
        let bytes: u64 = oldest.map(|row| row.encoded.len() as u64).sum();
        let at_least = |limit: u64, least: u64| if limit == 0 { 0 } else { limit.max(least) };
        Expire {
            write_id_retention_ms: limits.write_id_retention_ms.max(now.saturating_sub(first_kept)),
            max_finished_writes: at_least(limits.max_finished_writes, (self.rows.len() - MAX_EXPIRED) as u64),
            max_finished_bytes: at_least(limits.max_finished_bytes, self.bytes - bytes),
        }
    }

    /// The ids of the oldest writes that are past the limits of time, number or size.
    pub(super) fn expired<'a>(&'a self, limits: &Expire, now: u64) -> impl Iterator<Item = &'a str> {
        let at_most = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        let retention_ms = limits.write_id_retention_ms;
        let (most, most_bytes) = (at_most(limits.max_finished_writes), at_most(limits.max_finished_bytes));
        let (mut left, mut bytes_left) = (self.rows.len() as u64, self.bytes);
        let is_expired = move |(ended, id): &&(u64, Arc<str>)| {
            let expired = ended.saturating_add(retention_ms) < now || left > most || bytes_left > most_bytes;
            left -= 1;
            bytes_left -= self.rows.get(id).map_or(0, |row| row.encoded.len() as u64);
            expired
        };
        self.by_age.iter().take_while(is_expired).map(|(_, id)| &**id)
    }
}

/// Keeps only what a repeated write id is answered with. The outcome has the id and the table.
fn compact(write: Write) -> Write {
    let mut reason = write.abort_reason;
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    let (id, state, attempt, ended_ms) = (write.id, write.state, write.attempt, write.ended_ms);
    // Late puts of an aborted write are refused; to those of a committed one its outcome is the answer.
    let fenced = write.fenced && state == WriteState::Aborted as i32;
    let end_unknown = write.end_unknown;
    let mut compact =
        Write { id, state, attempt, ended_ms, abort_reason: reason, fenced, end_unknown, ..Write::default() };
    match write.outcome.filter(|_| state == WriteState::Committed as i32) {
        Some(outcome) => {
            let table = if outcome.table.is_empty() { write.table } else { outcome.table };
            compact.outcome = Some(WriteOutcome { table, write: String::new(), ..outcome });
        }
        None => compact.table = write.table,
    }
    compact
}

/// The inverse of [`compact`], as far as possible.
fn decode(encoded: &[u8]) -> Write {
    // The bytes are this process's own.
    let mut write = Write::decode(encoded).unwrap_or_default();
    if let Some(outcome) = &mut write.outcome {
        outcome.write.clone_from(&write.id);
        write.table.clone_from(&outcome.table);
    }
    write
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::catalog::TableSpec;

    use super::*;

    fn finished(id: u64) -> Write {
        let table = vec!["a".to_string(), "t".to_string()];
        let outcome = WriteOutcome { table: table.clone(), version: id, write: id.to_string(), ..Default::default() };
        Write {
            id: id.to_string(),
            table,
            state: WriteState::Committed as i32,
            spec: Some(TableSpec { shard_by: vec!["k".repeat(1000)], ..TableSpec::default() }),
            schema: vec![7; 1000].into(),
            attempt: 3,
            outcome: Some(outcome),
            ended_ms: 100 + id,
            ..Write::default()
        }
    }

    #[test]
    fn finished_write_keeps_only_its_answer() {
        let mut writes = FinishedWrites::default();
        writes.insert(finished(1));
        let found = writes.get("1").unwrap();
        assert_eq!((found.outcome, found.attempt, found.ended_ms), (finished(1).outcome, 3, 101));
        assert_eq!((found.table, found.spec, found.schema.len()), (finished(1).table, None, 0));
        assert!(writes.bytes < 60, "{} bytes", writes.bytes);
        writes.insert(Write { state: WriteState::Aborted as i32, abort_reason: "é".repeat(9999), ..finished(2) });
        assert!(writes.get("2").unwrap().abort_reason.len() <= MAX_REASON);
        for (state, kept) in [(WriteState::Aborted, true), (WriteState::Committed, false)] {
            writes.insert(Write { state: state as i32, fenced: true, staged: true, ..finished(3) });
            let found = writes.get("3").unwrap();
            assert_eq!((found.fenced, found.staged), (kept, false), "{state:?}");
        }
    }

    #[test]
    fn oldest_writes_beyond_a_limit_are_expired() {
        let mut writes = FinishedWrites::default();
        (0..100).for_each(|id| writes.insert(finished(id)));
        let expired = |limits: Expire, now| writes.expired(&limits, now).count();
        let limits = Expire { write_id_retention_ms: 1000, ..Expire::default() };
        assert_eq!((expired(limits, 0), expired(limits, 1150)), (0, 50));
        assert_eq!(expired(Expire { max_finished_writes: 30, ..limits }, 0), 70);
        let half = Expire { max_finished_bytes: writes.bytes / 2, ..limits };
        assert!((50..52).contains(&expired(half, 0)), "{}", expired(half, 0));
        assert_eq!(writes.expired(&half, 0).next(), Some("0"));
    }

    #[test]
    fn backlog_of_expired_writes_is_removed_in_steps() {
        let by_age = Expire { write_id_retention_ms: 1000, ..Expire::default() };
        let by_number = Expire { write_id_retention_ms: u64::MAX, max_finished_writes: 7, ..Expire::default() };
        let by_size = Expire { max_finished_writes: 0, max_finished_bytes: 100, ..by_number };
        for limits in [by_age, by_number, by_size] {
            let mut writes = FinishedWrites::default();
            (0..25_000).for_each(|id| writes.insert(finished(id)));
            let now = 100_000;
            let (mut steps, wanted) = (Vec::new(), writes.expired(&limits, now).count());
            loop {
                let step = writes.expiry_step(&limits, now);
                let expired: Vec<String> = writes.expired(&step, now).map(str::to_string).collect();
                if expired.is_empty() {
                    break;
                }
                steps.push(expired.len());
                expired.iter().for_each(|id| assert!(writes.remove(id)));
            }
            assert_eq!((steps[..2].to_vec(), steps.len()), (vec![MAX_EXPIRED; 2], 3), "{limits:?}");
            assert_eq!(steps.iter().sum::<usize>(), wanted);
        }
    }

    #[test]
    fn removed_writes_leave_nothing() {
        let mut writes = FinishedWrites::default();
        (0..9).for_each(|id| writes.insert(finished(id)));
        writes.insert(finished(3));
        assert!((0..9).all(|id| writes.remove(&id.to_string())) && !writes.remove("3"));
        assert_eq!((writes.bytes, writes.len(), writes.by_age.len()), (0, 0, 0));
    }
}
