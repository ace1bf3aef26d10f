//! The types that the readers of local and remote parts share.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use volley_common::Result;
use volley_common::ipc::decompress::uncompressed;
use volley_common::ipc::flight_encoder::{FlightFrame, encode_flight_data};
use volley_common::ipc::project::{self, Projector};
use volley_common::ipc::schema;
use volley_common::wire::cluster::Columns;

/// One message of a get, as slices of a mapped file or of a peer's reply.
#[derive(Clone, Debug)]
pub struct EncodedMessage {
    /// `FlightData.data_header`.
    pub header: Bytes,
    /// `FlightData.data_body`.
    pub body: Vec<Bytes>,
    /// Rows of a record batch; `None` for a dictionary.
    pub rows: Option<u64>,
    /// `FlightData.app_metadata`: that of the batch, in a table that preserves it.
    pub app_metadata: Bytes,
}

impl EncodedMessage {
    /// Bytes of the header, the metadata and the body.
    pub fn size(&self) -> usize {
        self.header.len() + self.app_metadata.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }

    /// The same message with an uncompressed body.
    ///
    /// # Errors
    /// DATA_LOSS: the message is malformed.
    fn decompressed(self) -> Result<Self> {
        let body = match self.body.as_slice() {
            [body] => body.clone(),
            slices => slices.concat().into(),
        };
        match uncompressed(&self.header, &body)? {
            Some(plain) => Ok(EncodedMessage { header: plain.header, body: vec![plain.body], ..self }),
            None => Ok(self),
        }
    }

    /// The message as a gRPC frame; the body is not copied.
    pub fn into_frame(self) -> FlightFrame {
        // C++ clients refuse a batch that has no body field: an empty slice writes an empty one.
        encode_flight_data(&self.header, Some(&*self.app_metadata), self.body.into_iter().chain([Bytes::new()]))
    }
}

/// How many of the messages are record batches.
pub fn count_batches(messages: &[EncodedMessage]) -> u32 {
    messages.iter().filter(|message| message.rows.is_some()).count() as u32
}

/// Takes messages from the front and decompresses them, until they have `max_bytes`. Leaves out the rest, so that memory is
/// bounded by what the messages become, however small they are. Blocks.
///
/// # Errors
/// DATA_LOSS: a message is malformed.
pub fn decompress_front(messages: &mut VecDeque<EncodedMessage>, max_bytes: usize) -> Result<Vec<EncodedMessage>> {
    let (mut decompressed, mut bytes) = (Vec::new(), 0);
    while let Some(message) = messages.pop_front() {
        let message = message.decompressed()?;
        bytes += message.size();
        decompressed.push(message);
        if bytes >= max_bytes {
            break;
        }
    }
    Ok(decompressed)
}

/// The columns that a get requests, if not all.
#[derive(Debug)]
pub struct Projection {
    /// Selects the columns from a batch.
    pub projector: Projector,
    /// The dictionaries that the columns use.
    pub dictionaries: HashSet<i64>,
}

impl Projection {
    /// `schema`: the table's encapsulated schema message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a column that the schema does not have.
    pub fn new(schema: &[u8], columns: &Columns) -> Result<Self> {
        let columns: Vec<usize> = columns.index.iter().map(|&at| at as usize).collect();
        let projector = Projector::new(schema::parse_schema(schema)?, columns)?;
        let dictionaries = project::dictionary_ids(projector.schema(), projector.columns()).into_iter().collect();
        Ok(Projection { projector, dictionaries })
    }
}
