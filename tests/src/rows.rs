//! Numbered rows, each with a text derived from its number, so that a damaged row is detected.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use futures::Stream;
use volley_client::Client;
use volley_common::options::Options;
use volley_common::{Result, TableName};

/// Rows of a batch that [`batches`] makes.
const BATCH: i64 = 10_000;

/// `id` int64, and `text` utf8 derived from it (null in every seventh row).
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, true)]))
}

/// One batch of the rows with these ids.
pub fn batch(ids: Range<i64>) -> RecordBatch {
    let text: StringArray = ids.clone().map(text_of).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(text)]).unwrap()
}

fn text_of(id: i64) -> Option<String> {
    (id % 7 != 0).then(|| format!("the text of row {id}"))
}

/// The rows with these ids, in batches.
pub fn batches(ids: Range<i64>) -> Vec<RecordBatch> {
    ids.clone().step_by(BATCH as usize).map(|start| batch(start..(start + BATCH).min(ids.end))).collect()
}

/// The rows with these ids, as [`Client::put`] takes them.
pub fn stream(ids: Range<i64>) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    futures::stream::iter(batches(ids).into_iter().map(Ok))
}

/// The ids in their order. Panics if a text is not that of its id.
pub fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let mut ids = Vec::new();
    for batch in batches {
        let id = batch.column(0).as_primitive::<Int64Type>();
        let text = batch.column(1).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let found = text.is_valid(row).then(|| text.value(row));
            assert_eq!(found, text_of(id.value(row)).as_deref(), "the text of row {}", id.value(row));
        }
        ids.extend(id.values());
    }
    ids
}

/// A table's name.
pub fn name(text: &str) -> TableName {
    text.parse().unwrap()
}

/// Puts the rows with these ids.
pub async fn put(
    client: &Client,
    table: &str,
    options: &Options,
    ids: Range<i64>,
) -> Result<volley_client::PutOutcome> {
    client.put(&name(table), options, schema(), stream(ids)).await
}

/// The ids in a table, fetched in parallel; in order if the table has no keys.
pub async fn get(client: &Client, table: &str) -> Result<Vec<i64>> {
    let (_, batches) = client.get_all(&name(table), &Options::default()).await?;
    Ok(ids(&batches))
}

/// As [`get`], in ascending order.
pub async fn get_sorted(client: &Client, table: &str) -> Result<Vec<i64>> {
    let mut ids = get(client, table).await?;
    ids.sort_unstable();
    Ok(ids)
}
