//! The spec of a table and the placement of its shards, from a client's options.

use std::collections::BTreeSet;

use volley_common::ipc::schema::parse_schema;
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
        Ok(TableSpec {
            shards: self.shards.or(old.map(|old| old.shards)).unwrap_or(known.clamp(1, MAX_DEFAULT_SHARDS)),
            shard_by,
            replicas,
            min_copies,
            compression: self.compression.map_or(old.map_or(0, |old| old.compression), |c| c as i32),
            retention_ms: self.retention_ms.or(old_retention).unwrap_or(retention_ms),
            max_endpoints: self.max_endpoints.or(old.map(|old| old.max_endpoints)).unwrap_or_default(),
            preserve_batches,
            shareable_tickets: self.shareable_tickets.or(old.map(|old| old.shareable_tickets)).unwrap_or_default(),
            ttl_ms: self.ttl_ms.or(old.map(|old| old.ttl_ms)).unwrap_or_default(),
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

fn both_keys_and_batches(keys: &[String]) -> Error {
    Error::invalid(format!(
        "preserve_batches keeps batches whole, and shard_by = {keys:?} distributes the rows of a batch over the shards: \
         leave preserve_batches out (or false), or put without shard_by into a table that does not have it"
    ))
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
mod tests {
    use volley_common::Code;

    use super::*;

    const RETENTION: u64 = 900_000;

    fn nodes(known: usize, live: usize) -> NodeCounts {
        NodeCounts { known, live }
    }

    fn spec(shards: u32, replicas: u32) -> TableSpec {
        TableSpec { shards, replicas, min_copies: replicas / 2 + 1, retention_ms: 1_000, ..TableSpec::default() }
    }

    #[test]
    fn default_shards_and_replicas_follow_the_known_nodes() {
        let of = |known| TableOptions::default().spec(None, nodes(known, 2.min(known)), RETENTION).unwrap();
        assert_eq!((of(1).shards, of(1).replicas, of(1).min_copies), (1, 1, 1));
        assert_eq!((of(4).shards, of(4).replicas, of(4).min_copies), (4, 2, 2));
        assert_eq!((of(40).shards, of(40).retention_ms), (MAX_DEFAULT_SHARDS, RETENTION));
    }

    #[test]
    fn default_replicas_are_not_fewer_while_nodes_restart() {
        let error = TableOptions::default().spec(None, nodes(3, 1), RETENTION).unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{error}");
        assert!(error.message.contains("1 of the cluster's 3 nodes"), "{error}");
        let one = TableOptions { replicas: Some(1), ..TableOptions::default() };
        assert_eq!(one.spec(None, nodes(3, 1), RETENTION).unwrap().min_copies, 1);
    }

    #[test]
    fn missing_options_come_from_the_existing_table() {
        let mut old = spec(7, 3);
        old.shard_by = vec!["k".into()];
        let same = TableOptions::default().spec(Some(&old), nodes(4, 4), RETENTION).unwrap();
        assert_eq!(same, old);
        let options =
            TableOptions { shards: Some(2), shard_by: vec!["j".into()], replicas: Some(1), ..TableOptions::default() };
        let new = options.spec(Some(&old), nodes(4, 4), RETENTION).unwrap();
        assert_eq!((new.shards, new.replicas, new.min_copies, new.shard_by), (2, 1, 1, vec!["j".to_string()]));
        let of_earlier_version = TableSpec { retention_ms: 0, ..old };
        let new = TableOptions::default().spec(Some(&of_earlier_version), nodes(4, 4), RETENTION).unwrap();
        assert_eq!(new.retention_ms, RETENTION);
    }

    #[test]
    fn more_replicas_than_live_nodes_can_acknowledge_fail() {
        let three = TableOptions { replicas: Some(3), ..TableOptions::default() };
        assert_eq!(three.spec(None, nodes(2, 2), RETENTION).unwrap().min_copies, 2);
        let error = three.spec(None, nodes(1, 1), RETENTION).unwrap_err();
        assert!(error.message.contains("3 replicas need 2 live nodes"), "{error}");
        assert_eq!(error.code, Code::FailedPrecondition, "no call to another coordinator can succeed");
        assert_eq!(three.spec(None, nodes(3, 1), RETENTION).unwrap_err().code, Code::Unavailable, "they may return");
    }

    #[test]
    fn append_cannot_change_the_layout() {
        let name: TableName = "a/t".parse().unwrap();
        let has = spec(4, 2);
        TableOptions { shards: Some(4), replicas: Some(2), ..TableOptions::default() }
            .check_append(&name, &has)
            .unwrap();
        let rejected = |options: TableOptions| options.check_append(&name, &has).unwrap_err().message;
        assert!(rejected(TableOptions { shards: Some(5), ..TableOptions::default() }).contains("shards = 4"));
        assert!(
            rejected(TableOptions { shard_by: vec!["k".into()], ..TableOptions::default() }).contains("shard_by = []")
        );
        assert!(rejected(TableOptions { replicas: Some(1), ..TableOptions::default() }).contains("replicas = 2"));
        let other = TableOptions { compression: Some(Compression::Zstd), ..TableOptions::default() };
        assert!(rejected(other).contains("compression = none"));
        assert!(rejected(TableOptions { retention_ms: Some(9000), ..TableOptions::default() }).contains("retention_s"));
        assert!(rejected(TableOptions { ttl_ms: Some(9000), ..TableOptions::default() }).contains("ttl_s = 0"));
        assert!(rejected(TableOptions { max_endpoints: Some(1), ..TableOptions::default() }).contains("no limit"));
        let whole = TableOptions { preserve_batches: Some(true), ..TableOptions::default() };
        assert!(rejected(whole).contains("preserve_batches = false"));
        let shared = TableOptions { shareable_tickets: Some(true), ..TableOptions::default() };
        assert!(rejected(shared).contains("shareable_tickets = false"));
    }

    #[test]
    fn shareable_tickets_are_off_unless_chosen_and_then_kept() {
        let spec_of = |share, old| {
            let options = TableOptions { shareable_tickets: share, ..TableOptions::default() };
            options.spec(old, nodes(2, 2), RETENTION).unwrap()
        };
        assert!(!spec_of(None, None).shareable_tickets);
        let shared = spec_of(Some(true), None);
        assert!(shared.shareable_tickets && spec_of(None, Some(&shared)).shareable_tickets);
        assert!(!spec_of(Some(false), Some(&shared)).shareable_tickets);
    }

    #[test]
    fn time_to_live_is_kept_until_another_one_is_chosen() {
        let ttl_of = |ttl_ms, old| {
            let options = TableOptions { ttl_ms, ..TableOptions::default() };
            options.spec(old, nodes(2, 2), RETENTION).unwrap()
        };
        assert_eq!(ttl_of(None, None).ttl_ms, 0);
        let hour = ttl_of(Some(3_600_000), None);
        assert_eq!(
            (hour.ttl_ms, ttl_of(None, Some(&hour)).ttl_ms, ttl_of(Some(0), Some(&hour)).ttl_ms),
            (3_600_000, 3_600_000, 0)
        );
    }

    #[test]
    fn temporary_table_expires_and_replaces_no_other() {
        let name: TableName = "t".parse().unwrap();
        let temporary = |ttl_ms, old: Option<&TableSpec>| {
            let options = TableOptions { ttl_ms, ..TableOptions::default() }.temporary(&name, 5_000, old)?;
            Ok::<_, Error>(options.ttl_ms)
        };
        assert_eq!(temporary(None, None), Ok(Some(5_000)));
        assert_eq!(temporary(Some(9_000), None), Ok(Some(9_000)));
        let expiring = TableSpec { ttl_ms: 7_000, ..spec(1, 1) };
        assert_eq!(temporary(None, Some(&expiring)), Ok(None), "the table keeps its own");
        let error = temporary(None, Some(&spec(1, 1))).unwrap_err();
        assert!(error.code == Code::FailedPrecondition && error.message.contains("not temporary"), "{error}");
        assert_eq!(temporary(Some(0), None).unwrap_err().code, Code::InvalidArgument);
        let lasting = TableOptions::default().temporary(&name, 0, Some(&spec(1, 1))).unwrap();
        assert_eq!(lasting, TableOptions::default(), "nothing temporary was requested");
    }

    #[test]
    fn preserve_batches_is_kept_and_excludes_keys() {
        let spec_of = |options: &TableOptions, old| options.spec(old, nodes(2, 2), RETENTION);
        let keep = |keep, keys: &[&str]| TableOptions {
            preserve_batches: keep,
            shard_by: keys.iter().map(ToString::to_string).collect(),
            ..TableOptions::default()
        };
        let kept = spec_of(&keep(Some(true), &[]), None).unwrap();
        assert!(kept.preserve_batches && spec_of(&keep(None, &[]), Some(&kept)).unwrap().preserve_batches);
        assert!(!spec_of(&keep(Some(false), &["k"]), Some(&kept)).unwrap().preserve_batches);
        let keyed = TableSpec { shard_by: vec!["k".into()], ..spec(2, 1) };
        let both = [spec_of(&keep(Some(true), &["k"]), None), spec_of(&keep(None, &["k"]), Some(&kept))];
        for result in both.into_iter().chain([spec_of(&keep(Some(true), &[]), Some(&keyed))]) {
            let error = result.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains("shard_by = [\"k\"]"), "{error}");
        }
    }
}
