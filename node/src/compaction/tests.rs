//! Compactions on nodes that run in this process.
#![allow(clippy::unwrap_used)]

use arrow::array::{Array, AsArray, DictionaryArray, Int64Array, RecordBatch};
use arrow::datatypes::{ArrowDictionaryKeyType, DataType, Field, Int8Type, Int32Type, Schema};
use volley_common::Code;
use volley_common::ipc::batch_header::split_app_metadata;
use volley_common::ipc::decode::DecodedMessage;
use volley_common::ipc::schema::schema_message;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::statistics::comparison::{ValueComparison, compare};
use volley_common::ipc::statistics::part_may_match;
use volley_common::wire::catalog::{WriteMode, WriteState};
use volley_common::wire::cluster::BeginWriteRequest;

use super::*;
use crate::put::tests::cluster::InProcessCluster;
use crate::storage::{PartMessage, PartSpec};
use crate::test_data;

/// What the only batch of a source has as metadata; a table that does not preserve batches ignores it.
fn source_metadata(at: usize) -> Vec<u8> {
    format!("source {at}").into_bytes()
}

/// A part of one batch, on this node.
fn source(state: &Arc<NodeContext>, at: usize, batch: &RecordBatch) -> Part {
    let schema = parse_schema(&schema_message(&batch.schema()).unwrap()).unwrap();
    let spec = PartSpec {
        table: "t".parse().unwrap(),
        shard: (at % 2) as u32,
        write: format!("w{at}"),
        seq: 0,
        schema,
        compression: Default::default(),
    };
    let mut writer = state.store.create(spec).unwrap();
    writer.write_whole(&shrink_to_fit(batch), &source_metadata(at)).unwrap();
    let sealed = writer.seal().unwrap();
    Part {
        id: Some(sealed.id.into()),
        shard: (at % 2) as u32,
        rows: sealed.rows,
        bytes: sealed.bytes,
        holders: vec![state.store.node().0],
        ..Part::default()
    }
}

/// Two nodes, both shards on both.
async fn two_nodes() -> InProcessCluster {
    InProcessCluster::start(2, &[&[0, 1], &[0, 1]], 2).await
}

/// Compacts parts of these batches on node 0; gives the batches of each new part.
async fn compacted(cluster: &InProcessCluster, id: &str, batches: &[RecordBatch]) -> Result<Vec<Vec<RecordBatch>>> {
    let state = cluster.nodes[0].context.clone();
    let sources: Vec<Part> = batches.iter().enumerate().map(|(at, batch)| source(&state, at, batch)).collect();
    let request = BeginWriteRequest {
        table: vec!["t".into()],
        mode: WriteMode::Compact.into(),
        schema: schema_message(&batches[0].schema()).unwrap(),
        write_id: id.into(),
        attempt: 1,
        ..BeginWriteRequest::default()
    };
    let caller = AssertedCaller::cluster(state.cluster.clone());
    let plan = state.coordinators.begin_write(request, &caller).await.unwrap();
    let shard = sources[0].shard;
    compact(state.clone(), CompactParts { plan: Some(plan), sources }).await?;
    let write = cluster.coordinator.state.lock().writes[id].clone();
    assert_eq!(write.state(), WriteState::Committed);
    let mut parts = write.parts;
    parts.sort_by_key(|part| part.seq);
    assert!(parts.iter().all(|part| part.shard == shard && part.holders.len() == 2));
    Ok(parts.iter().map(|part| read(&state, part.part_id())).collect())
}

fn read(state: &Arc<NodeContext>, id: PartId) -> Vec<RecordBatch> {
    let part = state.store.part(id).unwrap().unwrap();
    let mut decoder = BatchDecoder::new(64 << 20);
    decoder.push(FlightData { data_header: part.schema_header(), ..FlightData::default() }).unwrap();
    let messages = part.dictionaries().iter().chain(part.batches());
    let mut batches = Vec::new();
    for message in messages {
        let (data_header, data_body) = (part.slice(message.header.clone()), part.slice(message.body.clone()));
        match decoder.push(FlightData { data_header, data_body, ..FlightData::default() }).unwrap() {
            DecodedMessage::Batch(batch) => batches.push(batch),
            DecodedMessage::Dictionary(_) | DecodedMessage::Schema(_) | DecodedMessage::Metadata => {}
        }
    }
    batches
}

/// One batch per row, so that batch boundaries do not matter.
fn rows(batches: &[RecordBatch]) -> Vec<RecordBatch> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| batch.slice(row, 1))).collect()
}

fn assert_same_rows(found: &[RecordBatch], expected: &[RecordBatch], what: &str) {
    let (found, expected) = (rows(found), rows(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.columns(), expected.columns(), "{what}, row {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_every_type_are_unchanged() {
    let cluster = two_nodes().await;
    let (mut rng, mut not_compacted) = (test_data::rng(11), Vec::new());
    for (at, data_type) in test_data::types().iter().enumerate() {
        let sizes = [3, 0, 40, 1, 0, 17, 5, 9, 2, 30];
        let one = std::slice::from_ref(data_type);
        let batches: Vec<_> = sizes.iter().map(|rows| test_data::batch_of(&mut rng, one, *rows)).collect();
        match compacted(&cluster, &format!("m{at}"), &batches).await {
            Ok(parts) => {
                assert!(parts.len() <= 5, "{data_type}: {} parts", parts.len());
                let found = parts.concat();
                assert_same_rows(&found, &batches, &data_type.to_string());
                let expected = parse_schema(&schema_message(&batches[0].schema()).unwrap()).unwrap();
                assert!(found.iter().all(|batch| batch.schema() == expected), "{data_type}");
            }
            Err(error) => {
                assert_eq!(error.code, Code::FailedPrecondition, "{data_type}: {error}");
                not_compacted.push(data_type.clone());
            }
        }
    }
    assert_eq!(not_compacted, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_columns_and_empty_parts_are_compacted() {
    let cluster = two_nodes().await;
    let empty: Vec<_> = [5, 0, 7, 1].map(|rows| test_data::batch_of(&mut test_data::rng(1), &[], rows)).into();
    let parts = compacted(&cluster, "columns", &empty).await.unwrap();
    assert_eq!(parts.concat().iter().map(RecordBatch::num_rows).sum::<usize>(), 13);
    let none: Vec<_> = (0..4).map(|_| test_data::batch_of(&mut test_data::rng(1), &[DataType::Utf8], 0)).collect();
    assert!(compacted(&cluster, "rows", &none).await.unwrap().is_empty());
}

fn numbers(from: i64, rows: i64) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from_iter_values(from..from + rows))]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_small_parts_become_one_with_full_messages() {
    let cluster = two_nodes().await;
    let batches: Vec<_> = (0..1000).map(|at| numbers(at * 500, 500)).collect();
    let parts = compacted(&cluster, "m", &batches).await.unwrap();
    assert_eq!(parts.len(), 1);
    assert!(parts[0].len() <= 5, "{} messages for 4 MB", parts[0].len());
    assert_same_rows(&parts[0], &batches, "numbers");
    let bounds = cluster.coordinator.state.lock().writes["m"].parts[0].statistics.clone();
    for (number, may_match) in [(0, true), (499_999, true), (500_000, false)] {
        let equal = compare(0, &DataType::Int64, ValueComparison::Equal, &Int64Array::from(vec![number])).unwrap();
        assert_eq!(part_may_match(&equal, &bounds), may_match, "{number}");
    }
    cluster.settles(&[1001, 1]).await;
}

/// Batches of ten rows; with `fresh` no two share a word, otherwise all dictionaries are equal.
fn words<K: ArrowDictionaryKeyType>(count: usize, fresh: bool) -> Vec<RecordBatch> {
    let batch = |at: usize| {
        let own = if fresh { at } else { 0 };
        let words: DictionaryArray<K> = (0..10)
            .map(|row| Some(format!("word {own} {row}")))
            .collect::<Vec<_>>()
            .iter()
            .map(|w| w.as_deref())
            .collect();
        let schema = Schema::new(vec![Field::new("w", words.data_type().clone(), true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(words)]).unwrap()
    };
    (0..count).map(batch).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_are_united_and_equal_ones_not_repeated() {
    let cluster = two_nodes().await;
    for (id, fresh, values) in [("fresh", true, 160), ("equal", false, 10)] {
        let batches = words::<Int32Type>(16, fresh);
        let parts = compacted(&cluster, id, &batches).await.unwrap();
        assert_eq!((parts.len(), parts[0].len()), (1, 1));
        assert_eq!(parts[0][0].column(0).as_dictionary::<Int32Type>().values().len(), values);
        assert_same_rows(&parts[0], &batches, id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_cannot_be_halved_stay_unchanged() {
    let cluster = two_nodes().await;
    // More words than Int8 keys.
    let error = compacted(&cluster, "m", &words::<Int8Type>(16, true)).await.unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    assert!(error.message.contains("\"t\"") && error.message.contains("dictionaries"), "{error}");
    assert_eq!(cluster.write().state(), WriteState::Aborted);
    cluster.settles(&[16, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_compaction_leaves_nothing_behind() {
    let cluster = two_nodes().await;
    cluster.coordinator.state.lock().refuse_commit = Some(Error::aborted("the table was replaced"));
    let batches: Vec<_> = (0..8).map(|at| numbers(at, 1)).collect();
    let error = compacted(&cluster, "m", &batches).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::Aborted, "the table was replaced"));
    cluster.settles(&[8, 0]).await;
    assert_eq!(cluster.write().state(), WriteState::Aborted);
}

/// Rows and metadata of each batch.
fn stored_batches(state: &NodeContext, id: PartId) -> Vec<(u64, Vec<u8>)> {
    let part = state.store.part(id).unwrap().unwrap();
    let metadata = |at: &PartMessage| split_app_metadata(&part.slice(at.header.clone())).unwrap().1.to_vec();
    part.batches().iter().map(|message| (message.rows, metadata(message))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn preserved_batches_are_not_joined_and_keep_their_metadata() {
    let cluster = two_nodes().await;
    cluster.coordinator.state.lock().spec.preserve_batches = true;
    let state = cluster.nodes[0].context.clone();
    let sizes = [3, 0, 40, 1, 0, 17, 5, 9, 2, 30];
    let batches: Vec<_> = sizes.iter().map(|rows| numbers(7, *rows)).collect();
    let parts = compacted(&cluster, "m", &batches).await.unwrap();
    assert_eq!(parts, [batches.as_slice()]);
    let write = cluster.coordinator.state.lock().writes["m"].clone();
    assert_eq!(write.parts[0].batches as usize, sizes.len());
    let expected: Vec<_> = sizes.iter().enumerate().map(|(at, rows)| (*rows as u64, source_metadata(at))).collect();
    assert_eq!(stored_batches(&state, write.parts[0].part_id()), expected);
    // Different dictionaries cannot be in one part, and batches are not joined to share one.
    let error = compacted(&cluster, "n", &words::<Int32Type>(16, true)).await.unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
}
