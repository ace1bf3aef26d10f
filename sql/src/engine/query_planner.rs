//! From a statement to a plan, against the tables that its source has planned for it.
//!
//! The plan is not optimized yet: what makes that take too long or too much memory is refused here.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, TableReference};
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{Expr, LogicalPlan};
use volley_common::{Error, Result};

use super::part_table::PartTable;
use super::planned_query::{self, PlannedQuery};
use super::statement_catalog::StatementCatalog;
use super::{binding, plan_size, sort_keys, unsound, views};
use crate::fault::checked;
use crate::names::{INFORMATION_SCHEMA, SqlName};
use crate::parsing::precedence::RepairPrecedence;
use crate::predicate::functions::check_width;
use crate::source::{PlannedTable, TableSource};
use crate::statement::{QueryStatement, TableAt};

/// The table of settings in `information_schema`. They name folders of the node.
const SETTINGS: &str = "df_settings";

/// Plans one statement.
pub(super) struct QueryPlanner {
    /// The session of the query, without tables.
    pub(super) state: SessionState,
    /// How many partitions the scan of a table has.
    pub(super) partitions: usize,
}

impl QueryPlanner {
    /// The plan of a statement, with the values of its parameters if there are any.
    ///
    /// # Errors
    /// Those of [`super::SqlEngine::prepare`].
    pub(super) async fn plan(
        self,
        source: Arc<dyn TableSource>,
        statement: QueryStatement,
        parameters: Option<ParamValues>,
    ) -> Result<PlannedQuery> {
        let QueryPlanner { mut state, partitions } = self;
        state.mark_start_execution();
        let dialect = state.config_options().sql_parser.dialect;
        let mut parsed = checked(state.sql_to_statement(&statement.sql, &dialect))?;
        parsed.repair_precedence();
        let references = checked(state.resolve_table_references(&parsed))?;
        let tables = plan_tables(source.as_ref(), &statement.tables).await?;
        let catalog = catalog(&source, &references, &statement, &tables, partitions).await?;
        state.register_catalog_list(Arc::new(catalog));

        let plan = checked(state.statement_to_plan(parsed).await)?;
        refuse_changes(&plan)?;
        plan_size::check(&plan)?;
        sort_keys::check(&plan)?;
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
        let engine_schema = with_nulls_of_subqueries(&plan, engine_schema)?;
        let schema = views::without_views(&engine_schema);
        let source_bytes = tables.iter().fold(0, |sum: u64, table| sum.saturating_add(table.about_bytes()));
        let pin = |table: &Arc<PlannedTable>| TableAt { name: table.name.clone(), version: Some(table.version) };
        let tables = tables.iter().map(pin).collect();
        Ok(PlannedQuery { state, plan, engine_schema, schema, tables, source_bytes, parameter_types, is_bound })
    }
}

/// The catalog with the tables that the references mean, and with all others only if the statement asks for them.
async fn catalog(
    source: &Arc<dyn TableSource>,
    references: &[TableReference],
    statement: &QueryStatement,
    tables: &[Arc<PlannedTable>],
    partitions: usize,
) -> Result<StatementCatalog> {
    let is_description = |reference: &&TableReference| reference.schema() == Some(INFORMATION_SCHEMA);
    let mut catalog = match references.iter().any(|reference| is_description(&reference)) {
        true => StatementCatalog::of_list(&source.list().await?),
        false => StatementCatalog::default(),
    };
    let references: Vec<_> = references.iter().filter(|reference| !is_description(reference)).collect();
    let meant = references.iter().map(|reference| TableAt::from_reference(reference)).collect::<Result<Vec<_>>>()?;
    for (reference, at) in references.iter().zip(binding::bind(&meant, &statement.tables)?) {
        if let Some(at) = at {
            let table = PartTable::new(source.clone(), tables[at].clone(), partitions);
            catalog.insert(&SqlName::from_reference(reference)?, Arc::new(table));
        }
    }
    Ok(catalog)
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
pub(super) fn is_description(plan: &LogicalPlan) -> bool {
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

/// The schema, with nulls wherever they may be, if a scalar subquery may have no row: its value is null then, although DataFusion takes it
/// for one that never is if its column has none.
fn with_nulls_of_subqueries(plan: &LogicalPlan, schema: SchemaRef) -> Result<SchemaRef> {
    let mut is_found = false;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|inner| match inner {
                Expr::ScalarSubquery(query) if !query.subquery.schema().fields().iter().all(|f| f.is_nullable()) => {
                    is_found = true;
                    Ok(TreeNodeRecursion::Stop)
                }
                _ => Ok(TreeNodeRecursion::Continue),
            })
        })
    });
    checked(walked)?;
    if !is_found {
        return Ok(schema);
    }
    let fields = schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    Ok(Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())))
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
