//! Times of files that the finer unit of their table cannot hold: found here, because a node knows neither file nor row.

use arrow::array::{Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use volley_common::{Error, Result};

/// Checks that the table holds the times of a batch, whose columns are in the table's order. `row`: that of the batch's first row
/// in its file, from 1.
///
/// # Errors
/// INVALID_ARGUMENT names the first row and column with a time that the table cannot hold.
pub fn check_times(batch: &RecordBatch, table: &Schema, row: usize) -> Result<()> {
    for (column, field) in batch.columns().iter().zip(table.fields()) {
        let wanted = match (column.data_type(), field.data_type()) {
            (DataType::Timestamp(from, zone), DataType::Timestamp(to, _)) if from != to => {
                DataType::Timestamp(*to, zone.clone())
            }
            (DataType::Duration(from), DataType::Duration(to)) if from != to => DataType::Duration(*to),
            _ => continue,
        };
        // A time that does not fit becomes null. Any other error is left to the node, which refuses the rows.
        let Ok(times) = cast(column, &wanted) else { continue };
        if let Some(at) = (0..column.len()).find(|&at| times.is_null(at) && column.is_valid(at)) {
            return Err(Error::invalid(format!(
                "row {}: the column {:?} has a time that the table's type {} cannot hold: leave the row out, or replace the table with --mode replace",
                row + at,
                field.name(),
                field.data_type()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, TimestampSecondArray};
    use arrow::datatypes::{Field, TimeUnit};

    use super::*;

    #[test]
    fn time_beyond_the_unit_of_the_table_names_its_row() {
        let table = |unit| Schema::new(vec![Field::new("t", DataType::Timestamp(unit, None), true)]);
        let batch = |values: Vec<Option<i64>>| {
            let times: ArrayRef = Arc::new(TimestampSecondArray::from(values));
            RecordBatch::try_from_iter([("t", times)]).unwrap()
        };
        let late = batch(vec![Some(1), None, Some(10_413_792_000)]);
        check_times(&late, &table(TimeUnit::Second), 1).unwrap();
        check_times(&late, &table(TimeUnit::Microsecond), 1).unwrap();
        let error = check_times(&late, &table(TimeUnit::Nanosecond), 11).unwrap_err().message;
        assert!(error.starts_with("row 13: the column \"t\"") && error.contains("--mode replace"), "{error}");
        check_times(&batch(vec![Some(1), None]), &table(TimeUnit::Nanosecond), 1).unwrap();
    }
}
