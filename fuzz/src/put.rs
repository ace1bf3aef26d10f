//! The stream of a DoPut: from HTTP/2's data through gzip, FlightData, validation, shards and parts to what a reader gets.
//!
//! The first three bytes choose how the stream is cut into frames, how the table is stored, and whether what follows is the
//! bytes of the stream, or chunks to make it of: a header, a body and `app_metadata` for each message.

mod expected;

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use flate2::Compression as GzipLevel;
use flate2::write::GzEncoder;
use futures::stream;
use http::{HeaderValue, Request};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;
use tonic::metadata::MetadataMap;
use volley_common::grpc::{PREFIX, encode_message};
use volley_common::http2::decompressed;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::flight_stream::FlightDataStream;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::wire::catalog::{self, Compression, TableSpec};
use volley_common::{PartId, Result};
use volley_node::config::NodeConfig;
use volley_node::put::ack_stream;
use volley_node::put::bodies::PutBodies;
use volley_node::put::handshake::{self, PutHandshake, PutMessages, next_message};
use volley_node::put::part_events::{PartEvent, PartEventSender};
use volley_node::put::part_sink::PartSinkConfig;
use volley_node::put::write::{MessageWriter, WriterInput};
use volley_node::put_resources::PutResources;
use volley_node::storage::{Part, PartStore};

use self::expected::{ExpectedRows, RecordedStream, assert_same_rows};
use crate::batches::{CODECS, flight_messages, keyed, samples};
use crate::input::{FuzzInput, check_error, chunk};
use crate::process::{ScratchDir, runtime};

/// The largest message, bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Memory of the node's puts, bytes: the least that a node may have.
const PUT_MEMORY: u64 = 32 << 20;
/// Parts and messages are small, so that a small input fills several.
const PART_BYTES: u64 = 256 << 10;
const MESSAGE_BYTES: usize = 64 << 10;
/// Events of parts that may wait.
const MAX_EVENTS: usize = 16;
/// The folder of the node.
const DATA: &str = "data";

thread_local! {
    static NODE: PutNode = PutNode::new();
}

/// The store and the resources of a node.
struct PutNode {
    scratch: ScratchDir,
    store: PartStore,
    resources: PutResources,
}

impl PutNode {
    fn new() -> Self {
        let scratch = ScratchDir::new();
        let config = NodeConfig { max_message: MAX_MESSAGE, put_memory_bytes: PUT_MEMORY, ..NodeConfig::default() };
        let store = PartStore::open(&scratch.path(DATA)).expect("a new data folder");
        PutNode { store, resources: PutResources::new(&config), scratch }
    }
}

/// How an input is put.
struct PutSettings {
    /// Bytes of each HTTP/2 frame.
    step: usize,
    is_gzip: bool,
    spec: TableSpec,
    /// The table has key columns.
    is_keyed: bool,
}

impl PutSettings {
    fn read(input: &mut FuzzInput<'_>) -> Self {
        let (step, flags) = (input.byte(), input.byte());
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd, Compression::None];
        let preserve_batches = flags & 16 != 0;
        let spec = TableSpec {
            shards: if preserve_batches { 1 } else { [1, 1, 2, 5][usize::from(flags & 3)] },
            compression: compression[usize::from((flags >> 2) & 3)].into(),
            preserve_batches,
            ..TableSpec::default()
        };
        let is_keyed = flags & 32 != 0 && !preserve_batches;
        PutSettings { step: usize::from(step) * 16 + 1, is_gzip: flags & 64 != 0, spec, is_keyed }
    }
}

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let mut settings = PutSettings::read(&mut input);
    let is_raw = input.byte() & 1 == 1;
    let bytes = if is_raw { Bytes::copy_from_slice(input.rest()) } else { stream_of_chunks(input, settings.is_gzip) };
    if let Err(error) = NODE.with(|node| node.put(bytes, &mut settings)) {
        check_error(&error, data.len());
    }
}

/// The bytes of a stream that begins with a descriptor.
fn stream_of_chunks(mut input: FuzzInput<'_>, is_gzip: bool) -> Bytes {
    let mut descriptor = Some(FlightDescriptor::new_path(vec!["t".into()]));
    let mut frames = Vec::new();
    while !input.is_empty() {
        let message = FlightData {
            flight_descriptor: descriptor.take(),
            data_header: Bytes::copy_from_slice(input.chunk()),
            data_body: Bytes::copy_from_slice(input.chunk()),
            app_metadata: Bytes::copy_from_slice(input.chunk()),
        };
        frames.push(if is_gzip { gzip(&encode_message(&message)) } else { encode_message(&message) });
    }
    frames.concat().into()
}

/// A gRPC message as its compressed form.
fn gzip(frame: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(vec![1, 0, 0, 0, 0], GzipLevel::fast());
    encoder.write_all(&frame[PREFIX..]).expect("memory");
    let mut compressed = encoder.finish().expect("memory");
    let length = (compressed.len() - PREFIX) as u32;
    compressed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    compressed.into()
}

impl PutNode {
    /// Puts a stream, checks what is stored, and removes it again. Returns the number of rows.
    fn put(&self, bytes: Bytes, settings: &mut PutSettings) -> Result<usize> {
        let (events, received) = mpsc::channel(MAX_EVENTS);
        let mut expected = ExpectedRows::default();
        let committing = runtime().spawn_blocking(move || commit_parts(received));
        let result = self.write(bytes, settings, events, &mut expected);
        // The writer is gone, so the channel ends with its last part.
        let mut parts = runtime().block_on(committing).expect("parts are committed");
        parts.sort_by_key(|part| part.seq);
        if result.is_ok() {
            self.check_parts(&parts, settings, &expected);
        }
        let ids: Vec<PartId> = parts.iter().map(catalog::Part::part_id).collect();
        self.store.remove(&ids).expect("parts are removed");
        assert!(self.store.inventory().is_empty(), "a part is left");
        assert_eq!(self.scratch.names(), [DATA], "a file outside of the data folder");
        result.map(|()| expected.rows)
    }

    /// Steps 1 and 3 of a put; the plan is made of the settings.
    fn write(
        &self,
        bytes: Bytes,
        settings: &mut PutSettings,
        events: PartEventSender,
        expected: &mut ExpectedRows,
    ) -> Result<()> {
        let step = settings.step;
        let frames: Vec<_> =
            (0..bytes.len()).step_by(step).map(|at| bytes.slice(at..bytes.len().min(at + step))).collect();
        let frames = stream::iter(frames.into_iter().map(|frame| Ok::<_, Status>(Frame::data(frame))));
        let mut request = Request::new(StreamBody::new(frames));
        if settings.is_gzip {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        let body = decompressed(request, MAX_MESSAGE)?.into_body();
        let PutResources { memory, buffers, .. } = &self.resources;
        let bodies = PutBodies::new(memory.clone(), buffers.for_stream(), self.store.clone());
        let messages = FlightDataStream::with_bodies(body, bodies, MAX_MESSAGE);
        let mut messages = RecordedStream { messages, schema: None };
        let (acks, _results) = ack_stream::channel(memory.clone());
        let headers = MetadataMap::new();
        let handshake = runtime().block_on(handshake::read(&mut messages, &headers, MAX_MESSAGE, &acks))?;
        let config = self.sink_config(&handshake, settings)?;
        expected.begin(messages.schema.take(), &config.schema)?;
        let runtime = runtime().handle().clone();
        let writer = MessageWriter::new(config, &self.resources, handshake.decoder, events, runtime)?;
        self.write_messages(messages, writer, expected)
    }

    fn write_messages(
        &self,
        mut messages: impl PutMessages,
        mut writer: MessageWriter,
        expected: &mut ExpectedRows,
    ) -> Result<()> {
        let permits = Arc::new(Semaphore::new(1));
        let mut may_buffer = false;
        loop {
            // As the feed of a put: rows that are buffered are written when a message waits for memory.
            let next = runtime().block_on(async {
                tokio::select! {
                    biased;
                    message = next_message(&mut messages) => message.map(Some),
                    () = self.resources.memory.shortage(), if may_buffer => Ok(None),
                }
            })?;
            may_buffer = next.is_some();
            match next {
                None => writer.write(WriterInput::Flush)?,
                Some(None) => return writer.finish(),
                Some(Some(data)) => {
                    expected.push(&data);
                    let permit = permits.clone().try_acquire_owned().expect("the only permit");
                    writer.write(WriterInput::Message(data, permit))?;
                }
            }
        }
    }

    fn sink_config(&self, handshake: &PutHandshake, settings: &mut PutSettings) -> Result<PartSinkConfig> {
        // As the coordinators store it.
        let schema = parse_schema(&schema_message(&handshake.schema)?).expect("the schema of a new table");
        let schema = if schema == handshake.schema { handshake.schema.clone() } else { schema };
        if settings.is_keyed {
            settings.spec.shard_by = schema.fields().iter().take(2).map(|field| field.name().clone()).collect();
        }
        Ok(PartSinkConfig {
            store: self.store.clone(),
            table: handshake.request.name.clone(),
            write_id: "w".into(),
            spec: settings.spec.clone(),
            schema,
            first_seq: 0,
            message_bytes: MESSAGE_BYTES,
            block_bytes: PART_BYTES,
            first_block_bytes: PART_BYTES,
            part_bytes: PART_BYTES,
            seals: self.resources.seals.clone(),
            contents: self.resources.contents.clone(),
            remote_shards: HashSet::new(),
        })
    }

    /// A reader gets the rows that were put; in their order, if there is one shard.
    fn check_parts(&self, parts: &[catalog::Part], settings: &PutSettings, expected: &ExpectedRows) {
        let mut stored = Vec::new();
        for row in parts {
            let part = self.store.part(row.part_id()).expect("a sealed part").expect("a part that is held");
            assert!((part.rows(), part.len(), part.crc32c()) == (row.rows, row.bytes, row.crc32c));
            assert_eq!(part.batches().len(), row.batches as usize);
            assert!(row.shard < settings.spec.shards);
            stored.extend(served(&part));
        }
        let rows: usize = stored.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, expected.rows, "rows were lost or added");
        if settings.spec.shards == 1 && expected.is_complete {
            assert_same_rows(&expected.batches, &stored);
        }
    }
}

/// Makes all parts durable, as they are finished.
fn commit_parts(mut events: mpsc::Receiver<Result<PartEvent>>) -> Vec<catalog::Part> {
    let mut parts = Vec::new();
    while let Some(event) = events.blocking_recv() {
        match event.expect("a part is finished") {
            PartEvent::Growing(_) => {}
            PartEvent::Finished(part) => parts.push(part.commit().expect("a part is durable")),
        }
    }
    parts
}

/// The batches of a part, decoded as a client does.
fn served(part: &Part) -> Vec<RecordBatch> {
    let mut decoder = BatchDecoder::new(1 << 30);
    decoder.push(FlightData::new().with_data_header(part.schema_header())).expect("the schema of a part");
    let mut batches = Vec::new();
    for message in part.dictionaries().iter().chain(part.batches()) {
        let data = FlightData::new()
            .with_data_header(part.slice(message.header.clone()))
            .with_data_body(part.slice(message.body.clone()));
        if let DecodedMessage::Batch(batch) = decoder.push(data).expect("a message of a part") {
            batches.push(batch);
        }
    }
    batches
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let chunks = |settings: [u8; 2], messages: Vec<FlightData>, metadata: &[u8]| {
        let parts =
            messages.into_iter().flat_map(|data| [chunk(&data.data_header), chunk(&data.data_body), chunk(metadata)]);
        [vec![settings[0], settings[1], 0]].into_iter().chain(parts).collect::<Vec<_>>().concat()
    };
    let mut seeds: Vec<Vec<u8>> =
        samples().iter().map(|batch| chunks([8, 0], flight_messages(batch, None), b"")).collect();
    for (at, codec) in CODECS.into_iter().enumerate() {
        for flags in [0, 2, 16, 32 + 3, 64] {
            seeds.push(chunks([1, flags + 4 * at as u8], flight_messages(&keyed(), codec), b"m"));
        }
    }
    let mut raw = flight_messages(&keyed(), None);
    raw[0].flight_descriptor = Some(FlightDescriptor::new_path(vec!["sales".into(), "..".into()]));
    let frames: Vec<u8> = raw.iter().flat_map(|message| encode_message(message).to_vec()).collect();
    seeds.push([vec![3, 0, 1], frames].concat());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_streams_are_stored() {
        for (at, seed) in seeds().iter().enumerate() {
            let mut input = FuzzInput::new(seed);
            let mut settings = PutSettings::read(&mut input);
            let bytes = match input.byte() & 1 {
                1 => Bytes::copy_from_slice(input.rest()),
                _ => stream_of_chunks(input, settings.is_gzip),
            };
            let stored = NODE.with(|node| node.put(bytes, &mut settings));
            assert!(stored.as_ref().is_ok_and(|rows| *rows > 0), "seed {at}: {stored:?}");
        }
    }
}
