//! A query that is planned and not yet run.

use std::collections::HashMap;
use std::fmt;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, TryCast};
use volley_common::{Error, Result};

use crate::fault::checked;
use crate::statement::TableAt;

/// A query against pinned versions of its tables. No row has been read.
pub struct PlannedQuery {
    pub(super) state: SessionState,
    pub(super) plan: LogicalPlan,
    /// Of the rows as the engine gives them.
    pub(super) engine_schema: SchemaRef,
    /// The same without views.
    pub(super) schema: SchemaRef,
    pub(super) tables: Vec<TableAt>,
    /// Of the parts of its tables, about.
    pub(super) source_bytes: u64,
    pub(super) parameter_types: Vec<(String, Option<DataType>)>,
    /// Whether all parameters have values.
    pub(super) is_bound: bool,
}

impl PlannedQuery {
    /// The schema of the result, names, nullability and metadata included. It has text and binary where the engine has views of
    /// them. Without the values of its parameters a query may have another one than with them.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The statement's tables, in its order, at the versions that are read.
    pub fn tables(&self) -> Vec<TableAt> {
        self.tables.clone()
    }

    /// The parameters in their order, as the text names them (`$1`), and their types as far as the text says.
    pub fn parameter_types(&self) -> &[(String, Option<DataType>)] {
        &self.parameter_types
    }

    /// Whether all parameters have values: without, the query cannot be run.
    pub fn is_bound(&self) -> bool {
        self.is_bound
    }
}

impl fmt::Debug for PlannedQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedQuery").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// The parameters of a plan, `$2` before `$10`.
pub(super) fn parameter_types(plan: &LogicalPlan) -> Result<Vec<(String, Option<DataType>)>> {
    let mut cast = cast_types(plan)?;
    let types = checked(plan.get_parameter_types())?.into_iter();
    let mut types: Vec<_> = types
        .map(|(name, found)| {
            let found = found.or_else(|| cast.remove(&name));
            (name, found)
        })
        .collect();
    types.sort_by_key(|(name, _)| (parameter_number(name).unwrap_or(usize::MAX), name.clone()));
    Ok(types)
}

/// The types that parameters are cast to. The engine takes none of these for the type of the parameter, and JDBC's driver binds
/// nothing without a type.
fn cast_types(plan: &LogicalPlan) -> Result<HashMap<String, DataType>> {
    let mut types = HashMap::new();
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) = part
                    && let Expr::Placeholder(placeholder) = expr.as_ref()
                {
                    types.entry(placeholder.id.clone()).or_insert_with(|| field.data_type().clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    checked(visited)?;
    Ok(types)
}

fn parameter_number(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse().ok()
}

/// The plan with the values of its parameters.
///
/// # Errors
/// INVALID_ARGUMENT: too few or too many values, or values of types that do not fit.
pub(super) fn bind_parameters(
    plan: LogicalPlan,
    types: &[(String, Option<DataType>)],
    values: ParamValues,
) -> Result<LogicalPlan> {
    if let ParamValues::List(values) = &values {
        let wanted = types.iter().filter_map(|(name, _)| parameter_number(name)).max().unwrap_or(0);
        if values.len() != wanted {
            let given = values.len();
            return Err(Error::invalid(format!(
                "the statement has {wanted} parameters, but {given} values were given: give one value for each"
            )));
        }
    }
    checked(plan.with_param_values(values))
}
