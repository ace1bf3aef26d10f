use arrow::array::{Int64Array, ListArray, RecordBatchOptions, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;
use volley_common::Code;

use super::*;
use crate::fault::from_datafusion;

/// That of batches of so many rows, which is not limited.
fn memory(batch_rows: usize) -> BatchMemory {
    let settings = SessionConfig::new().with_batch_size(batch_rows);
    BatchMemory::of_stream(&TaskContext::default().with_session_config(settings))
}

/// A query with two partitions, batches of so many rows, and memory from a pool.
fn query(pool: &Arc<dyn MemoryPool>, batch_rows: usize) -> TaskContext {
    let settings = SessionConfig::new().with_batch_size(batch_rows).with_target_partitions(2);
    let settings = settings.with_extension(Arc::new(RepeatedRows::new(pool)));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool.clone()).build_arc().unwrap();
    TaskContext::default().with_session_config(settings).with_runtime(runtime)
}

fn texts(lengths: &[usize]) -> RecordBatch {
    let texts = StringArray::from_iter_values(lengths.iter().map(|length| "x".repeat(*length)));
    RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap()
}

#[test]
fn wide_rows_need_batches_of_fewer_rows() {
    let batch = texts(&[10, 100_000, 20]);
    assert_eq!(widest_row(&batch), 100_000);
    memory(1000).check(&batch).unwrap();
    let error = from_datafusion(memory(8192).check(&batch).unwrap_err());
    assert_eq!(error.code, Code::ResourceExhausted);
    let width = too_wide(&error.at("a task")).unwrap();
    assert_eq!(width, 100_000);
    let rows = rows_again(width, MAX_BATCH_BYTES);
    assert_eq!(rows, 335);
    memory(rows).check(&batch).unwrap();
    assert_eq!(too_wide(&Error::exhausted("no memory")), None);
}

#[test]
fn numbers_are_never_too_wide() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    memory(usize::MAX).check(&batch).unwrap();
    assert_eq!(widest_row(&batch), 8);
}

#[test]
fn small_batches_have_all_rows() {
    let batch = texts(&[1, 2, 3, 4, 5]);
    let pieces: Vec<RecordBatch> = small_batches(&batch, 2).into_iter().collect::<Result<_>>().unwrap();
    let lengths: Vec<usize> =
        pieces.iter().flat_map(|piece| piece.column(0).as_string::<i32>().iter().map(|t| t.unwrap().len())).collect();
    assert_eq!(lengths, [1, 2, 3, 4, 5]);
    assert_eq!(pieces.len(), 3);
}

#[test]
fn rows_beside_unnest_are_bounded() {
    let list = |lengths: &[usize]| {
        let rows = lengths.iter().map(|length| Some(vec![Some(1i64); *length]));
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows)) as ArrayRef
    };
    let batch = |lists: &[usize], width: usize| {
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(lists.iter().map(|_| "x".repeat(width))));
        RecordBatch::try_from_iter([("list", list(lists)), ("text", text)]).unwrap()
    };
    let pieces = RowWidthExec::pieces(batch(&[10_000; 4], 10_000), &memory(100), &[0]).unwrap();
    let rows: Vec<usize> = pieces.into_iter().map(|piece| piece.unwrap().num_rows()).collect();
    assert_eq!(rows, [1, 1, 1, 1]);
    let error = RowWidthExec::pieces(batch(&[20_000], 10_000), &memory(100), &[0]).unwrap_err();
    let error = from_datafusion(error);
    assert_eq!((error.code, too_wide(&error)), (Code::ResourceExhausted, None));
}

#[test]
fn batches_of_wide_rows_are_counted_before_they_are_made() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(64 << 20));
    let (context, batch, counted) = (query(&pool, 100), texts(&[10, 20_000]), Arc::default());
    // A batch has 2 MB: two of them for the partition that reads, and for both partitions that repeat what was collected.
    let read = BatchMemory::of_stream(&context);
    read.check(&batch).unwrap();
    assert_eq!(pool.reserved(), 4_000_000);
    drop(read);
    assert_eq!(pool.reserved(), 0);
    for _partition in 0..2 {
        BatchMemory::of_collected(&context, &counted).check(&batch).unwrap();
        assert_eq!(pool.reserved(), 8_000_000);
    }
    drop(context);
    assert_eq!(pool.reserved(), 0);
}

#[test]
fn less_memory_makes_smaller_batches_and_none_an_error() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(64 << 20));
    assert_eq!(most_batch_bytes(&pool, 2), 4 << 20);
    let check = |batch_rows: usize, width: usize| {
        let checked = BatchMemory::of_stream(&query(&pool, batch_rows)).check(&texts(&[width]));
        checked.map_err(from_datafusion)
    };
    assert_eq!(too_wide(&check(1000, 20_000).unwrap_err()), Some(20_000));
    check(100, 20_000).unwrap();
    check(2, 10_000_000).unwrap();
    // Two rows cannot become fewer.
    let error = check(2, 20_000_000).unwrap_err();
    assert_eq!((error.code, too_wide(&error)), (Code::ResourceExhausted, None));
    assert!(error.message.contains("sql_memory_bytes"), "{error}");
    // Others have nearly all.
    let others = BatchMemory::of_stream(&query(&pool, 1));
    others.count(61 << 20).unwrap();
    assert_eq!(too_wide(&check(100, 20_000).unwrap_err()), Some(20_000));
    check(rows_again(20_000, 4 << 20), 20_000).unwrap();
}

/// So many batches without columns, of so many rows each, as a join gets them.
async fn without_columns(batches: usize, rows: usize, memory: BatchMemory) -> Result<Vec<usize>> {
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(schema.clone(), Vec::new(), &options)?;
    let rows = stream::iter((0..batches).map(move |_| Ok(batch.clone())));
    let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
    columnless::merged(rows, memory).map_ok(|batch| batch.num_rows()).try_collect().await
}

#[tokio::test]
async fn rows_without_columns_are_few_batches() {
    let batches = without_columns(1000, 10, memory(10)).await.unwrap();
    assert_eq!(batches[..4], [10, 20, 40, 80]);
    assert_eq!((batches.len(), batches.iter().sum::<usize>()), (10, 10_000));
    assert!(without_columns(3, 0, memory(10)).await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_without_columns_count_a_bit_each() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(4 << 20));
    let memory = || BatchMemory::of_stream(&query(&pool, 10));
    without_columns(1, 8 * (4 << 20), memory()).await.unwrap();
    let error = from_datafusion(without_columns(1, 8 * (5 << 20), memory()).await.unwrap_err());
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("sql_memory_bytes"), "{error}");
}
