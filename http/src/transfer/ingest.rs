//! The body of a request as the messages of a put. Whatever fails resets the put, so that nothing of it is stored.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::encode::encode_messages;
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::ipc::stream_format::StreamParser;
use volley_common::server::HttpConfig;
use volley_common::{Error, Result};
use volley_formats::text::{self, TextLimits, TextOptions};
use volley_formats::{InputFile, ReadProgress, file_error};

use super::QUEUE_LEN;
use super::http_words::in_http_words;
use super::parquet_decoder::{ParquetDecoder, max_message};
use super::spool::{StoredBody, blocking_result};
use super::upload::UploadBody;
use crate::budget::RequestShare;
use crate::flight_calls::FlightCalls;
use crate::problem::Problem;

/// The largest message of an Arrow stream.
const MAX_MESSAGE: usize = 64 << 20;
/// Memory that the put of an Arrow stream takes besides large messages, bytes.
pub(crate) const ARROW_MEMORY: u64 = 4 << 20;
/// Memory that the put of stored text takes, bytes.
pub(crate) const STORED_MEMORY: u64 = 64 << 20;

/// What a row of text has at most: its memory is counted for no row. A table may have as many columns.
const TEXT_LIMITS: TextLimits = TextLimits { row_bytes: 16 << 20, columns: 65_536 };

/// A message, the end of the source, or why it failed.
type QueuedBody = Result<Option<FlightData>>;

/// Puts an Arrow stream. Returns the outcome as JSON.
///
/// # Errors
/// Those of the body and of the put.
pub(crate) async fn put_arrow(
    calls: &FlightCalls,
    descriptor: FlightDescriptor,
    body: UploadBody,
    share: RequestShare,
) -> Result<Bytes, Problem> {
    put_stream(calls, descriptor, ArrowBytes::Body(body), StreamParser::new(MAX_MESSAGE), share).await
}

/// Puts what is stored, which is Parquet. Returns the outcome as JSON.
///
/// # Errors
/// Those of the body and of the put; 413: its decoding exceeds a limit.
pub(crate) async fn put_parquet(
    calls: &FlightCalls,
    descriptor: FlightDescriptor,
    stored: &StoredBody,
    settings: &HttpConfig,
    share: RequestShare,
) -> Result<Bytes, Problem> {
    let decoder = ParquetDecoder::start(&stored.input, settings).await?;
    let parser = StreamParser::new(max_message(settings));
    put_stream(calls, descriptor, ArrowBytes::Parquet(Box::new(decoder)), parser, share).await
}

async fn put_stream(
    calls: &FlightCalls,
    descriptor: FlightDescriptor,
    bytes: ArrowBytes,
    parser: StreamParser,
    share: RequestShare,
) -> Result<Bytes, Problem> {
    let source = ArrowSource { bytes, parser, descriptor: Some(descriptor), share };
    let messages = stream::try_unfold(source, |mut source| async move {
        let message = source.next().await?;
        Ok::<_, Problem>(message.map(|message| (message, source)))
    });
    put(calls, messages).await
}

/// Puts stored text, with this schema. Returns the outcome as JSON.
///
/// # Errors
/// Those of the rows and of the put.
pub(crate) async fn put_stored(
    calls: &FlightCalls,
    descriptor: FlightDescriptor,
    stored: StoredBody,
    schema: SchemaRef,
) -> Result<Bytes, Problem> {
    let (queue, rows) = mpsc::channel(QUEUE_LEN);
    // It ends when the queue is dropped.
    tokio::task::spawn_blocking(move || {
        let sent = send_rows(&stored.input, schema, descriptor, &queue);
        drop(queue.blocking_send(sent.map(|()| None).map_err(in_http_words)));
    });
    let messages = stream::unfold(Some(rows), |rows| async move {
        let mut rows = rows?;
        let ended = || Err(Error::internal("reading the body ended unexpectedly"));
        match rows.recv().await.unwrap_or_else(ended) {
            Ok(Some(message)) => Some((Ok(message), Some(rows))),
            Ok(None) => None,
            Err(error) => Some((Err(Problem::from(error)), None)),
        }
    });
    put(calls, messages).await
}

/// Puts messages; the reply to a source that fails is its failure.
async fn put(
    calls: &FlightCalls,
    messages: impl Stream<Item = Result<FlightData, Problem>> + Send + 'static,
) -> Result<Bytes, Problem> {
    let failure: Arc<Mutex<Option<Problem>>> = Arc::default();
    let kept = Arc::clone(&failure);
    let messages = messages.map(move |message| {
        message.map_err(|problem| {
            let error = problem.error().clone();
            *kept.lock() = Some(problem);
            error
        })
    });
    let outcome = calls.put(messages).await;
    match failure.lock().take() {
        Some(problem) => Err(problem),
        None => Ok(outcome?),
    }
}

/// Where the bytes of an Arrow stream come from.
enum ArrowBytes {
    Body(UploadBody),
    Parquet(Box<ParquetDecoder>),
}

impl ArrowBytes {
    /// The next ones; none at the end.
    async fn next_chunk(&mut self, is_between_messages: bool) -> Result<Option<Bytes>, Problem> {
        match self {
            // Between messages a client may compute the next one.
            ArrowBytes::Body(body) if is_between_messages => body.next_chunk_at_leisure().await,
            ArrowBytes::Body(body) => body.next_chunk().await,
            ArrowBytes::Parquet(decoder) => decoder.next_chunk().await,
        }
    }

    /// An error of the stream. The client did not send that of a decoder.
    fn stream_error(&self, error: Error) -> Error {
        match self {
            ArrowBytes::Body(_) => error,
            ArrowBytes::Parquet(_) => error.at("the rows of the body"),
        }
    }
}

/// The messages of an Arrow stream.
struct ArrowSource {
    bytes: ArrowBytes,
    parser: StreamParser,
    /// For the first message.
    descriptor: Option<FlightDescriptor>,
    share: RequestShare,
}

impl ArrowSource {
    async fn next(&mut self) -> Result<Option<FlightData>, Problem> {
        loop {
            if let Some(message) = self.parser.next_message().map_err(|e| self.bytes.stream_error(e))? {
                return Ok(Some(match self.descriptor.take() {
                    Some(descriptor) => message.with_descriptor(descriptor),
                    None => message,
                }));
            }
            // As it arrives, and as it is sent.
            self.share.raise_to(ARROW_MEMORY + 2 * self.parser.pending_bytes() as u64)?;
            match self.bytes.next_chunk(self.parser.is_between_messages()).await? {
                Some(chunk) => self.parser.push(&chunk),
                None => {
                    self.parser.check_ended().map_err(|e| self.bytes.stream_error(e))?;
                    return Ok(None);
                }
            }
        }
    }
}

/// Sends the rows of stored text, in a thread.
fn send_rows(
    input: &InputFile,
    schema: SchemaRef,
    descriptor: FlightDescriptor,
    queue: &mpsc::Sender<QueuedBody>,
) -> Result<()> {
    let send = |message| {
        let sent = queue.blocking_send(Ok(Some(message)));
        sent.map_err(|_| Error::cancelled("the put has ended"))
    };
    let header = flight_header(&schema_message(&schema)?);
    send(FlightData::new().with_data_header(header).with_descriptor(descriptor))?;
    let options = TextOptions::limited(TEXT_LIMITS);
    for batch in volley_formats::open(input, schema, &options, ReadProgress::default())? {
        let batch = batch.map_err(|e| file_error(&input.path, e))?;
        for message in encode_messages(&batch, MESSAGE_BYTES)? {
            send((&message).into())?;
        }
    }
    Ok(())
}

/// The schema of stored text: the table's, or else inferred from all rows.
///
/// # Errors
/// INVALID_ARGUMENT: it is not of its format, or its columns are others than the table's.
pub(crate) async fn with_schema(
    stored: StoredBody,
    table: Option<SchemaRef>,
) -> Result<(StoredBody, SchemaRef), Problem> {
    let known = blocking_result(move || {
        let schema = schema_of(&stored.input, table)?;
        Ok((stored, schema))
    });
    Ok(known.await?)
}

fn schema_of(input: &InputFile, table: Option<SchemaRef>) -> Result<SchemaRef> {
    let options = TextOptions::limited(TEXT_LIMITS);
    let schema = match table {
        Some(schema) => schema,
        None => {
            let stats = text::infer(input, &options)?;
            let fields = stats.columns().map(|(name, column)| Field::new(name, column.data_type(), true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
    };
    text::check(input, &schema, &options)?;
    Ok(schema)
}
