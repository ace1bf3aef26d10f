//! The rows that a put should store: what a second decoder reads of the same messages.

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use bytes::Bytes;
use futures::Stream;
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::size::data_bytes;
use volley_common::{Code, Result};
use volley_node::put::handshake::PutMessages;

use super::MAX_MESSAGE;

/// The rows of larger streams are counted and not compared.
const MAX_COMPARED_BYTES: usize = 16 << 20;

/// Compares rows that may be cut into batches in different ways.
pub(super) fn assert_same_rows(put: &[RecordBatch], stored: &[RecordBatch]) {
    let mut stored = stored.iter().filter(|batch| batch.num_rows() > 0).cloned();
    let mut rest: Option<RecordBatch> = None;
    for batch in put {
        let mut row = 0;
        while row < batch.num_rows() {
            let next = rest.take().or_else(|| stored.next()).expect("as many rows as were put");
            let count = next.num_rows().min(batch.num_rows() - row);
            let (put, got) = (batch.slice(row, count), next.slice(0, count));
            assert!(put.columns() == got.columns(), "rows from {row} on differ from those that were put");
            rest = (count < next.num_rows()).then(|| next.slice(count, next.num_rows() - count));
            row += count;
        }
    }
}

/// The messages of a put. Keeps the header of the first that has one, which is the schema.
pub(super) struct RecordedStream<S> {
    pub messages: S,
    pub schema: Option<Bytes>,
}

impl<S: PutMessages> Stream for RecordedStream<S> {
    type Item = Result<FlightData>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = Pin::new(&mut this.messages).poll_next(cx);
        if let Poll::Ready(Some(Ok(data))) = &next
            && this.schema.is_none()
            && !data.data_header.is_empty()
        {
            this.schema = Some(Bytes::copy_from_slice(&data.data_header));
        }
        next
    }
}

/// The rows that a second decoder reads of the same messages.
#[derive(Default)]
pub(super) struct ExpectedRows {
    decoder: Option<BatchDecoder>,
    schema: Option<SchemaRef>,
    pub rows: usize,
    bytes: usize,
    pub batches: Vec<RecordBatch>,
    /// All rows are in `batches`.
    pub is_complete: bool,
}

impl ExpectedRows {
    /// `header`: the client's schema message, which numbers the dictionaries. `schema`: the table's.
    pub(super) fn begin(&mut self, header: Option<Bytes>, schema: &SchemaRef) -> Result<()> {
        let mut decoder = BatchDecoder::new(MAX_MESSAGE).with_cost_limit();
        decoder.push(FlightData::new().with_data_header(header.unwrap_or_default()))?;
        (self.decoder, self.schema, self.is_complete) = (Some(decoder), Some(schema.clone()), true);
        Ok(())
    }

    /// What the writer refuses is refused here, too; its error is the result.
    pub(super) fn push(&mut self, data: &FlightData) {
        let (Some(decoder), Some(schema)) = (&mut self.decoder, &self.schema) else { return };
        // Copies, which take nothing of the put's memory.
        let copy = FlightData::new()
            .with_data_header(Bytes::copy_from_slice(&data.data_header))
            .with_data_body(Bytes::copy_from_slice(&data.data_body));
        let Ok(DecodedMessage::Batch(batch)) = decoder.push(copy) else { return };
        self.rows += batch.num_rows();
        self.bytes += data_bytes(&batch);
        self.is_complete &= self.bytes <= MAX_COMPARED_BYTES;
        match conform(&batch, schema) {
            Ok(batch) if self.is_complete => self.batches.push(batch),
            Ok(_) => {}
            Err(error) => assert_ne!(error.code, Code::Internal, "{error}"),
        }
    }
}
