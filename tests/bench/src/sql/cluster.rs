//! A cluster with the tables of TPC-H, each sharded by its key.

use std::path::Path;
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::{TryStreamExt, stream};
use volley_client::{Client, FetchOptions};
use volley_common::options::Options;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster};

use super::query_result::QueryResult;
use crate::measure::ResourceWatch;
use crate::tpch::TpchTable;

/// Shards of a table with a key: a multiple of all numbers of nodes.
const SHARDS: u32 = 8;

/// A running cluster. Its processes end and its folder is removed when it is dropped.
pub struct SqlCluster {
    cluster: TestCluster,
    /// Of the first node, which runs the queries.
    client: Client,
}

impl SqlCluster {
    /// Starts one coordinator and this many nodes, with these flags, and with their data in this folder.
    ///
    /// # Errors
    /// The node cannot be reached.
    ///
    /// # Panics
    /// A member does not start; its log is printed.
    pub async fn start(nodes: usize, node_flags: &[&str], parent_folder: &Path) -> Result<SqlCluster, String> {
        if nodes == 0 {
            return Err("--nodes has a cluster of 0 nodes: give 1 or more".into());
        }
        let options = ClusterOptions {
            coordinators: 1,
            nodes,
            zones: nodes.min(2),
            node_flags: node_flags.iter().map(|flag| flag.to_string()).collect(),
            parent_folder: parent_folder.to_path_buf(),
            ..ClusterOptions::default()
        };
        let cluster = TestCluster::start_with(options).await;
        let client = Client::connect(&cluster.nodes[0].address).await.map_err(|e| e.message)?;
        Ok(SqlCluster { cluster, client })
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.cluster.nodes.len()
    }

    /// Puts a table.
    ///
    /// # Errors
    /// Those of the put.
    pub async fn put(&self, table: &TpchTable) -> Result<(), String> {
        let options = match table.key {
            Some(key) => Options { shards: Some(SHARDS), shard_by: Some(vec![key.into()]), ..Options::default() },
            None => Options::default(),
        };
        let name = table.name.parse().map_err(|e: volley_common::Error| e.message)?;
        let rows = stream::iter(table.batches.clone().into_iter().map(Ok));
        let put = self.client.put(&name, &options, table.schema.clone(), rows).await;
        put.map(|_| ()).map_err(|e| format!("putting {}: {}", table.name, e.message))
    }

    /// Runs a query and takes all its rows.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn run(&self, sql: &str) -> Result<QueryResult, String> {
        let members = self.cluster.coordinators.iter().chain(&self.cluster.nodes);
        let watch =
            ResourceWatch::begin(members.filter_map(ServerProcess::pid).collect()).map_err(|e| e.to_string())?;
        let begin = Instant::now();
        let rows = self.client.query(sql, FetchOptions::default()).await.map_err(|e| e.message)?;
        let batches: Vec<RecordBatch> =
            rows.map_ok(|fetched| fetched.batch).try_collect().await.map_err(|e| e.message)?;
        let seconds = begin.elapsed().as_secs_f64();
        let used = watch.end().await.map_err(|e| e.to_string())?;
        Ok(QueryResult { batches: Some(batches), seconds, cpu: used.cpu })
    }
}
