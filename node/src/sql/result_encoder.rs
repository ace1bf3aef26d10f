//! The rows of a query as messages: those of a DoGet, and what all of them count in the memory of queries.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::encode::{IpcMessage, encode_messages};
use volley_common::ipc::flight_encoder::{FlightFrame, encode_flight_data};
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::{Error, Result};
use volley_sql::engine::RowsShare;

use super::result_queue::{WaitingMessage, counted};

/// Makes messages of the rows of a query.
pub trait ResultEncoder: Send + 'static {
    /// A message.
    type Item: Send + 'static;

    /// The first messages, at least one.
    ///
    /// # Errors
    /// The schema is not one that is expected.
    fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<Self::Item>>;

    /// The messages of a batch.
    ///
    /// # Errors
    /// The rows are not as they must be.
    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<IpcMessage>>;

    /// A message of a batch, to be sent. Its rows count in the memory of queries until `share` is dropped.
    fn waiting(&self, message: IpcMessage, share: RowsShare) -> WaitingMessage<Self::Item>;
}

/// The messages of a batch, in place of which they count in the memory of queries from now on.
pub fn counted_messages<E: ResultEncoder>(
    encoder: &E,
    messages: Vec<IpcMessage>,
    mut share: RowsShare,
) -> Vec<WaitingMessage<E::Item>> {
    let bytes = |message: &IpcMessage| message.header.len() + message.body.len();
    let waiting = messages.into_iter().map(|message| {
        let own = share.split_off(bytes(&message));
        encoder.waiting(message, own)
    });
    waiting.collect()
}

/// The frames of a DoGet.
pub struct FrameEncoder {
    /// The schema message that was promised; empty: none was.
    pub promised: Bytes,
}

impl ResultEncoder for FrameEncoder {
    type Item = FlightFrame;

    fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<FlightFrame>> {
        let message = schema_message(schema)?;
        if !self.promised.is_empty() && self.promised != message {
            return Err(Error::precondition(
                "the rows have another schema than the FlightInfo, because a function of the statement or the version of this node has changed: call get_flight_info again",
            ));
        }
        Ok(vec![encode_flight_data(&flight_header(&message), None, std::iter::empty())])
    }

    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<IpcMessage>> {
        encode_messages(&batch, MESSAGE_BYTES)
    }

    /// The rows count until they are sent: HTTP/2 keeps some of a client that does not read.
    fn waiting(&self, message: IpcMessage, share: RowsShare) -> WaitingMessage<FlightFrame> {
        let body = counted(message.body, share);
        WaitingMessage::new(frame(IpcMessage { header: message.header, body }), None)
    }
}

/// The frame of a message.
pub fn frame(message: IpcMessage) -> FlightFrame {
    encode_flight_data(&message.header, None, std::iter::once(message.body))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use volley_common::Code;

    use super::*;

    #[test]
    fn rows_of_another_schema_than_promised_are_refused() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let other = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
        FrameEncoder { promised: schema_message(&schema).unwrap() }.begin(&schema).unwrap();
        FrameEncoder { promised: Bytes::new() }.begin(&schema).unwrap();
        let refused = FrameEncoder { promised: schema_message(&other).unwrap() }.begin(&schema).err().unwrap();
        assert_eq!(refused.code, Code::FailedPrecondition);
    }
}
