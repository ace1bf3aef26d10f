//! Runs queries with DataFusion over the tables of a [`TableSource`], within limits of memory, disk, time and number.
//!
//! All queries of a process share one [`SqlEngine`]. What depends on the caller comes with the source of each query: nothing of
//! one query is visible to another.
//!
//! | module | what it has |
//! |---|---|
//! | `binding` | which of a statement's tables a name in its text means |
//! | `statement_catalog` | the catalog of one statement |
//! | `part_table`, `part_scan` | a version of a table: what its holders filter, and its parts as leaves of a plan |
//! | `query_planner`, `planned_query`, `query_run` | a query that is planned, its parameters; its start |
//! | `planning_thread` | where planning computes |
//! | `result_size` | about how many bytes its rows will have |
//! | `stages` | queries on several nodes |
//! | `plan_size`, `sort_keys` | plans that would become too large to be optimized, or take too long |
//! | `query_stream`, `relabel`, `views` | a running query, and its rows with the promised schema, which has no views |
//! | `bounded_functions`, `growth` | functions whose results would take too much memory or time |
//! | `row_width` | rows that joins, subqueries and `unnest` would copy too often, and the memory of those copies |
//! | `bounded_windows`, `window_input` | the memory of window functions |
//! | `unsound` | queries that the engine would answer wrongly |
//! | `exact_cast_rule` | the rules of DataFusion, with casts that they do not move where that is wrong |
//! | `cooperative_joins` | joins that leave their thread to others |
//! | `admission`, `memory_shares`, `gauges` | how many queries run, and their memory; what metrics tell of it |

mod admission;
mod binding;
mod bounded_functions;
mod bounded_windows;
mod cooperative_joins;
mod exact_cast_rule;
mod gauges;
mod growth;
mod memory_shares;
mod part_scan;
mod part_table;
mod plan_size;
mod planned_query;
mod planning_thread;
mod query_planner;
mod query_run;
mod query_stream;
mod relabel;
mod result_size;
mod row_width;
mod sort_keys;
mod stages;
mod statement_catalog;
mod unsound;
mod views;
mod window_input;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::ParamValues;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use futures::{FutureExt, TryFutureExt};
use volley_common::fairness::{CallerKey, FairSemaphore};
use volley_common::{Error, Result};

use self::admission::{QueryAdmission, QueryPermit};
use self::bounded_functions::BoundedPlanner;
use self::bounded_windows::BoundedWindows;
use self::cooperative_joins::CooperativeJoins;
use self::exact_cast_rule::ExactCastAnalysis;
use self::memory_shares::QueryMemoryPool;
use self::planning_thread::plan_apart;
use self::query_planner::{QueryPlanner, is_description};
use self::query_run::QueryRun;
use self::query_stream::{Deadline, Restart};
use self::relabel::Relabel;
use self::row_width::RowWidthChecks;
use self::stages::QueryStages;
use self::statement_catalog::StatementCatalog;
use crate::erased::Erased;
use crate::fault::checked;
use crate::names::{CATALOG, DEFAULT_SCHEMA};
use crate::predicate::functions::type_settings;
use crate::query_network::QueryNetwork;
use crate::source::TableSource;
use crate::statement::QueryStatement;

pub use self::planned_query::PlannedQuery;
pub use self::query_stream::{QueryStream, RowsShare};
pub use self::stages::QueryWorker;

/// The most that a sort keeps free to merge what it has spilled, bytes.
const SORT_MERGE_BYTES: usize = 10 << 20;
/// How many scans of a query are planned at once. A source may wait for others while it plans one; they use one thread.
const TABLES_AT_ONCE: usize = 16;
/// The least number of partitions of queries that may run on several nodes: what has one partition cannot be divided.
const MIN_PARTITIONS_OF_STAGES: usize = 2;

/// The limits of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Memory of all queries together, bytes: of what they sort, group and join, and of rows that wait for their reader.
    pub memory_bytes: u64,
    /// Where queries put what does not fit into memory. The folder is made if only it is missing.
    pub spill_dir: PathBuf,
    /// Disk space of all queries together, bytes.
    pub spill_bytes: u64,
    /// How many queries run at once, and how many more are planned without being run.
    pub max_queries: usize,
    /// How many queries of one principal run at once.
    pub max_queries_per_principal: usize,
    /// How many partitions each step of a query has, which is how many threads it can use; 0 counts as 1.
    pub partitions: usize,
    /// How long planning may take, and how long a query may run until its last row is taken; zero: as long as they like.
    pub timeout: Duration,
    /// Rows of a batch between the steps of a query; 0 counts as 1.
    pub batch_rows: usize,
}

/// Plans and runs queries.
pub struct SqlEngine {
    config: EngineConfig,
    /// What all sessions have in common; without tables.
    template: Erased<SessionState>,
    admission: Arc<QueryAdmission>,
    /// Places of plans that are not run, for which callers wait in turn.
    plans: Arc<FairSemaphore>,
    /// `None`: queries run on this node alone.
    stages: Option<Arc<QueryStages>>,
}

impl SqlEngine {
    /// An engine with these limits.
    ///
    /// # Errors
    /// INTERNAL: the spill folder cannot be made.
    pub fn new(config: EngineConfig) -> Result<Self> {
        let memory = usize::try_from(config.memory_bytes).unwrap_or(usize::MAX);
        let disk = DiskManager::builder()
            .with_mode(DiskManagerMode::Directories(vec![config.spill_dir.clone()]))
            .with_max_temp_directory_size(config.spill_bytes);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(QueryMemoryPool::new(memory, config.partitions.max(1))))
            .with_disk_manager_builder(disk)
            .build_arc();
        let runtime = checked(runtime).map_err(|error| error.at(config.spill_dir.display()))?;
        let bounded = bounded_functions::functions();
        let mut builder = SessionStateBuilder::new()
            .with_config(session_config(&config, memory))
            .with_runtime_env(runtime)
            // Before those of the engine.
            .with_expr_planners(vec![Arc::new(BoundedPlanner::new(&bounded))])
            .with_default_features()
            .with_analyzer_rule(Arc::new(ExactCastAnalysis))
            .with_optimizer_rules(exact_cast_rule::optimizer_rules())
            .with_physical_optimizer_rule(Arc::new(BoundedWindows))
            .with_physical_optimizer_rule(Arc::new(RowWidthChecks))
            .with_physical_optimizer_rule(Arc::new(CooperativeJoins))
            .with_catalog_list(Arc::new(StatementCatalog::default()));
        // After those of the same names.
        builder.scalar_functions().get_or_insert_default().extend(bounded);
        let template = Erased::new(builder.build());
        let admission = QueryAdmission::new(config.max_queries, config.max_queries_per_principal);
        let plans = FairSemaphore::new(config.max_queries);
        Ok(SqlEngine { config, template, admission, plans, stages: None })
    }

    /// The same, which runs queries that read at least `distribute_bytes` on several nodes, and tasks of other nodes' queries.
    ///
    /// # Errors
    /// INTERNAL: the sessions of tasks cannot be made.
    pub fn with_network(mut self, network: Arc<dyn QueryNetwork>, distribute_bytes: u64) -> Result<Self> {
        self.config.partitions = self.config.partitions.max(MIN_PARTITIONS_OF_STAGES);
        let mut template = SessionState::clone(&self.template);
        let options = template.config_mut().options_mut();
        options.execution.target_partitions = self.config.partitions;
        // Filters that are found out while the query runs would be known to one node only. No leaf uses them.
        options.optimizer.enable_dynamic_filter_pushdown = false;
        options.optimizer.enable_join_dynamic_filter_pushdown = false;
        options.optimizer.enable_topk_dynamic_filter_pushdown = false;
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        let stages = QueryStages::new(network, distribute_bytes, &template, self.config.max_queries)?;
        self.template = Erased::new(template);
        self.stages = Some(Arc::new(stages));
        Ok(self)
    }

    /// Runs tasks of other nodes' queries, if the engine knows other nodes.
    pub fn worker(&self) -> Option<Arc<QueryWorker>> {
        self.stages.as_ref().map(|stages| stages.worker().clone())
    }

    /// How long a query may run; zero: as long as it likes.
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Plans a query against the versions that `statement.tables` names, or the newest ones. No row is read. Without
    /// `parameters` a statement that has some is planned too, but cannot be run. Waits in turn of the callers while as many are planned as
    /// may run.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the statement is wrong or too large once planned, or its parameters do not fit. NOT_FOUND: a table does
    /// not exist. UNIMPLEMENTED: it is no query, or would be answered wrongly. DEADLINE_EXCEEDED: planning took too long. Errors
    /// of the source.
    pub async fn prepare(
        &self,
        source: Arc<dyn TableSource>,
        statement: &QueryStatement,
        parameters: Option<ParamValues>,
        caller: CallerKey,
    ) -> Result<PlannedQuery> {
        let deadline = Deadline::after(self.config.timeout);
        let place = Deadline::limit(deadline, self.plans.acquire(caller, 1)).await?;
        let planning = self.planner().plan(source, statement.clone(), parameters);
        Ok(plan_apart(deadline, place, planning).await?.0)
    }

    /// About how many bytes the rows of a query have, if its tables have at least `least` bytes: a smaller one is not worth the time.
    /// `None`: it is smaller, it cannot be run, or nothing tells. No row is read. Waits as [`SqlEngine::prepare`] does.
    ///
    /// # Errors
    /// Those of planning it, as it runs. DEADLINE_EXCEEDED: that took too long.
    pub async fn result_bytes(&self, query: &PlannedQuery, least: u64, caller: CallerKey) -> Result<Option<u64>> {
        let has_rows = !is_description(&query.plan);
        if query.source_bytes < least || !query.is_bound || !has_rows {
            return Ok(None);
        }
        let deadline = Deadline::after(self.config.timeout);
        let place = Deadline::limit(deadline, self.plans.acquire(caller, 1)).await?;
        let (state, plan) = (query.state.clone(), query.plan.clone());
        let estimate = async move {
            let plan = checked(state.create_physical_plan(&plan).await)?;
            checked(result_size::estimate(&plan))
        };
        Ok(plan_apart(deadline, place, estimate).await?.0)
    }

    /// Plans a query as [`SqlEngine::prepare`] does, and runs it. It has its place from its planning on, until it fails or the stream is
    /// dropped.
    ///
    /// # Errors
    /// Those of [`SqlEngine::prepare`] and [`SqlEngine::run`].
    pub async fn start(
        &self,
        source: Arc<dyn TableSource>,
        statement: &QueryStatement,
        parameters: Option<ParamValues>,
        caller: CallerKey,
    ) -> Result<QueryStream> {
        let permit = self.admission.admit(caller)?;
        let planning = self.planner().plan(source, statement.clone(), parameters);
        let (query, permit) = plan_apart(Deadline::after(self.config.timeout), permit, planning).await?;
        self.run_admitted(query, permit).await
    }

    /// Runs a query that was planned. It runs on the current runtime, and has its place until it fails or the stream is dropped.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: parameters have no values. RESOURCE_EXHAUSTED: too many queries run, or too little memory is free.
    /// DEADLINE_EXCEEDED: planning took too long. What happens later, the stream says.
    pub async fn run(&self, query: PlannedQuery, caller: CallerKey) -> Result<QueryStream> {
        let permit = self.admission.admit(caller)?;
        self.run_admitted(query, permit).await
    }

    async fn run_admitted(&self, query: PlannedQuery, permit: QueryPermit) -> Result<QueryStream> {
        if !query.is_bound {
            let names: Vec<&str> = query.parameter_types.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::invalid(format!("the parameters {} have no values: bind them", names.join(", "))));
        }
        let deadline = Deadline::after(self.config.timeout);
        let PlannedQuery { state, plan, engine_schema, schema, .. } = query;
        let run = Arc::new(QueryRun { state, plan, stages: self.stages.clone(), deadline });
        let (started, permit) = plan_apart(deadline, permit, run.clone().start()).await?;
        let relabel = Relabel::new(&started.schema, &engine_schema)?;
        // The task that waits for it has the time limit.
        let start = |run: Arc<QueryRun>| plan_apart(None, (), run.start()).map_ok(|(again, ())| again.rows).boxed();
        let restart = Restart {
            on_other_nodes: started.has_stages.then(|| start(run.clone())),
            for_rows_of: Box::new(move |width| start(Arc::new(run.for_rows_of(width)))),
        };
        let memory = &self.template.runtime_env().memory_pool;
        Ok(QueryStream::start(started.rows, restart, schema, relabel, deadline, permit, memory))
    }

    fn planner(&self) -> QueryPlanner {
        QueryPlanner { state: SessionState::clone(&self.template), partitions: self.config.partitions.max(1) }
    }
}

fn session_config(config: &EngineConfig, memory: usize) -> SessionConfig {
    let partitions = config.partitions.max(1);
    let mut settings = type_settings()
        .with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(partitions)
        .with_batch_size(config.batch_rows.max(1))
        // Each partition of a sort takes that much in advance.
        .with_sort_spill_reservation_bytes(SORT_MERGE_BYTES.min(memory / 32 / partitions));
    settings.options_mut().execution.planning_concurrency = TABLES_AT_ONCE;
    settings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
