//! The tables that a statement reads, and how much it can grow when it is planned.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Visit, Visitor,
};
use volley_common::{Error, Result, TableName};

use super::rewrite::normalized;
use super::{TableAt, ignored, looks_versioned, refuse, substitution, unsound};
use crate::fault::from_datafusion;
use crate::names::{INFORMATION_SCHEMA, SqlName};
use crate::predicate::syntax;
use crate::predicate::type_inference::InferenceCounter;

/// Most tables and subqueries in FROM after every use of a WITH query is replaced by the query, as planning does.
const MAX_RELATIONS: u64 = 512;
/// Most queries that are visited. WITH queries are visited again at each level above them.
const MAX_QUERIES: u64 = 10_000;
/// Most expressions that are visited. A text has at most some 130,000, but WITH queries are visited again at each level above them.
const MAX_EXPRESSIONS: u64 = 1_000_000;
/// Most columns of CUBE: it groups by each subset of them.
const MAX_CUBE: usize = 10;
/// Most columns of ROLLUP, and most columns of all sets of GROUPING SETS together.
const MAX_GROUPING_COLUMNS: usize = 500;
/// Most `*` and `t.*` that are visited. Each becomes as many columns as its tables have.
const MAX_WILDCARDS: u64 = 1000;

/// The tables of a query, each once.
///
/// # Errors
/// INVALID_ARGUMENT: invalid names, or a query that is too large once planned. NOT_FOUND: another catalog. UNIMPLEMENTED: a
/// query that changes tables, locks rows, or would be answered wrongly.
pub(super) fn of_query(query: &Query) -> Result<Vec<TableAt>> {
    let mut visitor = RelationVisitor::default();
    match query.visit(&mut visitor) {
        ControlFlow::Continue(()) => {
            // One table can be named in several ways.
            let tables: BTreeSet<TableAt> =
                visitor.tables.iter().map(TableAt::from_reference).collect::<Result<_>>()?;
            Ok(tables.into_iter().collect())
        }
        ControlFlow::Break(error) => Err(error),
    }
}

/// The table of a name; none for a view of `information_schema`.
///
/// # Errors
/// INVALID_ARGUMENT: no table can have this name. NOT_FOUND: another catalog.
pub(super) fn of_name(name: &ObjectName) -> Result<Option<TableAt>> {
    let reference = reference(name)?;
    match is_described(&reference) {
        true => Ok(None),
        false => TableAt::from_reference(&reference).map(Some),
    }
}

/// The table that a statement creates or changes. Its name has no version.
///
/// # Errors
/// INVALID_ARGUMENT: no table can have this name. NOT_FOUND: another catalog.
pub(super) fn of_target(name: &ObjectName) -> Result<TableName> {
    let reference = reference(name)?;
    match is_described(&reference) {
        true => Err(Error::invalid(format!(
            "{name} cannot be changed: {INFORMATION_SCHEMA} has no tables, only views of them"
        ))),
        false => SqlName::from_reference(&reference)?.table_name(),
    }
}

fn reference(name: &ObjectName) -> Result<TableReference> {
    if name.0.len() > 3 {
        return Err(Error::invalid(format!(
            "the name {name} has more than a catalog, a schema and a table: quote the folders together, as in \"a/b/c\".t"
        )));
    }
    object_name_to_table_reference(name.clone(), true).map_err(from_datafusion)
}

fn is_described(reference: &TableReference) -> bool {
    reference.schema() == Some(INFORMATION_SCHEMA)
}

/// Collects the tables that a query reads.
#[derive(Default)]
struct RelationVisitor {
    tables: BTreeSet<TableReference>,
    /// Queries of WITH in scope, and how many relations each has.
    scope: Vec<(String, u64)>,
    relations: u64,
    queries: u64,
    expressions: u64,
    wildcards: u64,
    steps: InferenceCounter,
}

impl RelationVisitor {
    fn relation(&mut self, factor: &TableFactor) -> Result<()> {
        let mut relations = 1;
        if let TableFactor::Table { name, args: None, .. } = factor {
            let reference = reference(name)?;
            let local = match &reference {
                TableReference::Bare { table } => self.scope.iter().rev().find(|(name, _)| **name == **table),
                TableReference::Partial { .. } | TableReference::Full { .. } => None,
            };
            match local {
                Some((_, inner)) => relations = (*inner).max(1),
                None if is_described(&reference) => {}
                None => {
                    self.tables.insert(reference);
                }
            }
        }
        self.relations = self.relations.saturating_add(relations);
        match self.relations > MAX_RELATIONS || self.tables.len() as u64 > MAX_RELATIONS {
            true => Err(Error::invalid(format!(
                "the statement reads more than {MAX_RELATIONS} tables, counting those of a WITH query at each use: split it"
            ))),
            false => Ok(()),
        }
    }

    fn count_wildcards(&mut self, select: &Select) -> Result<()> {
        let is_wildcard =
            |item: &&SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        self.wildcards += select.projection.iter().filter(is_wildcard).count() as u64;
        match self.wildcards > MAX_WILDCARDS {
            true => Err(Error::invalid(format!(
                "the statement has * more than {MAX_WILDCARDS} times: name the columns once"
            ))),
            false => Ok(()),
        }
    }

    fn count_expression(&mut self) -> Result<()> {
        self.expressions += 1;
        if self.expressions > MAX_EXPRESSIONS { Err(too_many_queries()) } else { Ok(()) }
    }

    fn query(&mut self, query: &Query) -> Result<()> {
        self.queries += 1;
        if self.queries > MAX_QUERIES {
            return Err(too_many_queries());
        }
        ignored::check_query(query)?;
        unsound::check_query(query)?;
        if !query.locks.is_empty() {
            return Err(Error::unimplemented(
                "FOR UPDATE and FOR SHARE are not supported: a query locks nothing, leave it out",
            ));
        }
        if let (SetExpr::Select(select), Some(order_by)) = (query.body.as_ref(), &query.order_by) {
            substitution::check(select, Some(order_by))?;
        }
        let Some(with) = &query.with else { return Ok(()) };
        for cte in &with.cte_tables {
            ignored::check_cte(cte, with.recursive)?;
            let name = normalized(&cte.alias.name);
            if looks_versioned(&name) {
                return Err(Error::invalid(format!(
                    "the WITH query {name:?} is named like a version of a table: rename it"
                )));
            }
            // A query sees those before it. A recursive one sees itself, too, as one relation that planning does not replace. It is
            // visited again with all in scope, which finds no more tables.
            let before = self.relations;
            if with.recursive {
                self.scope.push((name.clone(), 1));
            }
            if let ControlFlow::Break(error) = cte.query.visit(self) {
                return Err(error);
            }
            if with.recursive {
                self.scope.pop();
            }
            self.scope.push((name, self.relations - before));
        }
        Ok(())
    }
}

fn too_many_queries() -> Error {
    Error::invalid("the statement has too many queries within queries: split it")
}

fn check_select(select: &Select) -> Result<()> {
    ignored::check_select(select)?;
    unsound::check_select(select)
}

/// Bounds what each group of a query is computed for.
fn check_grouping(expr: &Expr) -> Result<()> {
    let (name, given, most) = match expr {
        Expr::Cube(columns) => ("CUBE", columns.len(), MAX_CUBE),
        Expr::Rollup(columns) => ("ROLLUP", columns.len(), MAX_GROUPING_COLUMNS),
        // An empty set is one, too.
        Expr::GroupingSets(sets) => {
            ("GROUPING SETS", sets.iter().map(|set| set.len().max(1)).sum::<usize>(), MAX_GROUPING_COLUMNS)
        }
        _ => return Ok(()),
    };
    match given > most {
        true => Err(Error::invalid(format!(
            "{name} has {given} columns, more than the limit of {most}: group by fewer, or in several statements"
        ))),
        false => Ok(()),
    }
}

fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Visitor for RelationVisitor {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        flow(self.query(query))
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let ended = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        self.scope.truncate(self.scope.len() - ended);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        match &select.into {
            Some(_) => ControlFlow::Break(Error::unimplemented(
                "SELECT INTO is not supported: write CREATE TABLE name AS SELECT",
            )),
            None => flow(
                check_select(select)
                    .and_then(|()| substitution::check(select, None))
                    .and_then(|()| self.count_wildcards(select)),
            ),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        self.steps.enter();
        flow(self.count_expression().and_then(|()| check_grouping(expr)).and_then(|()| syntax::check(expr)))
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        flow(self.steps.leave(expr, "the statement"))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
        flow(ignored::check_factor(factor).and_then(|()| self.relation(factor)))
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Error> {
        ControlFlow::Break(refuse::unsupported(statement))
    }
}
