//! What all queries of a node share: the engine with its memory and its places, and the threads that run it.
//!
//! Operators of queries occupy a thread for long. They have threads of their own, with a lower priority than those of gets and puts,
//! so that neither waits for them. Nothing of this exists before the node's first query.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;
use volley_common::telemetry::trace::carry;
use volley_common::{Error, Result};
use volley_sql::engine::{EngineConfig, SqlEngine};
use volley_sql::query_network::QueryNetwork;

use crate::config::NodeConfig;
use crate::result_space::ResultSpace;
use crate::storage::{PartStore, available_memory};

/// By how much the threads of queries give way to others, see nice(2).
const NICENESS: i32 = 5;
/// Stack of each thread of queries, of which only what is used takes memory. The engine recurses for each level of an expression, and
/// a thousand levels take some 20 MB without optimization.
const STACK_BYTES: usize = 32 << 20;
/// After how many turns of its tasks a thread of queries looks for timers and events. Turns of operators take milliseconds, so with
/// the runtime's default of 61 a time limit would be seconds late while all threads are busy.
const EVENT_INTERVAL: u32 = 2;
/// Rows of a batch between operators.
const BATCH_ROWS: usize = 8192;
/// Which part of the memory that the process may use is for queries, unless the configuration says how much.
const MEMORY_SHARE: u64 = 4;

/// The engine of a node, which starts with its first query.
pub struct SqlResources {
    /// The disk space of stored results.
    pub results: ResultSpace,
    config: Arc<NodeConfig>,
    store: PartStore,
    /// The other nodes; not set: queries run on this one alone.
    network: OnceLock<Arc<dyn QueryNetwork>>,
    runtime: OnceCell<Arc<QueryRuntime>>,
}

/// The engine and its threads.
pub struct QueryRuntime {
    /// The engine. Its futures and streams must be polled by these threads only: [`QueryRuntime::spawn`].
    pub engine: SqlEngine,
    /// `None` once it is being dropped.
    threads: Option<Runtime>,
}

impl SqlResources {
    /// As configured; nothing is started.
    pub fn new(config: Arc<NodeConfig>, store: PartStore) -> Self {
        let results = ResultSpace::new(config.sql_result_space_bytes);
        SqlResources { results, config, store, network: OnceLock::new(), runtime: OnceCell::new() }
    }

    /// Connects the engine with other nodes, before its first query.
    pub fn connect(&self, network: Arc<dyn QueryNetwork>) {
        // A second one changes nothing.
        let _ = self.network.set(network);
    }

    /// Sets the gauges of the engine, if it runs.
    pub fn update_gauges(&self) {
        if let Some(runtime) = self.runtime.get() {
            runtime.engine.update_gauges();
        }
    }

    /// The engine, which is started if it does not run yet.
    ///
    /// # Errors
    /// UNAVAILABLE: the system refuses threads or the folder for what does not fit into memory. Those of [`SqlEngine::new`]. The
    /// next call tries again.
    pub async fn runtime(&self) -> Result<Arc<QueryRuntime>> {
        let start = || async {
            let (config, store, network) = (self.config.clone(), self.store.clone(), self.network.get().cloned());
            let start = move || QueryRuntime::start(&config, &store, network);
            let started = tokio::task::spawn_blocking(start).await;
            started.unwrap_or_else(|e| Err(Error::internal(format!("starting the query engine: {e}")))).map(Arc::new)
        };
        self.runtime.get_or_try_init(start).await.cloned()
    }
}

impl QueryRuntime {
    fn start(config: &NodeConfig, store: &PartStore, network: Option<Arc<dyn QueryNetwork>>) -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let engine = SqlEngine::new(engine_config(config, store, processors)?)?;
        let engine = match network {
            Some(network) => engine.with_network(network, config.sql_distribute_bytes)?,
            None => engine,
        };
        let threads = Builder::new_multi_thread()
            .worker_threads(processors)
            .thread_name("sql")
            .thread_stack_size(STACK_BYTES)
            .event_interval(EVENT_INTERVAL)
            .enable_all()
            // A priority that stays as it was is no fault.
            .on_thread_start(|| {
                let _ = rustix::process::nice(NICENESS);
            })
            .build()
            .map_err(|e| Error::unavailable(format!("the system refuses threads for queries ({e}): try again")))?;
        Ok(QueryRuntime { engine, threads: Some(threads) })
    }

    /// Runs `task` on the threads of queries. Dropping what is returned ends it at its next pause.
    ///
    /// # Errors
    /// INTERNAL: it panicked, or the node stops.
    pub fn spawn<T, F>(&self, task: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let handle = self.threads.as_ref().map(|threads| AbortOnDropHandle::new(threads.spawn(carry(task))));
        async move {
            match handle {
                Some(handle) => handle.await.unwrap_or_else(|e| Err(Error::internal(format!("the query failed: {e}")))),
                None => Err(Error::unavailable("this node stops: try another one")),
            }
        }
    }
}

impl Drop for QueryRuntime {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // Without waiting: the last user may be a task.
            threads.shutdown_background();
        }
    }
}

fn engine_config(config: &NodeConfig, store: &PartStore, processors: usize) -> Result<EngineConfig> {
    let memory_bytes = match config.sql_memory_bytes {
        0 => available_memory() / MEMORY_SHARE,
        bytes => bytes,
    };
    Ok(EngineConfig {
        memory_bytes,
        spill_dir: store.create_spill_folder()?,
        spill_bytes: config.sql_spill_bytes,
        max_queries: config.max_concurrent_queries,
        max_queries_per_principal: config.max_queries_of_principal(),
        partitions: if config.sql_partitions == 0 { processors } else { config.sql_partitions },
        timeout: Duration::from_secs(config.statement_timeout_s),
        batch_rows: BATCH_ROWS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(config: NodeConfig) -> EngineConfig {
        let dir = tempfile::tempdir().unwrap();
        engine_config(&config, &PartStore::open(dir.path()).unwrap(), 3).unwrap()
    }

    #[test]
    fn queries_have_a_quarter_of_the_memory_unless_it_is_named() {
        let unnamed = configured(NodeConfig::default());
        assert_eq!(unnamed.memory_bytes, available_memory() / 4);
        assert_eq!((unnamed.spill_bytes, unnamed.timeout), (10 << 30, Duration::from_secs(3600)));
        assert_eq!((unnamed.max_queries, unnamed.max_queries_per_principal, unnamed.partitions), (32, 16, 3));
        let named = configured(NodeConfig { sql_memory_bytes: 1 << 30, sql_partitions: 5, ..NodeConfig::default() });
        assert_eq!((named.memory_bytes, named.partitions), (1 << 30, 5));
    }
}
