//! How large a plan becomes when it is optimized and run, estimated before from the plan as it is written.
//!
//! Conditions are pushed down to the tables, through the queries between: each column in them is replaced by what computes it, again
//! and again. `s = 'x'` above twenty queries `SELECT s || s AS s` becomes a million operators, which planning does not survive, and
//! cannot be interrupted in. What DataFusion 55 does, of which this is an upper bound:
//!
//! | node | what becomes of the columns in a condition above it |
//! |---|---|
//! | projection, aliases | what computes them (`push_down_filter`) |
//! | GROUP BY | what computes the group; a condition on an aggregate stays above |
//! | sort, DISTINCT, window, unnest, joins | the same columns, if they push anything at all; joins push to each side |
//! | UNION | the same for each of its queries |
//! | LIMIT | the same: it is pushed below projections first (`push_down_limit`), and conditions after it |
//! | recursive query | nothing is pushed through it |
//!
//! Keys of joins and sorts, and arguments of aggregates, are pushed in the same way as filters that are known only when the query
//! runs (`gather_filters_for_pushdown` of the physical operators). A projection takes in the one below it only if it uses none of
//! its columns twice (`optimize_projections`), so its columns cannot double from one to the next, but what is in them can.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection, Subquery};
use volley_common::{Error, Result};

use self::columns::{ColumnSize, ColumnSizes};
use crate::fault::checked;
use crate::predicate::planned_size::{MAX_GROWTH, MeasuredExpr, PlannedSize, References, may_be_boolean, too_large};

mod columns;

/// The beginning of errors' sentences.
const WHAT: &str = "the statement";
/// Conditions of at most so many nodes are not counted for each table that they can be pushed to.
const NODES_OF_CHEAP_CONDITION: u64 = 16;

/// Checks that planning a statement takes a short time and little memory.
///
/// # Errors
/// INVALID_ARGUMENT: its expressions or its queries are repeated too often.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut walk = PlanWalk::default();
    walk.plan(plan, None)?;
    Ok(())
}

/// A plan that was visited. All saturate.
struct SizedPlan {
    columns: Rc<ColumnSizes>,
    /// To how many inputs a condition above it can be pushed.
    leaves: u64,
    /// Nodes of it and its expressions, at each use of a query of WITH.
    written: u64,
    /// What planning makes of them beyond.
    growth: u64,
}

/// The columns that an expression can name.
struct QueryScope<'a> {
    id: usize,
    columns: Rc<ColumnSizes>,
    outer: Option<&'a QueryScope<'a>>,
}

impl QueryScope<'_> {
    fn find(&self, name: &str) -> Option<ColumnSize> {
        let found = self.columns.get(name).copied();
        found.or_else(|| self.outer.and_then(|outer| outer.find(name)))
    }
}

#[derive(Default)]
struct PlanWalk {
    /// By plan, and the scope around it: those of WITH are shared by their uses.
    visited: HashMap<(*const LogicalPlan, usize), Rc<SizedPlan>>,
    scopes: usize,
    /// Nodes that were visited, each once.
    written: u64,
}

impl PlanWalk {
    /// Visits a plan from its tables on. Plans are deep, so that is no recursion; subqueries are not, since brackets are few.
    fn plan(&mut self, root: &LogicalPlan, outer: Option<&QueryScope>) -> Result<Rc<SizedPlan>> {
        let mut pending = vec![(root, false)];
        while let Some((plan, are_inputs_visited)) = pending.pop() {
            if self.visited.contains_key(&key(plan, outer)) {
                continue;
            }
            if !are_inputs_visited {
                pending.push((plan, true));
                pending.extend(inputs_of_scope(plan).into_iter().map(|input| (input, false)));
                continue;
            }
            let sized = self.visit(plan, outer)?;
            // The copies of WITH queries count, but not what is written once.
            let copied = sized.written.saturating_sub(self.written);
            if sized.growth.saturating_add(copied) > MAX_GROWTH {
                return Err(too_large(WHAT, MAX_GROWTH));
            }
            self.visited.insert(key(plan, outer), Rc::new(sized));
        }
        self.known(root, outer)
    }

    fn known(&self, plan: &LogicalPlan, outer: Option<&QueryScope>) -> Result<Rc<SizedPlan>> {
        let known = self.visited.get(&key(plan, outer)).cloned();
        known.ok_or_else(|| Error::internal("a part of a plan was not visited before what reads it"))
    }

    fn visit(&mut self, plan: &LogicalPlan, outer: Option<&QueryScope>) -> Result<SizedPlan> {
        let inputs = self.inputs(plan, outer)?;
        let sum = |part: fn(&SizedPlan) -> u64| inputs.iter().map(|input| part(input)).fold(0, u64::saturating_add);
        let mut sized = SizedPlan {
            columns: columns::of_all(inputs.iter().map(|input| &input.columns)),
            leaves: sum(|input| input.leaves).max(1),
            written: sum(|input| input.written).saturating_add(1),
            growth: sum(|input| input.growth),
        };
        self.written = self.written.saturating_add(1);
        let scope = self.scope(sized.columns.clone(), outer);
        match plan {
            LogicalPlan::Projection(projection) => self.projection(projection, &scope, &mut sized)?,
            LogicalPlan::SubqueryAlias(alias) => {
                sized.columns = columns::renamed(&sized.columns, alias.input.schema(), &alias.schema);
            }
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().zip(&inputs).map(|(plan, sized)| (plan.schema(), &sized.columns));
                sized.columns = columns::of_union(inputs, &union.schema);
            }
            LogicalPlan::RecursiveQuery(_) => sized.columns = Rc::default(),
            LogicalPlan::Filter(filter) => self.filter(filter, &scope, &mut sized)?,
            _ => self.expressions(plan, &scope, &mut sized)?,
        }
        Ok(sized)
    }

    fn scope<'a>(&mut self, columns: Rc<ColumnSizes>, outer: Option<&'a QueryScope<'a>>) -> QueryScope<'a> {
        self.scopes += 1;
        QueryScope { id: self.scopes, columns, outer }
    }

    fn inputs(&mut self, plan: &LogicalPlan, outer: Option<&QueryScope>) -> Result<Vec<Rc<SizedPlan>>> {
        let mut inputs = Vec::new();
        for input in inputs_of_scope(plan) {
            inputs.push(self.known(input, outer)?);
        }
        let left = inputs.first().map(|left: &Rc<SizedPlan>| left.columns.clone());
        if let (Some(right), Some(left)) = (lateral(plan), left) {
            let scope = self.scope(left, outer);
            inputs.push(self.plan(right, Some(&scope))?);
        }
        Ok(inputs)
    }

    fn projection(&mut self, projection: &Projection, scope: &QueryScope, sized: &mut SizedPlan) -> Result<()> {
        let mut computed = ColumnSizes::new();
        for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
            if let Some(size) = self.computed(expr, scope, projection.input.schema(), sized)? {
                columns::insert(&mut computed, field.name(), size);
            }
        }
        sized.columns = Rc::new(computed);
        Ok(())
    }

    /// The size of a column of a projection; none if it is one of a table.
    fn computed(
        &mut self,
        expr: &Expr,
        scope: &QueryScope,
        schema: &DFSchema,
        sized: &mut SizedPlan,
    ) -> Result<Option<ColumnSize>> {
        if let Expr::Column(column) = unaliased(expr) {
            return Ok(scope.columns.get(&column.name).copied());
        }
        let pushed = self.measure(expr, scope, schema, None, sized)?;
        if scope.columns.is_empty() {
            pushed.check(pushed.substituted, WHAT)?;
            sized.growth = sized.growth.saturating_add(pushed.growth(pushed.substituted));
            return Ok(Some(ColumnSize { pushed: pushed.size, merged: pushed.size }));
        }
        // The subqueries in it count once.
        let mut again = SizedPlan { columns: Rc::default(), leaves: 1, written: 0, growth: 0 };
        let written = self.written;
        let merged = self.measure(expr, scope, schema, Some(HashSet::new()), &mut again)?;
        self.written = written;
        merged.check(merged.substituted, WHAT)?;
        sized.growth = sized.growth.saturating_add(merged.growth(merged.substituted));
        Ok(Some(ColumnSize { pushed: pushed.size, merged: merged.size }))
    }

    fn filter(&mut self, filter: &Filter, scope: &QueryScope, sized: &mut SizedPlan) -> Result<()> {
        let mut whole: Option<MeasuredExpr> = None;
        for condition in split_conjunction(&filter.predicate) {
            let measured = self.measure(condition, scope, filter.input.schema(), None, sized)?;
            let nodes = measured.size.nodes();
            if nodes > NODES_OF_CHEAP_CONDITION {
                sized.growth = sized.growth.saturating_add(nodes.saturating_mul(sized.leaves - 1));
            }
            whole = Some(whole.map_or(measured, |whole| whole.and(measured)));
        }
        let Some(whole) = whole else { return Ok(()) };
        sized.growth = sized.growth.saturating_add(whole.growth(whole.written));
        whole.check(whole.written, WHAT)
    }

    /// What has conditions, keys or arguments.
    fn expressions(&mut self, plan: &LogicalPlan, scope: &QueryScope, sized: &mut SizedPlan) -> Result<()> {
        let schema = schema_below(plan);
        let mut groups = ColumnSizes::new();
        let mut at = 0;
        let mut outcome = Ok(());
        let visited = plan.apply_expressions(|expr| {
            outcome = self.expression(plan, expr, scope, &schema, sized).map(|size| {
                if let (LogicalPlan::Aggregate(aggregate), Some(size)) = (plan, size) {
                    columns::insert_group(&mut groups, aggregate, at, size);
                }
                at += 1;
            });
            Ok(if outcome.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        });
        checked(visited)?;
        if matches!(plan, LogicalPlan::Aggregate(_)) {
            sized.columns = Rc::new(groups);
        }
        outcome
    }

    /// The size of an expression that is no projection's; none if it is a column of a table.
    fn expression(
        &mut self,
        plan: &LogicalPlan,
        expr: &Expr,
        scope: &QueryScope,
        schema: &DFSchema,
        sized: &mut SizedPlan,
    ) -> Result<Option<ColumnSize>> {
        if let Expr::Column(column) = unaliased(expr)
            && !scope.columns.contains_key(&column.name)
        {
            return Ok(None);
        }
        let measured = self.measure(expr, scope, schema, None, sized)?;
        measured.check(measured.written, WHAT)?;
        let growth = match plan {
            LogicalPlan::Join(_) | LogicalPlan::Sort(_) => measured.growth(measured.written),
            _ => measured.growth(measured.substituted),
        };
        sized.growth = sized.growth.saturating_add(growth);
        Ok(Some(ColumnSize { pushed: measured.size, merged: PlannedSize::COLUMN }))
    }

    /// Measures an expression, and adds it and its subqueries to `sized`. With `used`, columns are what a projection takes in.
    fn measure(
        &mut self,
        expr: &Expr,
        scope: &QueryScope,
        schema: &DFSchema,
        used: Option<HashSet<String>>,
        sized: &mut SizedPlan,
    ) -> Result<MeasuredExpr> {
        let mut references = ScopeReferences { walk: self, scope, schema, used, written: 0, growth: 0 };
        let measured = MeasuredExpr::of(expr, &mut references)?;
        let (written, growth) = (references.written, references.growth);
        let own = measured.written.saturating_sub(written.saturating_add(growth));
        self.written = self.written.saturating_add(own);
        sized.written = sized.written.saturating_add(own).saturating_add(written);
        sized.growth = sized.growth.saturating_add(growth);
        Ok(measured)
    }
}

/// What the expressions of one node refer to.
struct ScopeReferences<'a> {
    walk: &'a mut PlanWalk,
    scope: &'a QueryScope<'a>,
    schema: &'a DFSchema,
    /// The columns so far, for a projection that takes in the one below: it does not if it uses one of them twice, unless the uses
    /// become one again. So each counts once.
    used: Option<HashSet<String>>,
    /// Of the subqueries.
    written: u64,
    growth: u64,
}

impl References for ScopeReferences<'_> {
    fn column(&mut self, name: &str) -> PlannedSize {
        let Some(size) = self.scope.columns.get(name) else { return PlannedSize::COLUMN };
        match &mut self.used {
            None => size.pushed,
            Some(used) => match used.insert(name.to_string()) {
                true => size.merged,
                false => PlannedSize::COLUMN,
            },
        }
    }

    fn outer_column(&mut self, name: &str) -> PlannedSize {
        let outer = self.scope.outer.and_then(|outer| outer.find(name));
        outer.map_or(PlannedSize::COLUMN, |size| size.pushed)
    }

    fn subquery(&mut self, subquery: &Subquery) -> Result<u64> {
        let sized = self.walk.plan(&subquery.subquery, Some(self.scope))?;
        self.written = self.written.saturating_add(sized.written);
        self.growth = self.growth.saturating_add(sized.growth);
        Ok(sized.written.saturating_add(sized.growth))
    }

    fn may_be_boolean(&self, expr: &Expr) -> bool {
        may_be_boolean(expr, self.schema)
    }
}

/// The schema that a node's expressions are of.
fn schema_below(plan: &LogicalPlan) -> DFSchemaRef {
    match plan.inputs().as_slice() {
        [input] => input.schema().clone(),
        inputs => {
            let mut schema = DFSchema::empty();
            for input in inputs {
                schema.merge(input.schema());
            }
            Arc::new(schema)
        }
    }
}

fn key(plan: &LogicalPlan, outer: Option<&QueryScope>) -> (*const LogicalPlan, usize) {
    (std::ptr::from_ref(plan), outer.map_or(0, |scope| scope.id))
}

/// The inputs of a node without the right side of a join that can name columns of the left one.
fn inputs_of_scope(plan: &LogicalPlan) -> Vec<&LogicalPlan> {
    match (plan, lateral(plan)) {
        (LogicalPlan::Join(join), Some(_)) => vec![join.left.as_ref()],
        _ => plan.inputs(),
    }
}

/// The right side of a join, if it can name columns of the left one.
fn lateral(plan: &LogicalPlan) -> Option<&LogicalPlan> {
    let LogicalPlan::Join(join) = plan else { return None };
    let mut right = join.right.as_ref();
    while let LogicalPlan::SubqueryAlias(alias) = right {
        right = alias.input.as_ref();
    }
    matches!(right, LogicalPlan::Subquery(_)).then_some(join.right.as_ref())
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}
