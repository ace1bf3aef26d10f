//! Nodes in one process, which call each other without a connection, and can be lost.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use prost::Message;
use volley_common::NodeId;
use volley_common::wire::cluster::{
    DescribeWorkerReply, QueryTaskReport, QueryTaskRows, ReadQueryTaskRequest, StartQueryTask, Ticket,
};

use super::memory_source::HOLDERS;
use super::*;

/// The nodes of a test.
pub(super) struct MemoryNodes {
    pub(super) workers: Mutex<BTreeMap<NodeId, Arc<QueryWorker>>>,
    /// Calls of these fail, and so do replies of theirs.
    lost: Mutex<BTreeSet<NodeId>>,
    /// A node that is lost once it has sent a message with rows.
    pub(super) fragile: Mutex<Option<NodeId>>,
    /// What nodes say of their version, if not the truth.
    pub(super) engine: Mutex<Option<String>>,
    source: Arc<MemorySource>,
}

/// All nodes, as one of them calls them.
pub(super) struct MemoryNetwork {
    own: NodeId,
    nodes: Arc<MemoryNodes>,
}

/// Several nodes with the same tables. Every query that can be runs on all of them.
pub(super) struct StageRig {
    pub(super) engines: Vec<SqlEngine>,
    pub(super) nodes: Arc<MemoryNodes>,
    pub(super) source: Arc<MemorySource>,
    _spill: TempDir,
}

impl StageRig {
    pub(super) fn new(config: EngineConfig, tables: Vec<MemoryTable>, distribute_bytes: u64) -> Self {
        let spill = tempfile::tempdir().unwrap();
        let source = Arc::new(MemorySource::new(tables));
        let nodes = Arc::new(MemoryNodes {
            workers: Mutex::default(),
            lost: Mutex::default(),
            fragile: Mutex::default(),
            engine: Mutex::default(),
            source: source.clone(),
        });
        let engine = |node: u64| {
            let network = Arc::new(MemoryNetwork { own: NodeId(node), nodes: nodes.clone() });
            let config = EngineConfig { spill_dir: spill.path().join(node.to_string()), ..config.clone() };
            let engine = SqlEngine::new(config).unwrap().with_network(network, distribute_bytes).unwrap();
            nodes.workers.lock().insert(NodeId(node), engine.worker().unwrap());
            engine
        };
        let engines = (1..=HOLDERS).map(engine).collect();
        StageRig { engines, nodes, source, _spill: spill }
    }

    pub(super) async fn start(&self, sql: &str, tables: &[&str]) -> Result<QueryStream> {
        let caller = CallerKey::Principal("alice".into());
        self.engines[0].start(self.source.clone(), &statement(sql, tables), None, caller).await
    }

    pub(super) async fn rows(&self, sql: &str, tables: &[&str]) -> Result<Vec<String>> {
        Ok(text(&self.start(sql, tables).await?.try_collect::<Vec<_>>().await?))
    }

    /// Ends when no task runs on any node.
    pub(super) async fn all_tasks_ended(&self) {
        let is_running = || self.nodes.workers.lock().values().any(|worker| worker.running() > 0);
        while is_running() {
            tokio::task::yield_now().await;
        }
    }
}

impl MemoryNodes {
    pub(super) fn lose(&self, node: NodeId) {
        self.lost.lock().insert(node);
    }

    fn worker(&self, node: NodeId) -> Result<Arc<QueryWorker>> {
        match self.lost.lock().contains(&node) {
            true => Err(Error::unavailable("the connection broke, says the test")),
            false => Ok(self.workers.lock()[&node].clone()),
        }
    }
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNetwork").field("own", &self.own).finish_non_exhaustive()
    }
}

#[async_trait]
impl QueryNetwork for MemoryNetwork {
    fn own_node(&self) -> NodeId {
        self.own
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.nodes.workers.lock().keys().copied().collect()
    }

    async fn describe(&self, node: NodeId) -> Result<DescribeWorkerReply> {
        let described = self.nodes.worker(node)?.describe();
        let engine = self.nodes.engine.lock().clone().unwrap_or(described.engine);
        Ok(DescribeWorkerReply { engine, ..described })
    }

    fn sign(&self, ticket: &Ticket) -> Result<Bytes> {
        Ok(ticket.encode_to_vec().into())
    }

    fn verify(&self, ticket: &[u8]) -> Result<Ticket> {
        Ticket::decode(ticket).map_err(|e| Error::invalid(e.to_string()))
    }

    fn parts(&self) -> Arc<dyn TableSource> {
        self.nodes.source.clone()
    }

    async fn run_task(
        &self,
        node: NodeId,
        start: StartQueryTask,
        ended: BoxFuture<'static, ()>,
    ) -> Result<BoxStream<'static, Result<QueryTaskReport>>> {
        self.nodes.worker(node)?.run_task(start, ended).await
    }

    async fn read_task(
        &self,
        node: NodeId,
        request: ReadQueryTaskRequest,
    ) -> Result<BoxStream<'static, Result<QueryTaskRows>>> {
        let rows = self.nodes.worker(node)?.read_task(request).await?;
        let nodes = self.nodes.clone();
        let through = move |message: Result<QueryTaskRows>| {
            if message.as_ref().is_ok_and(|message| !message.body.is_empty()) {
                let mut fragile = nodes.fragile.lock();
                if *fragile == Some(node) {
                    *fragile = None;
                    nodes.lose(node);
                }
            }
            nodes.worker(node).and(message)
        };
        Ok(rows.map(through).boxed())
    }
}
