//! The cluster that is simulated: equal nodes in three zones, equal tables of three replicas, parts in all shards in turn.

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::ipc::schema::schema_message;
use volley_common::placement::Candidate;
use volley_common::wire::catalog as wire;
use volley_common::{NodeId, PartId};

/// Replicas of each shard.
pub const REPLICAS: u32 = 3;
/// Zones of the nodes: as many as replicas.
pub const ZONES: u64 = 3;
/// Columns of each table.
const COLUMNS: usize = 20;
/// The boot id of each node.
pub const BOOT: u64 = 1;

/// Sizes of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleModel {
    pub nodes: u64,
    pub tables: u64,
    pub shards_per_table: u64,
    pub parts_per_table: u64,
    /// Bytes of the statistics of each part.
    pub statistics_bytes: usize,
    pub seed: u64,
}

impl ScaleModel {
    /// A model of at most these sizes: each table has the same number of shards and of parts. `tables`: 0 stands for one table
    /// for each 1,000 shards.
    pub fn new(nodes: u64, shards: u64, parts: u64, tables: u64) -> Result<Self, String> {
        let tables = if tables == 0 { (shards / 1000).max(1) } else { tables };
        if nodes < 2 * ZONES {
            return Err(format!("--nodes must be at least {}: two in each zone", 2 * ZONES));
        }
        if shards < tables || parts < tables {
            return Err(format!("{tables} tables need at least as many --shards and --parts"));
        }
        let (shards_per_table, parts_per_table) = (shards / tables, parts / tables);
        Ok(ScaleModel { nodes, tables, shards_per_table, parts_per_table, statistics_bytes: 0, seed: 0 })
    }

    pub fn shards(&self) -> u64 {
        self.tables * self.shards_per_table
    }

    pub fn parts(&self) -> u64 {
        self.tables * self.parts_per_table
    }

    /// Replicas of all shards.
    pub fn replicas(&self) -> u64 {
        self.shards() * u64::from(REPLICAS)
    }

    pub fn zone(&self, node: u64) -> u64 {
        node % ZONES
    }

    /// The row of a node. Nodes are numbered from 1.
    pub fn node(&self, id: u64) -> wire::Node {
        let (high, low) = (id / 256 % 256, id % 256);
        wire::Node {
            id,
            boot: BOOT,
            zone: format!("zone-{}", self.zone(id)),
            flight_uri: format!("grpc+tcp://10.7.{high}.{low}:8816"),
            peer_addr: format!("10.7.{high}.{low}:8826"),
            software: env!("CARGO_PKG_VERSION").into(),
            ..wire::Node::default()
        }
    }

    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |id| Candidate { id: NodeId(id), zone: self.node(id).zone, capacity: 0 };
        (1..=self.nodes).map(candidate).collect()
    }

    /// The name of a table. Tables are numbered from 0.
    pub fn table_name(&self, table: u64) -> Vec<String> {
        vec!["scale".into(), format!("t{table:06}")]
    }

    pub fn spec(&self) -> wire::TableSpec {
        wire::TableSpec {
            shards: self.shards_per_table as u32,
            replicas: REPLICAS,
            min_copies: 2,
            retention_ms: 900_000,
            ..wire::TableSpec::default()
        }
    }

    pub fn schema(&self) -> Bytes {
        let field = |at| Field::new(format!("column_{at}"), DataType::Float64, true);
        schema_message(&Schema::new((0..COLUMNS).map(field).collect::<Vec<_>>())).unwrap()
    }

    /// The parts of a table's first version, the same for the same seed. `placement`: the nodes of each shard.
    pub fn parts_of(&self, table: u64, placement: &[wire::ShardPlacement]) -> Vec<wire::Part> {
        let mut random = StdRng::seed_from_u64(self.seed ^ (table << 32));
        (0..self.parts_per_table).map(|seq| self.part(&mut random, seq, placement)).collect()
    }

    /// A part of the shard whose turn it is.
    pub fn part(&self, random: &mut StdRng, seq: u64, placement: &[wire::ShardPlacement]) -> wire::Part {
        let shard = (seq % self.shards_per_table) as usize;
        let mut statistics = vec![0_u8; self.statistics_bytes];
        random.fill(&mut statistics[..]);
        wire::Part {
            id: Some(PartId(random.random()).into()),
            shard: shard as u32,
            seq,
            rows: 1_000_000,
            bytes: 64 << 20,
            crc32c: random.random(),
            holders: placement[shard].nodes.clone(),
            batches: 64,
            statistics: statistics.into(),
            ..wire::Part::default()
        }
    }
}
