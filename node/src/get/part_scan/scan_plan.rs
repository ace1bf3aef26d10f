//! What a scan reads of each part of a table: first the columns of its filter, and the other ones of the rows that it selects.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use volley_common::ipc::project::{Projector, dictionary_ids};
use volley_common::ipc::schema::parse_schema;
use volley_common::ipc::take::filter_rows;
use volley_common::wire::cluster::Ticket;
use volley_common::{Error, Result};
use volley_sql::predicate::{Predicate, Pruning, RowFilter};
use volley_sql::source::ScanCounts;

use crate::get::message::{EncodedMessage, Projection};
use crate::storage::PartMessage;

/// The columns and the filter of a scan.
pub struct ScanPlan {
    schema: SchemaRef,
    filter: Option<ScanFilter>,
    rest: Projection,
    sources: Vec<ColumnSource>,
    output_schema: SchemaRef,
    output_dictionaries: HashSet<i64>,
    counts: ScanCounts,
}

/// Selects rows by some columns.
pub struct ScanFilter {
    rows: RowFilter,
    /// `None`: statistics say nothing about it.
    pruning: Option<Pruning>,
    /// The columns, in the order in which the filter takes them.
    pub columns: Projection,
}

/// Where a column of the output comes from.
#[derive(Clone, Copy)]
enum ColumnSource {
    /// This one of the filter's columns.
    Filter(usize),
    /// This one of the others.
    Rest(usize),
}

/// Which rows of a batch a filter selects.
pub enum Selection {
    /// None.
    None,
    /// All of them.
    All,
    /// Those for which this is true.
    Some(BooleanArray),
}

impl ScanPlan {
    /// `schema`: the table's. `output`: the columns of the output, in its order, and `output_schema` what they are called there.
    /// `filter`: a predicate, and for each column that it knows which one of the table's it is.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a column that is not in the schema. Those of [`Predicate::compile`].
    pub fn new(
        schema: SchemaRef,
        output: &[usize],
        output_schema: SchemaRef,
        filter: Option<(&Predicate, &[usize])>,
    ) -> Result<Self> {
        let filter = filter.map(|(predicate, visible)| ScanFilter::new(&schema, predicate, visible)).transpose()?;
        let filtered = filter.as_ref().map_or(&[][..], |filter| filter.columns.projector.columns());
        let mut rest: Vec<usize> = Vec::new();
        let source = |column: &usize| {
            if let Some(at) = filtered.iter().position(|known| known == column) {
                return ColumnSource::Filter(at);
            }
            let at = rest.iter().position(|known| known == column).unwrap_or_else(|| {
                rest.push(*column);
                rest.len() - 1
            });
            ColumnSource::Rest(at)
        };
        let sources = output.iter().map(source).collect();
        let rest = projection(&schema, rest)?;
        let output_dictionaries = dictionary_ids(&schema, output).into_iter().collect();
        let counts = ScanCounts::default();
        Ok(ScanPlan { schema, filter, rest, sources, output_schema, output_dictionaries, counts })
    }

    /// The same, whose scans add to `counts`.
    pub fn counting(self, counts: ScanCounts) -> Self {
        ScanPlan { counts, ..self }
    }

    /// Counts the messages of a part, and those of them that are not read.
    pub fn count_messages(&self, messages: usize, pruned: usize) {
        metrics::counter!("volley_scan_messages_total").increment(messages as u64);
        metrics::counter!("volley_scan_messages_pruned_total").increment(pruned as u64);
        self.counts.add(messages, pruned);
    }

    /// Counts messages that another node sent.
    pub fn count_received(&self, messages: &[EncodedMessage]) {
        self.counts.add_received(messages.iter().map(EncodedMessage::size).sum());
    }

    /// That of a verified ticket with a filter, whose schema is set: its columns, and its filter of the `visible` columns (names;
    /// `None`: all). To the filter, columns that are not visible do not exist.
    ///
    /// # Errors
    /// Those of [`ScanPlan::new`] and [`Predicate::parse`].
    pub fn of_ticket(ticket: &Ticket, visible: Option<&BTreeSet<String>>) -> Result<Self> {
        let schema = parse_schema(&ticket.schema)?;
        let is_visible = |at: &usize| visible.is_none_or(|names| names.contains(schema.field(*at).name()));
        let columns: Vec<usize> = (0..schema.fields().len()).filter(is_visible).collect();
        let visible_schema = Arc::new(project(&schema, &columns)?);
        let predicate = Predicate::parse(&ticket.filter, &visible_schema)?;
        let output: Vec<usize> = match &ticket.columns {
            Some(columns) => columns.index.iter().map(|&at| at as usize).collect(),
            None => (0..schema.fields().len()).collect(),
        };
        let output_schema = Arc::new(project(&schema, &output)?);
        ScanPlan::new(schema, &output, output_schema, Some((&predicate, columns.as_slice())))
    }

    /// The table's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The filter; `None`: all rows are sent.
    pub fn filter(&self) -> Option<&ScanFilter> {
        self.filter.as_ref()
    }

    /// The columns of the output that are none of the filter's.
    pub fn rest(&self) -> &Projection {
        &self.rest
    }

    /// Whether the output needs this dictionary.
    pub fn sends_dictionary(&self, id: i64) -> bool {
        self.output_dictionaries.contains(&id)
    }

    /// The selected rows of the output. `filtered` has the filter's columns, `rest` the others; each is `None` if it has no
    /// columns.
    ///
    /// # Errors
    /// INTERNAL: the columns are not of the plan.
    pub fn output(
        &self,
        filtered: Option<&RecordBatch>,
        rest: Option<&RecordBatch>,
        rows: usize,
        selection: &Selection,
    ) -> Result<RecordBatch> {
        let column = |source: &ColumnSource| {
            let (batch, at) = match source {
                ColumnSource::Filter(at) => (filtered, at),
                ColumnSource::Rest(at) => (rest, at),
            };
            batch.and_then(|batch| batch.columns().get(*at)).cloned()
        };
        let columns: Option<Vec<ArrayRef>> = self.sources.iter().map(column).collect();
        let columns = columns.ok_or_else(|| Error::internal("a scan has not read a column of its output"))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.output_schema.clone(), columns, &options);
        let batch = batch.map_err(|e| Error::internal(format!("the columns of a scan do not fit its schema: {e}")))?;
        match selection {
            Selection::None => Ok(batch.slice(0, 0)),
            Selection::All => Ok(batch),
            Selection::Some(mask) => filter_rows(&batch, mask)
                .map_err(|e| Error::internal(format!("the rows of a scan cannot be selected: {e}"))),
        }
    }
}

impl ScanFilter {
    fn new(schema: &SchemaRef, predicate: &Predicate, visible: &[usize]) -> Result<Self> {
        let rows = predicate.compile(predicate.columns())?;
        let columns: Option<Vec<usize>> = predicate.columns().iter().map(|&at| visible.get(at).copied()).collect();
        let columns = columns.ok_or_else(|| Error::internal("a filter has columns that its table does not have"))?;
        Ok(ScanFilter { rows, pruning: predicate.pruning(), columns: projection(schema, columns)? })
    }

    /// What selects messages by statistics of the filter's columns; `None` if nothing does.
    pub fn pruning(&self) -> Option<&Pruning> {
        self.pruning.as_ref()
    }

    /// Selects rows of a batch of the filter's columns.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the filter fails for a row, for example by a division by zero.
    pub fn select(&self, batch: &RecordBatch) -> Result<Selection> {
        let mask = self.rows.select(batch)?;
        Ok(match mask.true_count() {
            0 => Selection::None,
            all if all == batch.num_rows() => Selection::All,
            _ => Selection::Some(mask),
        })
    }
}

/// The ranges of a part's file with these columns of a record batch, whose header (bare flatbuffer) this is.
///
/// # Errors
/// DATA_LOSS: the header does not match the schema.
pub fn column_ranges(columns: &Projection, message: &PartMessage, header: &Bytes) -> Result<Vec<Range<u64>>> {
    if columns.projector.columns().is_empty() {
        return Ok(Vec::new());
    }
    let start = message.body.start;
    let within = columns.projector.project(header)?.body;
    Ok(within.into_iter().map(|range| start + range.start..start + range.end).collect())
}

fn projection(schema: &SchemaRef, columns: Vec<usize>) -> Result<Projection> {
    let dictionaries = dictionary_ids(schema, &columns).into_iter().collect();
    Ok(Projection { projector: Projector::new(schema.clone(), columns)?, dictionaries })
}

/// The schema of these columns.
///
/// # Errors
/// INVALID_ARGUMENT: a column that the schema does not have.
fn project(schema: &Schema, columns: &[usize]) -> Result<Schema> {
    schema.project(columns).map_err(|e| Error::invalid(format!("the ticket's columns are not in its schema: {e}")))
}
