//! The spec of a table and the placement of its shards, from a client's options.

use std::collections::BTreeSet;

use volley_common::ipc::schema::parse_schema;
use volley_common::ipc::statistics::{MAX_STATISTICS_COLUMNS, is_orderable};
use volley_common::options::fields::cut;
use volley_common::partition::Partitioner;
use volley_common::placement::{Candidate, ReplicaCounts, place};
use volley_common::wire::catalog::{Compression, Node, ShardPlacement, Table, TableSpec};
use volley_common::{Error, NodeId, Result, TableName};
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::Catalog;

/// By default a new table has one shard per node of the cluster, but at most this many.
pub const MAX_DEFAULT_SHARDS: u32 = 16;
/// The default number of copies of every part, if the cluster has as many nodes, whether or not they are alive: a table is
/// not created for good with fewer copies because nodes are restarting.
pub const DEFAULT_REPLICAS: u32 = 2;

/// The shortest retention of a table, milliseconds. A shorter one would end tickets before they are used.
pub const MIN_RETENTION_MS: u64 = 1_000;

/// A client's options for a table. Missing ones come from the existing table, or else from the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableOptions {
    /// The number of shards.
    pub shards: Option<u32>,
    /// Columns whose hash selects the shard; empty if not given.
    pub shard_by: Vec<String>,
    /// The number of copies of every part.
    pub replicas: Option<u32>,
    /// Compression on disk and on the wire.
    pub compression: Option<Compression>,
    /// How long replaced parts are kept, milliseconds.
    pub retention_ms: Option<u64>,
    /// How long after its last write the table is dropped, milliseconds; 0: never.
    pub ttl_ms: Option<u64>,
    /// The columns of which parts have statistics; none: the first ones with an order.
    pub stats_columns: Option<Vec<String>>,
    /// Maximum number of endpoints for readers that request no number.
    pub max_endpoints: Option<u32>,
    /// Whether batches are stored as they are put, each with its `app_metadata`.
    pub preserve_batches: Option<bool>,
    /// Whether any principal may redeem the table's tickets, not only the one that planned them.
    pub shareable_tickets: Option<bool>,
}

/// The nodes of a cluster, by number.
#[derive(Clone, Copy, Debug)]
pub struct NodeCounts {
    /// Registered and not removed.
    pub known: usize,
    /// Alive.
    pub live: usize,
}

impl NodeCounts {
    /// Those of a catalog.
    ///
    /// # Errors
    /// UNAVAILABLE: no node is alive.
    pub fn of(catalog: &Catalog) -> Result<Self> {
        Ok(NodeCounts { live: catalog.require_live_nodes()?, known: catalog.nodes().count() })
    }
}

impl TableOptions {
    /// The spec of a table that is created, or that replaces `old`.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the cluster has fewer nodes than a put needs for its acknowledgement. UNAVAILABLE: it has
    /// enough, but fewer are alive. INVALID_ARGUMENT: options that exclude each other.
    pub fn spec(&self, old: Option<&TableSpec>, nodes: NodeCounts, retention_ms: u64) -> Result<TableSpec> {
        let [live, known] = [nodes.live, nodes.known].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let chosen = self.replicas.or(old.map(|old| old.replicas));
        let replicas = chosen.unwrap_or(DEFAULT_REPLICAS.min(known)).max(1);
        let min_copies = replicas / 2 + 1;
        if live < min_copies {
            let text = format!("{replicas} replicas need {min_copies} live nodes before a put is acknowledged, and");
            // Only nodes that the cluster has may be back in a moment.
            return Err(if known >= min_copies {
                Error::unavailable(format!(
                    "{text} {live} of the cluster's {known} nodes are alive: start the others, remove those that are lost, or request fewer replicas"
                ))
            } else {
                Error::precondition(format!("{text} there are {live}: start more nodes, or request fewer replicas"))
            });
        }
        // Earlier versions accepted a retention of 0.
        let old_retention = old.map(|old| old.retention_ms).filter(|ms| *ms >= MIN_RETENTION_MS);
        let shard_by = match (&self.shard_by, old) {
            (chosen, Some(old)) if chosen.is_empty() => old.shard_by.clone(),
            (chosen, _) => chosen.clone(),
        };
        let preserve_batches = self.preserve_batches.or(old.map(|old| old.preserve_batches)).unwrap_or_default();
        if preserve_batches && !shard_by.is_empty() {
            return Err(both_keys_and_batches(&shard_by));
        }
        let stats_columns = self.stats_columns.clone().or_else(|| old.map(|old| old.stats_columns.clone()));
        let stats_columns = stats_columns.unwrap_or_default();
        check_distinct(&stats_columns)?;
        Ok(TableSpec {
            shards: self.shards.or(old.map(|old| old.shards)).unwrap_or(default_shards(known)),
            shard_by,
            replicas,
            min_copies,
            compression: self.compression.map_or(old.map_or(0, |old| old.compression), |c| c as i32),
            retention_ms: self.retention_ms.or(old_retention).unwrap_or(retention_ms),
            max_endpoints: self.max_endpoints.or(old.map(|old| old.max_endpoints)).unwrap_or_default(),
            preserve_batches,
            shareable_tickets: self.shareable_tickets.or(old.map(|old| old.shareable_tickets)).unwrap_or_default(),
            ttl_ms: self.ttl_ms.or(old.map(|old| old.ttl_ms)).unwrap_or_default(),
            stats_columns,
        })
    }

    /// These options, of a table that is to be temporary if `default_ms` is not 0: it expires, after this time unless the client
    /// named another. `old`: the options of the table if it exists; it keeps its time, unless the client named another.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the table exists and does not expire. INVALID_ARGUMENT: the client wants it not to expire.
    pub fn temporary(mut self, name: &TableName, default_ms: u64, old: Option<&TableSpec>) -> Result<Self> {
        if default_ms == 0 {
            return Ok(self);
        }
        if self.ttl_ms == Some(0) {
            return Err(Error::invalid(format!(
                "table {name:?} is to be temporary, and with ttl_s = 0 it would not expire: leave one of both out"
            )));
        }
        match old {
            Some(old) if old.ttl_ms == 0 => Err(Error::precondition(format!(
                "table {name:?} exists and is not temporary, it does not expire (ttl_s): choose another name, or leave out that the rows are temporary"
            ))),
            Some(_) => Ok(self),
            None => {
                self.ttl_ms.get_or_insert(default_ms);
                Ok(self)
            }
        }
    }

    /// Checks that an append does not request another layout than the table has.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the option and the table's value.
    pub fn check_append(&self, name: &TableName, spec: &TableSpec) -> Result<()> {
        let compression = |code: i32| Compression::try_from(code).unwrap_or_default().name().to_string();
        let keys = |columns: &[String]| format!("{columns:?}");
        let requested = [
            ("shards", self.shards.map(|n| n.to_string()), spec.shards.to_string()),
            ("shard_by", (!self.shard_by.is_empty()).then(|| keys(&self.shard_by)), keys(&spec.shard_by)),
            ("replicas", self.replicas.map(|n| n.to_string()), spec.replicas.to_string()),
            ("compression", self.compression.map(|c| compression(c as i32)), compression(spec.compression)),
            ("retention_s", self.retention_ms.map(seconds), seconds(spec.retention_ms)),
            ("ttl_s", self.ttl_ms.map(seconds), seconds(spec.ttl_ms)),
            ("stats_columns", self.stats_columns.as_deref().map(keys), keys(&spec.stats_columns)),
            ("max_endpoints", self.max_endpoints.map(|n| n.to_string()), limit_text(spec.max_endpoints)),
            ("preserve_batches", self.preserve_batches.map(|keep| keep.to_string()), spec.preserve_batches.to_string()),
            (
                "shareable_tickets",
                self.shareable_tickets.map(|share| share.to_string()),
                spec.shareable_tickets.to_string(),
            ),
        ];
        let differs = |(_, wanted, actual): &&(&str, Option<String>, String)| {
            wanted.as_ref().is_some_and(|wanted| wanted != actual)
        };
        match requested.iter().find(differs) {
            Some((option, Some(wanted), actual)) => Err(Error::invalid(format!(
                "table {name:?} has {option} = {actual}, and an append cannot change it to {wanted}: leave the option out, or put with mode \"replace\""
            ))),
            _ => Ok(()),
        }
    }
}

/// The number of shards of a new table in a cluster of so many nodes.
pub fn default_shards(nodes: u32) -> u32 {
    nodes.clamp(1, MAX_DEFAULT_SHARDS)
}

fn both_keys_and_batches(keys: &[String]) -> Error {
    Error::invalid(format!(
        "preserve_batches keeps batches whole, and shard_by = {keys:?} distributes the rows of a batch over the shards: \
         leave preserve_batches out (or false), or put without shard_by into a table that does not have it"
    ))
}

/// Checks how many columns there are for statistics, and that none is named twice.
fn check_distinct(columns: &[String]) -> Result<()> {
    if columns.len() > MAX_STATISTICS_COLUMNS {
        let count = columns.len();
        return Err(Error::invalid(format!(
            "option \"stats_columns\": {count} columns are more than the limit of {MAX_STATISTICS_COLUMNS}"
        )));
    }
    match columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(column)) {
        None => Ok(()),
        Some((_, twice)) => {
            Err(Error::invalid(format!("option \"stats_columns\" names the column {:?} twice", cut(twice))))
        }
    }
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1000) { (ms / 1000).to_string() } else { format!("{}.{:03}", ms / 1000, ms % 1000) }
}

/// A number of which 0 is none.
fn limit_text(limit: u32) -> String {
    if limit == 0 { "no limit".into() } else { limit.to_string() }
}

/// Checks that the key columns exist in the schema and can be hashed. An empty `schema` is not known yet and passes.
///
/// # Errors
/// INVALID_ARGUMENT, naming the column or the fault of the schema.
pub fn check_keys(name: &TableName, schema: &[u8], spec: &TableSpec) -> Result<()> {
    if schema.is_empty() {
        return Ok(());
    }
    let schema = parse_schema(schema).map_err(|e| e.at("the schema"))?;
    if spec.shard_by.is_empty() {
        return Ok(());
    }
    let at = || format!("table {name:?}");
    Partitioner::new(&schema, &spec.shard_by, spec.shards).map(|_| ()).map_err(|e| e.at(at()))
}

/// Checks that the schema has the columns that a table names for its statistics, and that these have an order. An empty `schema`
/// is not known yet and passes.
///
/// # Errors
/// INVALID_ARGUMENT, naming the column.
pub fn check_stats_columns(name: &TableName, schema: &[u8], spec: &TableSpec) -> Result<()> {
    if schema.is_empty() || spec.stats_columns.is_empty() {
        return Ok(());
    }
    let schema = parse_schema(schema).map_err(|e| e.at("the schema"))?;
    for column in &spec.stats_columns {
        let mut named = schema.fields().iter().filter(|field| field.name() == column);
        let why = match (named.next(), named.next()) {
            (None, _) => "which there is not: name others, or give [] for the first columns with an order".to_string(),
            (Some(_), Some(_)) => "a name that several columns have: leave it out".to_string(),
            (Some(field), None) if is_orderable(field.data_type()) => continue,
            (Some(field), None) => format!("whose type {} has no order: leave it out", field.data_type()),
        };
        let column = cut(column);
        return Err(Error::invalid(format!(
            "table {name:?}: option \"stats_columns\" names the column {column:?}, {why}"
        )));
    }
    Ok(())
}

/// The placement of a table on `targets`: the existing one (`old`) if it is still valid, else a new one by the hash ring.
pub fn placement(
    catalog: &Catalog,
    name: &TableName,
    spec: &TableSpec,
    old: Option<&Table>,
    targets: &[Node],
) -> Vec<ShardPlacement> {
    let target_ids: BTreeSet<u64> = targets.iter().map(|node| node.id).collect();
    if let Some(old) = old.filter(|old| is_valid(old, spec, &target_ids)) {
        return old.placement.clone();
    }
    let key = xxh3_64(name.to_string().as_bytes());
    let candidate = |node: &Node| Candidate { id: NodeId(node.id), zone: node.zone.clone(), capacity: node.capacity };
    let candidates: Vec<Candidate> = targets.iter().map(candidate).collect();
    let placed = place(&candidates, key, spec.shards, spec.replicas, &load(catalog, old));
    placed.into_iter().map(|nodes| ShardPlacement { nodes: nodes.into_iter().map(|id| id.0).collect() }).collect()
}

fn is_valid(old: &Table, spec: &TableSpec, targets: &BTreeSet<u64>) -> bool {
    old.placement.len() == spec.shards as usize
        && old.placement.iter().all(|shard| {
            shard.nodes.len() == (spec.replicas as usize).min(targets.len())
                && shard.nodes.iter().all(|node| targets.contains(node))
        })
}

/// Replicas that are placed on each node, without those of the table that gets a new placement.
fn load(catalog: &Catalog, old: Option<&Table>) -> ReplicaCounts {
    let mut load = catalog.placed_replicas().clone();
    for node in old.into_iter().flat_map(|old| &old.placement).flat_map(|shard| &shard.nodes) {
        load.entry(NodeId(*node)).and_modify(|count| *count = count.saturating_sub(1));
    }
    load
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
