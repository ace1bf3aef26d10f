//! How well parts are replicated, counted in one pass over the catalog.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::Table;
use volley_common::{NodeId, PartId};

use crate::catalog::{Catalog, PartRow};
use crate::scheduler::placement::replica_count;

/// Maximum number of unreadable parts that are listed by name.
const MAX_LISTED: usize = 100;

/// The health of the cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterHealth {
    /// Every part of the newest versions has all its copies on live nodes.
    Green,
    /// Some parts have fewer copies, but everything is readable.
    Yellow,
    /// Some parts are unreadable.
    Red,
}

impl ClusterHealth {
    /// The word that actions report.
    pub fn name(self) -> &'static str {
        match self {
            ClusterHealth::Green => "green",
            ClusterHealth::Yellow => "yellow",
            ClusterHealth::Red => "red",
        }
    }
}

/// A part without a live holder.
#[derive(Clone, Debug, PartialEq)]
pub struct UnreadablePart {
    /// The table's name.
    pub table: String,
    /// The shard number.
    pub shard: u32,
    /// The part's id.
    pub part: PartId,
    /// The version that added the part, and the one that removed it (0: it is in the newest version).
    pub versions: (u64, u64),
    /// The unreachable nodes that hold copies.
    pub holders: Vec<NodeId>,
}

/// Counts of parts by how well they are replicated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicationHealth {
    /// Parts of the newest versions.
    pub parts: u64,
    /// Those with fewer live copies than their tables want, including unreadable ones.
    pub under_replicated: u64,
    /// Bytes of the copies that those lack.
    pub bytes_to_copy: u64,
    /// Parts of all readable versions without a live holder.
    pub unreadable: u64,
    /// The first `MAX_LISTED` of the unreadable parts.
    pub listed: Vec<UnreadablePart>,
    /// Parts and bytes that each node holds according to the catalog.
    pub held: BTreeMap<NodeId, (u64, u64)>,
}

impl ReplicationHealth {
    /// Counts all parts: some 0.2 s per million.
    pub fn of(catalog: &Catalog, alive: &BTreeSet<NodeId>, now_ms: u64) -> Self {
        let mut health = ReplicationHealth::default();
        let mut classifier: Option<PartClassifier> = None;
        for part in catalog.all_parts() {
            for holder in &part.holders {
                let held = health.held.entry(NodeId(*holder)).or_default();
                *held = (held.0 + 1, held.1 + part.bytes);
            }
            // Parts come grouped by table: each table is looked up once.
            if classifier.as_ref().is_none_or(|classifier| classifier.table.id != part.table) {
                classifier = catalog.table(part.table).map(|table| PartClassifier { catalog, table, now_ms });
            }
            if let Some(classifier) = &classifier {
                health.count(classifier, part, live_copies(part, alive));
            }
        }
        health
    }

    fn count(&mut self, classifier: &PartClassifier<'_>, part: &PartRow, live: usize) {
        let wanted = replica_count(classifier.table);
        let newest = classifier.is_newest(part);
        self.parts += u64::from(newest);
        if newest && live < wanted {
            self.under_replicated += 1;
            self.bytes_to_copy += part.bytes * (wanted - live) as u64;
        }
        if live > 0 || !(newest || classifier.is_readable_in_older_version(part)) {
            return;
        }
        self.unreadable += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(UnreadablePart {
                table: classifier.table.name.join("/"),
                shard: part.shard,
                part: part.part_id(),
                versions: (part.added, part.removed),
                holders: classifier.catalog.holders(part).collect(),
            });
        }
    }

    /// The health of the cluster.
    pub fn cluster_health(&self) -> ClusterHealth {
        match (self.unreadable, self.under_replicated) {
            (0, 0) => ClusterHealth::Green,
            (0, _) => ClusterHealth::Yellow,
            _ => ClusterHealth::Red,
        }
    }
}

/// Tells which parts of a table belong to readable versions.
struct PartClassifier<'a> {
    catalog: &'a Catalog,
    table: &'a Table,
    now_ms: u64,
}

impl PartClassifier<'_> {
    fn is_newest(&self, part: &PartRow) -> bool {
        self.table.dropped_ms == 0 && part.is_in(self.table.version)
    }

    /// Whether an older version that is still readable contains the part: its last version, or a pinned one.
    fn is_readable_in_older_version(&self, part: &PartRow) -> bool {
        let pinned = self.table.pins.iter().map(|pin| pin.version).filter(|version| part.is_in(*version));
        let mut versions = pinned.chain(part.removed.checked_sub(1));
        self.table.dropped_ms == 0 && versions.any(|v| self.catalog.is_readable(self.table, v, self.now_ms))
    }
}

/// The number of a part's holders that are alive.
pub fn live_copies(part: &PartRow, alive: &BTreeSet<NodeId>) -> usize {
    part.holders.iter().filter(|node| alive.contains(&NodeId(**node))).count()
}
