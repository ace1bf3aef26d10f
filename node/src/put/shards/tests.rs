use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, DictionaryArray, Int64Array, NullArray, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};

use volley_common::ipc::MESSAGE_BYTES;

use super::*;
use crate::test_data;

/// The shard of the first block.
const FIRST: u32 = 3;

/// Collects the parts of each shard, each a list of messages.
#[derive(Default)]
struct CollectedParts {
    parts: Vec<(u32, Vec<RecordBatch>)>,
    open: BTreeMap<u32, Vec<RecordBatch>>,
    /// Of whole batches, in the order in which they were written.
    metadata: Vec<Vec<u8>>,
}

impl ShardSink for CollectedParts {
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()> {
        assert!(batch.num_rows() > 0);
        self.open.entry(shard).or_default().push(batch.clone());
        Ok(())
    }

    fn write_whole(&mut self, shard: u32, batch: &RecordBatch, app_metadata: &[u8]) -> Result<()> {
        self.metadata.push(app_metadata.to_vec());
        self.open.entry(shard).or_default().push(batch.clone());
        Ok(())
    }

    fn end_part(&mut self, shard: u32) -> Result<()> {
        let part = self.open.remove(&shard).expect("a part that ends has rows");
        self.parts.push((shard, part));
        Ok(())
    }
}

impl CollectedParts {
    fn finish(mut self) -> Vec<(u32, Vec<RecordBatch>)> {
        self.parts.extend(self.open);
        self.parts
    }
}

fn numbers(from: i64, rows: i64) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    let column = Int64Array::from_iter_values(from..from + rows);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).unwrap()
}

fn values(messages: &[RecordBatch]) -> Vec<i64> {
    let column = |b: &RecordBatch| b.column(0).as_primitive::<Int64Type>().values().to_vec();
    messages.iter().flat_map(column).collect()
}

fn sizes_of(message: usize, block: u64) -> TargetSizes {
    TargetSizes { message, block, first_block: block }
}

fn run(spec: &TableSpec, block: u64, batches: &[RecordBatch]) -> Vec<(u32, Vec<RecordBatch>)> {
    run_sized(spec, sizes_of(MESSAGE_BYTES, block), batches)
}

fn run_sized(spec: &TableSpec, sizes: TargetSizes, batches: &[RecordBatch]) -> Vec<(u32, Vec<RecordBatch>)> {
    let mut partitioner = BatchPartitioner::new(spec, &batches[0].schema(), sizes, FIRST).unwrap();
    let mut seen = CollectedParts::default();
    for batch in batches {
        partitioner.push(batch, &[], &mut seen).unwrap();
    }
    partitioner.flush(&mut seen).unwrap();
    seen.finish()
}

fn blocks_of(shards: u32) -> TableSpec {
    TableSpec { shards, ..TableSpec::default() }
}

#[test]
fn blocks_are_consecutive_and_round_robin() {
    let rows = 3_000_000;
    let parts = run(&blocks_of(4), 4 << 20, &[numbers(0, rows)]);
    assert!((5..=6).contains(&parts.len()), "24 MB in blocks of 4 MiB and up to a message more");
    assert!(parts.iter().enumerate().all(|(block, part)| part.0 == (FIRST + block as u32) % 4));
    let all: Vec<i64> = parts.iter().flat_map(|p| values(&p.1)).collect();
    assert_eq!(all, (0..rows).collect::<Vec<_>>());
    for (_, part) in &parts[..parts.len() - 1] {
        let bytes: usize = part.iter().map(data_bytes).sum();
        assert!((4 << 20..6 << 20).contains(&bytes), "{bytes}");
        assert!(part.iter().all(|m| data_bytes(m) <= MESSAGE_BYTES + (MESSAGE_BYTES >> 2)));
    }
}

#[test]
fn small_first_blocks_fill_all_shards_and_grow() {
    for batches in [vec![numbers(0, 786_432)], (0..768).map(|at| numbers(at * 1024, 1024)).collect()] {
        let sizes = TargetSizes { first_block: 512 << 10, ..sizes_of(MESSAGE_BYTES, 64 << 20) };
        let parts = run_sized(&blocks_of(6), sizes, &batches);
        let shards: Vec<u32> = parts.iter().map(|part| part.0).collect();
        assert!(parts.len() >= 6, "6 MiB over 6 shards: {shards:?}");
        assert!(shards.iter().enumerate().all(|(block, shard)| *shard == (FIRST + block as u32) % 6));
        assert_eq!(parts.iter().flat_map(|part| values(&part.1)).collect::<Vec<_>>(), (0..786_432).collect::<Vec<_>>());
    }
    let sizes = TargetSizes { first_block: 512 << 10, ..sizes_of(MESSAGE_BYTES, 64 << 20) };
    let parts = run_sized(&blocks_of(2), sizes, &[numbers(0, 16 << 20)]);
    let bytes: Vec<usize> = parts.iter().map(|part| part.1.iter().map(data_bytes).sum::<usize>() >> 20).collect();
    assert!(parts.len() <= 14 && bytes[..12].is_sorted(), "{bytes:?} MiB: not many more blocks than without");
}

#[test]
fn rows_of_every_type_are_sorted_into_shards() {
    let mut rng = test_data::rng(31);
    for data_type in test_data::types() {
        let types = [DataType::Int64, data_type.clone()];
        let batches: Vec<_> = [40, 1, 300].iter().map(|rows| test_data::batch_of(&mut rng, &types, *rows)).collect();
        let spec = TableSpec { shards: 3, shard_by: vec!["c0".into()], ..TableSpec::default() };
        let partitioner = Partitioner::new(&batches[0].schema(), &spec.shard_by, 3).unwrap();
        let mut expected = vec![Vec::new(); 3];
        let mut all = CollectedParts::default();
        let mut sorting = BatchPartitioner::new(&spec, &batches[0].schema(), sizes_of(4096, 1), FIRST).unwrap();
        for batch in &batches {
            for (row, shard) in partitioner.shards_of(batch).unwrap().into_iter().enumerate() {
                expected[shard as usize].push(batch.slice(row, 1));
            }
            // As when their dictionaries differ.
            sorting.push(batch, &[], &mut all).unwrap();
            sorting.flush(&mut all).unwrap();
        }
        for (shard, messages) in all.open {
            let found = messages.iter().flat_map(|message| (0..message.num_rows()).map(|row| message.slice(row, 1)));
            assert_eq!(found.collect::<Vec<_>>(), expected[shard as usize], "{data_type}, shard {shard}");
        }
    }
}

#[test]
fn shared_union_values_are_not_repeated_for_each_row() {
    let value = arrow::array::BinaryArray::from_iter_values([vec![7u8; 3 << 20]]);
    let fields = arrow::datatypes::UnionFields::try_new([0], [Field::new("b", DataType::Binary, true)]).unwrap();
    let union = arrow::array::UnionArray::try_new(
        fields,
        vec![0; 40].into(),
        Some(vec![0; 40].into()),
        vec![Arc::new(value) as arrow::array::ArrayRef],
    );
    let keys = Int64Array::from_iter_values(0..40);
    let columns = [("n", Arc::new(keys) as arrow::array::ArrayRef), ("u", Arc::new(union.unwrap()))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let parts = run(&blocks_of(4), 64 << 20, &[batch.clone(), batch.clone()]);
    let bytes: usize = parts.iter().flat_map(|part| &part.1).map(data_bytes).sum();
    assert!(bytes < 7 << 20, "{bytes} bytes for 6 MiB");
    let keyed = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    let mut partitioner = BatchPartitioner::new(&keyed, &batch.schema(), sizes_of(MESSAGE_BYTES, 1), FIRST).unwrap();
    let error = partitioner.push(&batch, &[], &mut CollectedParts::default()).unwrap_err();
    assert!(error.message.contains("\"u\"") && error.message.contains("shard_by"), "{error}");
}

#[test]
fn messages_have_the_configured_size() {
    let keyed = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    for spec in [blocks_of(2), keyed] {
        for message in [64 << 10, 4 << 20] {
            let parts = run_sized(&spec, sizes_of(message, 64 << 20), &[numbers(0, 2_000_000)]);
            let largest = parts.iter().flat_map(|part| &part.1).map(data_bytes).max().unwrap();
            assert!((message * 3 / 4..=message * 5 / 4).contains(&largest), "{largest} of {message}");
        }
    }
}

#[test]
fn small_batches_are_joined_to_messages_of_the_target_size() {
    let batches: Vec<_> = (0..1000).map(|i| numbers(i * 1000, 1000)).collect();
    let parts = run(&blocks_of(4), 64 << 20, &batches);
    assert_eq!(parts.len(), 1);
    assert!(parts[0].1.len() <= 9, "{} messages for 8 MB", parts[0].1.len());
    assert_eq!(values(&parts[0].1), (0..1_000_000).collect::<Vec<_>>());
}

#[test]
fn empty_batches_create_no_part() {
    assert!(run(&blocks_of(4), 1, &[numbers(0, 0), numbers(0, 0)]).is_empty());
}

#[test]
fn keyed_rows_keep_their_order_within_a_shard() {
    let spec = TableSpec { shards: 7, shard_by: vec!["n".into()], ..TableSpec::default() };
    let batches: Vec<_> = (0..50).map(|i| numbers(i * 10_000, 10_000)).collect();
    let parts = run(&spec, 1, &batches);
    let partitioner = Partitioner::new(&batches[0].schema(), &spec.shard_by, 7).unwrap();
    let mut expected = vec![Vec::new(); 7];
    for batch in &batches {
        for (n, shard) in values(std::slice::from_ref(batch)).into_iter().zip(partitioner.shards_of(batch).unwrap()) {
            expected[shard as usize].push(n);
        }
    }
    assert_eq!(parts.len(), 7);
    for (shard, part) in &parts {
        assert_eq!(values(part), expected[*shard as usize]);
        assert_eq!(part.len(), 1, "half a megabyte is one message");
    }
}

#[test]
fn pending_rows_of_all_shards_are_bounded() {
    let spec = TableSpec { shards: 512, shard_by: vec!["n".into()], ..TableSpec::default() };
    let sizes = sizes_of(MESSAGE_BYTES, 1);
    let mut partitioner = BatchPartitioner::new(&spec, &numbers(0, 1).schema(), sizes, FIRST).unwrap();
    let mut seen = CollectedParts::default();
    for i in 0..64 {
        partitioner.push(&numbers(i * 131_072, 131_072), &[], &mut seen).unwrap();
        let BatchPartitioner::Hash(keys) = &partitioner else { unreachable!() };
        assert!(keys.pending_bytes <= MAX_PENDING && keys.window_weight <= MAX_WINDOW);
        assert_eq!(keys.window_weight, keys.window.iter().map(data_bytes).sum::<usize>());
        assert_eq!(keys.pending_bytes, keys.shards.iter().map(|p| p.bytes).sum::<usize>());
    }
    assert!(!seen.open.is_empty());
}

#[test]
fn shard_messages_have_the_target_size_for_any_batch_size() {
    let spec = TableSpec { shards: 4, shard_by: vec!["n".into()], ..TableSpec::default() };
    for rows in [1_000, 100_000, 4_000_000] {
        let batches: Vec<_> = (0..4_000_000 / rows).map(|i| numbers(i * rows, rows)).collect();
        for (shard, part) in run(&spec, 1, &batches) {
            let sizes: Vec<usize> = part.iter().map(data_bytes).collect();
            let (_, whole) = sizes.split_last().unwrap();
            let accepted = MESSAGE_BYTES * 5 / 8..=MESSAGE_BYTES / 2 * 3;
            assert!(
                whole.iter().all(|size| accepted.contains(size)),
                "shard {shard}, batches of {rows} rows: {sizes:?}"
            );
        }
    }
}

#[test]
fn pending_rows_do_not_keep_their_window_in_memory() {
    let partitioner = Partitioner::new(&numbers(0, 1).schema(), &["n".into()], 2).unwrap();
    let one_of = |shard: u32| {
        let found = partitioner.shards_of(&numbers(0, 100)).unwrap();
        found.iter().position(|of| *of == shard).unwrap() as i64
    };
    let (often, rarely) = (one_of(0), one_of(1));
    let column = Int64Array::from_iter_values((0..300_000).map(|row| if row == 7 { rarely } else { often }));
    let batch = RecordBatch::try_new(numbers(0, 1).schema(), vec![Arc::new(column)]).unwrap();
    let spec = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    let sizes = sizes_of(MESSAGE_BYTES, 1);
    let mut partitioner = BatchPartitioner::new(&spec, &batch.schema(), sizes, FIRST).unwrap();
    let mut seen = CollectedParts::default();
    for _ in 0..20 {
        partitioner.push(&batch, &[], &mut seen).unwrap();
    }
    let BatchPartitioner::Hash(keys) = &partitioner else { unreachable!() };
    let held: usize = keys.shards[1].batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(held < 10_000, "{held} bytes for {} rows", keys.shards[1].batches.len());
    partitioner.flush(&mut seen).unwrap();
    assert_eq!(values(&seen.open[&1]), [rarely; 20]);
    assert_eq!(values(&seen.open[&0]).len(), 20 * 299_999);
}

#[test]
fn indexes_of_rows_without_bytes_are_bounded() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Null, true)]));
    let spec = TableSpec { shards: 16, shard_by: vec!["n".into()], ..TableSpec::default() };
    let sizes = sizes_of(MESSAGE_BYTES, 1);
    let mut partitioner = BatchPartitioner::new(&spec, &schema, sizes, FIRST).unwrap();
    let batch = RecordBatch::try_new(schema, vec![Arc::new(NullArray::new(1 << 23))]).unwrap();
    for _ in 0..3 {
        partitioner.push(&batch, &[], &mut CollectedParts::default()).unwrap();
        let BatchPartitioner::Hash(keys) = &partitioner else { unreachable!() };
        assert!(keys.window.iter().map(RecordBatch::num_rows).sum::<usize>() * MIN_ROW_BYTES <= MAX_WINDOW);
    }
}

#[test]
fn messages_of_skewed_keys_are_within_the_client_limit() {
    let spec = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    let partitioner = Partitioner::new(&numbers(0, 1).schema(), &spec.shard_by, 2).unwrap();
    let shard_of = partitioner.shards_of(&numbers(0, 2_000_000)).unwrap();
    let (often, rarely): (Vec<i64>, Vec<i64>) = (0..2_000_000).partition(|n| shard_of[*n as usize] == 0);
    let skewed = often.iter().take(700_000).chain(rarely.iter().take(300_000)).copied();
    let column = Arc::new(Int64Array::from_iter_values(skewed));
    let batch = RecordBatch::try_new(numbers(0, 1).schema(), vec![column]).unwrap();
    let sizes = sizes_of(MAX_SPLIT_BYTES, 1);
    let mut partitioner = BatchPartitioner::new(&spec, &batch.schema(), sizes, FIRST).unwrap();
    let mut seen = CollectedParts::default();
    partitioner.push(&batch, &[], &mut seen).unwrap();
    partitioner.flush(&mut seen).unwrap();
    let written: Vec<usize> = seen.open.values().flatten().map(data_bytes).collect();
    assert!(written.iter().all(|bytes| *bytes <= MAX_SPLIT_BYTES), "{written:?}");
}

#[test]
fn only_shard_of_a_keyed_table_gets_rows_in_order() {
    let spec = TableSpec { shards: 1, shard_by: vec!["n".into()], ..TableSpec::default() };
    let parts = run(&spec, 1 << 20, &[numbers(0, 400_000)]);
    assert_eq!((parts.len(), parts[0].0), (1, 0));
    assert_eq!(values(&parts[0].1), (0..400_000).collect::<Vec<_>>());
    let unknown = TableSpec { shard_by: vec!["m".into()], ..spec };
    let sizes = sizes_of(MESSAGE_BYTES, 1);
    assert!(BatchPartitioner::new(&unknown, &numbers(0, 1).schema(), sizes, FIRST).is_err());
}

#[test]
fn joined_messages_keep_one_dictionary() {
    let words: DictionaryArray<Int32Type> = vec!["a", "b", "a", "c"].into_iter().collect();
    let schema =
        Schema::new(vec![Field::new("w", words.data_type().clone(), true), Field::new("k", DataType::Utf8, true)]);
    let keys = StringArray::from(vec!["w", "x", "y", "z"]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(words.clone()), Arc::new(keys)]).unwrap();
    let spec = TableSpec { shards: 2, shard_by: vec!["k".into()], ..TableSpec::default() };
    for (_, part) in run(&spec, 1, &[batch.clone(), batch.clone()]) {
        for message in part {
            let values = message.column(0).as_dictionary::<Int32Type>().values();
            assert_eq!(values.as_ref(), words.values().as_ref());
        }
    }
}

#[test]
fn compacted_rows_do_not_keep_their_batch_in_memory() {
    let long = "x".repeat(1000);
    let column = StringViewArray::from_iter_values((0..1000).map(|i| format!("{i}{long}")));
    let schema = Schema::new(vec![Field::new("s", DataType::Utf8View, false)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).unwrap();
    let few = shrink_to_fit(&batch.slice(0, 2));
    assert!(few.get_array_memory_size() < 10_000);
    assert_eq!(few.column(0).as_ref(), batch.slice(0, 2).column(0).as_ref());
}

#[test]
fn preserved_batches_stay_whole_and_go_to_blocks() {
    let spec = TableSpec { shards: 2, preserve_batches: true, ..TableSpec::default() };
    // 8,000,000 bytes; none; 8; 800; 8.
    let batches = [(0, 1_000_000), (5, 0), (7, 1), (9, 100), (11, 1)].map(|(from, rows)| numbers(from, rows));
    let mut partitioner =
        BatchPartitioner::new(&spec, &batches[0].schema(), sizes_of(MESSAGE_BYTES, 500), FIRST).unwrap();
    let mut seen = CollectedParts::default();
    for (at, batch) in batches.iter().enumerate() {
        partitioner.push(batch, at.to_string().as_bytes(), &mut seen).unwrap();
        assert_eq!(partitioner.buffered(), 0);
    }
    partitioner.flush(&mut seen).unwrap();
    assert_eq!(seen.metadata, ["0", "1", "2", "3", "4"].map(|text| text.as_bytes().to_vec()));
    let parts = seen.finish();
    let shards: Vec<u32> = parts.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(shards, [FIRST % 2, (FIRST + 1) % 2, FIRST % 2]);
    let found: Vec<RecordBatch> = parts.into_iter().flat_map(|(_, part)| part).collect();
    assert_eq!(found, batches);
}
