use arrow::array::{ArrayRef, DictionaryArray, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::{Int32Type, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::super::sent_rows;
use super::*;

const NODE: NodeId = NodeId(7);

fn pool() -> Arc<dyn MemoryPool> {
    Arc::new(UnboundedMemoryPool::default())
}

/// Text in views and dictionaries, and a number.
fn batch(first: i64, rows: i64) -> RecordBatch {
    let texts = || (first..first + rows).map(|n| (n % 3 > 0).then(|| format!("text number {}", n % 50)));
    let words: DictionaryArray<Int32Type> = texts().collect::<Vec<_>>().iter().map(|text| text.as_deref()).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from_iter_values(first..first + rows))),
        ("view", Arc::new(texts().collect::<StringViewArray>())),
        ("word", Arc::new(words)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn partition(schema: SchemaRef, batches: Vec<Result<RecordBatch, DataFusionError>>) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches)))
}

fn sent(partitions: Vec<Vec<Result<RecordBatch, DataFusionError>>>) -> BoxStream<'static, Result<QueryTaskRows>> {
    sent_as(batch(0, 1).schema(), partitions)
}

fn sent_as(
    schema: SchemaRef,
    partitions: Vec<Vec<Result<RecordBatch, DataFusionError>>>,
) -> BoxStream<'static, Result<QueryTaskRows>> {
    let partitions = partitions.into_iter().map(|batches| partition(schema.clone(), batches)).collect();
    sent_rows::send(partitions, 4, &CancellationToken::new()).unwrap()
}

/// 24 MB for the first partition, all before the few rows of the second.
async fn large_and_small() -> BoxStream<'static, Result<QueryTaskRows>> {
    let numbers = |rows: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    };
    let large = (0..3).map(|_| Ok(numbers(1_000_000))).collect();
    let messages: Vec<_> =
        sent_as(numbers(1).schema(), vec![large, vec![Ok(numbers(10))]]).map(Result::unwrap).collect().await;
    let (mut first, second): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.partition != 5);
    assert!(first.iter().map(size).sum::<usize>() > MAX_WAITING);
    first.extend(second);
    stream::iter(first.into_iter().map(Ok)).boxed()
}

async fn all(partition: PartitionStream) -> Result<Vec<RecordBatch>> {
    partition.try_collect().await.map_err(from_datafusion)
}

fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

#[tokio::test]
async fn partitions_have_exactly_their_rows() {
    let partitions = vec![vec![Ok(batch(0, 1000)), Ok(batch(1000, 7))], vec![], vec![Ok(batch(5, 3))]];
    let received = receive(NODE, sent(partitions), 4..7, &pool());
    let mut found = Vec::new();
    for partition in received {
        found.push(all(partition).await.unwrap());
    }
    let whole = arrow::compute::concat_batches(&found[0][0].schema(), &found[0]).unwrap();
    assert_eq!(whole.slice(0, 1000), batch(0, 1000));
    assert_eq!(whole.slice(1000, 7), batch(1000, 7));
    assert!(found[1].is_empty());
    assert_eq!(found[2], [batch(5, 3)]);
}

#[tokio::test]
async fn partition_without_its_end_is_an_error() {
    let whole = sent(vec![vec![Ok(batch(0, 10))], vec![Ok(batch(0, 10))]]);
    let cut = whole.filter(|message| std::future::ready(!matches!(message, Ok(m) if m.end && m.partition == 5)));
    let mut received = receive(NODE, cut.boxed(), 4..6, &pool());
    let (second, first) = (received.pop().unwrap(), received.pop().unwrap());
    assert_eq!(rows(&all(first).await.unwrap()), 10);
    let error = all(second).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.starts_with("node 0000000000000007: "), "{error}");
}

#[tokio::test]
async fn failure_of_one_partition_ends_all_that_have_not_ended() {
    let failing = into_datafusion(Error::data_loss("a part is corrupt"));
    let mut received = receive(NODE, sent(vec![vec![Err(failing)], vec![Ok(batch(0, 10))]]), 4..6, &pool());
    let (second, first) = (received.pop().unwrap(), received.pop().unwrap());
    let error = all(first).await.unwrap_err();
    assert_eq!(error.code, Code::DataLoss);
    assert!(error.message.ends_with("a part is corrupt"), "{error}");
    match all(second).await {
        Ok(batches) => assert_eq!(rows(&batches), 10),
        Err(error) => assert_eq!(error.code, Code::DataLoss),
    }
}

#[tokio::test]
async fn row_that_is_too_large_for_a_message_is_refused() {
    let column: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(MAX_PEER_MESSAGE)]));
    let large = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let mut received = receive(NODE, sent_as(large.schema(), vec![vec![Ok(large)]]), 4..5, &pool());
    let error = all(received.pop().unwrap()).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("sql_distribute_bytes"), "{error}");
}

#[tokio::test]
async fn partition_that_waits_gets_rows_behind_those_of_others() {
    let mut received = receive(NODE, large_and_small().await, 4..6, &pool());
    let (second, first) = (received.pop().unwrap(), received.pop().unwrap());
    assert_eq!(rows(&all(second).await.unwrap()), 10);
    assert_eq!(rows(&all(first).await.unwrap()), 3_000_000);
}

#[tokio::test]
async fn rows_that_wait_are_counted_and_freed() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 20));
    let mut received = receive(NODE, large_and_small().await, 4..6, &pool);
    let second = received.pop().unwrap();
    let error = all(second).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    drop(received);
    while pool.reserved() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dropped_partitions_end_the_stream() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<QueryTaskRows>>(1);
    let rows = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let received = receive(NODE, rows.boxed(), 0..3, &pool());
    drop(received);
    sender.closed().await;
}
