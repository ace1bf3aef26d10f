//! Evaluation of a filter on batches.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Fields, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use volley_common::options::fields::cut;
use volley_common::{Error, Result};

use super::functions::SESSION;
use crate::fault::from_datafusion;

/// A filter that is compiled for batches of certain columns. Clones share it; it has no state.
#[derive(Clone, Debug)]
pub struct RowFilter {
    expr: Arc<dyn PhysicalExpr>,
    text: Arc<str>,
    /// The types of a batch's columns.
    types: Arc<[DataType]>,
}

impl RowFilter {
    /// `expr` reads the columns `used` of `schema`; batches have its columns `columns`.
    pub(super) fn compile(
        text: &Arc<str>,
        expr: &Expr,
        schema: &SchemaRef,
        used: &[usize],
        columns: &[usize],
    ) -> Result<Self> {
        let mut named = Vec::with_capacity(used.len());
        let mut fields = Vec::with_capacity(columns.len());
        for (position, column) in columns.iter().enumerate() {
            let field = schema.fields().get(*column).ok_or_else(|| {
                Error::internal(format!(
                    "column {column} of a filtered read is beyond the {} of the schema",
                    schema.fields().len()
                ))
            })?;
            // Names must be unique here, and only those of the columns that the filter reads matter.
            if used.contains(column) && !named.contains(column) {
                named.push(*column);
                fields.push(Arc::clone(field));
            } else {
                fields.push(Arc::new(field.as_ref().clone().with_name(format!("\u{0}{position}"))));
            }
        }
        let types = fields.iter().map(|field| field.data_type().clone()).collect();
        let batch_schema =
            DFSchema::from_unqualified_fields(Fields::from(fields), HashMap::new()).map_err(from_datafusion)?;
        let expr = SESSION.create_physical_expr(expr.clone(), &batch_schema).map_err(|e| failure(e, text))?;
        Ok(RowFilter { expr, text: Arc::clone(text), types })
    }

    /// For each row whether the filter is true. Null counts as false, and the result has no nulls.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it fails on a row, for example by a division by zero. INTERNAL: other columns than it is compiled
    /// for.
    pub fn select(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let same = |(column, of_schema): (&ArrayRef, &DataType)| column.data_type().equals_datatype(of_schema);
        if batch.num_columns() != self.types.len() || !batch.columns().iter().zip(self.types.iter()).all(same) {
            return Err(Error::internal(format!(
                "the filter {} is compiled for other columns than the batch has: {:?}",
                cut(&self.text),
                batch.schema().fields()
            )));
        }
        let rows = batch.num_rows();
        let values = self.expr.evaluate(batch).and_then(|value| value.into_array(rows));
        let values = values.map_err(|e| failure(e, &self.text))?;
        if values.data_type() == &DataType::Null {
            return Ok(BooleanArray::from(vec![false; rows]));
        }
        let selected = values.as_boolean_opt().ok_or_else(|| {
            Error::internal(format!("the filter {} gives {}, not boolean", cut(&self.text), values.data_type()))
        })?;
        Ok(match selected.nulls() {
            Some(nulls) => BooleanArray::new(selected.values() & nulls.inner(), None),
            None => selected.clone(),
        })
    }
}

/// What a value causes is the filter's fault, not the server's.
fn failure(error: DataFusionError, text: &str) -> Error {
    let cause = match error.find_root() {
        DataFusionError::ArrowError(cause, _) => match cause.as_ref() {
            ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::CastError(_)
            | ArrowError::ComputeError(_)
            | ArrowError::InvalidArgumentError(_)
            | ArrowError::ParseError(_) => Some(cause.to_string()),
            _ => None,
        },
        DataFusionError::Execution(cause) => Some(cause.clone()),
        _ => None,
    };
    match cause {
        Some(cause) => {
            Error::invalid(format!("the filter {} cannot be evaluated for a row: {}", cut(text), cut(&cause)))
        }
        None => from_datafusion(error).at(format_args!("the filter {}", cut(text))),
    }
}
