//! INTERVAL columns of Parquet files: months, days and milliseconds. The reader makes an interval of months of them, or one of
//! days and milliseconds, and drops the rest. The values say which of both a column needs.

use std::fs::File;

use arrow::datatypes::IntervalUnit;
use arrow::error::ArrowError;
use parquet::basic::ConvertedType;
use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescPtr;

use super::int96::visit_values;

/// Which parts of a column's values are not zero.
#[derive(Default)]
struct IntervalParts {
    months: bool,
    /// Days or milliseconds.
    rest: bool,
    /// A part has its highest bit.
    is_large: bool,
}

impl IntervalParts {
    /// `value`: three numbers of 32 bits, little-endian.
    fn add(&mut self, value: &[u8]) {
        let (months, rest) = value.split_at_checked(4).unwrap_or_default();
        self.months |= months.iter().any(|byte| *byte != 0);
        self.rest |= rest.iter().any(|byte| *byte != 0);
        self.is_large |= value.chunks(4).filter_map(<[u8]>::last).any(|highest| *highest >= 0x80);
    }

    fn unit(&self, path: &str, has_signs: bool) -> Result<Option<IntervalUnit>, ArrowError> {
        let refused =
            |why: &str| Err(ArrowError::InvalidArgumentError(format!("the INTERVAL column {path:?} has {why}")));
        match (self.months, self.rest) {
            _ if self.is_large && !has_signs => refused("an interval of 2^31 months, days or milliseconds or more"),
            (true, true) => refused(
                "intervals of months and of days or milliseconds, and is read as one or the other: write the months to a column of their own",
            ),
            (true, false) => Ok(Some(IntervalUnit::YearMonth)),
            (false, true) => Ok(Some(IntervalUnit::DayTime)),
            (false, false) => Ok(None),
        }
    }
}

/// The unit of each leaf column that is an INTERVAL, by the column's index; `None` for others, and if all values are zero.
///
/// `has_signs`: the file was written by an Arrow library, whose intervals can be negative.
///
/// # Errors
/// Names a column of which no unit holds all values.
pub fn interval_units(
    file: &File,
    columns: &[ColumnDescPtr],
    has_signs: bool,
) -> Result<Vec<Option<IntervalUnit>>, ArrowError> {
    let is_interval = |column: &ColumnDescPtr| column.converted_type() == ConvertedType::INTERVAL;
    if !columns.iter().any(is_interval) {
        return Ok(Vec::new());
    }
    let reader = SerializedFileReader::new(file.try_clone()?)?;
    let mut units = vec![None; columns.len()];
    for (index, column) in columns.iter().enumerate().filter(|(_, column)| is_interval(column)) {
        let mut parts = IntervalParts::default();
        for group in 0..reader.num_row_groups() {
            let values = reader.get_row_group(group)?.get_column_reader(index)?;
            if let ColumnReader::FixedLenByteArrayColumnReader(mut values) = values {
                visit_values(&mut values, |value| parts.add(value.data()))?;
            }
        }
        units[index] = parts.unit(&column.path().string(), has_signs)?;
    }
    Ok(units)
}
