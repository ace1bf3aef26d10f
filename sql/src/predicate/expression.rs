//! From a filter's text to an expression with types, in its simplest form.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Fields, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, SchemaError};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_binary_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, ExprWithAlias, Query, Value, ValueWithSpan, Visit, Visitor};
use volley_common::suggestion::suggest;
use volley_common::{Error, Result};

use super::planned_size::{MeasuredExpr, TableColumns};
use super::planned_steps::check_planned;
use super::type_inference::InferenceCounter;
use super::{MAX_PREDICATE_BYTES, functions, limits, syntax};
use crate::exact_casts;
use crate::fault::{from_datafusion, into_datafusion};
use crate::names::quote;
use crate::parsing::parse_tokens;

/// Most levels of an expression after chains of AND and OR are balanced. Evaluation recurses once for each.
pub(crate) const MAX_DEPTH: usize = 200;

/// The beginning of errors' sentences.
const WHAT: &str = "the filter";

/// Passes over an expression until it is in its simplest form. A few suffice.
const MAX_CYCLES: u32 = 16;

/// Parses a filter's text.
///
/// # Errors
/// INVALID_ARGUMENT: it is not one expression, has a subquery or a parameter, or would mean something else than it says.
pub(super) fn parse(text: &str) -> Result<ExprWithAlias> {
    let tokens = limits::tokenize(text, MAX_PREDICATE_BYTES, WHAT)?;
    if limits::is_blank(&tokens) {
        return Err(Error::invalid("the filter is empty: give an expression such as price > 10, or leave it out"));
    }
    let parsed = parse_tokens(tokens, |parser| parser.parse_into_expr()).map_err(|error| error.at(WHAT))?;
    if let Some(alias) = &parsed.alias {
        return Err(Error::invalid(format!("the filter has a name, {alias}: leave out AS and the name")));
    }
    match parsed.expr.visit(&mut SyntaxCheck::default()) {
        ControlFlow::Continue(()) => Ok(parsed),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Finds what filters cannot have, before it is planned.
#[derive(Default)]
struct SyntaxCheck {
    steps: InferenceCounter,
}

impl Visitor for SyntaxCheck {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Error> {
        ControlFlow::Break(Error::invalid(
            "a filter cannot have a subquery: it reads the columns of one table; use a SELECT statement",
        ))
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Error> {
        self.steps.enter();
        match syntax::check(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Error::invalid(error.message).at(WHAT)),
        }
    }

    fn post_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Error> {
        match self.steps.leave(expr, WHAT) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Error> {
        match &value.value {
            Value::Placeholder(name) => ControlFlow::Break(Error::invalid(format!(
                "a filter cannot have a parameter, and this one has {name}: give the value, or use a prepared statement"
            ))),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The columns that a filter can name.
pub(super) struct VisibleColumns {
    /// Columns whose names are unique.
    schema: DFSchemaRef,
    /// Their indexes in the whole schema.
    indexes: HashMap<String, usize>,
    /// Names of several columns.
    ambiguous: Vec<String>,
}

impl VisibleColumns {
    /// # Errors
    /// INTERNAL: DataFusion refuses the schema.
    pub(super) fn new(schema: &SchemaRef) -> Result<Self> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for field in schema.fields() {
            *counts.entry(field.name()).or_default() += 1;
        }
        let unique: Fields = schema.fields().iter().filter(|f| counts[f.name().as_str()] == 1).cloned().collect();
        let ambiguous = counts.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name.to_string()).collect();
        let indexes = schema.fields().iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        let schema = DFSchema::from_unqualified_fields(unique, HashMap::new()).map_err(from_datafusion)?;
        Ok(VisibleColumns { schema: Arc::new(schema), indexes, ambiguous })
    }

    /// The index of a column in the whole schema.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: there is no such column, or several.
    pub(super) fn index(&self, name: &str) -> Result<usize> {
        match self.indexes.get(name) {
            Some(index) if !self.ambiguous.iter().any(|known| known == name) => Ok(*index),
            _ => Err(self.no_column(name)),
        }
    }

    /// The expression of a parsed filter, checked and [normalized](Self::normalize).
    ///
    /// # Errors
    /// INVALID_ARGUMENT: as [`super::Predicate::parse`].
    pub(super) fn plan(&self, parsed: ExprWithAlias) -> Result<Expr> {
        let planned = functions::SESSION.create_logical_expr_from_sql_expr(parsed, &self.schema);
        self.normalize(planned.map_err(|e| self.planning_error(e))?)
    }

    /// The expression with the casts that its operators need, simplified, and with chains of AND and OR balanced. Equal
    /// results select the same rows.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: as [`super::Predicate::parse`].
    pub(super) fn normalize(&self, expr: Expr) -> Result<Expr> {
        check_nodes(&expr)?;
        let measured = MeasuredExpr::of(&expr, &mut TableColumns(&self.schema))?;
        measured.check(measured.written, WHAT)?;
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&self.schema))
            .with_config_options(Arc::clone(functions::SESSION.config_options()))
            .build();
        let simplifier = ExprSimplifier::new(context.clone()).with_max_cycles(MAX_CYCLES);
        let typed = balanced(expr)
            .and_then(|expr| simplifier.coerce(expr, &self.schema))
            .map_err(|e| self.planning_error(e))?;
        check_depth(&typed)?;
        match typed.get_type(&*self.schema).map_err(|e| self.planning_error(e))? {
            DataType::Boolean | DataType::Null => {}
            other => {
                return Err(Error::invalid(format!(
                    "the filter must be true or false for each row, and this one is {other}: compare it with a value"
                )));
            }
        }
        // What is checked is named where the error is taken.
        let check = |fenced: &Expr| check_planned(fenced, "it").map_err(into_datafusion);
        let simple = exact_casts::simplified(typed, &simplifier, &context, check).and_then(balanced);
        let simple = simple.map_err(|e| self.planning_error(e))?;
        check_depth(&simple)?;
        Ok(simple)
    }

    fn planning_error(&self, error: DataFusionError) -> Error {
        if let DataFusionError::SchemaError(cause, _) = error.find_root()
            && let SchemaError::FieldNotFound { field, .. } = cause.as_ref()
        {
            return self.no_column(&field.flat_name());
        }
        let error = from_datafusion(error).at("the filter");
        match error.code {
            volley_common::Code::Internal | volley_common::Code::Unimplemented => Error::invalid(error.message),
            _ => error,
        }
    }

    fn no_column(&self, name: &str) -> Error {
        if self.ambiguous.iter().any(|known| known == name) {
            return Error::invalid(format!("the filter names column {name:?}, and several columns have this name"));
        }
        let known = self.schema.fields().iter().map(|field| field.name().as_str());
        let hint = match suggest(name, known) {
            Some(similar) => format!("did you mean {}?", quote(similar)),
            None => "get_schema has the columns; text is in single quotes".to_string(),
        };
        Error::invalid(format!("the filter names column {name:?}, and the table has no such column: {hint}"))
    }
}

/// Checks that an expression has only what filters can have.
fn check_nodes(expr: &Expr) -> Result<()> {
    for_each_node(expr, |node, _| match node {
        Expr::ScalarFunction(call) => functions::check(&call.func).and_then(|()| functions::check_width(node)),
        Expr::Cast(_) | Expr::TryCast(_) => functions::check_width(node),
        // The planner gives what it rewrites its former name by an alias.
        Expr::Alias(_)
        | Expr::Column(_)
        | Expr::Literal(..)
        | Expr::BinaryExpr(_)
        | Expr::Like(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::InList(_) => Ok(()),
        Expr::AggregateFunction(_) | Expr::WindowFunction(_) => Err(Error::invalid(
            "a filter cannot have an aggregate or window function: it reads one row at a time; use a SELECT statement",
        )),
        other => Err(Error::invalid(format!(
            "a filter cannot have {}: it reads the columns of one row; use a SELECT statement",
            other.variant_name()
        ))),
    })
}

fn check_depth(expr: &Expr) -> Result<()> {
    for_each_node(expr, |_, depth| match depth > MAX_DEPTH {
        true => Err(Error::invalid(format!("the filter is nested too deeply, more than {MAX_DEPTH} levels"))),
        false => Ok(()),
    })
}

/// Calls `check` for each node with its level, the root's being 1. Does not recurse.
fn for_each_node<'a>(expr: &'a Expr, check: impl Fn(&'a Expr, usize) -> Result<()>) -> Result<()> {
    let mut pending = vec![(expr, 1)];
    while let Some((node, depth)) = pending.pop() {
        check(node, depth)?;
        node.apply_children(|child| {
            pending.push((child, depth + 1));
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(from_datafusion)?;
    }
    Ok(())
}

/// Makes trees of minimal depth of chains of AND, and of OR. Both are associative.
fn balanced(expr: Expr) -> datafusion::common::Result<Expr> {
    let rewritten = expr.transform_down(|node| {
        let op = match &node {
            Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => *op,
            _ => return Ok(Transformed::no(node)),
        };
        let operands = split_binary_owned(node, op);
        Ok(Transformed::yes(joined(operands, op)))
    })?;
    Ok(rewritten.data)
}

/// A balanced tree of at least one operand.
fn joined(mut operands: Vec<Expr>, op: Operator) -> Expr {
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))),
                None => left,
            });
        }
        operands = pairs;
    }
    operands.pop().unwrap_or_else(|| datafusion::logical_expr::lit(true))
}
