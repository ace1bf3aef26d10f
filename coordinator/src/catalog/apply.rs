//! Dispatch of commands, and the commands of open writes, holders, pins and cancellations.
//!
//! **Invariant**: a rejected command changes nothing.

use std::collections::{BTreeSet, HashSet};

use volley_common::wire::QUERY_RESULT_FEATURES;
use volley_common::wire::catalog::{
    self as wire, BeginWrite, CancelFlight, Command, Done, FormCluster, Part, PinVersion, RenewWrite, Reply,
    UpdateHolders, Write, WriteMode, WriteState, command::Op, reply,
};
use volley_common::{Error, NodeId, PartId, Result, TableName};

use super::query::{no_table, readable, readable_text};
use super::{Catalog, RowKey};

impl Catalog {
    /// Applies a command. A loaded catalog changes in no other way.
    ///
    /// A rejected command changes nothing; its reply is a [`reply::Reply::Refusal`] with a gRPC code and a message.
    pub fn apply(&mut self, command: &Command) -> Reply {
        // The leader's clock may have been set back, or the leader replaced by one whose clock is behind.
        let now = command.now_ms.max(self.clock_ms);
        let result = match &command.op {
            Some(Op::FormCluster(op)) => self.form_cluster(op, now),
            Some(Op::RegisterNode(op)) => self.register_node(op, now),
            Some(Op::SetNodeState(op)) => self.set_node_state(op, now),
            Some(Op::BeginWrite(op)) => self.begin_write(op, now),
            Some(Op::StageParts(op)) => self.stage_parts(op, now),
            Some(Op::RenewWrite(op)) => self.renew_write(op, now),
            Some(Op::CommitWrite(op)) => self.commit_write(op, now),
            Some(Op::AbortWrite(op)) => self.abort_write(op, now),
            Some(Op::CreateTable(op)) => self.create_table(op, now),
            Some(Op::DropTable(op)) => self.drop_table(op, now),
            Some(Op::UpdateHolders(op)) => self.update_holders(op),
            Some(Op::PinVersion(op)) => self.pin_version(op, now),
            Some(Op::CancelFlight(op)) => self.cancel_flight(op),
            Some(Op::Expire(op)) => self.expire(op, now),
            Some(Op::RestoreVersion(op)) => self.restore_version(op, now),
            Some(Op::Clear(_)) => self.clear(),
            Some(Op::SetNodeHealth(op)) => self.set_node_health(op),
            Some(Op::DrainNode(op)) => self.drain_node(op),
            Some(Op::RemoveNode(op)) => self.remove_node(op, now),
            Some(Op::PlaceTables(op)) => self.place_tables(op),
            Some(Op::NameCoordinators(op)) => self.name_coordinators(op),
            Some(Op::AddCoordinator(op)) => self.add_coordinator(op),
            Some(Op::RemoveCoordinator(op)) => self.remove_coordinator(*op),
            Some(Op::RetireStore(op)) => self.retire_store(*op),
            Some(Op::RecoverCluster(op)) => self.recover_cluster(op, now),
            Some(Op::PutUser(op)) => self.put_user(op, now),
            Some(Op::RemoveUser(op)) => self.remove_user(op),
            Some(Op::CreateToken(op)) => self.create_token(op, now),
            Some(Op::RevokeToken(op)) => self.revoke_token(op),
            Some(Op::PutGrant(op)) => self.put_grant(op, now),
            Some(Op::RemoveGrant(op)) => self.remove_grant(op),
            Some(Op::AddSigningKey(op)) => self.add_signing_key(op, now),
            Some(Op::SetQuota(op)) => self.set_quota(op),
            Some(Op::ResetAdministrator(op)) => self.reset_administrator(op, now),
            Some(Op::RotateTicketKey(op)) => self.rotate_ticket_key(op, now),
            Some(Op::EndTransaction(op)) => self.end_transaction(op, now),
            None => Err(Error::unimplemented("the command comes from a newer version: upgrade this coordinator")),
        };
        if result.is_ok() && now > self.clock_ms {
            self.clock_ms = now;
            self.touched.insert(RowKey::Clock);
        }
        let reply = result.unwrap_or_else(|error| {
            reply::Reply::Refusal(wire::Refusal { code: error.code as i32, message: error.message })
        });
        Reply { reply: Some(reply) }
    }

    fn form_cluster(&mut self, op: &FormCluster, now: u64) -> Result<reply::Reply> {
        // Every coordinator of a new cluster may propose this. The first proposal wins; later ones have no effect.
        if self.cluster.is_none() {
            let (id, ticket_key) = (op.id.clone(), op.ticket_key.clone());
            self.touched.insert(RowKey::Cluster);
            let cluster = wire::Cluster { id, ticket_key, created_ms: now, next_table: 1, ..wire::Cluster::default() };
            self.cluster = Some(cluster);
        }
        Ok(done())
    }

    fn begin_write(&mut self, op: &BeginWrite, now: u64) -> Result<reply::Reply> {
        TableName::from_components(&op.table)?;
        volley_common::options::check_write_id(&op.id)?;
        if !op.transaction.is_empty() {
            self.check_in_transaction(op, now)?;
        }
        self.check_begin_of_put(op)?;
        if let Some(old) = self.write(&op.id)
            && old.state != WriteState::Aborted as i32
            && let Some(resumed) = resume_write(&old, op, self.has_streams(&op.id), now)?
        {
            if resumed.state() == WriteState::Open {
                self.upsert_write(resumed.clone());
            }
            return Ok(reply::Reply::Write(resumed));
        }
        if op.query_result && (op.mode() != WriteMode::Create || op.staged) {
            return Err(Error::invalid("the result of a query is a new table, which one put creates"));
        }
        let write = self.new_write(op, now)?;
        // A new write has no streams, whatever an earlier write of this id left.
        self.remove_staged(&op.id);
        self.upsert_write(write.clone());
        self.note_spec(write.spec.as_ref());
        if write.fenced {
            self.note_fenced_write();
        }
        if write.query_result {
            self.require_features(QUERY_RESULT_FEATURES);
        }
        if !op.transaction.is_empty() {
            self.join_transaction(op);
        }
        Ok(reply::Reply::Write(write))
    }

    fn new_write(&self, op: &BeginWrite, now: u64) -> Result<Write> {
        let mut write = Write {
            id: op.id.clone(),
            table: op.table.clone(),
            kind: op.kind,
            mode: op.mode,
            spec: op.spec.clone(),
            schema: op.schema.clone(),
            placement: op.placement.clone(),
            staged: op.staged,
            writer: op.writer,
            writer_boot: op.writer_boot,
            attempt: op.attempt,
            lease_until_ms: now.saturating_add(op.lease_ms),
            transaction: op.transaction.clone(),
            fenced: op.fenced,
            query_result: op.query_result,
            ..Write::default()
        };
        match (self.find(&op.table), op.mode()) {
            (Some(_), WriteMode::Create) => return Err(already_there(&op.table)),
            (None, WriteMode::Append | WriteMode::Compact) => return Err(no_table(&op.table)),
            (Some(table), WriteMode::Append | WriteMode::Compact) => {
                let unchanged = (op.table_id == 0 || op.table_id == table.id)
                    && (op.schema.is_empty() || op.schema == table.schema);
                if !unchanged {
                    return Err(Error::aborted(format!(
                        "table {:?} was replaced while the append to it was planned: try again",
                        op.table.join("/")
                    )));
                }
                if op.mode() == WriteMode::Compact {
                    self.check_begin_compaction(op, table)?;
                    write.sources.clone_from(&op.sources);
                }
                write.table_id = table.id;
                write.kind = table.kind;
                write.spec.clone_from(&table.spec);
                write.schema.clone_from(&table.schema);
                // The first write of a table that was created empty places it.
                if !table.placement.is_empty() {
                    write.placement.clone_from(&table.placement);
                }
            }
            (_, WriteMode::Replace) | (None, WriteMode::Create) => write.table_id = op.table_id,
        }
        if !op.query_result {
            self.check_quota_to_begin(&op.table, op.mode())?;
        }
        Ok(write)
    }

    fn renew_write(&mut self, op: &RenewWrite, now: u64) -> Result<reply::Reply> {
        let mut write = self.open_write(&op.write)?.clone();
        renew(&mut write, op.lease_ms, now);
        self.upsert_write(write);
        Ok(done())
    }

    fn update_holders(&mut self, op: &UpdateHolders) -> Result<reply::Reply> {
        for change in &op.changes {
            if let Some(part) = &change.part {
                self.set_held(PartId::from(part), change.node, change.held);
            }
        }
        Ok(done())
    }

    fn pin_version(&mut self, op: &PinVersion, now: u64) -> Result<reply::Reply> {
        let table = self.tables.get(&op.table).ok_or_else(|| {
            Error::not_found(format!("table {} does not exist any more: call get_flight_info again", op.table))
        })?;
        if !readable(table, op.version, now) {
            return Err(Error::not_found(format!(
                "version {} of table {:?} is no longer kept: {}",
                op.version,
                table.name.join("/"),
                readable_text(table, now)
            )));
        }
        let mut table = table.clone();
        match table.pins.iter_mut().find(|pin| pin.version == op.version) {
            Some(pin) => pin.until_ms = pin.until_ms.max(op.until_ms),
            None => table.pins.push(wire::Pin { version: op.version, until_ms: op.until_ms }),
        }
        self.upsert_table(table);
        Ok(done())
    }

    fn cancel_flight(&mut self, op: &CancelFlight) -> Result<reply::Reply> {
        let until_ms = self.cancelled.get(&op.flight).map_or(0, |old| old.until_ms).max(op.until_ms);
        self.touched.insert(RowKey::Cancelled(op.flight));
        self.cancelled.insert(op.flight, wire::Cancelled { flight: op.flight, until_ms });
        Ok(done())
    }

    /// An open write by id.
    ///
    /// # Errors
    /// NOT_FOUND: unknown id. ABORTED: aborted. FAILED_PRECONDITION: already committed.
    pub(super) fn open_write(&self, id: &str) -> Result<&Write> {
        if let Some(write) = self.open.get(id) {
            return Ok(write);
        }
        match self.finished.get(id) {
            Some(write) if write.state() == WriteState::Aborted => Err(aborted(&write)),
            Some(_) => {
                Err(Error::precondition(format!("write {id:?} is committed already: begin another one for more rows")))
            }
            None => Err(Error::not_found(format!(
                "there is no write {id:?}: it was never begun, or it ended long ago; begin one"
            ))),
        }
    }

    /// Checks the new parts of a write against each other and against the catalog.
    pub(super) fn check_parts(&self, write: &Write, parts: &[Part]) -> Result<()> {
        let shards = write.spec.as_ref().map_or(1, |spec| spec.shards.max(1));
        let min_copies = write.spec.as_ref().map_or(1, |spec| spec.min_copies.max(1)) as usize;
        let mut seen = HashSet::with_capacity(parts.len());
        for part in parts {
            let id = part.part_id();
            let bad = |why: &str| Err(Error::invalid(format!("part {id} of write {:?} {why}", write.id)));
            if part.id.is_none() {
                return bad("has no id");
            }
            if part.holders.is_empty() {
                return bad("has no holder");
            }
            let holders: BTreeSet<u64> = part.holders.iter().copied().collect();
            if holders.len() < min_copies {
                return Err(Error::precondition(format!(
                    "part {id} of write {:?} has {} copies, and a put of table {:?} needs {min_copies} of every part before it is committed: copy it to more nodes, and commit again",
                    write.id,
                    holders.len(),
                    write.table.join("/")
                )));
            }
            if holders.iter().filter(|node| !self.was_removed(NodeId(**node))).count() < min_copies {
                return Err(Error::aborted(format!(
                    "part {id} of write {:?} is on a node that was removed from the cluster during the write: put the rows again",
                    write.id
                )));
            }
            if part.shard >= shards {
                return bad(&format!("belongs to shard {}, but the table has {shards} shards", part.shard));
            }
            if !seen.insert(id) || self.parts.get(id).is_some() {
                return bad("is listed twice");
            }
        }
        Ok(())
    }
}

/// The reply to a `BeginWrite` whose id is known and not aborted: the recorded write, with its plan. `None` if the command is
/// a new attempt that replaces it. `has_streams`: something was staged into it.
fn resume_write(old: &Write, op: &BeginWrite, has_streams: bool, now: u64) -> Result<Option<Write>> {
    if old.table != op.table {
        return Err(Error::invalid(format!(
            "write id {:?} was used for table {:?}, not {:?}: choose another",
            op.id,
            old.table.join("/"),
            op.table.join("/")
        )));
    }
    if old.state() == WriteState::Open && old.transaction != op.transaction {
        return Err(Error::invalid(format!(
            "the write id {:?} is in use by a write of a transaction, or by a put of none: choose another",
            op.id
        )));
    }
    let mut write = old.clone();
    match (old.state(), old.staged) {
        (WriteState::Open, true) if !op.transaction.is_empty() && op.attempt != old.attempt => {
            // What was staged by the old plan stays, and so does a plan that this one does not know.
            return match has_streams || op.replaces_attempt != old.attempt {
                true => Err(Error::aborted(format!(
                    "another put into table {:?} began in the same transaction while this one was planned: put the rows again",
                    old.table.join("/")
                ))),
                false => Ok(None),
            };
        }
        (WriteState::Open, true) => renew(&mut write, op.lease_ms, now),
        (WriteState::Open, false) if op.staged => {
            return Err(Error::precondition(format!(
                "write id {:?} belongs to a put that is in progress: begin_write needs another id",
                op.id
            )));
        }
        // The same attempt, planned by another coordinator too: its node has one of the plans, so there may be only one.
        (WriteState::Open, false) if op.attempt != 0 && op.attempt == old.attempt => {
            renew(&mut write, op.lease_ms, now)
        }
        (WriteState::Open, false) => return Ok(None),
        (WriteState::Committed | WriteState::Aborted, _) => {}
    }
    Ok(Some(write))
}

pub(super) fn renew(write: &mut Write, lease_ms: u64, now: u64) {
    write.lease_until_ms = write.lease_until_ms.max(now.saturating_add(lease_ms));
}

pub(super) fn done() -> reply::Reply {
    reply::Reply::Done(Done {})
}

pub(super) fn already_there(name: &[String]) -> Error {
    Error::exists(format!(
        "table {:?} exists already: drop it first, or put with mode replace or append",
        name.join("/")
    ))
}

pub(super) fn aborted(write: &Write) -> Error {
    let (id, reason) = (&write.id, &write.abort_reason);
    Error::aborted(match (write.end_unknown, write.fenced) {
        (true, _) => format!(
            "write {id:?} has ended: {reason}; look whether its rows are in the table, and begin another write if they are not"
        ),
        (false, true) => format!(
            "write {id:?} was aborted: {reason}; nothing of it is visible: begin another write, and put all of its rows again"
        ),
        (false, false) => format!("write {id:?} was aborted: {reason}"),
    })
}
