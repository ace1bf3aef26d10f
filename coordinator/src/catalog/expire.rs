//! Expiry of leases, tables, replaced versions, pins, finished writes and transactions, cancellations, service tokens, signing keys and
//! ticket keys.

use volley_common::wire::catalog::{Expire, ExpiredTables, Replaced, Table, Write, reply};
use volley_common::{PartId, Result};

use super::apply::done;
use super::layouts::may_have_layout;
use super::{Catalog, PartRow, RowKey};

impl Catalog {
    /// Whether an `Expire` command would change anything. The leader checks once a second.
    ///
    /// Cheap: examines open writes, the oldest finished write, cancelled flights, the first token to expire, keys,
    /// tables that have expired, tables with replaced versions or pins, and only those parts whose retention has passed (a pin
    /// may still keep them).
    pub fn needs_expiry(&self, now_ms: u64, limits: &Expire) -> bool {
        self.lapsed_writes(now_ms).next().is_some()
            || self.finished.expired(limits, now_ms).next().is_some()
            || self.need_transactions_expiry(limits, now_ms)
            || self.cancelled.values().any(|c| c.until_ms < now_ms)
            || self.identity.needs_expiry(now_ms)
            || self.needs_ticket_key_step(now_ms)
            || !self.expired_tables(now_ms).is_empty()
            || self
                .aging
                .iter()
                .filter_map(|id| self.tables.get(id))
                .any(|table| self.table_needs_expiry(table, now_ms))
    }

    /// The limits of the next `Expire`: these, or larger ones if very many finished writes are past them. The next command
    /// removes more.
    pub fn expiry_step(&self, limits: &Expire, now_ms: u64) -> Expire {
        self.finished.expiry_step(limits, now_ms)
    }

    pub(super) fn expire(&mut self, limits: &Expire, now: u64) -> Result<reply::Reply> {
        for id in self.lapsed_writes(now).map(str::to_string).collect::<Vec<_>>() {
            self.record_aborted(&id, "its lease ran out: nothing was heard of it for too long", now);
        }
        for id in self.finished.expired(limits, now).map(str::to_string).collect::<Vec<_>>() {
            self.remove_write(&id);
        }
        self.expire_transactions(limits, now);
        let expired = self.cancelled.values().filter(|c| c.until_ms < now).map(|c| c.flight);
        for flight in expired.collect::<Vec<_>>() {
            self.touched.insert(RowKey::Cancelled(flight));
            self.cancelled.remove(&flight);
        }
        self.expire_identity(now);
        self.step_ticket_keys(now);
        let aging: Vec<u64> = self.aging.iter().copied().collect();
        aging.into_iter().for_each(|id| self.expire_table(id, now));
        // After writes whose lease has run out: these do not keep their tables.
        let tables = self.drop_expired_tables(now);
        Ok(if tables.is_empty() { done() } else { reply::Reply::Expired(ExpiredTables { tables }) })
    }

    /// Open writes whose lease has run out. Those of transactions end with these.
    fn lapsed_writes(&self, now: u64) -> impl Iterator<Item = &str> {
        let has_lapsed = move |write: &&Write| write.transaction.is_empty() && write.lease_until_ms < now;
        self.open.values().filter(has_lapsed).map(|write| write.id.as_str())
    }

    fn table_needs_expiry(&self, table: &Table, now: u64) -> bool {
        table.pins.iter().any(|pin| pin.until_ms < now)
            || self.expired_parts(table, now).next().is_some()
            || table.replaced.first().is_some_and(|end| is_expired(table, end, now))
            || needed_ends(table, &table.replaced, now).len() < table.replaced.len()
    }

    /// Parts whose retention has passed and that no pin keeps.
    fn expired_parts(&self, table: &Table, now: u64) -> impl Iterator<Item = &PartRow> {
        let before = std::iter::once(0).chain(table.replaced.iter().map(|end| end.version));
        let due = table.replaced.iter().zip(before).filter(move |(end, _)| end.until_ms < now);
        let parts = due.flat_map(|(end, before)| self.parts.removed_by(table.id, before, end.version));
        let pins: Vec<u64> = table.pins.iter().filter(|pin| pin.until_ms >= now).map(|pin| pin.version).collect();
        parts.filter(move |part| !pins.iter().any(|version| part.is_in(*version)))
    }

    fn expire_table(&mut self, id: u64, now: u64) {
        let Some(table) = self.tables.get(&id) else { return };
        if !self.table_needs_expiry(table, now) {
            return;
        }
        let parts: Vec<PartId> = self.expired_parts(table, now).map(PartRow::part_id).collect();
        let expired = table.replaced.iter().take_while(|end| is_expired(table, end, now)).count();
        let mut table = table.clone();
        table.pins.retain(|pin| pin.until_ms >= now);
        for end in table.replaced.drain(..expired) {
            table.oldest = end.version;
        }
        table.replaced = needed_ends(&table, &table.replaced, now).into_iter().copied().collect();
        let layouts = table.replaced.iter().map(|end| end.layout).collect();
        self.remove_layouts(id, &layouts);
        parts.into_iter().for_each(|part| self.remove_part(part));
        if table.dropped_ms != 0 && table.replaced.is_empty() {
            self.remove_table(id);
        } else {
            self.upsert_table(table);
        }
    }
}

/// Whether no version before this entry is readable: its retention has passed and no pin keeps one.
fn is_expired(table: &Table, end: &Replaced, now: u64) -> bool {
    end.until_ms < now && !table.pins.iter().any(|pin| pin.until_ms >= now && pin.version < end.version)
}

/// The entries without those that the next one makes redundant: the retention of both has passed, and no readable version
/// before them has its layout from them. Without this an old pin would let the list of replaced versions grow without bound.
fn needed_ends<'a>(table: &Table, ends: &'a [Replaced], now: u64) -> Vec<&'a Replaced> {
    let mut needed: Vec<&Replaced> = Vec::with_capacity(ends.len());
    for (at, end) in ends.iter().enumerate() {
        let both_passed = end.until_ms < now && ends.get(at + 1).is_some_and(|next| next.until_ms < now);
        if !both_passed || (may_have_layout(end) && is_layout_read(table, &needed, end, now)) {
            needed.push(end);
        }
    }
    needed
}

/// Whether a readable version has the layout of this entry: those since the last entry of `before` with a layout have it.
fn is_layout_read(table: &Table, before: &[&Replaced], end: &Replaced, now: u64) -> bool {
    let since = before.iter().rposition(|before| before.layout != 0).map_or(0, |at| at + 1);
    let first = since.checked_sub(1).and_then(|at| before.get(at)).map_or(0, |before| before.version);
    let mut pins = table.pins.iter().filter(|pin| pin.until_ms >= now);
    // Entries do not end in order: those of a table that is replaced often are rounded up.
    before.iter().skip(since).any(|before| before.until_ms >= now)
        || pins.any(|pin| (first..end.version).contains(&pin.version))
}
