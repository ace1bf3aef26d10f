//! One version of a table as DataFusion sees it.

use std::future::ready;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExecBuilder;
use futures::FutureExt;
use futures::future::BoxFuture;
use volley_common::Error;
use volley_common::ipc::take::has_zero_width;

use super::bounded_functions;
use super::part_scan::PartScanExec;
use crate::fault::into_datafusion;
use crate::predicate::Predicate;
use crate::source::{PlannedTable, TableSource};

/// One version of a table.
#[derive(Debug)]
pub(super) struct PartTable {
    source: Arc<dyn TableSource>,
    table: Arc<PlannedTable>,
    partitions: usize,
}

/// A table that no name of the statement means: only its columns are known, for `information_schema`.
#[derive(Debug)]
pub(super) struct UnreadTable {
    pub(super) schema: SchemaRef,
}

impl PartTable {
    /// Reads in at most `partitions` groups of parts at once.
    pub(super) fn new(source: Arc<dyn TableSource>, table: Arc<PlannedTable>, partitions: usize) -> Self {
        PartTable { source, table, partitions }
    }

    /// The filter for the holders of the parts, if these evaluate it exactly as the engine does.
    fn predicate(&self, filter: &Expr) -> Option<Predicate> {
        // Filters have functions whose results are bounded anyway.
        let filter = bounded_functions::unbounded(unnormalize_col(filter.clone())).ok()?;
        Predicate::from_expr(&filter, &self.table.schema)
    }

    /// The filters for the holders as one, and those that the engine has to evaluate. Each filter alone was accepted before,
    /// but all of them together may exceed what a predicate may have.
    fn split<'a>(&self, filters: &'a [Expr]) -> (Option<Predicate>, Vec<&'a Expr>) {
        let whole = conjunction(filters.iter().cloned());
        let Some(whole) = whole else { return (None, Vec::new()) };
        if let Some(predicate) = self.predicate(&whole) {
            return (Some(predicate), Vec::new());
        }
        let (mut pushed, mut rest) = (None, Vec::new());
        let mut accepted: Option<Expr> = None;
        for filter in filters {
            let longer = conjunction(accepted.iter().chain([filter]).cloned());
            match longer.as_ref().and_then(|longer| self.predicate(longer)) {
                Some(predicate) => (pushed, accepted) = (Some(predicate), longer),
                None => rest.push(filter),
            }
        }
        (pushed, rest)
    }

    /// The future of [`PartTable::scan_parts`].
    fn scan_table<'a>(
        &'a self,
        state: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
        self.scan_parts(state, projection, filters, limit).boxed()
    }

    /// A scan, above which the engine evaluates the filters that the holders of the parts cannot.
    async fn scan_parts(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.table.schema.fields().len()).collect());
        let (pushed, rest) = self.split(filters);
        let Some(rest) = conjunction(rest.into_iter().cloned()) else {
            return self.exec(columns, pushed, limit).await;
        };
        let rest = unnormalize_col(rest);
        // The limit counts rows that all filters select, and the rest of the filters may read columns that are not sent.
        let wanted = columns.len();
        let mut read = columns;
        for column in rest.column_refs() {
            let at = self.table.schema.index_of(&column.name)?;
            if !read.contains(&at) {
                read.push(at);
            }
        }
        let scan = self.exec(read, pushed, None).await?;
        let filter = state.create_physical_expr(rest, &DFSchema::try_from(scan.schema())?)?;
        let filtered = FilterExecBuilder::new(filter, scan).apply_projection(Some((0..wanted).collect()))?.build()?;
        Ok(Arc::new(filtered))
    }

    /// Steps of the engine derive the number of values from their bytes, and lose those that have none.
    ///
    /// # Errors
    /// UNIMPLEMENTED: names the first column of such a type.
    fn check_columns(&self, columns: &[usize]) -> Result<()> {
        let fields = self.table.schema.fields();
        let without_bytes =
            columns.iter().filter_map(|at| fields.get(*at)).find(|field| has_zero_width(field.data_type()));
        without_bytes.map_or(Ok(()), |field| {
            Err(into_datafusion(Error::unimplemented(format!(
                "the column {:?} of table {} has values without bytes ({}), which the engine of queries cannot count: select the other columns, or read the table with a filter (`where`), which needs no engine",
                field.name(), self.table.name, field.data_type()
            ))))
        })
    }

    async fn exec(
        &self,
        columns: Vec<usize>,
        filter: Option<Predicate>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check_columns(&columns)?;
        let table = match &filter {
            Some(filter) => self.source.prune(&self.table, filter).await,
            None => self.table.clone(),
        };
        let all_parts = self.table.parts.len();
        let scan = PartScanExec::try_new(self.source.clone(), table, self.partitions, columns, filter, limit)?;
        Ok(Arc::new(scan.of_parts(all_parts)))
    }
}

impl TableProvider for PartTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match self.predicate(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    // As `async_trait` writes it, but the future is made in `scan_table`: see `crate::erased`.
    fn scan<'a, 'b, 'c, 'd, 'f>(
        &'a self,
        state: &'b dyn Session,
        projection: Option<&'c Vec<usize>>,
        filters: &'d [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'f, Result<Arc<dyn ExecutionPlan>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        'd: 'f,
        Self: 'f,
    {
        self.scan_table(state, projection, filters, limit)
    }
}

impl TableProvider for UnreadTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    // As `async_trait` writes it, but the future does not hold the arguments: see `crate::erased`.
    fn scan<'a, 'b, 'c, 'd, 'f>(
        &'a self,
        _state: &'b dyn Session,
        _projection: Option<&'c Vec<usize>>,
        _filters: &'d [Expr],
        _limit: Option<usize>,
    ) -> BoxFuture<'f, Result<Arc<dyn ExecutionPlan>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        'd: 'f,
        Self: 'f,
    {
        ready(internal_err!("a table is read that was not planned")).boxed()
    }
}
