//! What a SELECT names and uses several times: planning puts a copy of it at each use, before anything else can bound the plan.
//!
//! HAVING, QUALIFY, GROUP BY, DISTINCT ON and ORDER BY can name what the SELECT computes, the last three also by its number, and
//! `OVER w` names a window. So a text of 200 KiB could become a plan of a billion expressions.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, OrderBy, OrderByKind, Select, SelectItem, Value, Visit, Visitor, WindowType,
};
use volley_common::{Error, Result};

use super::rewrite::normalized;

/// Most expressions that are copied to where they are named, for one SELECT.
const MAX_COPIED: u64 = 300_000;

/// Checks how much of a SELECT is copied. `order_by`: of the query that consists of it.
///
/// # Errors
/// INVALID_ARGUMENT: too much.
pub(super) fn check(select: &Select, order_by: Option<&OrderBy>) -> Result<()> {
    let mut counter = CopyCounter { copied: 0, by_name: HashMap::new(), by_number: Vec::new(), window: 0 };
    for item in &select.projection {
        let expressions = count(item);
        if let SelectItem::ExprWithAlias { alias, .. } = item {
            *counter.by_name.entry(normalized(alias)).or_default() += expressions;
        }
        counter.by_number.push(expressions);
    }
    counter.window = select.named_window.iter().map(count).max().unwrap_or(0);
    if let Some(Distinct::On(exprs)) = &select.distinct {
        counter.places(exprs);
    }
    if let GroupByExpr::Expressions(exprs, _) = &select.group_by {
        counter.places(exprs);
    }
    for condition in select.having.iter().chain(&select.qualify) {
        counter.places([condition]);
    }
    if let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = order_by {
        counter.places(keys.iter().map(|key| &key.expr));
    }
    // Windows are named in what is selected; none of its columns can be.
    counter.by_name.clear();
    for item in &select.projection {
        let _: ControlFlow<()> = item.visit(&mut counter);
    }
    match counter.copied > MAX_COPIED {
        true => Err(Error::invalid(format!(
            "a SELECT names its columns or windows so often that planning would copy more than {MAX_COPIED} expressions: compute the columns in an inner query, and name these"
        ))),
        false => Ok(()),
    }
}

/// How many expressions there are in a part of a statement.
fn count(part: &impl Visit) -> u64 {
    let mut counter = ExprCounter(0);
    let _: ControlFlow<()> = part.visit(&mut counter);
    counter.0
}

struct ExprCounter(u64);

impl Visitor for ExprCounter {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}

/// Adds up what is copied to the places that it visits.
struct CopyCounter {
    copied: u64,
    /// The expressions of each column of the SELECT.
    by_name: HashMap<String, u64>,
    by_number: Vec<u64>,
    /// The expressions of the largest window.
    window: u64,
}

impl CopyCounter {
    /// Visits expressions each of which can be the number of a column.
    fn places<'a>(&mut self, exprs: impl IntoIterator<Item = &'a Expr>) {
        for expr in exprs {
            match number(expr).and_then(|number| self.by_number.get(number.checked_sub(1)?).copied()) {
                Some(expressions) => self.copied = self.copied.saturating_add(expressions),
                None => {
                    let _: ControlFlow<()> = expr.visit(self);
                }
            }
        }
    }
}

impl Visitor for CopyCounter {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let copied = match expr {
            Expr::Identifier(name) if !self.by_name.is_empty() => {
                self.by_name.get(&normalized(name)).copied().unwrap_or(0)
            }
            Expr::Function(call) if matches!(call.over, Some(WindowType::NamedWindow(_))) => self.window,
            _ => 0,
        };
        self.copied = self.copied.saturating_add(copied);
        ControlFlow::Continue(())
    }
}

fn number(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}
