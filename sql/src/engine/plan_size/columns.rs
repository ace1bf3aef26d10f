//! What computes the columns of a plan.

use std::collections::HashMap;
use std::rc::Rc;

use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::logical_expr::{Aggregate, Expr};

use crate::predicate::planned_size::PlannedSize;

/// What computes a column, as far as that is more than a column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnSize {
    /// With all that conditions on it are pushed through.
    pub(super) pushed: PlannedSize,
    /// With the projections that are taken in by the one that has it.
    pub(super) merged: PlannedSize,
}

/// By name: of columns with the same name the largest.
pub(super) type ColumnSizes = HashMap<String, ColumnSize>;

/// Adds a column.
pub(super) fn insert(columns: &mut ColumnSizes, name: &str, size: ColumnSize) {
    match columns.get_mut(name) {
        Some(known) => {
            known.pushed = known.pushed.max(size.pushed);
            known.merged = known.merged.max(size.merged);
        }
        None => {
            columns.insert(name.to_string(), size);
        }
    }
}

/// Adds the expression at a place of GROUP BY. Conditions on those of several sets are not pushed.
pub(super) fn insert_group(groups: &mut ColumnSizes, aggregate: &Aggregate, at: usize, size: ColumnSize) {
    let has_sets = aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
    if at < aggregate.group_expr.len() && !has_sets {
        insert(groups, aggregate.schema.field(at).name(), size);
    }
}

/// The columns of all inputs of a node.
pub(super) fn of_all<'a>(mut inputs: impl Iterator<Item = &'a Rc<ColumnSizes>>) -> Rc<ColumnSizes> {
    let Some(first) = inputs.next() else { return Rc::default() };
    let mut all = first.clone();
    for (name, size) in inputs.flat_map(|input| input.iter()) {
        insert(Rc::make_mut(&mut all), name, *size);
    }
    all
}

/// The columns of a UNION, of the schemas and columns of its inputs.
pub(super) fn of_union<'a>(
    inputs: impl Iterator<Item = (&'a DFSchemaRef, &'a Rc<ColumnSizes>)>,
    schema: &DFSchema,
) -> Rc<ColumnSizes> {
    let columns: Vec<_> = inputs.map(|(from, columns)| renamed(columns, from, schema)).collect();
    of_all(columns.iter())
}

/// The columns with the names that they have at the same places of another schema.
pub(super) fn renamed(columns: &Rc<ColumnSizes>, from: &DFSchema, to: &DFSchema) -> Rc<ColumnSizes> {
    if columns.is_empty() {
        return columns.clone();
    }
    let mut all = ColumnSizes::new();
    for (before, after) in from.fields().iter().zip(to.fields()) {
        if let Some(size) = columns.get(before.name()) {
            insert(&mut all, after.name(), *size);
        }
    }
    Rc::new(all)
}
