//! Pure: how safe the parts are, counted in one pass over the catalog.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::Table;
use volley_common::{NodeId, PartId};

use crate::catalog::{Catalog, PartRow};
use crate::scheduler::replicas;

/// Unreadable parts that are named, however many there are.
const NAMED: usize = 100;

/// The cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Every part of the newest versions has all its copies on live nodes.
    Green,
    /// Some have fewer, but everything can be read.
    Yellow,
    /// Something cannot be read.
    Red,
}

impl Health {
    /// As answers name it.
    pub fn name(self) -> &'static str {
        match self {
            Health::Green => "green",
            Health::Yellow => "yellow",
            Health::Red => "red",
        }
    }
}

/// A part without a live holder.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// Its table.
    pub table: String,
    /// Its shard.
    pub shard: u32,
    /// Which part.
    pub part: PartId,
    /// Of which versions it is: from the first one to before the second; 0: it is in the newest.
    pub versions: (u64, u64),
    /// The silent nodes that have copies.
    pub holders: Vec<NodeId>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Parts of the newest versions.
    pub parts: u64,
    /// Those of them with fewer live copies than their tables want, unreadable ones too.
    pub below: u64,
    /// Bytes of the copies that they lack.
    pub below_bytes: u64,
    /// Parts of all readable versions without a live holder.
    pub unreadable: u64,
    /// The first of those.
    pub named: Vec<Unreadable>,
    /// Parts that each node holds by the catalog, and their bytes.
    pub held: BTreeMap<NodeId, (u64, u64)>,
}

impl Survey {
    /// Counts everything: some 0.2 s per million parts.
    pub fn of(catalog: &Catalog, alive: &BTreeSet<NodeId>, now_ms: u64) -> Self {
        let mut survey = Survey::default();
        let mut judge: Option<Judge> = None;
        for part in catalog.all_parts() {
            for holder in &part.holders {
                let held = survey.held.entry(NodeId(*holder)).or_default();
                *held = (held.0 + 1, held.1 + part.bytes);
            }
            // Parts come by table: its row is looked up once.
            if judge.as_ref().is_none_or(|judge| judge.table.id != part.table) {
                judge = catalog.table(part.table).map(|table| Judge { catalog, table, now_ms });
            }
            if let Some(judge) = &judge {
                survey.count(judge, part, live_copies(part, alive));
            }
        }
        survey
    }

    fn count(&mut self, judge: &Judge<'_>, part: &PartRow, live: usize) {
        let wanted = replicas(judge.table);
        let newest = judge.is_newest(part);
        self.parts += u64::from(newest);
        if newest && live < wanted {
            self.below += 1;
            self.below_bytes += part.bytes * (wanted - live) as u64;
        }
        if live > 0 || !(newest || judge.is_kept(part)) {
            return;
        }
        self.unreadable += 1;
        if self.named.len() < NAMED {
            self.named.push(Unreadable {
                table: judge.table.name.join("/"),
                shard: part.shard,
                part: part.part_id(),
                versions: (part.added, part.removed),
                holders: judge.catalog.holders(part).collect(),
            });
        }
    }

    /// The word for it.
    pub fn health(&self) -> Health {
        match (self.unreadable, self.below) {
            (0, 0) => Health::Green,
            (0, _) => Health::Yellow,
            _ => Health::Red,
        }
    }
}

/// Which parts of a table count.
struct Judge<'a> {
    catalog: &'a Catalog,
    table: &'a Table,
    now_ms: u64,
}

impl Judge<'_> {
    fn is_newest(&self, part: &PartRow) -> bool {
        self.table.dropped_ms == 0 && part.is_in(self.table.version)
    }

    /// Whether a version that can still be asked for has this part: the last one that had it, or a pinned one.
    fn is_kept(&self, part: &PartRow) -> bool {
        let pins = self.table.pins.iter().map(|pin| pin.version).filter(|version| part.is_in(*version));
        let mut versions = pins.chain(part.removed.checked_sub(1));
        self.table.dropped_ms == 0 && versions.any(|v| self.catalog.is_readable(self.table, v, self.now_ms))
    }
}

/// Holders of a part that are alive.
pub fn live_copies(part: &PartRow, alive: &BTreeSet<NodeId>) -> usize {
    part.holders.iter().filter(|node| alive.contains(&NodeId(**node))).count()
}
