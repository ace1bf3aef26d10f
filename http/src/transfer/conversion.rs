//! Rows in other formats, and compressed bodies: a thread decodes and encodes, with bounded queues to the read and to the response.

use std::io::{self, Write};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_flight::FlightData;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::stream_format::{END_OF_STREAM, message_prefix};
use volley_common::{Error, Result};
use volley_formats::{Format, OutputOptions, TableEncoder, error_text};
use zstd::stream::write::Encoder as ZstdEncoder;

use super::QUEUE_LEN;
use super::flight_rows::FlightRows;
use super::http_words::in_http_words;
use crate::negotiation::{ContentCoding, Representation};

/// Bytes of a chunk of a body.
const CHUNK_BYTES: usize = 256 << 10;
/// The largest message that is decoded.
const MAX_MESSAGE: usize = 512 << 20;

/// A message, the end of the read, or why it failed.
type QueuedRows = Result<Option<FlightData>>;

/// Starts the thread, and waits until it knows that the format holds the schema. The stream has the chunks of the body; it ends
/// with an error if the read or a value fails. Dropping it ends the thread and the read.
///
/// # Errors
/// INVALID_ARGUMENT: the format does not have a column's type.
pub(crate) async fn start(
    source: FlightRows,
    schema: Bytes,
    representation: Representation,
    options: OutputOptions,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + 'static> {
    let (queue, rows) = mpsc::channel(QUEUE_LEN);
    let (output, chunks) = mpsc::channel(QUEUE_LEN);
    let (begun, has_begun) = oneshot::channel();
    let reader = AbortOnDropHandle::new(tokio::spawn(read(source.with_dictionaries(), queue)));
    let thread = tokio::task::spawn_blocking(move || {
        let conversion = Conversion { schema, representation, options, rows };
        conversion.run(begun, output);
    });
    // A thread that panics has not begun.
    has_begun.await.map_err(|_| Error::internal("the conversion of rows failed by a bug in Volley"))??;
    let held = (reader, thread);
    Ok(stream::unfold((chunks, Some(held)), |(mut chunks, held)| async move {
        match chunks.recv().await {
            Some(chunk) => Some((chunk, (chunks, held))),
            None => {
                let (_, thread) = held?;
                // The end is the end only if the thread has ended well.
                let failed = thread.await.err()?;
                Some((Err(Error::internal(format!("the conversion of rows failed: {failed}"))), (chunks, None)))
            }
        }
    }))
}

/// Reads into the queue until the end, a failure, or the thread is gone.
async fn read(mut source: FlightRows, queue: mpsc::Sender<QueuedRows>) {
    loop {
        let next = source.next().await;
        let is_last = !matches!(next, Ok(Some(_)));
        if queue.send(next).await.is_err() || is_last {
            return;
        }
    }
}

struct Conversion {
    /// The schema's header.
    schema: Bytes,
    representation: Representation,
    options: OutputOptions,
    rows: mpsc::Receiver<QueuedRows>,
}

impl Conversion {
    fn run(mut self, begun: oneshot::Sender<Result<()>>, output: mpsc::Sender<Result<Bytes>>) {
        let mut begun = Some(begun);
        let Err(error) = self.convert(&mut begun, &output) else { return };
        match begun.take() {
            Some(begun) => drop(begun.send(Err(error))),
            // If the response is gone, so is the reason.
            None => drop(output.blocking_send(Err(error))),
        }
    }

    fn convert(
        &mut self,
        begun: &mut Option<oneshot::Sender<Result<()>>>,
        output: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<()> {
        let output =
            CodedWriter::new(ChunkWriter::new(output.clone()), self.representation.coding).map_err(io_error)?;
        let mut begin = || begun.take().is_some_and(|begun| begun.send(Ok(())).is_ok());
        let output = match self.representation.format {
            Format::Arrow | Format::Arrows => {
                begin();
                self.copy(output)?
            }
            format => {
                let mut decoder = BatchDecoder::new(MAX_MESSAGE);
                let schema = schema_of(&mut decoder, &self.schema)?;
                let encoder = TableEncoder::new(output, format, &schema, &self.options).map_err(format_error)?;
                begin();
                self.encode(decoder, encoder)?
            }
        };
        output.finish().map_err(io_error)
    }

    /// The messages as an Arrow stream.
    fn copy(&mut self, mut output: CodedWriter) -> Result<CodedWriter> {
        output.write_all(&message_prefix(&self.schema)).map_err(io_error)?;
        while let Some(message) = self.next()? {
            output.write_all(&message_prefix(&message.data_header)).map_err(io_error)?;
            output.write_all(&message.data_body).map_err(io_error)?;
        }
        output.write_all(&END_OF_STREAM).map_err(io_error)?;
        Ok(output)
    }

    /// The rows in the encoder's format.
    fn encode(&mut self, mut decoder: BatchDecoder, mut encoder: TableEncoder<CodedWriter>) -> Result<CodedWriter> {
        while let Some(message) = self.next()? {
            if let DecodedMessage::Batch(batch) = decoder.push(message)? {
                encoder.write(&batch).map_err(format_error)?;
            }
        }
        encoder.finish().map_err(format_error)
    }

    /// The next message; none at the end of the read.
    fn next(&mut self) -> QueuedRows {
        self.rows.blocking_recv().unwrap_or_else(|| Err(Error::cancelled("the read was ended")))
    }
}

fn schema_of(decoder: &mut BatchDecoder, header: &Bytes) -> Result<SchemaRef> {
    match decoder.push(FlightData::new().with_data_header(header.clone()))? {
        DecodedMessage::Schema(schema) => Ok(schema),
        _ => Err(Error::internal("a read does not begin with a schema")),
    }
}

fn format_error(error: ArrowError) -> Error {
    in_http_words(Error::invalid(error_text(error)))
}

/// Only that the response is gone, or that a compressor fails.
fn io_error(error: io::Error) -> Error {
    Error::cancelled(format!("the response cannot be written: {error}"))
}

/// Sends what is written in chunks.
struct ChunkWriter {
    buffer: Vec<u8>,
    output: mpsc::Sender<Result<Bytes>>,
}

impl ChunkWriter {
    fn new(output: mpsc::Sender<Result<Bytes>>) -> Self {
        ChunkWriter { buffer: Vec::with_capacity(CHUNK_BYTES), output }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let sent = self.output.blocking_send(Ok(chunk.into()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES.saturating_sub(self.buffer.len());
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// Formats flush often: a chunk is sent when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses what is written.
enum CodedWriter {
    Identity(ChunkWriter),
    Gzip(Box<GzEncoder<ChunkWriter>>),
    Zstd(Box<ZstdEncoder<'static, ChunkWriter>>),
}

impl CodedWriter {
    fn new(output: ChunkWriter, coding: ContentCoding) -> io::Result<Self> {
        Ok(match coding {
            ContentCoding::Identity => CodedWriter::Identity(output),
            ContentCoding::Gzip => CodedWriter::Gzip(Box::new(GzEncoder::new(output, Compression::fast()))),
            ContentCoding::Zstd => {
                CodedWriter::Zstd(Box::new(ZstdEncoder::new(output, zstd::DEFAULT_COMPRESSION_LEVEL)?))
            }
        })
    }

    /// Writes the end, and sends what is left.
    fn finish(self) -> io::Result<()> {
        let mut output = match self {
            CodedWriter::Identity(output) => output,
            CodedWriter::Gzip(encoder) => encoder.finish()?,
            CodedWriter::Zstd(encoder) => encoder.finish()?,
        };
        output.send()
    }
}

impl Write for CodedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            CodedWriter::Identity(output) => output.write(bytes),
            CodedWriter::Gzip(encoder) => encoder.write(bytes),
            CodedWriter::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use super::*;

    fn written(coding: ContentCoding, bytes: &[u8]) -> Vec<u8> {
        let (output, mut chunks) = mpsc::channel(1000);
        let mut writer = CodedWriter::new(ChunkWriter::new(output), coding).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
        let mut all = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            let chunk = chunk.unwrap();
            assert!(!chunk.is_empty() && chunk.len() <= CHUNK_BYTES);
            all.extend_from_slice(&chunk);
        }
        all
    }

    #[test]
    fn every_coding_gives_back_what_was_written() {
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 7).map(|at| (at % 251) as u8).collect();
        assert_eq!(written(ContentCoding::Identity, &bytes), bytes);
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&written(ContentCoding::Gzip, &bytes)[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, bytes);
        assert_eq!(zstd::decode_all(&written(ContentCoding::Zstd, &bytes)[..]).unwrap(), bytes);
    }

    #[test]
    fn writer_fails_when_its_client_is_gone() {
        let (output, chunks) = mpsc::channel(1);
        drop(chunks);
        let mut writer = ChunkWriter::new(output);
        let error = writer.write_all(&vec![0; 2 * CHUNK_BYTES]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
