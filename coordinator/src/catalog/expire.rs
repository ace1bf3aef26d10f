//! What time ends: leases, replaced versions, pins, finished writes, cancellations.

use volley_common::wire::catalog::{Replaced, Table, reply};
use volley_common::{PartId, Result};

use super::apply::done;
use super::{Catalog, PartRow, RowKey};

impl Catalog {
    /// Whether `Expire` would change anything: for the leader, once a second.
    ///
    /// Cheap: looks at open writes, the oldest finished write, cancelled flights, and tables with replaced
    /// versions or pins; of parts only at those whose time is over (and which a pin may still keep).
    pub fn needs_expiry(&self, now_ms: u64, remember_ms: u64) -> bool {
        self.lapsed_writes(now_ms).next().is_some()
            || self.ended.first().is_some_and(|(ended, _)| ended.saturating_add(remember_ms) < now_ms)
            || self.cancelled.values().any(|c| c.until_ms < now_ms)
            || self.aging.iter().filter_map(|id| self.tables.get(id)).any(|table| self.table_ages(table, now_ms))
    }

    pub(super) fn expire(&mut self, remember_ms: u64, now: u64) -> Result<reply::Reply> {
        for id in self.lapsed_writes(now).map(str::to_string).collect::<Vec<_>>() {
            self.end_write(&id, "its lease ran out: nothing was heard of it for too long", now);
        }
        let forgotten = self.ended.iter().take_while(|(ended, _)| ended.saturating_add(remember_ms) < now);
        for id in forgotten.map(|(_, id)| id.clone()).collect::<Vec<_>>() {
            self.remove_write(&id);
        }
        let over = self.cancelled.values().filter(|c| c.until_ms < now).map(|c| c.flight);
        for flight in over.collect::<Vec<_>>() {
            self.touched.insert(RowKey::Cancelled(flight));
            self.cancelled.remove(&flight);
        }
        let aging: Vec<u64> = self.aging.iter().copied().collect();
        aging.into_iter().for_each(|id| self.age_table(id, now));
        Ok(done())
    }

    fn lapsed_writes(&self, now: u64) -> impl Iterator<Item = &str> {
        let open = self.open.iter().filter_map(|id| self.writes.get(id));
        open.filter(move |w| w.lease_until_ms < now).map(|w| w.id.as_str())
    }

    fn table_ages(&self, table: &Table, now: u64) -> bool {
        table.pins.iter().any(|pin| pin.until_ms < now)
            || self.due_parts(table, now).next().is_some()
            || table.replaced.first().is_some_and(|end| self.is_over(table, end, now))
            || table.replaced.windows(2).any(|ends| is_spare(&ends[0], ends.get(1), now))
    }

    /// Parts whose retention is over and that no pin keeps.
    fn due_parts(&self, table: &Table, now: u64) -> impl Iterator<Item = &PartRow> {
        let before = std::iter::once(0).chain(table.replaced.iter().map(|end| end.version));
        let due = table.replaced.iter().zip(before).filter(move |(end, _)| end.until_ms < now);
        let parts = due.flat_map(|(end, before)| self.parts.removed_by(table.id, before, end.version));
        let pins: Vec<u64> = table.pins.iter().filter(|pin| pin.until_ms >= now).map(|pin| pin.version).collect();
        parts.filter(move |part| !pins.iter().any(|version| part.is_in(*version)))
    }

    /// Whether nothing of the versions before this one can be read any longer.
    fn is_over(&self, table: &Table, end: &Replaced, now: u64) -> bool {
        end.until_ms < now && !table.pins.iter().any(|pin| pin.until_ms >= now && pin.version < end.version)
    }

    fn age_table(&mut self, id: u64, now: u64) {
        let Some(table) = self.tables.get(&id) else { return };
        if !self.table_ages(table, now) {
            return;
        }
        let due: Vec<PartId> = self.due_parts(table, now).map(PartRow::part_id).collect();
        let over = table.replaced.iter().take_while(|end| self.is_over(table, end, now)).count();
        let mut table = table.clone();
        table.pins.retain(|pin| pin.until_ms >= now);
        for end in table.replaced.drain(..over) {
            table.oldest = end.version;
        }
        let next: Vec<Replaced> = table.replaced.iter().skip(1).copied().collect();
        let mut next = next.iter();
        table.replaced.retain(|end| !is_spare(end, next.next(), now));
        due.into_iter().for_each(|part| self.remove_part(part));
        if table.dropped_ms != 0 && table.replaced.is_empty() {
            self.remove_table(id);
        } else {
            self.put_table(table);
        }
    }
}

/// Whether the next entry says all that this one does: the time of both is over, so that only pins keep versions before
/// them. A pin of long ago must not let the list of what was taken away since grow for ever.
fn is_spare(end: &Replaced, next: Option<&Replaced>, now: u64) -> bool {
    end.until_ms < now && next.is_some_and(|next| next.until_ms < now)
}
