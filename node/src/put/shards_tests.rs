use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, DictionaryArray, Int64Array, NullArray, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};

use volley_common::ipc::MESSAGE_BYTES;

use super::*;

/// The shard of the first block.
const FIRST: u32 = 3;

/// What came out: per shard the parts, each a list of messages.
#[derive(Default)]
struct Seen {
    parts: Vec<(u32, Vec<RecordBatch>)>,
    open: BTreeMap<u32, Vec<RecordBatch>>,
}

impl Sink for Seen {
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()> {
        assert!(batch.num_rows() > 0);
        self.open.entry(shard).or_default().push(batch.clone());
        Ok(())
    }

    fn end_part(&mut self, shard: u32) -> Result<()> {
        let part = self.open.remove(&shard).expect("a part that ends has rows");
        self.parts.push((shard, part));
        Ok(())
    }
}

impl Seen {
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

fn run(spec: &TableSpec, block: u64, batches: &[RecordBatch]) -> Vec<(u32, Vec<RecordBatch>)> {
    run_sized(spec, Sizes { message: MESSAGE_BYTES, block }, batches)
}

fn run_sized(spec: &TableSpec, sizes: Sizes, batches: &[RecordBatch]) -> Vec<(u32, Vec<RecordBatch>)> {
    let mut shards = Shards::new(spec, &batches[0].schema(), sizes, FIRST).unwrap();
    let mut seen = Seen::default();
    for batch in batches {
        shards.push(batch, &mut seen).unwrap();
    }
    shards.flush(&mut seen).unwrap();
    seen.finish()
}

fn blocks_of(shards: u32) -> TableSpec {
    TableSpec { shards, ..TableSpec::default() }
}

#[test]
fn blocks_are_consecutive_and_go_round_the_shards() {
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
fn messages_are_of_the_size_that_is_configured() {
    let keyed = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    for spec in [blocks_of(2), keyed] {
        for message in [64 << 10, 4 << 20] {
            let parts = run_sized(&spec, Sizes { message, block: 64 << 20 }, &[numbers(0, 2_000_000)]);
            let largest = parts.iter().flat_map(|part| &part.1).map(data_bytes).max().unwrap();
            assert!((message * 3 / 4..=message * 5 / 4).contains(&largest), "{largest} of {message}");
        }
    }
}

#[test]
fn small_batches_become_messages_of_a_good_size() {
    let batches: Vec<_> = (0..1000).map(|i| numbers(i * 1000, 1000)).collect();
    let parts = run(&blocks_of(4), 64 << 20, &batches);
    assert_eq!(parts.len(), 1);
    assert!(parts[0].1.len() <= 9, "{} messages for 8 MB", parts[0].1.len());
    assert_eq!(values(&parts[0].1), (0..1_000_000).collect::<Vec<_>>());
}

#[test]
fn batches_without_rows_make_no_part() {
    assert!(run(&blocks_of(4), 1, &[numbers(0, 0), numbers(0, 0)]).is_empty());
}

#[test]
fn keyed_rows_go_where_the_partitioner_says_in_order() {
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
fn what_waits_in_all_shards_together_is_bounded() {
    let spec = TableSpec { shards: 512, shard_by: vec!["n".into()], ..TableSpec::default() };
    let sizes = Sizes { message: MESSAGE_BYTES, block: 1 };
    let mut shards = Shards::new(&spec, &numbers(0, 1).schema(), sizes, FIRST).unwrap();
    let mut seen = Seen::default();
    for i in 0..64 {
        shards.push(&numbers(i * 131_072, 131_072), &mut seen).unwrap();
        let Shards::Keys(keys) = &shards else { unreachable!() };
        assert!(keys.total <= MAX_PENDING && keys.waiting <= MAX_WINDOW);
        assert_eq!(keys.waiting, keys.window.iter().map(data_bytes).sum::<usize>());
        assert_eq!(keys.total, keys.shards.iter().map(|p| p.bytes).sum::<usize>());
    }
    assert!(!seen.open.is_empty());
}

#[test]
fn a_shards_messages_are_of_a_good_size_however_the_rows_came() {
    let spec = TableSpec { shards: 4, shard_by: vec!["n".into()], ..TableSpec::default() };
    for rows in [1_000, 100_000, 4_000_000] {
        let batches: Vec<_> = (0..4_000_000 / rows).map(|i| numbers(i * rows, rows)).collect();
        for (shard, part) in run(&spec, 1, &batches) {
            let sizes: Vec<usize> = part.iter().map(data_bytes).collect();
            let (_, whole) = sizes.split_last().unwrap();
            let good = MESSAGE_BYTES * 5 / 8..=MESSAGE_BYTES / 2 * 3;
            assert!(whole.iter().all(|size| good.contains(size)), "shard {shard}, batches of {rows} rows: {sizes:?}");
        }
    }
}

#[test]
fn a_few_rows_that_wait_do_not_hold_the_many_that_came_with_them() {
    let partitioner = Partitioner::new(&numbers(0, 1).schema(), &["n".into()], 2).unwrap();
    let one_of = |shard: u32| {
        let found = partitioner.shards_of(&numbers(0, 100)).unwrap();
        found.iter().position(|of| *of == shard).unwrap() as i64
    };
    let (often, rarely) = (one_of(0), one_of(1));
    let column = Int64Array::from_iter_values((0..300_000).map(|row| if row == 7 { rarely } else { often }));
    let batch = RecordBatch::try_new(numbers(0, 1).schema(), vec![Arc::new(column)]).unwrap();
    let spec = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    let sizes = Sizes { message: MESSAGE_BYTES, block: 1 };
    let mut shards = Shards::new(&spec, &batch.schema(), sizes, FIRST).unwrap();
    let mut seen = Seen::default();
    for _ in 0..20 {
        shards.push(&batch, &mut seen).unwrap();
    }
    let Shards::Keys(keys) = &shards else { unreachable!() };
    let held: usize = keys.shards[1].batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(held < 10_000, "{held} bytes for {} rows", keys.shards[1].batches.len());
    shards.flush(&mut seen).unwrap();
    assert_eq!(values(&seen.open[&1]), [rarely; 20]);
    assert_eq!(values(&seen.open[&0]).len(), 20 * 299_999);
}

#[test]
fn indexes_of_rows_without_bytes_are_bounded() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Null, true)]));
    let spec = TableSpec { shards: 16, shard_by: vec!["n".into()], ..TableSpec::default() };
    let sizes = Sizes { message: MESSAGE_BYTES, block: 1 };
    let mut shards = Shards::new(&spec, &schema, sizes, FIRST).unwrap();
    let batch = RecordBatch::try_new(schema, vec![Arc::new(NullArray::new(1 << 23))]).unwrap();
    for _ in 0..3 {
        shards.push(&batch, &mut Seen::default()).unwrap();
        let Shards::Keys(keys) = &shards else { unreachable!() };
        assert!(keys.window.iter().map(RecordBatch::num_rows).sum::<usize>() * LEAST_ROW <= MAX_WINDOW);
    }
}

#[test]
fn messages_are_never_larger_than_clients_take_however_the_keys_fall() {
    let spec = TableSpec { shards: 2, shard_by: vec!["n".into()], ..TableSpec::default() };
    let partitioner = Partitioner::new(&numbers(0, 1).schema(), &spec.shard_by, 2).unwrap();
    let shard_of = partitioner.shards_of(&numbers(0, 2_000_000)).unwrap();
    let (often, rarely): (Vec<i64>, Vec<i64>) = (0..2_000_000).partition(|n| shard_of[*n as usize] == 0);
    let skewed = often.iter().take(700_000).chain(rarely.iter().take(300_000)).copied();
    let column = Arc::new(Int64Array::from_iter_values(skewed));
    let batch = RecordBatch::try_new(numbers(0, 1).schema(), vec![column]).unwrap();
    let sizes = Sizes { message: MAX_SPLIT_BYTES, block: 1 };
    let mut shards = Shards::new(&spec, &batch.schema(), sizes, FIRST).unwrap();
    let mut seen = Seen::default();
    shards.push(&batch, &mut seen).unwrap();
    shards.flush(&mut seen).unwrap();
    let written: Vec<usize> = seen.open.values().flatten().map(data_bytes).collect();
    assert!(written.iter().all(|bytes| *bytes <= MAX_SPLIT_BYTES), "{written:?}");
}

#[test]
fn the_only_shard_of_a_keyed_table_gets_all_rows_as_they_come() {
    let spec = TableSpec { shards: 1, shard_by: vec!["n".into()], ..TableSpec::default() };
    let parts = run(&spec, 1 << 20, &[numbers(0, 400_000)]);
    assert_eq!((parts.len(), parts[0].0), (1, 0));
    assert_eq!(values(&parts[0].1), (0..400_000).collect::<Vec<_>>());
    let unknown = TableSpec { shard_by: vec!["m".into()], ..spec };
    let sizes = Sizes { message: MESSAGE_BYTES, block: 1 };
    assert!(Shards::new(&unknown, &numbers(0, 1).schema(), sizes, FIRST).is_err());
}

#[test]
fn joining_messages_keeps_one_dictionary() {
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
fn waiting_rows_do_not_hold_the_messages_that_brought_them() {
    let long = "x".repeat(1000);
    let column = StringViewArray::from_iter_values((0..1000).map(|i| format!("{i}{long}")));
    let schema = Schema::new(vec![Field::new("s", DataType::Utf8View, false)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).unwrap();
    let few = shrink_to_fit(&batch.slice(0, 2));
    assert!(few.get_array_memory_size() < 10_000);
    assert_eq!(few.column(0).as_ref(), batch.slice(0, 2).column(0).as_ref());
}
