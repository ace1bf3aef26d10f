//! IPC messages of one stream: what is decoded passes Arrow's own validation, and stays the same when it is split, encoded and
//! projected.
//!
//! The first byte chooses the columns of the projection; then each message is two chunks, header and body.

use arrow::array::{Array, RecordBatch};
use arrow_flight::FlightData;
use bytes::Bytes;
use volley_common::Code;
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::encode::{IpcMessage, encode_batch, first_rows};
use volley_common::ipc::project::Projector;
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::ipc::shrink::{detach, shrink_to_fit};
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;

use crate::batches::{CODECS, flight_messages, keyed, samples};
use crate::input::{FuzzInput, check_error, chunk};

/// The largest message, bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages of one input.
const MAX_MESSAGES: usize = 64;
/// Larger batches are only validated.
const MAX_ROWS: usize = 1 << 16;
const MAX_BYTES: usize = 4 << 20;
/// The size to split batches to, bytes.
const SPLIT_BYTES: usize = 16 << 10;

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let columns = usize::from(input.byte());
    let mut decoder = BatchDecoder::new(MAX_MESSAGE).with_cost_limit();
    for _ in 0..MAX_MESSAGES {
        if input.is_empty() {
            return;
        }
        let (header, body) = (Bytes::copy_from_slice(input.chunk()), Bytes::copy_from_slice(input.chunk()));
        match decoder.push(FlightData::new().with_data_header(header).with_data_body(body)) {
            Ok(DecodedMessage::Batch(batch)) => check_batch(&batch, columns),
            Ok(_) => {}
            Err(error) => return check_error(&error, data.len()),
        }
    }
}

fn check_batch(batch: &RecordBatch, columns: usize) {
    for column in batch.columns() {
        column.to_data().validate_full().expect("a decoded column is valid");
    }
    if batch.num_rows() > MAX_ROWS || data_bytes(batch) > MAX_BYTES {
        return;
    }
    assert!(conform(batch, &batch.schema()).as_ref() == Ok(batch));
    let own = shrink_to_fit(batch);
    assert!(own == *batch && detach(batch) == *batch, "rows change when they are copied");
    check_split(&own);
    check_encoded(&own, columns);
}

fn check_split(batch: &RecordBatch) {
    let mut row = 0;
    for piece in split(batch, SPLIT_BYTES) {
        match piece {
            Ok(piece) => {
                assert!(piece == batch.slice(row, piece.num_rows()), "a split changes row {row}");
                row += piece.num_rows();
            }
            Err(error) => return assert_eq!(error.code, Code::ResourceExhausted, "{error}"),
        }
    }
    assert_eq!(row, batch.num_rows());
}

fn check_encoded(batch: &RecordBatch, columns: usize) {
    let bytes = data_bytes(batch);
    let (schema, (dictionaries, rows)) = match (schema_message(batch.schema_ref()), encode_batch(batch)) {
        (Ok(schema), Ok(encoded)) => (schema, encoded),
        (Err(error), _) | (_, Err(error)) => return check_error(&error, bytes),
    };
    assert!(decode(&schema, &dictionaries, &rows) == *batch, "rows change when they are encoded");
    let half = batch.num_rows() / 2;
    let first = first_rows(&schema, &dictionaries, &rows, half).expect("the first rows of an encoded batch");
    assert_eq!(decode(&schema, &dictionaries, &first).num_rows(), half);
    check_projected(batch, &rows, columns);
}

fn decode(schema: &[u8], dictionaries: &[IpcMessage], rows: &IpcMessage) -> RecordBatch {
    let mut decoder = BatchDecoder::new(1 << 30);
    decoder.push(FlightData::new().with_data_header(flight_header(schema))).expect("an encoded schema");
    for dictionary in dictionaries {
        decoder.push(dictionary.into()).expect("an encoded dictionary");
    }
    match decoder.push(rows.into()).expect("an encoded batch") {
        DecodedMessage::Batch(batch) => batch,
        other => panic!("{other:?} instead of a batch"),
    }
}

/// Projects an encoded batch to some columns: the ranges are those of its body.
fn check_projected(batch: &RecordBatch, rows: &IpcMessage, columns: usize) {
    let count = batch.num_columns();
    let chosen: Vec<usize> = (0..count).filter(|at| (columns >> (at % 8)) & 1 == 1).collect();
    let projector = Projector::new(batch.schema(), chosen).expect("columns of the schema");
    let projected = projector.project(&rows.header).expect("an encoded batch");
    let lengths = projected.body.iter().map(|range| range.end.checked_sub(range.start).expect("a range"));
    assert_eq!(lengths.sum::<u64>(), projected.body_len);
    assert!(projected.body.iter().all(|range| range.end <= rows.body.len() as u64), "a range outside of the body");
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let stream = |messages: Vec<FlightData>| {
        let chunks = messages.into_iter().flat_map(|data| [chunk(&data.data_header), chunk(&data.data_body)]);
        [vec![0x55]].into_iter().chain(chunks).collect::<Vec<_>>().concat()
    };
    let plain = samples().into_iter().map(|batch| flight_messages(&batch, None));
    let compressed = CODECS.into_iter().map(|codec| flight_messages(&keyed(), codec));
    plain.chain(compressed).map(stream).collect()
}
