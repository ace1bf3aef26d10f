//! The values of a statement's parameters: one row, as a client binds it, kept as an IPC stream in handles and tickets.

use arrow::array::RecordBatch;
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
/// What messages of a stream begin with, apart from those of before 2019.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The stream for a handle, of the batches that a client has bound: exactly one row in all of them.
///
/// # Errors
/// INVALID_ARGUMENT: no row. UNIMPLEMENTED: several rows. INTERNAL: a type that IPC cannot encode, which no client can have sent.
pub fn encode_parameters(batches: &[RecordBatch]) -> Result<Bytes> {
    check_rows(batches.iter().map(RecordBatch::num_rows).sum())?;
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("the parameters cannot be encoded: {e}"));
    let mut stream = Vec::new();
    for batch in batches.iter().filter(|batch| batch.num_rows() == 1) {
        let row = shrink_to_fit(batch);
        let mut writer = StreamWriter::try_new(&mut stream, row.schema_ref()).map_err(failed)?;
        writer.write(&row).map_err(failed)?;
        writer.finish().map_err(failed)?;
    }
    Ok(stream.into())
}

/// The values in such a stream, the first column for `$1`. A dictionary's or run's value is the value itself. The names and
/// metadata of the columns mean nothing.
///
/// # Errors
/// INVALID_ARGUMENT: malformed, too large, or no row. UNIMPLEMENTED: several rows, or a type of which the engine has no values.
pub fn parameters(stream: &[u8]) -> Result<ParamValues> {
    if stream.len() > MAX_PARAMETER_BYTES {
        return Err(Error::invalid(format!(
            "the parameters have {} bytes, more than the limit of {MAX_PARAMETER_BYTES}: put the values into a table and join it",
            stream.len()
        )));
    }
    let mut rest = Bytes::copy_from_slice(stream);
    let mut decoder = BatchDecoder::new(MAX_PARAMETER_BYTES).with_cost_limit();
    let (mut rows, mut row) = (0, None);
    while let Some(message) = next_message(&mut rest)? {
        let decoded = decoder.push(message).map_err(|error| error.at("the parameters"))?;
        if let DecodedMessage::Batch(batch) = decoded {
            rows += batch.num_rows();
            row = (batch.num_rows() > 0).then_some(batch).or(row);
        }
    }
    check_rows(rows)?;
    let columns = row.as_ref().map(RecordBatch::columns).unwrap_or_default();
    let values = columns.iter().map(|column| ScalarValue::try_from_array(column, 0).map(plain));
    let values = values.collect::<Result<Vec<ScalarValue>, _>>().map_err(from_datafusion)?;
    Ok(values.into())
}

fn check_rows(rows: usize) -> Result<()> {
    match rows {
        1 => Ok(()),
        0 => Err(Error::invalid("no values of parameters were bound: bind one row, with a column for each parameter")),
        _ => Err(Error::unimplemented(format!(
            "{rows} rows of parameters were bound, and a query runs with one: bind one row at a time; to add many rows to a table ingest them (adbc_ingest), or put them with mode append"
        ))),
    }
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
