//! Pure: what a client asked for, and what there is, into a table's spec and the placement of its shards.

use std::collections::BTreeSet;

use volley_common::ipc::schema::parse_schema;
use volley_common::partition::Partitioner;
use volley_common::placement::{Candidate, ReplicaCounts, place};
use volley_common::wire::catalog::{Compression, Holders, Node, Table, TableSpec};
use volley_common::{Error, NodeId, Result, TableName};
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::Catalog;

/// Shards of a new table unless the client says otherwise: one a live node, but not more than this.
pub const DEFAULT_SHARDS: u32 = 16;
/// Copies of every part unless the client says otherwise, or there are fewer nodes.
pub const DEFAULT_REPLICAS: u32 = 2;

/// What a client chose about a table; what it left open comes from the table, or else the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Partitions.
    pub shards: Option<u32>,
    /// Columns whose hash decides; empty: not said.
    pub shard_by: Vec<String>,
    /// Copies.
    pub replicas: Option<u32>,
    /// At rest and on the wire.
    pub compression: Option<Compression>,
    /// How long replaced parts stay, milliseconds.
    pub retention_ms: Option<u64>,
}

impl Choice {
    /// The spec of a table that is made, or replaced (`old`), while `live` nodes are there.
    ///
    /// # Errors
    /// UNAVAILABLE: fewer live nodes than an acknowledgement needs.
    pub fn spec(&self, old: Option<&TableSpec>, live: usize, retention_ms: u64) -> Result<TableSpec> {
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        let chosen = self.replicas.or(old.map(|old| old.replicas));
        let replicas = chosen.unwrap_or(DEFAULT_REPLICAS.min(live)).max(1);
        let min_copies = replicas / 2 + 1;
        if live < min_copies {
            return Err(Error::unavailable(format!(
                "{replicas} replicas need {min_copies} live nodes before a put is acknowledged, and {live} are there: start more nodes, or ask for fewer replicas"
            )));
        }
        let shard_by = match (&self.shard_by, old) {
            (chosen, Some(old)) if chosen.is_empty() => old.shard_by.clone(),
            (chosen, _) => chosen.clone(),
        };
        Ok(TableSpec {
            shards: self.shards.or(old.map(|old| old.shards)).unwrap_or(live.clamp(1, DEFAULT_SHARDS)),
            shard_by,
            replicas,
            min_copies,
            compression: self.compression.map_or(old.map_or(0, |old| old.compression), |c| c as i32),
            retention_ms: self.retention_ms.or(old.map(|old| old.retention_ms)).unwrap_or(retention_ms),
        })
    }

    /// Refuses an append that asks for another layout than the table has.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the option and the table's value.
    pub fn check_append(&self, name: &TableName, spec: &TableSpec) -> Result<()> {
        let differs = |option: &str, asked: String, has: String| {
            Err(Error::invalid(format!(
                "table {name:?} has {option} = {has}, and an append cannot change it to {asked}: leave the option out, or put with mode \"replace\""
            )))
        };
        match self.shards {
            Some(shards) if shards != spec.shards => differs("shards", shards.to_string(), spec.shards.to_string()),
            _ if !self.shard_by.is_empty() && self.shard_by != spec.shard_by => {
                differs("shard_by", format!("{:?}", self.shard_by), format!("{:?}", spec.shard_by))
            }
            _ => match self.replicas {
                Some(replicas) if replicas != spec.replicas => {
                    differs("replicas", replicas.to_string(), spec.replicas.to_string())
                }
                _ => Ok(()),
            },
        }
    }
}

/// Checks that the key columns exist in the schema and can be hashed. An empty `schema` is not known yet.
///
/// # Errors
/// INVALID_ARGUMENT that names the column, or says what is wrong with the schema.
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

/// The placement of a table: as it was (`old`) where that still serves, else chosen anew by the ring.
pub fn placement(
    catalog: &Catalog,
    name: &TableName,
    spec: &TableSpec,
    old: Option<&Table>,
    live: &[Node],
) -> Vec<Holders> {
    let alive: BTreeSet<u64> = live.iter().map(|node| node.id).collect();
    if let Some(old) = old.filter(|old| still_serves(old, spec, &alive)) {
        return old.placement.clone();
    }
    let key = xxh3_64(name.to_string().as_bytes());
    let placed = place(&candidates(live), key, spec.shards, spec.replicas, &load(catalog, old));
    placed.into_iter().map(|nodes| Holders { nodes: nodes.into_iter().map(|id| id.0).collect() }).collect()
}

fn still_serves(old: &Table, spec: &TableSpec, alive: &BTreeSet<u64>) -> bool {
    old.placement.len() == spec.shards as usize
        && old.placement.iter().all(|shard| {
            shard.nodes.len() == (spec.replicas as usize).min(alive.len())
                && shard.nodes.iter().all(|node| alive.contains(node))
        })
}

fn candidates(live: &[Node]) -> Vec<Candidate> {
    let candidate = |node: &Node| Candidate { id: NodeId(node.id), zone: node.zone.clone(), capacity: node.capacity };
    live.iter().map(candidate).collect()
}

/// Replicas that every node has been given, those of the table that is placed anew left out.
fn load(catalog: &Catalog, old: Option<&Table>) -> ReplicaCounts {
    let mut load = catalog.placed().clone();
    for node in old.into_iter().flat_map(|old| &old.placement).flat_map(|shard| &shard.nodes) {
        load.entry(NodeId(*node)).and_modify(|count| *count = count.saturating_sub(1));
    }
    load
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RETENTION: u64 = 900_000;

    fn spec(shards: u32, replicas: u32) -> TableSpec {
        TableSpec { shards, replicas, min_copies: replicas / 2 + 1, retention_ms: 1, ..TableSpec::default() }
    }

    #[test]
    fn defaults_follow_the_number_of_live_nodes() {
        let of = |live| Choice::default().spec(None, live, RETENTION).unwrap();
        assert_eq!((of(1).shards, of(1).replicas, of(1).min_copies), (1, 1, 1));
        assert_eq!((of(4).shards, of(4).replicas, of(4).min_copies), (4, 2, 2));
        assert_eq!((of(40).shards, of(40).retention_ms), (DEFAULT_SHARDS, RETENTION));
    }

    #[test]
    fn what_is_not_said_comes_from_the_table() {
        let mut old = spec(7, 3);
        old.shard_by = vec!["k".into()];
        let same = Choice::default().spec(Some(&old), 4, RETENTION).unwrap();
        assert_eq!(same, old);
        let choice = Choice { shards: Some(2), shard_by: vec!["j".into()], replicas: Some(1), ..Choice::default() };
        let new = choice.spec(Some(&old), 4, RETENTION).unwrap();
        assert_eq!((new.shards, new.replicas, new.min_copies, new.shard_by), (2, 1, 1, vec!["j".to_string()]));
    }

    #[test]
    fn more_copies_than_nodes_can_acknowledge_are_refused() {
        let three = Choice { replicas: Some(3), ..Choice::default() };
        assert_eq!(three.spec(None, 2, RETENTION).unwrap().min_copies, 2);
        let error = three.spec(None, 1, RETENTION).unwrap_err();
        assert!(error.message.contains("3 replicas need 2 live nodes"), "{error}");
    }

    #[test]
    fn an_append_cannot_change_the_layout() {
        let name: TableName = "a/t".parse().unwrap();
        let has = spec(4, 2);
        Choice { shards: Some(4), replicas: Some(2), ..Choice::default() }.check_append(&name, &has).unwrap();
        let refused = |choice: Choice| choice.check_append(&name, &has).unwrap_err().message;
        assert!(refused(Choice { shards: Some(5), ..Choice::default() }).contains("shards = 4"));
        assert!(refused(Choice { shard_by: vec!["k".into()], ..Choice::default() }).contains("shard_by = []"));
        assert!(refused(Choice { replicas: Some(1), ..Choice::default() }).contains("replicas = 2"));
    }
}
