//! Ended transactions: what a repeated end is answered with, for a bounded time and number.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::{Expire, Transaction};

/// Maximum number of ended transactions that are kept: each costs some 300 bytes, and up to 512 for its reason.
const MAX_ENDED: u64 = 50_000;
/// How many ended transactions one `Expire` removes at most: all its changes are one transaction of the storage.
const MAX_EXPIRED: usize = 10_000;

/// The ended transactions, by id and by age.
#[derive(Default)]
pub(super) struct EndedTransactions {
    rows: BTreeMap<String, Transaction>,
    /// (end time, id), the oldest first.
    by_age: BTreeSet<(u64, String)>,
}

impl EndedTransactions {
    pub(super) fn insert(&mut self, transaction: Transaction) {
        self.remove(&transaction.id);
        self.by_age.insert((transaction.ended_ms, transaction.id.clone()));
        self.rows.insert(transaction.id.clone(), transaction);
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(old) = self.rows.remove(id) {
            self.by_age.remove(&(old.ended_ms, old.id));
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Transaction> {
        self.rows.get(id)
    }

    /// By id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Transaction> {
        self.rows.values()
    }

    /// The oldest transactions that are past the limits of time or number, but no more than one `Expire` removes.
    pub(super) fn expired<'a>(&'a self, limits: &Expire, now: u64) -> impl Iterator<Item = &'a Transaction> {
        let most = if limits.max_finished_writes == 0 { MAX_ENDED } else { limits.max_finished_writes.min(MAX_ENDED) };
        let excess = (self.rows.len() as u64).saturating_sub(most) as usize;
        let retention_ms = limits.write_id_retention_ms;
        let oldest = self.by_age.iter().enumerate();
        let expired =
            oldest.take_while(move |(at, (ended, _))| *at < excess || ended.saturating_add(retention_ms) < now);
        expired.take(MAX_EXPIRED).filter_map(|(_, (_, id))| self.rows.get(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: u64) -> Transaction {
        Transaction { id: id.to_string(), ended_ms: 100 + id, ..Transaction::default() }
    }

    #[test]
    fn oldest_ended_transactions_expire_by_time_and_number() {
        let mut transactions = EndedTransactions::default();
        (0..20).for_each(|id| transactions.insert(ended(id)));
        transactions.insert(ended(3));
        let expired =
            |limits: Expire, now| transactions.expired(&limits, now).map(|it| it.ended_ms).collect::<Vec<_>>();
        let limits = Expire { write_id_retention_ms: 1000, ..Expire::default() };
        assert!(expired(limits, 1100).is_empty());
        assert_eq!(expired(limits, 1103), [100, 101, 102]);
        assert_eq!(expired(Expire { max_finished_writes: 18, ..limits }, 0), [100, 101]);
    }

    #[test]
    fn backlog_of_ended_transactions_expires_in_steps() {
        let mut transactions = EndedTransactions::default();
        (0..MAX_ENDED + 11_000).for_each(|id| transactions.insert(ended(id)));
        let limits = Expire { write_id_retention_ms: u64::MAX, ..Expire::default() };
        let mut steps = Vec::new();
        loop {
            let expired: Vec<String> = transactions.expired(&limits, 0).map(|it| it.id.clone()).collect();
            if expired.is_empty() {
                break;
            }
            expired.iter().for_each(|id| transactions.remove(id));
            steps.push(expired.len());
        }
        assert_eq!((steps, transactions.by_age.len()), (vec![MAX_EXPIRED, 1_000], MAX_ENDED as usize));
    }
}
