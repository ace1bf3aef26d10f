//! Transactions: puts into two tables, which take effect together or not at all.

use rand::Rng;
use volley_common::TransactionId;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, EndTransaction, Write, WriteMode, WriteState, reply};

use super::{ProposalOutcome, SimClient, effect_of, name_of, stage_command, write_hash};

impl SimClient {
    /// Begins the writes, stages a stream into each, and commits; rolls back if a step fails, or by chance.
    pub(super) async fn transact(&mut self) {
        let id = format!("tx{:012x}{:032x}", self.cluster.now_ms(), self.new_id());
        let first = self.rng.random_range(0..self.tables);
        // The same one, if there is no other: its second put then fails.
        let second = (first + self.rng.random_range(1..self.tables.max(2))) % self.tables;
        let mut writes = Vec::new();
        for table in [first, second] {
            let Some(write) = self.put_in(&id, &name_of(table)).await else { break };
            writes.push(write);
        }
        let commit = writes.len() == 2 && self.rng.random_bool(0.9);
        let end = EndTransaction { id, commit, ..EndTransaction::default() };
        let checks = self.cluster.checks.clone();
        let invoked = checks.tick();
        let (answer, unknown) = self.propose_with_retries(Op::EndTransaction(end)).await;
        let returned = match answer {
            ProposalOutcome::Replied(reply::Reply::Transaction(ended)) if ended.state() == WriteState::Committed => {
                Some(checks.tick())
            }
            ProposalOutcome::Replied(reply::Reply::Transaction(_)) | ProposalOutcome::NotProposed => return,
            // It may have been committed by an earlier attempt, and forgotten since.
            ProposalOutcome::Replied(_) if !unknown => return,
            ProposalOutcome::Replied(_) | ProposalOutcome::Unknown => None,
        };
        // A rollback has no effect that a reader sees.
        for write in writes.iter().filter(|_| commit) {
            let effect = effect_of(write.mode(), write_hash(&write.id));
            checks.history.lock().add(&write.table[0], effect, invoked, returned, None);
        }
    }

    /// A put in a transaction: its write, if a stream was staged into it.
    async fn put_in(&mut self, transaction: &str, table: &[String]) -> Option<Write> {
        let mode = [WriteMode::Append, WriteMode::Replace, WriteMode::Create][self.rng.random_range(0..10) / 4];
        let id = transaction.parse::<TransactionId>().ok()?.write_id(table);
        let begin = self.begin(table, mode, true);
        let begin = BeginWrite { id, transaction: transaction.into(), ..begin };
        let write = match self.propose_with_retries(Op::BeginWrite(begin)).await {
            (ProposalOutcome::Replied(reply::Reply::Write(write)), _) => write,
            _ => return None,
        };
        let (stream, parts) = (self.new_id(), self.parts(&write.id));
        match self.propose_with_retries(Op::StageParts(stage_command(&write, stream, parts))).await {
            (ProposalOutcome::Replied(reply::Reply::Done(_)), _) => Some(write),
            _ => None,
        }
    }
}
