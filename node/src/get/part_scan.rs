//! Rows of parts, filtered and projected, from this node's disk or from other holders: what a get with a filter sends, and what a
//! query reads.
//!
//! | module | what it does |
//! |---|---|
//! | `scan_plan` | which columns a scan reads: first those of its filter, then the others of the rows that it selects |
//! | [`scan_reader`] | scans parts in order; fails over from a damaged part, or from one holder to another, at the next row |
//! | `local_scan` | a part on this node's disk, step by step |
//! | `scan_worker` | one step, on a thread: groups of messages, faulted in and evaluated |
//! | `column_reader` | columns of a part's messages, in the mapped file's memory |
//! | `large_batch` | a large message, in pieces |
//! | `row_collector` | small batches joined, large ones split |
//! | `scan_output` | batches, or messages without their compression |
//!
//! How many steps run at once is bounded for the whole node ([`crate::get_resources::ScanThreads`]); none holds a thread while its
//! reader pauses.

mod column_reader;
mod large_batch;
mod local_scan;
mod row_collector;
mod scan_output;
mod scan_plan;
pub mod scan_reader;
mod scan_worker;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use volley_common::ipc::schema::parse_schema;
use volley_common::wire::cluster::{Columns, Ticket};
use volley_common::{Error, Result};
use volley_sql::predicate::Predicate;

use crate::assertion::AssertedCaller;
use crate::context::GetContext;
use crate::get::ticket_parts::with_parts;
use scan_plan::ScanPlan;
use scan_reader::ScanReader;

/// Batches of at most this many bytes together are taken from a part at once, if they are ready.
const READY_BYTES: usize = 1 << 20;

/// Reads rows of parts for one caller. Cheap to clone.
#[derive(Clone)]
pub struct PartScanner {
    context: Arc<GetContext>,
    caller: AssertedCaller,
}

impl PartScanner {
    /// For a caller, who is asserted to the nodes that parts are read from.
    pub fn new(context: Arc<GetContext>, caller: AssertedCaller) -> Self {
        PartScanner { context, caller }
    }

    /// The rows of some parts of a verified ticket, in order, for which the filter is true: `columns` of `schema`, which has those
    /// that the caller may see. `ticket` is of the whole table; its `columns` are those of `schema`, or unset if that has all. At
    /// most `limit` rows. Batches have about 1 MiB and own their memory; nothing is read before the stream is polled.
    ///
    /// # Errors
    /// In the stream, which ends with them: INTERNAL: parts or columns that the ticket does not have. Those of
    /// [`ScanReader::next_outputs`].
    pub fn scan(
        &self,
        ticket: Arc<Ticket>,
        schema: SchemaRef,
        parts: Range<usize>,
        columns: Vec<usize>,
        filter: Option<Predicate>,
        limit: Option<u64>,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        match self.open(&ticket, &schema, parts, &columns, filter.as_ref(), limit) {
            Ok((reader, output_schema)) => batches(reader, output_schema).boxed(),
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    fn open(
        &self,
        ticket: &Ticket,
        schema: &SchemaRef,
        parts: Range<usize>,
        columns: &[usize],
        filter: Option<&Predicate>,
        limit: Option<u64>,
    ) -> Result<(ScanReader<RecordBatch>, SchemaRef)> {
        let table_schema = parse_schema(&ticket.schema)?;
        let visible: Vec<usize> = match &ticket.columns {
            Some(columns) => columns.index.iter().map(|&at| at as usize).collect(),
            None => (0..table_schema.fields().len()).collect(),
        };
        let missing = || Error::internal("a scan is of parts or columns that its ticket does not have");
        let parts = ticket.parts.get(parts).ok_or_else(missing)?;
        let output: Option<Vec<usize>> = columns.iter().map(|&column| visible.get(column).copied()).collect();
        let output = output.filter(|_| visible.len() == schema.fields().len()).ok_or_else(missing)?;
        let output_schema = Arc::new(schema.project(columns).map_err(|_| missing())?);
        let filter_text = filter.map(|filter| filter.text().to_string()).unwrap_or_default();
        let filter = filter.map(|filter| (filter, visible.as_slice()));
        let plan = ScanPlan::new(table_schema, &output, output_schema.clone(), filter)?;
        let ticket = Ticket {
            columns: Some(Columns { index: output.iter().map(|&column| column as u32).collect() }),
            limit,
            filter: filter_text,
            ..with_parts(ticket, parts.to_vec())
        };
        Ok((ScanReader::new(self.context.clone(), self.caller.clone(), ticket, plan)?, output_schema))
    }
}

/// All batches, with this schema: that of other nodes' replies has the same types.
fn batches(
    reader: ScanReader<RecordBatch>,
    schema: SchemaRef,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let outputs = stream::try_unfold(reader, |mut reader| async move {
        let outputs = reader.next_outputs(READY_BYTES).await?;
        Ok::<_, Error>((!outputs.is_empty()).then(|| (stream::iter(outputs.into_iter().map(Ok::<_, Error>)), reader)))
    });
    outputs.try_flatten().and_then(move |batch| std::future::ready(relabel(batch, &schema)))
}

fn relabel(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if Arc::ptr_eq(&batch.schema(), schema) {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|e| Error::internal(format!("a part has another schema than its table: {e}")))
}
