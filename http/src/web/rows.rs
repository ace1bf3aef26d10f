//! Rows as cells of text: the first rows of a table, and a page of the result of a query.

use std::fmt::{self, Write};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::FlightData;
use bytes::Bytes;
use volley_common::escape::escape_invisible;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::{Error, Result};

use super::figures::{count, plural};
use crate::caller::HttpCaller;
use crate::flight_calls::FlightCalls;
use crate::transfer::flight_rows::FlightRows;
use crate::transfer::waiting_tickets::WaitingTickets;

/// Memory of a page of rows, besides large messages, bytes.
const MEMORY: u64 = 8 << 20;
/// The largest message that is decoded.
const MAX_MESSAGE: usize = 512 << 20;
/// The most columns that are shown.
pub(crate) const MAX_COLUMNS: usize = 100;
/// The most bytes of a cell.
const MAX_CELL: usize = 300;
/// The most rows and bytes of a plan.
const MAX_TEXT_ROWS: usize = 1000;
const MAX_TEXT: usize = 1 << 20;

/// Rows as text.
#[derive(Default)]
pub(crate) struct PageRows {
    /// What is not shown, and why.
    pub note: String,
    pub columns: Vec<String>,
    pub rows: Vec<CellRow>,
    /// Whether there are rows after these.
    pub has_more: bool,
}

/// A row.
pub(crate) struct CellRow {
    pub cells: Vec<TextCell>,
}

/// A value.
pub(crate) struct TextCell {
    pub text: String,
    /// `number`, `null` or nothing.
    pub class: &'static str,
}

/// Which rows of a read are shown.
#[derive(Clone, Copy)]
pub(crate) struct RowWindow {
    /// The rows before them.
    pub skip: u64,
    /// Their number.
    pub rows: usize,
}

/// Reads rows. `schema`: of what they are if there is no ticket; or empty.
///
/// # Errors
/// Those of the read. RESOURCE_EXHAUSTED: there is no memory for it.
pub(crate) async fn read(
    caller: &HttpCaller,
    calls: FlightCalls,
    tickets: WaitingTickets,
    schema: &[u8],
    window: RowWindow,
) -> Result<PageRows> {
    let (schema, mut batches) = WindowBatches::open(caller, calls, tickets, schema, window).await?;
    let mut page = PageRows { columns: names(&schema), ..PageRows::default() };
    while let Some(batch) = batches.next().await? {
        add_rows(&mut page.rows, &batch)?;
    }
    page.has_more = page.rows.len() > window.rows;
    page.rows.truncate(window.rows);
    if let Some(hidden) = schema.fields().len().checked_sub(MAX_COLUMNS).filter(|hidden| *hidden > 0) {
        page.note = format!(
            "The first {} columns; {} are not shown.",
            count(MAX_COLUMNS as u64),
            plural(hidden as u64, "further column")
        );
    }
    Ok(page)
}

/// The text in the last column of a reply: a plan.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_text(caller: &HttpCaller, calls: FlightCalls, ticket: Bytes) -> Result<String> {
    let window = RowWindow { skip: 0, rows: MAX_TEXT_ROWS };
    let (_, mut batches) = WindowBatches::open(caller, calls, WaitingTickets::only(ticket), &[], window).await?;
    let mut text = ShortText { text: String::new(), limit: MAX_TEXT };
    while let Some(batch) = batches.next().await? {
        add_lines(&mut text, &batch)?;
    }
    Ok(text.text)
}

/// The rows of a window, and one more if there are more. Its batches are taken one after the other, because each may be large: the
/// memory of the request has room for one.
struct WindowBatches {
    source: FlightRows,
    decoder: BatchDecoder,
}

impl WindowBatches {
    async fn open(
        caller: &HttpCaller,
        calls: FlightCalls,
        tickets: WaitingTickets,
        schema: &[u8],
        window: RowWindow,
    ) -> Result<(SchemaRef, Self)> {
        let share = caller.take_memory(MEMORY)?;
        let wanted = window.rows as u64 + 1;
        let mut source = FlightRows::new(calls, tickets, schema, share, MEMORY).with_rows(window.skip, Some(wanted));
        let mut decoder = BatchDecoder::new(MAX_MESSAGE);
        let header = source.open().await?;
        let DecodedMessage::Schema(schema) = decoder.push(FlightData::new().with_data_header(header))? else {
            return Err(Error::internal("a read does not begin with a schema"));
        };
        Ok((schema, WindowBatches { source, decoder }))
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(message) = self.source.next().await? {
            if let DecodedMessage::Batch(batch) = self.decoder.push(message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

fn no_text(error: &ArrowError) -> Error {
    Error::invalid(format!("rows cannot be shown as text: {error}"))
}

fn names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().take(MAX_COLUMNS).map(|field| escape_invisible(field.name()).into_owned()).collect()
}

fn add_rows(rows: &mut Vec<CellRow>, batch: &RecordBatch) -> Result<()> {
    let options = FormatOptions::default().with_null("null");
    let shown = &batch.columns()[..batch.num_columns().min(MAX_COLUMNS)];
    let formatters = shown
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| no_text(&e))?;
    for row in 0..batch.num_rows() {
        let cells = shown.iter().zip(&formatters).map(|(column, formatter)| cell(column, formatter, row)).collect();
        rows.push(CellRow { cells });
    }
    Ok(())
}

/// Adds the last column of a batch, a line for each row.
fn add_lines(text: &mut ShortText, batch: &RecordBatch) -> Result<()> {
    let Some(column) = batch.columns().last() else { return Ok(()) };
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(|e| no_text(&e))?;
    for row in 0..batch.num_rows() {
        // A text that is full stays as it is.
        let _ = writeln!(text, "{}", formatter.value(row));
    }
    Ok(())
}

fn cell(column: &dyn Array, formatter: &ArrayFormatter<'_>, row: usize) -> TextCell {
    let mut text = ShortText { text: String::new(), limit: MAX_CELL };
    // It fails if the text is full.
    let is_whole = write!(text, "{}", formatter.value(row)).is_ok();
    let mut text = escape_invisible(&text.text).into_owned();
    if !is_whole {
        text.push('…');
    }
    let class = match () {
        () if column.is_null(row) => "null",
        () if column.data_type().is_numeric() => "number",
        () => "",
    };
    TextCell { text, class }
}

/// The beginning of what is written, at most so many bytes.
struct ShortText {
    text: String,
    limit: usize,
}

impl Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.limit.saturating_sub(self.text.len());
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.text.push_str(&text[..end]);
        // Nothing is written behind a gap.
        self.limit = self.text.len();
        Err(fmt::Error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn cells_are_short_and_show_what_is_invisible() {
        let long = "ä".repeat(200);
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("<b>\n\u{202e}"), Some(&*long), None]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7, 8, 9]));
        let batch = RecordBatch::try_from_iter([("t", texts), ("n", numbers)]).unwrap();
        let mut rows = Vec::new();
        add_rows(&mut rows, &batch).unwrap();
        let cell = |row: usize, column: usize| (rows[row].cells[column].text.as_str(), rows[row].cells[column].class);
        assert_eq!(cell(0, 0), ("<b>\\n\\u{202e}", ""));
        assert_eq!((cell(2, 0), cell(0, 1)), (("null", "null"), ("7", "number")));
        assert_eq!(rows[1].cells[0].text, format!("{}…", "ä".repeat(150)));
    }
}
