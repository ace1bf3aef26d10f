//! Transactions: staged writes, at most one to each table, that one command makes visible at once, or none of them.
//!
//! A transaction has a row from its first write on; one that has written nothing needs none. It stays open as long as the lease
//! of one of its writes. An ended one is remembered for a while. Of the aborted ones that are forgotten the latest begin is kept:
//! what began earlier is neither continued nor committed, because the rows that it lost would not be missed.

use std::collections::HashSet;

use volley_common::wire::catalog::{
    BeginWrite, EndTransaction, Expire, Part, Refusal, StageParts, Table, Transaction, Write, WriteMode, WriteState,
    reply,
};
use volley_common::{Error, PartId, Result, TransactionId};

use super::query::not_formed;
use super::{Catalog, RowKey};

/// Maximum number of tables that one transaction writes to. Its row names all of its writes.
const MAX_TABLES_PER_TRANSACTION: usize = 256;
/// By how much the clock of the member that made a transaction's id may be ahead of the catalog's time, milliseconds. Aborted
/// ones that are ahead refuse new ones for as long once they are forgotten, and so does a recovery.
const MAX_CLOCK_LEAD_MS: u64 = 60_000;
/// Maximum bytes of the reason of an abort that are kept.
const MAX_REASON: usize = 512;

/// A write of a transaction that may become visible: the table as it will be, without the new parts in its totals.
struct PendingCommit {
    write: Write,
    table: Table,
    parts: Vec<Part>,
}

impl Catalog {
    /// A transaction by id, while it is open or remembered.
    pub fn transaction(&self, id: &str) -> Option<&Transaction> {
        self.transactions.get(id).or_else(|| self.ended_transactions.get(id))
    }

    /// How many open transactions a principal has.
    pub fn open_transactions_of(&self, principal: &str) -> usize {
        self.transactions.values().filter(|open| open.principal == principal).count()
    }

    /// The open writes of a transaction, in the order in which they began.
    pub fn writes_of<'a>(&'a self, transaction: &'a Transaction) -> impl Iterator<Item = &'a Write> {
        transaction.writes.iter().filter_map(|id| self.open.get(id))
    }

    /// Whether there ever was a transaction: then every coordinator must know their commands and rows.
    pub fn has_had_transactions(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.forgotten_transactions_ms != 0)
    }

    /// Checks that a principal may write in a transaction: it is the principal's own and open, or has written nothing yet.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: no id of a transaction. NOT_FOUND: another principal's. FAILED_PRECONDITION: committed, or begun too long
    /// ago. ABORTED: aborted.
    pub fn check_open_transaction(&self, id: &str, principal: &str) -> Result<()> {
        let parsed: TransactionId = id.parse()?;
        match self.transaction(id) {
            Some(known) if known.principal != principal => Err(no_transaction(id)),
            Some(known) if known.state() == WriteState::Open => Ok(()),
            Some(known) => Err(match &known.abort {
                Some(abort) => Error::aborted(format!(
                    "transaction {id} was rolled back, and this statement had no effect: {}; roll back, and begin another transaction",
                    abort.message
                )),
                None => committed_already(id),
            }),
            None => self.check_not_forgotten(parsed),
        }
    }

    /// Checks that a transaction without a row has never had one: no aborted transaction that began as late is forgotten.
    ///
    /// # Errors
    /// FAILED_PRECONDITION.
    pub fn check_not_forgotten(&self, id: TransactionId) -> Result<()> {
        let forgotten_ms = self.cluster.as_ref().map_or(0, |cluster| cluster.forgotten_transactions_ms);
        if id.began_ms() > forgotten_ms {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "transaction {id} began so long ago that it is no longer known whether it has ended: if it had written and was not committed, nothing of it is visible; roll back, and begin another one"
        )))
    }

    /// Checks that a write may be begun in its transaction.
    pub(super) fn check_in_transaction(&self, op: &BeginWrite, now: u64) -> Result<()> {
        if self.cluster.is_none() {
            return Err(not_formed());
        }
        if !op.staged || op.mode() == WriteMode::Compact {
            return Err(Error::invalid(format!("write {:?} of a transaction is not staged", op.id)));
        }
        self.check_open_transaction(&op.transaction, &op.principal)?;
        let id: TransactionId = op.transaction.parse()?;
        if op.id != id.write_id(&op.table) {
            return Err(Error::invalid(format!(
                "write {:?} is not that of transaction {id} to table {:?}",
                op.id,
                op.table.join("/")
            )));
        }
        // Its transaction is forgotten, and this write is not yet: its outcome is no reply to other rows.
        if self.finished.get(&op.id).is_some_and(|write| write.state() == WriteState::Committed) {
            return Err(committed_already(&op.transaction));
        }
        let Some(open) = self.transactions.get(&op.transaction) else {
            return match id.began_ms() > now.saturating_add(MAX_CLOCK_LEAD_MS) {
                true => Err(Error::invalid(format!(
                    "transaction {id} begins in the future: the clock of the member that began it is wrong"
                ))),
                false => Ok(()),
            };
        };
        if open.writes.len() >= MAX_TABLES_PER_TRANSACTION && !open.writes.contains(&op.id) {
            return Err(Error::exhausted(format!(
                "transaction {} writes to {MAX_TABLES_PER_TRANSACTION} tables, the most that one may: use several transactions",
                open.id
            )));
        }
        Ok(())
    }

    /// Adds a new write to its transaction, which gets a row with its first one.
    pub(super) fn join_transaction(&mut self, op: &BeginWrite) {
        let new = || Transaction {
            id: op.transaction.clone(),
            principal: op.principal.clone(),
            state: WriteState::Open as i32,
            ..Transaction::default()
        };
        let mut transaction = self.transactions.get(&op.transaction).cloned().unwrap_or_else(new);
        if !transaction.writes.contains(&op.id) {
            transaction.writes.push(op.id.clone());
        }
        self.upsert_transaction(transaction);
        self.forget_transactions_until(1);
    }

    /// Checks a stream before it is staged into a write of a transaction.
    ///
    /// # Errors
    /// ABORTED: the write was planned anew since the stream began. ALREADY_EXISTS, FAILED_PRECONDITION: the stream creates or
    /// replaces the table, and another one has been staged before.
    pub(super) fn check_stream_in_transaction(&self, write: &Write, op: &StageParts) -> Result<()> {
        if op.attempt != write.attempt {
            return Err(Error::aborted(format!(
                "another put into table {:?} began in the same transaction, with another mode, schema or option, before this one was complete: put the rows again",
                write.table.join("/")
            )));
        }
        match op.only_first && self.has_streams(&write.id) {
            true => Err(written_already(write)),
            false => Ok(()),
        }
    }

    pub(super) fn end_transaction(&mut self, op: &EndTransaction, now: u64) -> Result<reply::Reply> {
        let known = self.transaction(&op.id).filter(|known| known.principal == op.principal);
        let known = known.ok_or_else(|| no_transaction(&op.id))?.clone();
        let ended = match (known.state(), op.commit) {
            (WriteState::Open, true) => match self.pending_commits(&known, now) {
                Ok(commits) => self.commit_all(&known, commits, now),
                Err(error) => self.abort_all(&known, error, now),
            },
            (WriteState::Open, false) => {
                let reason = if op.reason.is_empty() { "its client asked for it" } else { &op.reason };
                self.abort_all(&known, Error::aborted(reason), now)
            }
            (WriteState::Committed, false) => {
                return Err(Error::precondition(format!(
                    "transaction {} is committed already: it cannot be rolled back",
                    op.id
                )));
            }
            (WriteState::Committed, true) | (WriteState::Aborted, _) => known,
        };
        Ok(reply::Reply::Transaction(ended))
    }

    /// What a commit makes visible. A write without a stream is left out: its puts failed.
    ///
    /// # Errors
    /// That of the first write that cannot be committed. RESOURCE_EXHAUSTED: all of them together exceed a quota.
    fn pending_commits(&self, transaction: &Transaction, now: u64) -> Result<Vec<PendingCommit>> {
        let (mut commits, mut created) = (Vec::new(), 0);
        let (mut tables, mut part_ids) = (HashSet::new(), HashSet::new());
        for id in &transaction.writes {
            let write =
                self.open.get(id).ok_or_else(|| Error::aborted(format!("its write {id:?} is not open any more")))?;
            if !self.has_streams(id) {
                continue;
            }
            if !tables.insert(&write.table) {
                return Err(Error::internal(format!("it has two writes to table {:?}", write.table.join("/"))));
            }
            let parts = self.parts_to_commit(write, &[])?;
            if let Some(twice) = parts.iter().map(Part::part_id).find(|id: &PartId| !part_ids.insert(*id)) {
                return Err(Error::invalid(format!("part {twice} was staged into two writes of the transaction")));
            }
            let mut table = self.table_to_commit(write, now)?;
            if self.find(&write.table).is_none() {
                table.id = table.id.saturating_add(created);
                created += 1;
            }
            commits.push(PendingCommit { write: write.clone(), table, parts });
        }
        self.check_quotas_to_commit(commits.iter().map(|commit| (&commit.table, &commit.parts[..])))?;
        Ok(commits)
    }

    fn commit_all(&mut self, open: &Transaction, commits: Vec<PendingCommit>, now: u64) -> Transaction {
        for PendingCommit { write, table, parts } in commits {
            self.make_visible(write, table, &parts, now);
        }
        for id in &open.writes {
            self.record_aborted(id, "no put of it succeeded before its transaction was committed", now);
        }
        let state = WriteState::Committed as i32;
        let ended = Transaction { state, ended_ms: now, writes: Vec::new(), ..open.clone() };
        self.upsert_transaction(ended.clone());
        ended
    }

    fn abort_all(&mut self, open: &Transaction, error: Error, now: u64) -> Transaction {
        let mut message = error.message;
        message.truncate(message.floor_char_boundary(MAX_REASON));
        for id in &open.writes {
            self.record_aborted(id, &format!("its transaction was rolled back: {message}"), now);
        }
        let (state, abort) = (WriteState::Aborted as i32, Some(Refusal { code: error.code as i32, message }));
        let ended = Transaction { state, ended_ms: now, abort, writes: Vec::new(), ..open.clone() };
        self.upsert_transaction(ended.clone());
        ended
    }

    pub(super) fn need_transactions_expiry(&self, limits: &Expire, now: u64) -> bool {
        self.lapsed_transactions(now).next().is_some() || self.ended_transactions.expired(limits, now).next().is_some()
    }

    pub(super) fn expire_transactions(&mut self, limits: &Expire, now: u64) {
        for open in self.lapsed_transactions(now).cloned().collect::<Vec<_>>() {
            self.abort_all(&open, Error::aborted("its lease ran out: nothing was written in it for too long"), now);
        }
        for ended in self.ended_transactions.expired(limits, now).cloned().collect::<Vec<_>>() {
            if let (WriteState::Aborted, Ok(id)) = (ended.state(), ended.id.parse::<TransactionId>()) {
                self.forget_transactions_until(id.began_ms());
            }
            self.remove_transaction(&ended.id);
        }
    }

    /// Open transactions all of whose writes' leases have run out.
    fn lapsed_transactions(&self, now: u64) -> impl Iterator<Item = &Transaction> {
        let has_lapsed = move |open: &&Transaction| self.writes_of(open).all(|write| write.lease_until_ms < now);
        self.transactions.values().filter(has_lapsed)
    }

    /// Forgets the open transactions of a catalog that is recovered, whose writes are forgotten, too. None that has begun by now
    /// can be continued: what it has written may be among the commands that were lost.
    pub(super) fn drop_open_transactions(&mut self, now: u64) {
        for id in self.transactions.keys().cloned().collect::<Vec<_>>() {
            self.remove_transaction(&id);
        }
        if self.has_had_transactions() {
            self.forget_transactions_until(now.saturating_add(MAX_CLOCK_LEAD_MS));
        }
    }

    /// Forgets all transactions. Only those that are not committed are refused from now on, and what began before them.
    pub(super) fn drop_transactions(&mut self) {
        let all = self.transactions.values().chain(self.ended_transactions.iter()).cloned();
        for known in all.collect::<Vec<_>>() {
            if let (WriteState::Open | WriteState::Aborted, Ok(id)) = (known.state(), known.id.parse::<TransactionId>())
            {
                self.forget_transactions_until(id.began_ms());
            }
            self.remove_transaction(&known.id);
        }
    }

    /// Notes that an aborted transaction that began at this time may be forgotten; with a time of 1, that there is one at all.
    fn forget_transactions_until(&mut self, began_ms: u64) {
        if let Some(cluster) = self.cluster.as_mut()
            && cluster.forgotten_transactions_ms < began_ms
        {
            cluster.forgotten_transactions_ms = began_ms;
            self.touched.insert(RowKey::Cluster);
        }
    }

    fn upsert_transaction(&mut self, transaction: Transaction) {
        self.touched.insert(RowKey::Transaction(transaction.id.clone()));
        self.index_transaction(transaction);
    }

    pub(super) fn index_transaction(&mut self, transaction: Transaction) {
        self.unindex_transaction(&transaction.id);
        if transaction.state() == WriteState::Open {
            self.transactions.insert(transaction.id.clone(), transaction);
        } else {
            self.ended_transactions.insert(transaction);
        }
    }

    fn remove_transaction(&mut self, id: &str) {
        self.touched.insert(RowKey::Transaction(id.to_string()));
        self.unindex_transaction(id);
    }

    pub(super) fn unindex_transaction(&mut self, id: &str) {
        self.transactions.remove(id);
        self.ended_transactions.remove(id);
    }
}

/// The error for a single commit or abort of a write that belongs to a transaction.
pub(super) fn in_transaction(write: &Write) -> Error {
    Error::precondition(format!(
        "write {:?} belongs to transaction {}, which commits or rolls back all its writes: end the transaction",
        write.id, write.transaction
    ))
}

/// The error for a put that creates or replaces a table into which its transaction has put rows.
pub fn written_already(write: &Write) -> Error {
    let table = write.table.join("/");
    match write.mode() {
        WriteMode::Create => Error::exists(format!(
            "table {table:?} is created already in this transaction: append to it, by mode append or create_append"
        )),
        _ => Error::precondition(format!(
            "rows were put into table {table:?} already in this transaction: a put that creates or replaces the table would lose them; append, or commit first"
        )),
    }
}

fn committed_already(id: &str) -> Error {
    Error::precondition(format!(
        "transaction {id} is committed already: begin another one; a prepared statement belongs to the transaction in which it was prepared: prepare it again"
    ))
}

fn no_transaction(id: &str) -> Error {
    Error::not_found(format!("there is no transaction {id}: it ended long ago, or another principal began it"))
}
