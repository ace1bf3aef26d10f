//! Arrow IPC streams in bytes, as HTTP and files have them: each message begins with 0xFFFFFFFF, the length of its header, and the
//! header. FlightData has the same headers and bodies.

use arrow_flight::FlightData;
use arrow_ipc::MessageHeader;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::schema::verify_message;
use crate::{Error, Result};

/// The end of a stream.
pub const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes before a header.
const PREFIX: usize = 8;
/// The largest header: that of a schema with as many columns as a table may have.
const MAX_HEADER: usize = 32 << 20;
/// The first bytes of an Arrow file, which is no stream.
const FILE_MAGIC: [u8; 4] = *b"ARRO";

/// What a message of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamMessageKind {
    /// The schema.
    Schema,
    /// A dictionary.
    Dictionary {
        /// Its id.
        id: i64,
        /// Whether it extends the one before, which it replaces otherwise.
        is_delta: bool,
    },
    /// So many rows.
    Batch(u64),
}

/// What a message with this header is.
///
/// # Errors
/// INVALID_ARGUMENT: it is malformed, or of another kind.
pub fn message_kind(header: &[u8]) -> Result<StreamMessageKind> {
    let message = verify_message(header)?;
    match message.header_type() {
        MessageHeader::Schema => Ok(StreamMessageKind::Schema),
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch();
            let dictionary = dictionary.ok_or_else(|| Error::invalid("a dictionary of the Arrow stream is empty"))?;
            Ok(StreamMessageKind::Dictionary { id: dictionary.id(), is_delta: dictionary.isDelta() })
        }
        MessageHeader::RecordBatch => {
            let rows = message.header_as_record_batch().and_then(|batch| u64::try_from(batch.length()).ok());
            rows.map(StreamMessageKind::Batch).ok_or_else(|| Error::invalid("a record batch has no number of rows"))
        }
        _ => Err(Error::invalid(
            "an Arrow stream has a message that is neither a schema, a dictionary nor a record batch",
        )),
    }
}

/// The bytes of a message before its body.
pub fn message_prefix(header: &[u8]) -> Bytes {
    let padded = header.len().next_multiple_of(PREFIX);
    let mut out = BytesMut::with_capacity(PREFIX + padded);
    out.put_slice(&CONTINUATION);
    out.put_i32_le(padded as i32);
    out.put_slice(header);
    out.put_bytes(0, padded - header.len());
    out.freeze()
}

/// Takes a stream apart as it arrives.
#[derive(Debug)]
pub struct StreamParser {
    received: BytesMut,
    max_message: usize,
    state: ParserState,
}

/// What the parser waits for.
#[derive(Debug)]
enum ParserState {
    /// The length of a header.
    Length,
    /// A header of so many bytes.
    Header(usize),
    /// A header's body of so many bytes.
    Body(Bytes, usize),
    /// Nothing more.
    Ended,
}

impl StreamParser {
    /// Refuses messages whose body is larger than `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        StreamParser { received: BytesMut::new(), max_message, state: ParserState::Length }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Bytes of the message that has begun, as far as they are known.
    pub fn pending_bytes(&self) -> usize {
        match &self.state {
            ParserState::Length | ParserState::Ended => 0,
            ParserState::Header(length) => *length,
            ParserState::Body(header, length) => header.len() + length,
        }
    }

    /// Whether nothing of the next message has arrived.
    pub fn is_between_messages(&self) -> bool {
        self.received.is_empty() && matches!(self.state, ParserState::Length | ParserState::Ended)
    }

    /// The next message, if it is complete.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is no Arrow stream, a header is malformed, or something follows the end. RESOURCE_EXHAUSTED: a message
    /// is too large.
    pub fn next_message(&mut self) -> Result<Option<FlightData>> {
        loop {
            match &self.state {
                ParserState::Length => match self.header_length()? {
                    Some(0) => self.state = ParserState::Ended,
                    Some(length) => self.state = ParserState::Header(length),
                    None => return Ok(None),
                },
                ParserState::Header(length) if self.received.len() < *length => return Ok(None),
                ParserState::Header(length) => {
                    let header = self.received.split_to(*length).freeze();
                    let body = self.body_length(&header)?;
                    self.state = ParserState::Body(header, body);
                }
                ParserState::Body(_, length) if self.received.len() < *length => return Ok(None),
                ParserState::Body(header, length) => {
                    let data = FlightData::new().with_data_header(header.clone());
                    let body = self.received.split_to(*length).freeze();
                    self.state = ParserState::Length;
                    return Ok(Some(data.with_data_body(body)));
                }
                ParserState::Ended if self.received.is_empty() => return Ok(None),
                ParserState::Ended => return Err(Error::invalid("something follows the end of the Arrow stream")),
            }
        }
    }

    /// The length of the next header; 0 at the end of the stream. Streams from before 2019 have no 0xFFFFFFFF.
    fn header_length(&mut self) -> Result<Option<usize>> {
        let Some(first) = self.received.first_chunk::<4>().copied() else { return Ok(None) };
        if first == FILE_MAGIC {
            return Err(Error::invalid(
                "the body is an Arrow file, not an Arrow stream: write it with a stream writer",
            ));
        }
        let (skip, length) = match (first, self.received.get(4..PREFIX)) {
            (CONTINUATION, None) => return Ok(None),
            (CONTINUATION, Some(length)) => (PREFIX, i32::from_le_bytes([length[0], length[1], length[2], length[3]])),
            (length, _) => (4, i32::from_le_bytes(length)),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER);
        let length = length.ok_or_else(|| Error::invalid("the body is not an Arrow stream, or is damaged"))?;
        self.received.advance(skip);
        Ok(Some(length))
    }

    fn body_length(&self, header: &[u8]) -> Result<usize> {
        let length = verify_message(header)?.bodyLength();
        let length = usize::try_from(length)
            .map_err(|_| Error::invalid("a message of the Arrow stream has a negative length"))?;
        if length > self.max_message {
            return Err(Error::exhausted(format!(
                "a message of {length} bytes is over the limit of {}: send smaller batches",
                self.max_message
            )));
        }
        Ok(length)
    }

    /// Checks that the stream is complete.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it has no end.
    pub fn check_ended(&self) -> Result<()> {
        match self.state {
            ParserState::Ended => Ok(()),
            _ => Err(Error::invalid(
                "the Arrow stream has no end, so it may be cut off, and nothing of it is stored: close the stream writer before the body ends",
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::ipc::reader::StreamReader;
    use arrow::ipc::writer::StreamWriter;

    use super::*;
    use crate::Code;

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn stream() -> Vec<u8> {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch(1).schema()).unwrap();
        writer.write(&batch(3)).unwrap();
        writer.write(&batch(5)).unwrap();
        writer.finish().unwrap();
        writer.into_inner().unwrap()
    }

    /// The messages of a stream that arrives in pieces of `step` bytes.
    fn parse(bytes: &[u8], step: usize) -> Result<Vec<FlightData>> {
        let (mut parser, mut messages) = (StreamParser::new(1 << 20), Vec::new());
        for piece in bytes.chunks(step) {
            parser.push(piece);
            while let Some(message) = parser.next_message()? {
                messages.push(message);
            }
        }
        parser.check_ended()?;
        Ok(messages)
    }

    #[test]
    fn stream_is_taken_apart_and_put_together_again() {
        let bytes = stream();
        for step in [1, 3, 8, 1000] {
            let messages = parse(&bytes, step).unwrap();
            let kinds: Vec<_> = messages.iter().map(|message| message_kind(&message.data_header).unwrap()).collect();
            let expected = [StreamMessageKind::Schema, StreamMessageKind::Batch(3), StreamMessageKind::Batch(5)];
            assert_eq!(kinds, expected);
            let mut again = Vec::new();
            for message in &messages {
                again.extend_from_slice(&message_prefix(&message.data_header));
                again.extend_from_slice(&message.data_body);
            }
            again.extend_from_slice(&END_OF_STREAM);
            let rows: Vec<RecordBatch> = StreamReader::try_new(&again[..], None).unwrap().map(Result::unwrap).collect();
            assert_eq!(rows, [batch(3), batch(5)]);
        }
    }

    #[test]
    fn incomplete_or_foreign_bytes_are_refused() {
        let bytes = stream();
        for cut in [0, 4, 20, bytes.len() - 8, bytes.len() - 1] {
            assert!(parse(&bytes[..cut], 7).unwrap_err().message.contains("has no end"), "{cut}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(parse(&long, 1000).unwrap_err().message.contains("follows the end"));
        for (foreign, why) in [(&b"ARROW1\0\0"[..], "Arrow file"), (b"a,b\n1,2\n", "not an Arrow stream")] {
            assert!(parse(foreign, 1000).unwrap_err().message.contains(why));
        }
    }

    #[test]
    fn message_over_the_limit_is_refused_before_its_body() {
        let mut parser = StreamParser::new(16);
        parser.push(&stream());
        parser.next_message().unwrap();
        assert_eq!(parser.next_message().unwrap_err().code, Code::ResourceExhausted);
    }
}
