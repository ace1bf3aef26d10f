//! INT96 timestamps of Parquet files: a day and the nanoseconds within it, of which Arrow's nanoseconds since 1970 hold
//! only the years 1677 to 2262. The unit of each column is chosen by its values.

use std::fs::File;

use arrow::datatypes::TimeUnit;
use arrow::error::ArrowError;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{Int96, Int96Type};
use parquet::file::reader::{FileReader, SerializedFileReader};

/// Values read at a time.
const READ_VALUES: usize = 8192;
const JULIAN_DAY_OF_1970: i128 = 2_440_588;
const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// What the values of one column need.
#[derive(Clone, Copy, Default)]
struct NeededUnit {
    overflows_nanos: bool,
    overflows_micros: bool,
    has_nanos: bool,
}

impl NeededUnit {
    fn add(&mut self, value: &Int96) {
        let data = value.data();
        let (days, nanos) = (data[2] as i32, ((u64::from(data[1]) << 32) | u64::from(data[0])) as i64);
        let exact = (i128::from(days) - JULIAN_DAY_OF_1970) * NANOS_PER_DAY + i128::from(nanos);
        self.overflows_nanos |= i64::try_from(exact).is_err();
        self.overflows_micros |= i64::try_from(exact / 1000).is_err();
        self.has_nanos |= exact % 1000 != 0;
    }

    fn unit(self) -> Option<TimeUnit> {
        match self {
            NeededUnit { overflows_nanos: false, .. } => Some(TimeUnit::Nanosecond),
            NeededUnit { overflows_micros: false, has_nanos: false, .. } => Some(TimeUnit::Microsecond),
            _ => None,
        }
    }
}

/// The unit of every leaf column, by its index: `None` for those that are not INT96. Reads the INT96 columns.
///
/// # Errors
/// No unit holds all values of a column: some are outside of 1677 to 2262, and some have nanoseconds.
pub fn units(file: &File) -> Result<Vec<Option<TimeUnit>>, ArrowError> {
    let reader = SerializedFileReader::new(file.try_clone()?)?;
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let unit = |(index, column): (usize, &parquet::schema::types::ColumnDescPtr)| {
        if column.physical_type() != Type::INT96 {
            return Ok(None);
        }
        let needed = needed(&reader, index)?;
        needed.unit().map(Some).ok_or_else(|| {
            ArrowError::InvalidArgumentError(format!(
                "the INT96 column {:?} has times outside of the years 1677 to 2262 and times with nanoseconds, and no Arrow type holds both: write the column in microseconds",
                column.path().string()
            ))
        })
    };
    columns.iter().enumerate().map(unit).collect()
}

fn needed(reader: &SerializedFileReader<File>, column: usize) -> Result<NeededUnit, ArrowError> {
    let mut needed = NeededUnit::default();
    for group in 0..reader.num_row_groups() {
        if let ColumnReader::Int96ColumnReader(mut values) = reader.get_row_group(group)?.get_column_reader(column)? {
            add_values(&mut values, &mut needed)?;
        }
    }
    Ok(needed)
}

fn add_values(reader: &mut ColumnReaderImpl<Int96Type>, needed: &mut NeededUnit) -> Result<(), ArrowError> {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        values.clear();
        definitions.clear();
        repetitions.clear();
        let (records, _, _) =
            reader.read_records(READ_VALUES, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        values.iter().for_each(|value| needed.add(value));
        if records == 0 {
            return Ok(());
        }
    }
}
