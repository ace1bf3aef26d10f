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
//! | `planned_query`, `query_run` | a query that is planned, its parameters; its start |
//! | `result_size` | about how many bytes its rows will have |
//! | `stages` | queries on several nodes |
//! | `plan_size` | plans that would become too large to be optimized |
//! | `query_stream`, `relabel`, `views` | a running query, and its rows with the promised schema, which has no views |
//! | `bounded_functions`, `growth` | functions whose results would take too much memory or time |
//! | `row_width` | rows that joins, subqueries and `unnest` would copy too often |
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
mod query_run;
mod query_stream;
mod relabel;
mod result_size;
mod row_width;
mod stages;
mod statement_catalog;
mod unsound;
mod views;
mod window_input;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, TableReference};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionConfig;
use futures::FutureExt;
use volley_common::fairness::CallerKey;
use volley_common::{Error, Result};

use self::admission::QueryAdmission;
use self::bounded_functions::BoundedPlanner;
use self::bounded_windows::BoundedWindows;
use self::cooperative_joins::CooperativeJoins;
use self::exact_cast_rule::ExactCastAnalysis;
use self::memory_shares::QueryMemoryPool;
use self::part_table::PartTable;
use self::query_run::QueryRun;
use self::query_stream::{Deadline, Restart, catch_panic};
use self::relabel::Relabel;
use self::stages::QueryStages;
use self::statement_catalog::StatementCatalog;
use crate::fault::checked;
use crate::names::{CATALOG, DEFAULT_SCHEMA, INFORMATION_SCHEMA, SqlName};
use crate::predicate::functions::{check_width, type_settings};
use crate::query_network::QueryNetwork;
use crate::source::{PlannedTable, TableSource};
use crate::statement::{QueryStatement, TableAt};

pub use self::planned_query::PlannedQuery;
pub use self::query_stream::QueryStream;
pub use self::stages::QueryWorker;

/// The table of settings in `information_schema`. They name folders of the node.
const SETTINGS: &str = "df_settings";
/// The most that a sort keeps free to merge what it has spilled, bytes.
const SORT_MERGE_BYTES: usize = 10 << 20;
/// How many scans of a query are planned at once. A source may wait for others while it plans one; they use one thread.
const TABLES_AT_ONCE: usize = 16;
/// The least number of partitions of queries that may run on several nodes: what has one partition cannot be divided.
const MIN_PARTITIONS_OF_STAGES: usize = 2;

/// The limits of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Memory of all queries together, bytes: of what they collect to sort, group and join, not of batches on their way.
    pub memory_bytes: u64,
    /// Where queries put what does not fit into memory. The folder is made if only it is missing.
    pub spill_dir: PathBuf,
    /// Disk space of all queries together, bytes.
    pub spill_bytes: u64,
    /// How many queries run at once.
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
    template: SessionState,
    admission: Arc<QueryAdmission>,
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
            .with_physical_optimizer_rule(Arc::new(CooperativeJoins))
            .with_catalog_list(Arc::new(StatementCatalog::default()));
        // After those of the same names.
        builder.scalar_functions().get_or_insert_default().extend(bounded);
        let template = builder.build();
        let admission = QueryAdmission::new(config.max_queries, config.max_queries_per_principal);
        Ok(SqlEngine { config, template, admission, stages: None })
    }

    /// The same, which runs queries that read at least `distribute_bytes` on several nodes, and tasks of other nodes' queries.
    ///
    /// # Errors
    /// INTERNAL: the sessions of tasks cannot be made.
    pub fn with_network(mut self, network: Arc<dyn QueryNetwork>, distribute_bytes: u64) -> Result<Self> {
        self.config.partitions = self.config.partitions.max(MIN_PARTITIONS_OF_STAGES);
        let options = self.template.config_mut().options_mut();
        options.execution.target_partitions = self.config.partitions;
        // Filters that are found out while the query runs would be known to one node only. No leaf uses them.
        options.optimizer.enable_dynamic_filter_pushdown = false;
        options.optimizer.enable_join_dynamic_filter_pushdown = false;
        options.optimizer.enable_topk_dynamic_filter_pushdown = false;
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        let stages = QueryStages::new(network, distribute_bytes, &self.template, self.config.max_queries)?;
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
    /// `parameters` a statement that has some is planned too, but cannot be run.
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
    ) -> Result<PlannedQuery> {
        let deadline = Deadline::after(self.config.timeout);
        Deadline::limit(deadline, catch_panic(self.plan(source, statement, parameters))).await??
    }

    /// About how many bytes the rows of a query have, if its tables have at least `least` bytes: a smaller one is not worth the time.
    /// `None`: it is smaller, it cannot be run, or nothing tells. No row is read.
    ///
    /// # Errors
    /// Those of planning it, as it runs. DEADLINE_EXCEEDED: that took too long.
    pub async fn result_bytes(&self, query: &PlannedQuery, least: u64) -> Result<Option<u64>> {
        let has_rows = !is_description(&query.plan);
        if query.source_bytes < least || !query.is_bound || !has_rows {
            return Ok(None);
        }
        let estimate = async {
            let plan = checked(query.state.create_physical_plan(&query.plan).await)?;
            checked(result_size::estimate(&plan))
        };
        Deadline::limit(Deadline::after(self.config.timeout), catch_panic(estimate)).await??
    }

    /// Runs a query. It runs on the current runtime, until its last row is taken or the stream is dropped.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: parameters have no values. RESOURCE_EXHAUSTED: too many queries run, or too little memory is free.
    /// DEADLINE_EXCEEDED: planning took too long. What happens later, the stream says.
    pub async fn run(&self, query: PlannedQuery, caller: CallerKey) -> Result<QueryStream> {
        if !query.is_bound {
            let names: Vec<&str> = query.parameter_types.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::invalid(format!("the parameters {} have no values: bind them", names.join(", "))));
        }
        let permit = self.admission.admit(caller)?;
        let deadline = Deadline::after(self.config.timeout);
        let PlannedQuery { state, plan, engine_schema, schema, .. } = query;
        let run = Arc::new(QueryRun { state, plan, stages: self.stages.clone(), deadline });
        let started = Deadline::limit(deadline, catch_panic(run.start())).await???;
        let relabel = Relabel::new(&started.schema, &engine_schema)?;
        let start = |run: Arc<QueryRun>| async move { run.start().await.map(|again| again.rows) }.boxed();
        let restart = Restart {
            on_other_nodes: started.has_stages.then(|| start(run.clone())),
            in_batches_of: Box::new(move |rows| start(Arc::new(run.in_batches_of(rows)))),
        };
        Ok(QueryStream::start(started.rows, restart, schema, relabel, deadline, permit))
    }

    async fn plan(
        &self,
        source: Arc<dyn TableSource>,
        statement: &QueryStatement,
        parameters: Option<ParamValues>,
    ) -> Result<PlannedQuery> {
        let mut state = self.template.clone();
        state.mark_start_execution();
        let dialect = state.config_options().sql_parser.dialect;
        let parsed = checked(state.sql_to_statement(&statement.sql, &dialect))?;
        let references = checked(state.resolve_table_references(&parsed))?;
        let tables = plan_tables(source.as_ref(), &statement.tables).await?;
        let catalog = self.catalog(&source, &references, statement, &tables).await?;
        state.register_catalog_list(Arc::new(catalog));

        let plan = checked(state.statement_to_plan(parsed).await)?;
        refuse_changes(&plan)?;
        plan_size::check(&plan)?;
        refuse_settings(&plan)?;
        refuse_wide_values(&plan)?;
        unsound::check(&plan)?;
        let parameter_types = planned_query::parameter_types(&plan)?;
        let is_bound = parameters.is_some() || parameter_types.is_empty();
        let plan = match parameters {
            Some(values) => planned_query::bind_parameters(plan, &parameter_types, values)?,
            None => plan,
        };
        let engine_schema = if is_bound { result_schema(&state, &plan)? } else { plan.schema().inner().clone() };
        let schema = views::without_views(&engine_schema);
        let source_bytes = tables.iter().fold(0, |sum: u64, table| sum.saturating_add(table.about_bytes()));
        let pin = |table: &Arc<PlannedTable>| TableAt { name: table.name.clone(), version: Some(table.version) };
        let tables = tables.iter().map(pin).collect();
        Ok(PlannedQuery { state, plan, engine_schema, schema, tables, source_bytes, parameter_types, is_bound })
    }

    /// The catalog with the tables that the references mean, and with all others only if the statement asks for them.
    async fn catalog(
        &self,
        source: &Arc<dyn TableSource>,
        references: &[TableReference],
        statement: &QueryStatement,
        tables: &[Arc<PlannedTable>],
    ) -> Result<StatementCatalog> {
        let is_description = |reference: &&TableReference| reference.schema() == Some(INFORMATION_SCHEMA);
        let mut catalog = match references.iter().any(|reference| is_description(&reference)) {
            true => StatementCatalog::of_list(&source.list().await?),
            false => StatementCatalog::default(),
        };
        let references: Vec<_> = references.iter().filter(|reference| !is_description(reference)).collect();
        let meant =
            references.iter().map(|reference| TableAt::from_reference(reference)).collect::<Result<Vec<_>>>()?;
        let partitions = self.config.partitions.max(1);
        for (reference, at) in references.iter().zip(binding::bind(&meant, &statement.tables)?) {
            if let Some(at) = at {
                let table = PartTable::new(source.clone(), tables[at].clone(), partitions);
                catalog.insert(&SqlName::from_reference(reference)?, Arc::new(table));
            }
        }
        Ok(catalog)
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

/// The tables of a statement, in its order.
async fn plan_tables(source: &dyn TableSource, wanted: &[TableAt]) -> Result<Vec<Arc<PlannedTable>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let planned = source.plan(wanted).await?;
    let is_as_wanted = |(wanted, planned): (&TableAt, &PlannedTable)| {
        wanted.name == planned.name && wanted.version.is_none_or(|version| version == planned.version)
    };
    if planned.len() != wanted.len() || !wanted.iter().zip(&planned).all(is_as_wanted) {
        return Err(Error::internal("other tables were planned than the statement names"));
    }
    Ok(planned.into_iter().map(Arc::new).collect())
}

/// Whether a plan tells of another one, or of a table.
fn is_description(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_))
}

/// The schema of a plan whose types are settled.
fn result_schema(state: &SessionState, plan: &LogicalPlan) -> Result<SchemaRef> {
    // Those have a schema of their own, whatever the plan inside them.
    if is_description(plan) {
        return Ok(plan.schema().inner().clone());
    }
    let analyzed = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    Ok(checked(analyzed)?.schema().inner().clone())
}

/// The engine only reads: what changes tables or settings never reaches it, unless a statement is classified wrongly.
fn refuse_changes(plan: &LogicalPlan) -> Result<()> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(plan).map_err(|_| {
        Error::unimplemented("the SQL engine runs only queries, and this statement changes tables or settings")
    })
}

fn refuse_settings(plan: &LogicalPlan) -> Result<()> {
    let mut has_settings = false;
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let (schema, table) = (scan.table_name.schema(), scan.table_name.table());
            // The engine finds these tables in any case of their names.
            has_settings |= schema == Some(INFORMATION_SCHEMA) && table.eq_ignore_ascii_case(SETTINGS);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    checked(visited)?;
    match has_settings {
        true => Err(Error::unimplemented("the settings of the SQL engine are those of the node: ask its operator")),
        false => Ok(()),
    }
}

/// A null of a type of fixed size takes that size: with a large one, a batch of nulls would take more memory than there is.
fn refuse_wide_values(plan: &LogicalPlan) -> Result<()> {
    let mut refused = Ok(());
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                refused = check_width(part);
                Ok(if refused.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
            })
        })
    });
    checked(visited)?;
    refused
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
