//! Pure: joins batches, and makes them share equal dictionaries.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{AnyDictionaryArray, Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema};
use volley_common::ipc::unshared::repeated_bytes;
use volley_common::{Error, Result};

/// Batches are not joined if that would repeat more bytes of values which their rows share.
const MAX_REPEATED: usize = 1 << 20;

/// Whether any field, at any depth, has a dictionary.
pub fn has_dictionary(schema: &Schema) -> bool {
    schema.flattened_fields().iter().any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
}

/// One batch of all rows; the batches unchanged if arrow cannot join them (more dictionary values than keys), or
/// only by repeating values that rows share.
pub fn join(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let Some(first) = batches.first().filter(|_| batches.len() > 1) else { return batches };
    if batches.iter().map(|batch| repeated_bytes(batch).1).fold(0, usize::saturating_add) > MAX_REPEATED {
        return batches;
    }
    // Arrow panics when a nested dictionary overflows.
    match catch_unwind(AssertUnwindSafe(|| concat_batches(&first.schema(), &batches))) {
        Ok(Ok(joined)) => vec![joined],
        Ok(Err(_)) | Err(_) => batches,
    }
}

/// The batch with the dictionaries of `like` where they equal its own, so that a join does not repeat them.
pub fn share_dictionaries(batch: RecordBatch, like: &RecordBatch) -> Result<RecordBatch> {
    let share =
        |column: &ArrayRef, like: &ArrayRef| match (column.as_any_dictionary_opt(), like.as_any_dictionary_opt()) {
            (Some(own), Some(like)) if own.values().len() == like.values().len() && own.values() == like.values() => {
                AnyDictionaryArray::with_values(own, like.values().clone())
            }
            _ => column.clone(),
        };
    let columns = batch.columns().iter().zip(like.columns()).map(|(column, like)| share(column, like)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
        .map_err(|e| Error::internal(format!("equal dictionaries cannot be shared: {e}")))
}
