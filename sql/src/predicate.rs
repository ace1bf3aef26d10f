//! The filter of a read: an expression in SQL that is true, false or null for each row. Rows for which it is true are kept.
//!
//! A [`Predicate`] is parsed and checked against the columns that the caller may see, so a hidden column does not exist for
//! it. It calls only functions whose result depends on their arguments alone: every node finds the same rows. A [`RowFilter`]
//! is a predicate compiled for batches of certain columns.
//!
//! | module | what it has |
//! |---|---|
//! | `limits` | how long and how deep SQL text can be |
//! | `large_stack` | the stack for deep expressions |
//! | `functions` | what filters can call |
//! | `type_inference`, `planned_steps`, `planned_size` | how long planning of an expression takes, and what it becomes, in filters and in statements |
//! | `syntax` | expressions whose text says something else than what would be evaluated |
//! | `expression` | from text to an expression with types, in its simplest form |
//! | `row_filter` | evaluation on batches |
//! | `pruning` | evaluation on statistics: which batches can have rows that are selected |
//! | `unparse` | predicates of the engine's expressions |

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::Expr;
use volley_common::{Error, Result};

use crate::erased::Erased;
use crate::exact_casts;
use expression::VisibleColumns;
use large_stack::on_large_stack;

mod expression;
pub(crate) mod functions;
mod large_stack;
pub(crate) mod limits;
pub(crate) mod planned_size;
pub(crate) mod planned_steps;
mod pruning;
mod row_filter;
pub(crate) mod syntax;
pub(crate) mod type_inference;
mod unparse;

pub(crate) use expression::MAX_DEPTH;
pub use functions::check_type;
pub use pruning::Pruning;
pub use row_filter::RowFilter;

/// Most bytes of a filter's text.
pub const MAX_PREDICATE_BYTES: usize = 64 * 1024;

/// A filter over the columns of one schema.
#[derive(Clone, Debug)]
pub struct Predicate {
    text: Arc<str>,
    schema: SchemaRef,
    /// With types, simplified. Its columns have no qualifier.
    expr: Erased<Expr>,
    columns: Vec<usize>,
}

impl Predicate {
    /// Parses a filter. Unquoted names are folded to lower case, as in statements. `schema` has all columns that the caller
    /// may see; of columns with the same name none can be used.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use arrow::datatypes::{DataType, Field, Schema};
    /// use volley_sql::predicate::Predicate;
    ///
    /// let schema = Arc::new(Schema::new(vec![
    ///     Field::new("name", DataType::Utf8, true),
    ///     Field::new("price", DataType::Float64, true),
    /// ]));
    /// let predicate = Predicate::parse("price > 10 AND price < 20", &schema)?;
    /// assert_eq!(predicate.columns(), [1]);
    /// # Ok::<(), volley_common::Error>(())
    /// ```
    ///
    /// # Errors
    /// INVALID_ARGUMENT: too long, nested too deeply, or too large once planned; not an expression, or not of type boolean; no such column; a
    /// subquery, an aggregate or window function, a parameter, or a function that filters cannot call.
    pub fn parse(text: &str, schema: &SchemaRef) -> Result<Predicate> {
        on_large_stack(|| {
            let columns = VisibleColumns::new(schema)?;
            let parsed = expression::parse(text)?;
            let expr = columns.plan(parsed)?;
            Self::new(text, schema, &columns, expr)
        })
    }

    /// The predicate that selects the same rows as an expression of the engine over the table, whose columns may be
    /// qualified. None if there is no text of which this can be proved: the text is parsed again, and the result must equal
    /// the expression, both with types and simplified.
    pub fn from_expr(expr: &Expr, schema: &SchemaRef) -> Option<Predicate> {
        on_large_stack(|| {
            let columns = VisibleColumns::new(schema).ok()?;
            let expr = exact_casts::without_fences(unparse::without_qualifiers(expr)?).ok()?;
            let wanted = columns.normalize(expr.clone()).ok()?;
            unparse::texts(&expr).find_map(|text| {
                let predicate = Predicate::parse(&text, schema).ok()?;
                (*predicate.expr == wanted).then_some(predicate)
            })
        })
    }

    fn new(text: &str, schema: &SchemaRef, known: &VisibleColumns, expr: Expr) -> Result<Self> {
        let mut columns: Vec<usize> =
            expr.column_refs().into_iter().map(|column| known.index(&column.name)).collect::<Result<_>>()?;
        columns.sort_unstable();
        columns.dedup();
        Ok(Predicate { text: text.into(), schema: Arc::clone(schema), expr: Erased::new(expr), columns })
    }

    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Indexes in the schema of the columns that it reads, ascending. A column that cannot change the result is left out.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Compiles it for batches that have exactly these columns of the schema, in this order: at least those of
    /// [`Predicate::columns`].
    ///
    /// # Errors
    /// INTERNAL: a column is missing, or not in the schema. INVALID_ARGUMENT: the expression cannot be evaluated.
    pub fn compile(&self, columns: &[usize]) -> Result<RowFilter> {
        if let Some(missing) = self.columns.iter().find(|column| !columns.contains(column)) {
            return Err(Error::internal(format!("column {missing} of the filter is not among those that are read")));
        }
        RowFilter::compile(&self.text, &self.expr, &self.schema, &self.columns, columns)
    }

    /// Compiles it for statistics of its columns. None if they can never show that it selects no row.
    pub fn pruning(&self) -> Option<Pruning> {
        Pruning::new(&self.expr, &self.schema, &self.columns)
    }
}

#[cfg(test)]
mod tests;
