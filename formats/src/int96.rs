//! INT96 timestamps of Parquet files: a day and the nanoseconds within it, of which Arrow's nanoseconds since 1970 hold
//! only the years 1677 to 2262. The unit of each column is chosen by its values, in all files that are put together.

use std::collections::HashMap;
use std::fs::File;

use arrow::datatypes::{DataType, Schema, TimeUnit};
use arrow::error::ArrowError;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::Int96;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescPtr;

/// Values read at a time.
const READ_VALUES: usize = 8192;
const JULIAN_DAY_OF_1970: i128 = 2_440_588;
const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// What the values of one column need.
#[derive(Clone, Copy, Debug, Default)]
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

    fn merge(&mut self, other: NeededUnit) {
        self.overflows_nanos |= other.overflows_nanos;
        self.overflows_micros |= other.overflows_micros;
        self.has_nanos |= other.has_nanos;
    }

    fn unit(self) -> Option<TimeUnit> {
        match self {
            NeededUnit { overflows_nanos: false, .. } => Some(TimeUnit::Nanosecond),
            NeededUnit { overflows_micros: false, has_nanos: false, .. } => Some(TimeUnit::Microsecond),
            _ => None,
        }
    }
}

/// What the INT96 columns of one file or of several need, by their paths.
#[derive(Clone, Debug, Default)]
pub struct Int96Needs(HashMap<String, NeededUnit>);

impl Int96Needs {
    /// Reads the INT96 columns of a file.
    ///
    /// # Errors
    /// It is no Parquet file.
    pub fn of(file: &File) -> Result<Self, ArrowError> {
        let reader = SerializedFileReader::new(file.try_clone()?)?;
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let int96 = columns.iter().enumerate().filter(|(_, column)| column.physical_type() == Type::INT96);
        let needs = int96.map(|(index, column)| Ok::<_, ArrowError>((column.path().string(), needed(&reader, index)?)));
        Ok(Int96Needs(needs.collect::<Result<_, ArrowError>>()?))
    }

    /// Adds the needs of another file.
    pub fn merge(&mut self, other: &Int96Needs) {
        for (path, needed) in &other.0 {
            self.0.entry(path.clone()).or_default().merge(*needed);
        }
    }

    /// Chooses microseconds for the columns that have them in a table which is appended to, if they hold the values.
    pub fn prefer(&mut self, table: &Schema) {
        for field in table.fields() {
            if matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
                && let Some(needed) = self.0.get_mut(field.name())
            {
                needed.overflows_nanos |= !needed.has_nanos && !needed.overflows_micros;
            }
        }
    }

    /// The unit of every leaf column, by its index: `None` for those that are not INT96.
    ///
    /// # Errors
    /// No unit holds all values of a column: some are outside of 1677 to 2262, and some have nanoseconds.
    pub fn units(&self, columns: &[ColumnDescPtr]) -> Result<Vec<Option<TimeUnit>>, ArrowError> {
        let unit = |column: &ColumnDescPtr| {
            let path = column.path().string();
            let Some(needed) = self.0.get(&path).filter(|_| column.physical_type() == Type::INT96) else {
                return Ok(None);
            };
            needed.unit().map(Some).ok_or_else(|| {
                ArrowError::InvalidArgumentError(format!(
                    "the INT96 column {path:?} has times outside of the years 1677 to 2262 and times with nanoseconds, in this file or in another of the same put, and no Arrow type holds both: write the column in microseconds"
                ))
            })
        };
        columns.iter().map(unit).collect()
    }
}

fn needed(reader: &SerializedFileReader<File>, column: usize) -> Result<NeededUnit, ArrowError> {
    let mut needed = NeededUnit::default();
    for group in 0..reader.num_row_groups() {
        if let ColumnReader::Int96ColumnReader(mut values) = reader.get_row_group(group)?.get_column_reader(column)? {
            visit_values(&mut values, |value| needed.add(value))?;
        }
    }
    Ok(needed)
}

/// Calls `visit` for every value of a column that is not null.
pub fn visit_values<T: parquet::data_type::DataType>(
    reader: &mut ColumnReaderImpl<T>,
    mut visit: impl FnMut(&T::T),
) -> Result<(), ArrowError> {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        values.clear();
        definitions.clear();
        repetitions.clear();
        let (records, _, _) =
            reader.read_records(READ_VALUES, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        values.iter().for_each(&mut visit);
        if records == 0 {
            return Ok(());
        }
    }
}
