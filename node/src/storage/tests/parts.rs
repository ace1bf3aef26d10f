//! Written parts can be read; damaged and refused ones leave no files behind.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int32Type, Schema};
use arrow_ipc::reader::FileReader;
use volley_common::PartId;
use volley_common::error::Code;
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::wire::catalog::Compression;

use super::super::*;
use super::{batch, files, only_file, open, put, receive, row, served, spec};

fn dictionary(words: &[&str], keys: Vec<i8>) -> RecordBatch {
    let values = Arc::new(StringArray::from(words.to_vec()));
    let array = DictionaryArray::<Int8Type>::new(Int8Array::from(keys), values);
    RecordBatch::try_from_iter([("d", Arc::new(array) as ArrayRef)]).unwrap()
}

#[test]
fn part_is_an_arrow_file_with_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let batches = [batch(), batch().slice(3, 500), batch().slice(0, 0)];
        let sealed = put(&store, &batches, compression);
        assert_eq!(sealed.rows, 1500);
        let part = store.part(sealed.id).unwrap().unwrap();
        assert_eq!((part.rows(), part.len(), part.crc32c()), (1500, sealed.bytes, sealed.crc32c));
        assert_eq!(served(&part), batches);
        assert_eq!(part.schema_header(), flight_header(&schema_message(&batches[0].schema()).unwrap()));

        let path = only_file(dir.path());
        assert_eq!(crc32c::crc32c(&fs::read(&path).unwrap()), sealed.crc32c);
        let reader = FileReader::try_new(File::open(&path).unwrap(), None).unwrap();
        assert_eq!(reader.custom_metadata()["volley.table"], "sales/2026");
        assert_eq!(reader.custom_metadata()["volley.part"], sealed.id.to_string());
        assert_eq!(reader.map(|batch| batch.unwrap()).collect::<Vec<_>>(), batches);
        store.remove(&[sealed.id]).unwrap();
        assert_eq!(served(&part), batches, "a reader keeps its mapping");
    }
}

#[test]
fn unions_below_sliced_lists_round_trip() {
    let fields = [Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)];
    let union = arrow::datatypes::UnionFields::try_new([1, 4], fields).unwrap();
    let ids: Vec<i8> = (0..40).map(|at| if at % 3 == 0 { 1 } else { 4 }).collect();
    let children: Vec<ArrayRef> =
        [0, 100].map(|base| Arc::new(Int64Array::from_iter_values(base..base + 40)) as ArrayRef).into();
    let union = arrow::array::UnionArray::try_new(union, ids.into(), None, children).unwrap();
    let item = Arc::new(Field::new_list_field(arrow::array::Array::data_type(&union).clone(), true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([4; 10]);
    let list = arrow::array::ListArray::new(item, offsets, Arc::new(union), None);
    let whole = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let slice = shrink_to_fit(&whole.slice(3, 5));
    let sealed = put(&store, std::slice::from_ref(&slice), Compression::None);
    assert_eq!(served(&store.part(sealed.id).unwrap().unwrap()), [slice]);
}

#[test]
fn dictionary_may_grow_but_not_change_within_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, more) = (dictionary(&["a", "b"], vec![0, 1]), dictionary(&["a", "b", "c"], vec![2, 0]));
    let other = dictionary(&["x", "y", "z"], vec![0, 2]);
    let mut writer = store.create(spec(&first, Compression::None)).unwrap();
    for batch in [&first, &more, &more] {
        assert_eq!(writer.write(batch).unwrap(), BatchWrite::Written);
    }
    let before = writer.bytes();
    assert_eq!(writer.write(&other).unwrap(), BatchWrite::NeedsNewPart);
    assert_eq!(writer.write(&first).unwrap(), BatchWrite::NeedsNewPart, "a shorter dictionary is a replacement");
    assert_eq!(writer.bytes(), before);
    let sealed = writer.seal().unwrap();
    let part = store.part(sealed.id).unwrap().unwrap();
    assert_eq!((part.dictionaries().len(), sealed.rows), (1, 6));
    let expected = concat_batches(&first.schema(), [&more, &more]).unwrap();
    assert_eq!(served(&part)[0], first);
    assert_eq!(concat_batches(&first.schema(), &served(&part)[1..]).unwrap(), expected);
    let reader = FileReader::try_new(Cursor::new(part.slice(0..part.len())), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 6);
}

/// Rows of `range`, each with a text of its own, in a dictionary of `count` texts of 50 bytes.
fn unique_texts(count: i32, rows: impl Iterator<Item = i32>) -> RecordBatch {
    let values = Arc::new(StringArray::from_iter_values((0..count).map(|at| format!("{at:050}"))));
    let array = DictionaryArray::<Int32Type>::new(Int32Array::from_iter_values(rows), values);
    RecordBatch::try_from_iter([("d", Arc::new(array) as ArrayRef)]).unwrap()
}

#[test]
fn part_keeps_only_the_dictionary_values_of_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let batch = unique_texts(30_000, (0..30_000).rev().step_by(6));
    let batches = [batch.slice(0, 2000), batch.slice(2000, 3000), batch.slice(100, 1000)];
    let sealed = put(&store, &batches, Compression::None);
    assert!(sealed.bytes < 320_000, "{} bytes for 5000 texts of 50 bytes", sealed.bytes);
    let part = store.part(sealed.id).unwrap().unwrap();
    assert_eq!(part.dictionaries().iter().map(|dictionary| dictionary.rows).collect::<Vec<_>>(), [5000]);
    assert_eq!(served(&part), batches);
    let reader = FileReader::try_new(Cursor::new(part.slice(0..part.len())), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap()).collect::<Vec<_>>(), batches);
}

#[test]
fn dictionary_of_a_part_fits_one_message() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let batch = unique_texts(200_000, 0..200_000);
    let mut writer = store.create(spec(&batch, Compression::None)).unwrap();
    assert_eq!(writer.write(&batch).unwrap(), BatchWrite::NeedsNewPart, "it can be split");
    assert_eq!(writer.write(&batch.slice(0, 60_000)).unwrap(), BatchWrite::Written);
    assert_eq!(writer.write(&batch.slice(60_000, 60_000)).unwrap(), BatchWrite::NeedsNewPart);
    assert_eq!(writer.write(&batch.slice(10, 5)).unwrap(), BatchWrite::Written);
    let part = store.part(writer.seal().unwrap().id).unwrap().unwrap();
    let [dictionary] = part.dictionaries() else { panic!("one dictionary") };
    let bytes = dictionary.body.end - dictionary.header.start;
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
    assert_eq!(served(&part), [batch.slice(0, 60_000), batch.slice(10, 5)]);
}

#[test]
fn ordered_dictionary_counts_whole_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let batch = unique_texts(100_000, 0..10);
    let field = Field::clone(batch.schema().field(0)).with_dict_is_ordered(true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, batch.columns().to_vec()).unwrap();
    let mut writer = store.create(spec(&batch, Compression::None)).unwrap();
    writer.write(&batch).unwrap();
    let counted = writer.bytes();
    assert!(counted > 5_000_000, "{counted}");
    assert!(writer.is_full(500) && !writer.is_full(8 << 20) && !writer.is_full(2 << 20), "rows fill half of a part");
    let sealed = writer.seal().unwrap();
    assert!(sealed.bytes.abs_diff(counted) < 10_000, "{} {counted}", sealed.bytes);
}

#[test]
fn large_ordered_dictionary_is_refused_without_space() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let values = Arc::new(StringArray::from(vec!["x".repeat(70 << 20)]));
    let array = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![0]), values);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let field = Field::new("d", dictionary, true).with_dict_is_ordered(true);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(array)]).unwrap();
    let mut writer = store.create(spec(&batch, Compression::None)).unwrap();
    writer.write(&batch).unwrap();
    store.override_space(Some(DiskSpace { total: 100, free: 1 }));
    assert_eq!(writer.seal().unwrap_err().code, Code::ResourceExhausted);
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[test]
fn dictionary_that_grows_large_begins_a_new_part() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.create(spec(&unique_texts(1, 0..1), Compression::None)).unwrap();
    for texts in [10, 1000] {
        assert_eq!(writer.write(&unique_texts(texts, texts - 5..texts)).unwrap(), BatchWrite::Written);
    }
    assert_eq!(writer.write(&unique_texts(100_000, 0..5)).unwrap(), BatchWrite::NeedsNewPart);
}

#[test]
fn large_dictionaries_at_every_depth_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let flat = unique_texts(5000, (0..5000).rev());
    let (field, column) = (Arc::new(flat.schema().field(0).clone()), flat.column(0).clone());
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([2; 2500]);
    let list = arrow::array::ListArray::new(field.clone(), offsets, column.clone(), None);
    let fields = Fields::from(vec![field.as_ref().clone()]);
    let structs = arrow::array::StructArray::new(fields, vec![column.slice(0, 2500)], None);
    let columns = [("l", Arc::new(list) as ArrayRef), ("s", Arc::new(structs)), ("d", column.slice(7, 2500))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let batches = [batch.slice(0, 1000), batch.slice(1000, 0), batch.slice(1000, 1500)].map(|b| shrink_to_fit(&b));
    let part = store.part(put(&store, &batches, Compression::Zstd).id).unwrap().unwrap();
    assert_eq!(part.dictionaries().iter().map(|dictionary| dictionary.rows).collect::<Vec<_>>(), [5000, 2500, 2500]);
    assert_eq!(served(&part), batches);
}

#[test]
fn nested_dictionaries_round_trip() {
    let inner = dictionary(&["a", "b"], vec![0, 1, 1]);
    let fields = Fields::from(vec![inner.schema().field(0).clone()]);
    let values = arrow::array::StructArray::new(fields, inner.columns().to_vec(), None);
    let outer = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![2, 0]), Arc::new(values));
    let batch = RecordBatch::try_from_iter([("o", Arc::new(outer) as ArrayRef)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch.clone(), batch.clone()], Compression::None);
    let part = store.part(sealed.id).unwrap().unwrap();
    assert_eq!(part.dictionaries().iter().map(|d| d.dictionary_id).collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert_eq!(served(&part), [batch.clone(), batch]);
}

#[test]
fn bad_schemas_batches_and_write_ids_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let inner = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let twice = DataType::Dictionary(Box::new(DataType::Int8), Box::new(inner));
    let schema = Arc::new(Schema::new(vec![Field::new("twice", twice, true)]));
    let refused = store.create(PartSpec { schema, ..spec(&batch(), Compression::None) });
    assert!(refused.err().unwrap().message.contains("twice"));
    let mut writer = store.create(spec(&batch(), Compression::None)).unwrap();
    assert_eq!(writer.write(&dictionary(&["a"], vec![0])).unwrap_err().code, Code::InvalidArgument);
    let path = PartSpec { write: "../w".into(), ..spec(&batch(), Compression::None) };
    assert_eq!(store.create(path).err().unwrap().code, Code::InvalidArgument);
}

#[test]
fn unsealed_part_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = store.create(spec(&batch(), Compression::None)).unwrap();
    writer.write(&batch()).unwrap();
    assert_eq!(files(&dir.path().join("tmp")).len(), 1);
    drop(writer);
    assert_eq!(files(&dir.path().join("tmp")).len(), 0);
    assert_eq!(store.digest(), (0, 0));
}

#[test]
fn inventory_survives_a_restart_and_tmp_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let parts: Vec<_> = (0..3).map(|_| put(&store, &[batch()], Compression::None)).collect();
    let (node, boot, digest, space) = (store.node(), store.boot(), store.digest(), store.status().part_bytes);
    assert_eq!(space, parts.iter().map(|part| part.bytes).sum::<u64>());
    assert_eq!(digest.0, parts.iter().fold(0, |all, part| all ^ part.id.digest()));
    drop(store);
    fs::write(dir.path().join("tmp/half"), b"x").unwrap();
    let stray = only_shard(dir.path()).join("notes.txt");
    fs::write(&stray, b"mine").unwrap();
    let store = open(dir.path());
    assert_eq!((store.node(), store.digest(), store.status().part_bytes), (node, digest, space));
    assert_ne!(store.boot(), boot);
    assert!(stray.exists() && !dir.path().join("tmp/half").exists());
    assert_eq!(served(&store.part(parts[0].id).unwrap().unwrap()), [batch()]);
    assert_eq!(store.inventory().iter().filter(|held| held.write == "w-1").count(), 3);
}

fn only_shard(dir: &Path) -> PathBuf {
    dir.join("parts/sales+2026/3")
}

#[test]
fn removing_the_last_part_removes_its_folders() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let parts = [(); 2].map(|()| put(&store, &[batch()], Compression::None).id);
    store.remove(&parts[..1]).unwrap();
    assert!(only_shard(dir.path()).exists());
    store.remove(&[parts[0], parts[1], PartId::random()]).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("parts")).unwrap().count(), 0);
    assert!(store.part(parts[1]).unwrap().is_none() && !store.holds(parts[1]));
}

#[test]
fn second_process_or_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = PartStore::open(dir.path()).err().unwrap();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains(&dir.path().display().to_string()), "{error}");
    store.join("c1").unwrap();
    store.join("c1").unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.cluster().as_deref(), Some("c1"));
    assert_eq!(store.join("c2").unwrap_err().code, Code::FailedPrecondition);
}

#[test]
fn part_is_received_whole_or_not_at_all() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (open(from.path()), open(to.path()));
    let sealed = put(&source, &[batch()], Compression::None);
    let bytes = fs::read(only_file(from.path())).unwrap();
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    for bad in [&bytes[1..], &[&bytes[..], b"x"].concat(), &flipped] {
        assert_eq!(receive(&target, &row(&sealed), bad).unwrap_err().code, Code::DataLoss);
        assert!(!target.holds(sealed.id) && files(&to.path().join("tmp")).is_empty());
    }
    receive(&target, &row(&sealed), &bytes).unwrap();
    assert_eq!(fs::read(only_file(to.path())).unwrap(), bytes);
    assert_eq!(served(&target.part(sealed.id).unwrap().unwrap()), [batch()]);
    target.verify(sealed.id).unwrap();
    assert_eq!((target.digest(), target.inventory()), (source.digest(), source.inventory()));
}

#[test]
fn part_received_while_its_file_is_taken_away_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    let bytes = fs::read(only_file(dir.path())).unwrap();
    let (sender, received) = std::sync::mpsc::sync_channel(1);
    store
        .take_out(&[sealed.id], |entry| {
            assert!(!store.holds(sealed.id));
            let (store, row, bytes, sender) = (store.clone(), row(&sealed), bytes.clone(), sender.clone());
            std::thread::spawn(move || sender.send(receive(&store, &row, &bytes)));
            let early = received.recv_timeout(std::time::Duration::from_millis(200));
            assert!(early.is_err(), "received before the former file is gone: {early:?}");
            fs::remove_file(entry.path()).unwrap();
            Ok(())
        })
        .unwrap();
    received.recv().unwrap().unwrap();
    store.verify(sealed.id).unwrap();
}

#[test]
fn damaged_part_is_quarantined_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    drop(store);
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&path, &bad).unwrap();
    let store = open(dir.path());
    assert_eq!(store.part(sealed.id).unwrap_err().code, Code::DataLoss);
    assert!(!store.holds(sealed.id) && !path.exists());
    assert_eq!(files(&dir.path().join("damaged")).len(), 1);
    // Repaired from another holder, then damaged while the node runs: verify finds it.
    receive(&store, &row(&sealed), &good).unwrap();
    fs::write(&path, &bad).unwrap();
    assert_eq!(store.verify(sealed.id).unwrap_err().code, Code::DataLoss);
    assert!(!store.holds(sealed.id));
    assert_eq!(store.verify(sealed.id).unwrap_err().code, Code::NotFound);
}

#[test]
fn damaged_files_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[dictionary(&["a", "b"], vec![0, 1])], Compression::None);
    let path = only_file(dir.path());
    let good = fs::read(&path).unwrap();
    let copy = dir.path().join("copy");
    let check = |bytes: &[u8]| {
        fs::write(&copy, bytes).unwrap();
        // Trusted without a checksum, so that the parser sees the damage.
        if let Ok(part) = Part::open(&copy, sealed.id, 0, |_| true) {
            for message in part.dictionaries().iter().chain(part.batches()) {
                part.slice(message.header.clone());
                part.slice(message.body.clone());
            }
            part.schema_header();
        }
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        check(&bad);
        check(&good[..at]);
    }
}

#[test]
fn failed_write_stops_writes_but_not_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[batch()], Compression::None);
    let full = store.0.volume.write_error("a part", &std::io::ErrorKind::StorageFull.into());
    assert_eq!(full.code, Code::ResourceExhausted);
    assert!(full.message.contains(" free of ") && store.write_failure().is_none());
    put(&store, &[batch()], Compression::None);
    let waiting = store.create(spec(&batch(), Compression::None)).unwrap();
    let broken = store.0.volume.write_error("a part", &std::io::Error::from_raw_os_error(5));
    assert_eq!(broken.code, Code::Unavailable);
    assert!(store.write_failure().unwrap().contains("stopped accepting"));
    assert_eq!(waiting.seal().unwrap_err().code, Code::Unavailable);
    assert_eq!(store.create(spec(&batch(), Compression::None)).err().unwrap().code, Code::Unavailable);
    assert_eq!(served(&store.part(sealed.id).unwrap().unwrap()), [batch()]);
}
