//! The keys that sign tickets and assertions, and their replacement while the cluster runs.
//!
//! A new key goes through three steps, so that at no time a member signs with a key that another one does not accept:
//!
//! 1. `RotateTicketKey` makes it the next key. Members accept it and do not sign with it yet.
//! 2. After a time in which every member has learned it, `Expire` makes it the key that signs. The one before is a former key.
//! 3. A former key is accepted until the tickets that it signed have expired, or, if it was stolen, only until the calls that
//!    members made last with it have ended. Then `Expire` removes it.
//!
//! **Invariant**: each step raises the epoch of the identities, by which members notice it.

use bytes::Bytes;
use volley_common::wire::catalog::{FormerTicketKey, NextTicketKey, RotateTicketKey, reply};
use volley_common::{Error, Result, clock};

use super::apply::done;
use super::query::not_formed;
use super::{Catalog, RowKey};

const KEY_BYTES: usize = 32;
/// Maximum number of former keys: what claims to be a ticket is compared with each.
pub(super) const MAX_FORMER: usize = 3;

/// Queries.
impl Catalog {
    /// The keys that are accepted besides the one that signs: the next one, and former ones.
    pub fn accepted_ticket_keys(&self) -> impl Iterator<Item = &Bytes> {
        let next = self.cluster.iter().flat_map(|cluster| &cluster.next_ticket_key).map(|next| &next.key);
        next.chain(self.cluster.iter().flat_map(|cluster| &cluster.former_ticket_keys).map(|former| &former.key))
    }

    /// The longest retention of a table or an old version, milliseconds; 0: none has one of its own.
    pub fn longest_retention_ms(&self) -> u64 {
        let tables = self.tables.values().map(|table| &table.spec);
        let specs = tables.chain(self.layouts.values().map(|layout| &layout.spec));
        specs.flatten().map(|spec| spec.retention_ms).max().unwrap_or_default()
    }

    /// Whether `Expire` would take a step.
    pub(super) fn needs_ticket_key_step(&self, now: u64) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| {
            cluster.next_ticket_key.as_ref().is_some_and(|next| next.signs_from_ms <= now)
                || cluster.former_ticket_keys.iter().any(|former| former.until_ms <= now)
        })
    }
}

/// Changes.
impl Catalog {
    pub(super) fn rotate_ticket_key(&mut self, op: &RotateTicketKey, now: u64) -> Result<reply::Reply> {
        let cluster = self.cluster.as_mut().ok_or_else(not_formed)?;
        if op.key.len() != KEY_BYTES {
            return Err(Error::invalid(format!(
                "a ticket key has {KEY_BYTES} bytes, and this one has {}",
                op.key.len()
            )));
        }
        let is_next = cluster.next_ticket_key.as_ref().is_some_and(|next| next.key == op.key);
        // A repeated command.
        if is_next || cluster.ticket_key == op.key {
            return Ok(done());
        }
        if let Some(next) = &cluster.next_ticket_key {
            return Err(Error::precondition(format!(
                "the members are learning a new ticket key already: rotate again after it signs, in {}",
                clock::span(next.signs_from_ms.saturating_sub(now) + 1000)
            )));
        }
        if cluster.former_ticket_keys.len() >= MAX_FORMER && !op.revoke_former {
            return Err(Error::exhausted(format!(
                "{MAX_FORMER} former ticket keys are accepted still, because tickets that they signed are valid: wait until the first of these have expired, or revoke the tickets"
            )));
        }
        let signs_from_ms = now.saturating_add(op.sign_after_ms);
        if op.revoke_former {
            let until_ms = signs_from_ms.saturating_add(op.keep_former_ms);
            cluster.former_ticket_keys.iter_mut().for_each(|former| former.until_ms = former.until_ms.min(until_ms));
        }
        let (key, keep_former_ms) = (op.key.clone(), op.keep_former_ms);
        cluster.next_ticket_key = Some(NextTicketKey { key, signs_from_ms, keep_former_ms });
        self.touched.insert(RowKey::Cluster);
        self.raise_identity_epoch();
        Ok(done())
    }

    /// Makes the next key sign, and removes former ones, if it is time.
    pub(super) fn step_ticket_keys(&mut self, now: u64) {
        if !self.needs_ticket_key_step(now) {
            return;
        }
        let Some(cluster) = self.cluster.as_mut() else { return };
        if let Some(next) = cluster.next_ticket_key.take_if(|next| next.signs_from_ms <= now) {
            let key = std::mem::replace(&mut cluster.ticket_key, next.key);
            // From now on, however late this is: it has signed until now.
            let until_ms = now.saturating_add(next.keep_former_ms);
            cluster.former_ticket_keys.push(FormerTicketKey { key, until_ms });
        }
        cluster.former_ticket_keys.retain(|former| former.until_ms > now);
        // Only after the tickets of former keys were revoked: the oldest one has not signed for the longest time.
        let excess = cluster.former_ticket_keys.len().saturating_sub(MAX_FORMER);
        cluster.former_ticket_keys.drain(..excess);
        self.touched.insert(RowKey::Cluster);
        self.raise_identity_epoch();
    }
}
