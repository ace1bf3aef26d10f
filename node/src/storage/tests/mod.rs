//! Tests of the store on real folders.
#![allow(clippy::unwrap_used)]

mod cache;
pub mod fs_trace;
mod full_disk;
mod open_parts;
mod orphans;
mod parts;
mod power_loss;
mod simulated_disk;
mod statistics;
mod verification;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow_flight::FlightData;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::wire::catalog::{self, Compression};
use volley_common::{Error, TableName};

use super::*;

fn table() -> TableName {
    "sales/2026".parse().unwrap()
}

fn spec(batch: &RecordBatch, compression: Compression) -> PartSpec {
    PartSpec { table: table(), shard: 3, write: "w-1".into(), seq: 7, schema: batch.schema(), compression }
}

fn batch() -> RecordBatch {
    let strings = StringArray::from_iter((0..1000).map(|at| (at % 3 > 0).then(|| format!("row {at}"))));
    let numbers = Float64Array::from_iter_values((0..1000).map(f64::from));
    RecordBatch::try_from_iter([("s", Arc::new(strings) as ArrayRef), ("n", Arc::new(numbers))]).unwrap()
}

fn put(store: &PartStore, batches: &[RecordBatch], compression: Compression) -> SealedPart {
    let mut writer = store.create(spec(&batches[0], compression)).unwrap();
    for batch in batches {
        assert_eq!(writer.write(batch).unwrap(), BatchWrite::Written);
    }
    writer.seal().unwrap()
}

fn open(dir: &Path) -> PartStore {
    PartStore::open(dir).unwrap()
}

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn only_file(dir: &Path) -> PathBuf {
    let files = files(&dir.join("parts"));
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// The batches that a client decodes from the part's messages.
fn served(part: &Part) -> Vec<RecordBatch> {
    let mut decoder = BatchDecoder::new(1 << 30);
    decoder.push(FlightData::new().with_data_header(part.schema_header())).unwrap();
    let mut batches = Vec::new();
    for message in part.dictionaries().iter().chain(part.batches()) {
        let data = FlightData::new()
            .with_data_header(part.slice(message.header.clone()))
            .with_data_body(part.slice(message.body.clone()));
        if let DecodedMessage::Batch(batch) = decoder.push(data).unwrap() {
            assert_eq!(batch.num_rows() as u64, message.rows);
            batches.push(batch);
        }
    }
    batches
}

fn row(sealed: &SealedPart) -> catalog::Part {
    catalog::Part {
        id: Some(sealed.id.into()),
        shard: 3,
        write: "w-1".into(),
        seq: 7,
        bytes: sealed.bytes,
        crc32c: sealed.crc32c,
        ..Default::default()
    }
}

fn receive(store: &PartStore, part: &catalog::Part, bytes: &[u8]) -> Result<(), Error> {
    let mut receiver = store.receive(part, &table())?;
    bytes.chunks(1000).try_for_each(|chunk| receiver.write(chunk))?;
    receiver.finish()
}

/// Overwrites one byte.
fn corrupt(path: &Path, at: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xee], at).unwrap();
}
