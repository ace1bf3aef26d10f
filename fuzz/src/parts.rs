//! The files of parts: a damaged one is refused, and one that opens is read within its bounds.
//!
//! The first byte chooses what is read of it. The checksum is not compared, as for a part that was verified before.

use std::sync::Arc;

use arrow::array::Array;
use arrow_flight::FlightData;
use volley_common::ipc::batch_header::split_app_metadata;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::schema::parse_schema;
use volley_common::ipc::statistics::StatisticsEntry;
use volley_common::wire::cluster::Columns;
use volley_common::{Code, Error, PartId, TableName};
use volley_node::get::local::LocalPartReader;
use volley_node::get::message::Projection;
use volley_node::storage::{Part, PartMessage, PartSpec, PartStore};

use crate::batches::{keyed, samples};
use crate::input::check_error;
use crate::process::{ScratchDir, runtime};

/// The largest message, bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages that are read of one file: many blocks can name the same one.
const MAX_MESSAGES: usize = 256;
/// Bytes of one reply of the reader.
const REPLY_BYTES: usize = 1 << 20;
/// Bytes that a reader sends before this target stops: a footer may list a message often.
const MAX_SENT: usize = 8 << 20;

/// What is read, as bits of the first byte.
const PROJECT: u8 = 1;
const LIMIT: u8 = 2;
const DECOMPRESS: u8 = 4;

thread_local! {
    static SCRATCH: ScratchDir = ScratchDir::new();
}

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let Some((flags, file)) = data.split_first() else { return };
    let path = SCRATCH.with(|scratch| scratch.write("part.arrow", file));
    let (id, crc) = (PartId(7), crc32c::crc32c(file));
    // Some other bytes than those that were sealed.
    let altered = Part::open(&path, id, !crc, |_| false).expect_err("a part with another checksum");
    assert_eq!(altered.code, Code::DataLoss);
    assert_eq!(Part::open(&path, id, crc, |_| false).is_ok(), Part::open(&path, id, crc, |_| true).is_ok());
    match Part::open(&path, id, crc, |_| true) {
        Ok(part) => read(&Arc::new(part), *flags),
        Err(error) => check_damage(&error, data.len()),
    }
    // Not overwritten: a thread of a reader may still have it mapped.
    std::fs::remove_file(&path).expect("the file of the part");
}

/// An error that says the bytes are not those that were sealed.
fn check_damage(error: &Error, input: usize) {
    // An empty file cannot be mapped.
    let is_damage = matches!(error.code, Code::DataLoss | Code::InvalidArgument | Code::ResourceExhausted);
    assert!(is_damage || input <= 1, "{error:?}");
    check_error(error, input);
}

fn read(part: &Arc<Part>, flags: u8) {
    let input = part.len() as usize;
    let mut messages = part.dictionaries().iter().chain(part.batches());
    assert!(messages.all(|message| message.body.end <= part.len() && message.header.end <= part.len()));
    check_statistics(part);
    let decoded = decode(part);
    // Only what was valid when it was put is decompressed and cut without a limit.
    let flags = if decoded.is_ok() { flags } else { flags & !(DECOMPRESS | LIMIT) };
    for error in [decoded, send(part, flags)].into_iter().filter_map(Result::err) {
        check_damage(&error, input);
    }
    assert!(part.check_unchanged().is_ok());
}

/// Statistics that are used are of all record batches, and of the columns' types.
fn check_statistics(part: &Part) {
    let Some(statistics) = part.statistics().expect("the footer is readable") else { return };
    let entries: Vec<StatisticsEntry> = statistics.entries().collect();
    assert_eq!(entries.iter().map(|entry| entry.messages as usize).sum::<usize>(), part.batches().len());
    let Ok(schema) = parse_schema(&part.schema_message()) else { return };
    for (at, field) in schema.fields().iter().enumerate() {
        let Some(column) = statistics.column(at, field.data_type()) else { continue };
        assert_eq!((column.minimums.data_type(), column.maximums.data_type()), (field.data_type(), field.data_type()));
        assert_eq!(
            (column.nulls.len(), column.minimums.len(), column.maximums.len()),
            (entries.len(), entries.len(), entries.len())
        );
    }
}

/// As a client decodes the part.
fn decode(part: &Part) -> Result<(), Error> {
    let mut decoder = BatchDecoder::new(MAX_MESSAGE).with_cost_limit();
    decoder.push(FlightData::new().with_data_header(part.schema_header()))?;
    let messages = part.dictionaries().iter().chain(part.batches());
    for (at, message) in messages.enumerate() {
        if at == MAX_MESSAGES {
            return Err(Error::exhausted("more messages than this target decodes"));
        }
        let decoded = decoder.push(flight_data(part, message)?)?;
        if let DecodedMessage::Batch(batch) = decoded {
            assert_eq!(batch.num_rows() as u64, message.rows);
        }
    }
    Ok(())
}

fn flight_data(part: &Part, message: &PartMessage) -> Result<FlightData, Error> {
    let mut header = part.slice(message.header.clone());
    if message.has_app_metadata {
        header = split_app_metadata(&header)?.0;
    }
    Ok(FlightData::new().with_data_header(header).with_data_body(part.slice(message.body.clone())))
}

/// As the node sends the part: some columns, some rows, decompressed.
fn send(part: &Arc<Part>, flags: u8) -> Result<(), Error> {
    let columns = Columns { index: vec![u32::from(flags >> 6)] };
    let projection = match flags & PROJECT {
        PROJECT => Some(Arc::new(Projection::new(&part.schema_message(), &columns)?)),
        _ => None,
    };
    let rows = (flags & LIMIT != 0).then_some(3);
    let mut reader = LocalPartReader::new(part.clone(), projection, u32::from((flags >> 3) & 1), rows);
    if flags & DECOMPRESS != 0 {
        reader = reader.decompressed();
    }
    let mut sent = 0;
    while sent < MAX_SENT {
        let messages = runtime().block_on(reader.next_messages(REPLY_BYTES))?;
        if messages.is_empty() {
            break;
        }
        sent += messages.iter().map(|message| message.size()).sum::<usize>().max(1);
    }
    Ok(())
}

/// Inputs to begin with: the files of parts that a store has sealed.
///
/// # Panics
/// A store cannot write them.
pub fn seeds() -> Vec<Vec<u8>> {
    use volley_common::wire::catalog::Compression::{Lz4, None, Zstd};
    let scratch = ScratchDir::new();
    let store = PartStore::open(&scratch.path("data")).expect("a new data folder");
    let plain = samples().into_iter().map(|batch| (batch, None, false));
    let keyed = [(None, true), (Lz4, false), (Zstd, true)].map(|(codec, whole)| (keyed(), codec, whole));
    let mut seeds = Vec::new();
    for (at, (batch, compression, whole)) in plain.chain(keyed).enumerate() {
        let table: TableName = "t".parse().expect("a name");
        let schema = batch.schema();
        let spec = PartSpec { table, shard: 0, write: "w".into(), seq: at as u64, schema, compression };
        let mut writer = store.create(spec).expect("a new part");
        let written = if whole { writer.write_whole(&batch, b"metadata") } else { writer.write(&batch) };
        written.expect("a batch");
        let sealed = writer.seal().expect("a sealed part");
        let part = store.part(sealed.id).expect("a sealed part").expect("a part that is held");
        seeds.push([vec![at as u8], part.slice(0..part.len()).to_vec()].concat());
        store.remove(&[sealed.id]).expect("a part is removed");
    }
    seeds
}
