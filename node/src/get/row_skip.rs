//! The rest of a part's rows in the reply of another holder, which sends all of them again: the rows that were delivered before
//! are removed from the front.

use bytes::Bytes;
use volley_common::ipc::encode::{IpcMessage, rows_from};
use volley_common::{Error, Result};

use super::message::EncodedMessage;

/// Removes rows from the front of one reply. Its rows must come in the same order as those that were delivered.
pub struct RowSkipper {
    schema_header: Bytes,
    rows: u64,
    /// Those of the reply so far, as long as rows are removed: a message that is cut is decoded by them.
    dictionaries: Vec<IpcMessage>,
}

impl RowSkipper {
    /// Removes this many rows of a reply that begins with `schema_header`.
    pub fn new(schema_header: Bytes, rows: u64) -> Self {
        RowSkipper { schema_header, rows, dictionaries: Vec::new() }
    }

    /// Rows that are still to be removed.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next messages without the rows to be removed.
    ///
    /// # Errors
    /// INTERNAL: a message is malformed.
    pub fn remove_rows(&mut self, messages: Vec<EncodedMessage>) -> Result<Vec<EncodedMessage>> {
        if self.rows == 0 {
            return Ok(messages);
        }
        let mut kept = Vec::new();
        for message in messages {
            match message.rows {
                Some(_) if self.rows == 0 => kept.push(message),
                Some(rows) if rows <= self.rows => self.rows -= rows,
                Some(rows) => kept.push(self.cut(message, rows)?),
                None => {
                    if self.rows > 0 {
                        self.dictionaries.push(ipc_message(&message));
                    }
                    kept.push(message);
                }
            }
        }
        Ok(kept)
    }

    fn cut(&mut self, message: EncodedMessage, rows: u64) -> Result<EncodedMessage> {
        let rest = rows_from(
            self.schema_header.clone(),
            &std::mem::take(&mut self.dictionaries),
            &ipc_message(&message),
            self.rows as usize,
        );
        let rest = rest.map_err(|e| Error::internal(format!("a reply cannot be continued: {}", e.message)))?;
        let rows = rows - std::mem::take(&mut self.rows);
        Ok(EncodedMessage { header: rest.header, body: vec![rest.body], rows: Some(rows), ..message })
    }
}

/// The message with its body in one piece.
pub fn ipc_message(message: &EncodedMessage) -> IpcMessage {
    let body = match message.body.as_slice() {
        [body] => body.clone(),
        slices => slices.concat().into(),
    };
    IpcMessage { header: message.header.clone(), body }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::compute::concat_batches;
    use volley_common::Code;
    use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
    use volley_common::ipc::encode::encode_batch;
    use volley_common::ipc::schema::{flight_header, schema_message};

    use super::super::tests::cluster::{batch, schema};
    use super::*;

    fn header() -> Bytes {
        flight_header(&schema_message(&schema()).unwrap())
    }

    /// A dictionary and three batches, the second one empty.
    fn reply() -> (Vec<RecordBatch>, Vec<EncodedMessage>) {
        let batches = vec![batch(0, 10, &["a", "b"]), batch(10, 0, &["a", "b"]), batch(10, 5, &["a", "b"])];
        let encoded = |message: IpcMessage, rows| EncodedMessage {
            header: message.header,
            // In two pieces, as another node's replies are.
            body: vec![message.body.slice(..8), message.body.slice(8..)],
            rows,
            app_metadata: Bytes::new(),
        };
        let (dictionaries, _) = encode_batch(&batches[0]).unwrap();
        let mut messages: Vec<_> = dictionaries.into_iter().map(|message| encoded(message, None)).collect();
        for rows in &batches {
            let mut message = encode_batch(rows).unwrap().1;
            message.body = [&message.body[..], &[0; 8]].concat().into();
            messages.push(encoded(message, Some(rows.num_rows() as u64)));
        }
        (batches, messages)
    }

    fn decode(messages: &[EncodedMessage]) -> Vec<RecordBatch> {
        let mut decoder = BatchDecoder::new(1 << 30);
        decoder.push(arrow_flight::FlightData::new().with_data_header(header())).unwrap();
        let decoded = messages.iter().map(|message| decoder.push((&ipc_message(message)).into()).unwrap());
        let rows = |message| if let DecodedMessage::Batch(batch) = message { Some(batch) } else { None };
        decoded.filter_map(rows).collect()
    }

    #[test]
    fn rest_of_a_reply_begins_at_any_row() {
        let (batches, messages) = reply();
        let all = concat_batches(&schema(), &batches).unwrap();
        for skipped in 0..=15 {
            for group in [1, 2, messages.len()] {
                let mut skipper = RowSkipper::new(header(), skipped);
                let mut kept = Vec::new();
                for messages in messages.chunks(group) {
                    kept.extend(skipper.remove_rows(messages.to_vec()).unwrap());
                }
                assert_eq!(skipper.rows(), 0);
                assert_eq!(kept.iter().filter_map(|message| message.rows).sum::<u64>(), 15 - skipped);
                let rest = concat_batches(&schema(), &decode(&kept)).unwrap();
                assert_eq!(rest, all.slice(skipped as usize, 15 - skipped as usize), "{skipped} rows, by {group}");
            }
        }
    }

    #[test]
    fn rows_beyond_the_reply_remain() {
        let (_, messages) = reply();
        let mut skipper = RowSkipper::new(header(), 20);
        assert_eq!(skipper.remove_rows(messages).unwrap().len(), 1, "the dictionary");
        assert_eq!(skipper.rows(), 5);
    }

    #[test]
    fn malformed_message_is_an_error() {
        let (_, mut messages) = reply();
        messages[1].body = vec![Bytes::new()];
        assert_eq!(RowSkipper::new(header(), 3).remove_rows(messages).unwrap_err().code, Code::Internal);
    }
}
