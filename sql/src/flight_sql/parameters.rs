//! The values of a statement's parameters: rows, as a client binds them, kept as an IPC stream in handles and tickets.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_flight::FlightData;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::common::{ParamValues, ScalarValue};
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::{Error, Result};

use crate::fault::from_datafusion;

/// Longest stream of parameters, bytes. In a handle there is less space: this is for those of an INSERT, which need no handle.
pub const MAX_PARAMETER_BYTES: usize = 16 << 20;
/// Most rows of parameters: a statement runs once for each.
pub const MAX_PARAMETER_ROWS: usize = 10_000;
/// What messages of a stream begin with, apart from those of before 2019.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Makes the stream for a handle of the batches that a client binds.
#[derive(Default)]
pub struct ParameterEncoder {
    /// From the first row on.
    writer: Option<StreamWriter<Vec<u8>>>,
    rows: usize,
}

impl ParameterEncoder {
    /// Adds the rows of a batch. All batches have one schema.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too many rows, or too many bytes. INTERNAL: a type that IPC cannot encode, which no client can have sent.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows = self.rows.saturating_add(batch.num_rows());
        check_rows(self.rows)?;
        let rows = shrink_to_fit(batch);
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(StreamWriter::try_new(Vec::new(), rows.schema_ref()).map_err(not_encoded)?),
        };
        writer.write(&rows).map_err(not_encoded)?;
        match writer.get_ref().len() > MAX_PARAMETER_BYTES {
            true => Err(too_many()),
            false => Ok(()),
        }
    }

    /// The stream; `None` without a row.
    ///
    /// # Errors
    /// INTERNAL: it cannot be encoded.
    pub fn finish(self) -> Result<Option<Bytes>> {
        self.writer.map(|writer| writer.into_inner().map(Bytes::from).map_err(not_encoded)).transpose()
    }
}

/// The stream of these batches, which have a row at least.
///
/// # Errors
/// INVALID_ARGUMENT: no row. Those of [`ParameterEncoder::push`].
pub fn encode_parameters(batches: &[RecordBatch]) -> Result<Bytes> {
    let mut encoder = ParameterEncoder::default();
    batches.iter().try_for_each(|batch| encoder.push(batch))?;
    encoder.finish()?.ok_or_else(no_row)
}

/// The rows in such a stream: at least one. They are decoded one batch at a time, whenever they are needed: together they may have
/// far more bytes than the stream.
pub struct ParameterRows {
    stream: Bytes,
    count: usize,
}

impl ParameterRows {
    /// Reads a stream. The names and metadata of the columns mean nothing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: malformed, too large, or no row. RESOURCE_EXHAUSTED: too many rows.
    pub fn decode(stream: &[u8]) -> Result<Self> {
        if stream.len() > MAX_PARAMETER_BYTES {
            return Err(Error::invalid(format!(
                "the parameters have {} bytes, more than the limit of {MAX_PARAMETER_BYTES}: put the values into a table and join it",
                stream.len()
            )));
        }
        let stream = Bytes::copy_from_slice(stream);
        let (mut reader, mut count) = (RowReader::new(stream.clone()), 0usize);
        while let Some(batch) = reader.next_batch()? {
            count = count.saturating_add(batch.num_rows());
            check_rows(count)?;
        }
        match count {
            0 => Err(no_row()),
            count => Ok(ParameterRows { stream, count }),
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The values for each run of a statement, the first column for `$1`: those of each row; one run without values if none are
    /// bound. A dictionary's or run-end encoded value is the value itself. An item is UNIMPLEMENTED if it has a type of which the
    /// engine has no values.
    pub fn runs(bound: Option<&Self>) -> impl Iterator<Item = Result<Option<ParamValues>>> + Send + use<> {
        let unbound = bound.is_none().then_some(Ok(None));
        let rows = bound.map(|rows| RowReader::new(rows.stream.clone()));
        unbound.into_iter().chain(rows.into_iter().flatten())
    }
}

/// Decodes the rows of a stream. After an error it must not be used again.
struct RowReader {
    rest: Bytes,
    decoder: BatchDecoder,
    /// The batch of the next row, and its place.
    batch: Option<RecordBatch>,
    row: usize,
}

impl RowReader {
    fn new(stream: Bytes) -> Self {
        let decoder = BatchDecoder::new(MAX_PARAMETER_BYTES).with_cost_limit();
        RowReader { rest: stream, decoder, batch: None, row: 0 }
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(message) = next_message(&mut self.rest)? {
            let decoded = self.decoder.push(message).map_err(|error| error.at("the parameters"))?;
            if let DecodedMessage::Batch(batch) = decoded {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

impl Iterator for RowReader {
    type Item = Result<Option<ParamValues>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = &self.batch
                && self.row < batch.num_rows()
            {
                self.row += 1;
                return Some(values_at(batch, self.row - 1).map(Some));
            }
            match self.next_batch().transpose()? {
                Ok(batch) => (self.batch, self.row) = (Some(batch), 0),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn values_at(batch: &RecordBatch, row: usize) -> Result<ParamValues> {
    let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row).map(plain));
    let values = values.collect::<Result<Vec<ScalarValue>, _>>().map_err(from_datafusion)?;
    Ok(values.into())
}

fn check_rows(rows: usize) -> Result<()> {
    if rows > MAX_PARAMETER_ROWS { Err(too_many()) } else { Ok(()) }
}

fn no_row() -> Error {
    Error::invalid("no values of parameters were bound: bind a row, with a column for each parameter")
}

fn too_many() -> Error {
    Error::exhausted(format!(
        "more than {MAX_PARAMETER_ROWS} rows or {MAX_PARAMETER_BYTES} bytes of parameters are bound: for an INSERT ingest the rows (adbc_ingest) or put them with mode append; for a query put them into a table and join it"
    ))
}

fn not_encoded(error: ArrowError) -> Error {
    Error::internal(format!("the parameters cannot be encoded: {error}"))
}

/// The value of a dictionary or a run.
fn plain(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Dictionary(_, value) | ScalarValue::RunEndEncoded(_, _, value) => plain(*value),
        other => other,
    }
}

/// Takes the next message off a stream; `None` at its end.
fn next_message(rest: &mut Bytes) -> Result<Option<FlightData>> {
    if rest.starts_with(&CONTINUATION) {
        take(rest, CONTINUATION.len())?;
    }
    if rest.is_empty() {
        return Ok(None);
    }
    let length = take(rest, 4)?.iter().rev().fold(0, |length, byte| (length << 8) | usize::from(*byte));
    if length == 0 {
        return Ok(None);
    }
    let header = take(rest, length)?;
    let message = root_as_message(&header)
        .map_err(|e| Error::invalid(format!("the parameters have a malformed IPC message: {e}")))?;
    // A negative length is longer than the rest, too.
    let body = take(rest, usize::try_from(message.bodyLength()).unwrap_or(usize::MAX))?;
    Ok(Some(FlightData::new().with_data_header(header).with_data_body(body)))
}

fn take(rest: &mut Bytes, length: usize) -> Result<Bytes> {
    match length <= rest.len() {
        true => Ok(rest.split_to(length)),
        false => Err(Error::invalid("the parameters are a truncated IPC stream: bind them again")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
