//! Fenced writes: what was meant for a staged write that has ended gets neither into a later write of its id nor, as a put of
//! its own, into the table.
//!
//! A write that `begin_write` begins is fenced once every coordinator knows this. Its attempt is the fencing token.

use volley_common::wire::catalog::{BeginWrite, CommitWrite, StageParts, Write, WriteState};
use volley_common::{Error, Result};

use super::apply::aborted;
use super::{Catalog, RowKey};

impl Catalog {
    /// Whether there ever was a fenced write: then every coordinator must know them.
    pub fn has_had_fenced_writes(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.had_fenced_writes)
    }

    /// Checks that a put may have this write id, if the put is no part of a transaction.
    ///
    /// # Errors
    /// ABORTED: a staged write had the id, and was aborted.
    pub fn check_put_id(&self, id: &str) -> Result<()> {
        match self.write(id) {
            Some(known) if refuses_puts(&known) => Err(aborted(&known)),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the command by which a put begins. With the id of a staged write it joins that write: it does not begin it, and does
    /// not follow it as a put of its own.
    ///
    /// # Errors
    /// ABORTED.
    pub(super) fn check_begin_of_put(&self, op: &BeginWrite) -> Result<()> {
        // `begin_write` names no writer.
        if op.writer == 0 || !op.transaction.is_empty() {
            return Ok(());
        }
        self.check_put_id(&op.id)?;
        let is_there = self.write(&op.id).is_some_and(|known| known.state() != WriteState::Aborted);
        match op.fenced && !is_there {
            true => Err(Error::aborted(format!(
                "write {:?} has ended since this put was planned: begin another write, and put all of its rows again",
                op.id
            ))),
            false => Ok(()),
        }
    }

    /// Notes that there is a fenced write.
    pub(super) fn note_fenced_write(&mut self) {
        if let Some(cluster) = self.cluster.as_mut()
            && !cluster.had_fenced_writes
        {
            cluster.had_fenced_writes = true;
            self.touched.insert(RowKey::Cluster);
        }
    }

    /// Ends an open write of a catalog that is recovered. Its commit may be among those that were lost, so that nothing may
    /// conclude that it ended without one; only late puts of a fenced write are refused.
    pub(super) fn end_in_recovery(&mut self, id: &str, now: u64) {
        self.remove_staged(id);
        let Some(mut write) = self.open.get(id).filter(|write| write.fenced).cloned() else {
            return self.remove_write(id);
        };
        write.set_state(WriteState::Aborted);
        write.abort_reason = "the cluster was recovered while it was open, and may have lost its commit".into();
        write.ended_ms = now;
        write.end_unknown = true;
        self.upsert_write(write);
    }
}

/// Whether a put with the id of this write is refused: it is a fenced write that was aborted.
pub fn refuses_puts(write: &Write) -> bool {
    write.fenced && write.state() == WriteState::Aborted
}

/// Checks that a stream belongs to the open write into which it is staged, and not to an earlier one of its id.
///
/// # Errors
/// ABORTED.
pub(super) fn check_stream(write: &Write, op: &StageParts) -> Result<()> {
    // Nodes of earlier versions do not say it.
    let is_earlier = op.begun != 0 && op.begun != write.attempt;
    match write.fenced && is_earlier {
        true => Err(Error::aborted(format!(
            "write {:?} was aborted, and another one of this id was begun, before this put was complete: put the rows again if they belong to that one",
            write.id
        ))),
        false => Ok(()),
    }
}

/// Whether a commit is that of a put that had the id of this open write before.
pub(super) fn is_superseded(write: &Write, op: &CommitWrite) -> bool {
    match write.staged {
        // The action `commit_write` names no attempt.
        true => write.fenced && op.attempt != 0,
        false => write.attempt != op.attempt,
    }
}
