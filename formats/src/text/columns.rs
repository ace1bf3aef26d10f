//! Which [`Cells`] build the array of a type.

use arrow::array::{ArrayRef, PrimitiveBuilder};
use arrow::datatypes::*;
use arrow::error::ArrowError;

use super::cells::{BooleanCells, CastCells, Cells, DictionaryCells, HexCells, NullCells, PrimitiveCells, TextCells};
use super::cut;
use super::duration::{days_and_time, duration, months, months_days_and_time};
use super::json_cells::{ListCells, MapCells, StructCells, finish_column};
use super::number::{NumberText, special};
use super::time::{TimestampText, date, time};

fn primitive<T: ArrowPrimitiveType>(
    to: &DataType,
    parse: impl Fn(&str) -> Option<T::Native> + Send + 'static,
) -> Box<dyn Cells> {
    let builder = PrimitiveBuilder::<T>::new().with_data_type(to.clone());
    Box::new(PrimitiveCells { builder, data_type: to.clone(), parse: Box::new(parse) })
}

fn integer<T: ArrowPrimitiveType>(to: &DataType) -> Box<dyn Cells>
where
    T::Native: std::str::FromStr,
{
    primitive::<T>(to, |text| NumberText::parse(text)?.integer())
}

fn decimal<T: DecimalType>(
    to: &DataType,
    parse: fn(&str) -> Option<T::Native>,
    (precision, scale): (u8, i8),
) -> Box<dyn Cells> {
    primitive::<T>(to, move |text| parse(&NumberText::parse(text)?.decimal(precision, scale)?))
}

fn float16(text: &str) -> Option<<Float16Type as ArrowPrimitiveType>::Native> {
    type Half = <Float16Type as ArrowPrimitiveType>::Native;
    if let Some(value) = special(text) {
        return Some(Half::from_f64(value));
    }
    let number = NumberText::parse(text)?;
    let value = Half::from_f64(text.parse().ok()?);
    (value.is_finite() && number.is_printed_by(value.to_f64().abs())).then_some(value)
}

fn date64(text: &str) -> Option<i64> {
    TimestampText::value(text, TimeUnit::Millisecond, false)
}

fn time_of_day(to: &DataType, unit: TimeUnit) -> Box<dyn Cells> {
    let time32 = move |text: &str| time(text, unit)?.try_into().ok();
    match unit {
        TimeUnit::Second => primitive::<Time32SecondType>(to, time32),
        TimeUnit::Millisecond => primitive::<Time32MillisecondType>(to, time32),
        TimeUnit::Microsecond => primitive::<Time64MicrosecondType>(to, move |text| time(text, unit)),
        TimeUnit::Nanosecond => primitive::<Time64NanosecondType>(to, move |text| time(text, unit)),
    }
}

fn timestamp(to: &DataType, unit: TimeUnit, zoned: bool) -> Box<dyn Cells> {
    let parse = move |text: &str| TimestampText::value(text, unit, zoned);
    match unit {
        TimeUnit::Second => primitive::<TimestampSecondType>(to, parse),
        TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(to, parse),
        TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(to, parse),
        TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(to, parse),
    }
}

fn duration_column(to: &DataType, unit: TimeUnit) -> Box<dyn Cells> {
    let parse = move |text: &str| duration(text, unit);
    match unit {
        TimeUnit::Second => primitive::<DurationSecondType>(to, parse),
        TimeUnit::Millisecond => primitive::<DurationMillisecondType>(to, parse),
        TimeUnit::Microsecond => primitive::<DurationMicrosecondType>(to, parse),
        TimeUnit::Nanosecond => primitive::<DurationNanosecondType>(to, parse),
    }
}

fn interval_column(to: &DataType, unit: IntervalUnit) -> Box<dyn Cells> {
    match unit {
        IntervalUnit::YearMonth => primitive::<IntervalYearMonthType>(to, months),
        IntervalUnit::DayTime => primitive::<IntervalDayTimeType>(to, days_and_time),
        IntervalUnit::MonthDayNano => primitive::<IntervalMonthDayNanoType>(to, months_days_and_time),
    }
}

fn number(to: &DataType) -> Option<Box<dyn Cells>> {
    use DataType::*;
    Some(match to {
        Int8 => integer::<Int8Type>(to),
        Int16 => integer::<Int16Type>(to),
        Int32 => integer::<Int32Type>(to),
        Int64 => integer::<Int64Type>(to),
        UInt8 => integer::<UInt8Type>(to),
        UInt16 => integer::<UInt16Type>(to),
        UInt32 => integer::<UInt32Type>(to),
        UInt64 => integer::<UInt64Type>(to),
        Float16 => primitive::<Float16Type>(to, float16),
        Float32 => primitive::<Float32Type>(to, |text| match special(text) {
            Some(value) => Some(value as f32),
            None => NumberText::parse(text)?.float32(),
        }),
        Float64 => primitive::<Float64Type>(to, |text| special(text).or_else(|| NumberText::parse(text)?.float64())),
        Decimal32(p, s) => decimal::<Decimal32Type>(to, |text| text.parse().ok(), (*p, *s)),
        Decimal64(p, s) => decimal::<Decimal64Type>(to, |text| text.parse().ok(), (*p, *s)),
        Decimal128(p, s) => decimal::<Decimal128Type>(to, |text| text.parse().ok(), (*p, *s)),
        Decimal256(p, s) => decimal::<Decimal256Type>(to, arrow::datatypes::i256::from_string, (*p, *s)),
        _ => return None,
    })
}

/// Starts the column of a field.
///
/// # Errors
/// The type has no text form: names the field.
pub fn column(field: &Field) -> Result<Box<dyn Cells>, ArrowError> {
    cells(field.data_type()).map_err(|e| match e {
        ArrowError::InvalidArgumentError(text) => {
            ArrowError::InvalidArgumentError(format!("column {:?}: {text}", cut(field.name())))
        }
        other => other,
    })
}

/// A column with one value, of its text.
///
/// # Errors
/// The text does not fit the type, or it is null where the type allows none: names the field.
pub fn one_value(field: &Field, text: Option<&str>) -> Result<ArrayRef, ArrowError> {
    let mut cells = column(field)?;
    let added = match text {
        Some(text) => cells.add_text(text),
        None if field.is_nullable() => {
            cells.add_null();
            Ok(())
        }
        None => Err("null where the type allows none".to_string()),
    };
    added.map_err(|text| ArrowError::CsvError(format!("column {:?}: {text}", cut(field.name()))))?;
    finish_column(&mut *cells, field)
}

/// Starts a column of structs, or the columns of a table.
///
/// # Errors
/// As [`column()`].
pub fn struct_column(fields: &Fields) -> Result<StructCells, ArrowError> {
    let columns = fields.iter().map(|field| column(field)).collect::<Result<Vec<_>, _>>()?;
    Ok(StructCells::new(fields.clone(), columns))
}

/// Whether arrow's cast to a dictionary gathers equal values of the type. It makes a value of each row of structs, and no
/// dictionary of other types.
fn is_gathered_by_cast(value: &DataType) -> bool {
    use DataType::*;
    let is_time = matches!(value, Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(_, _));
    value.is_numeric() || value.is_string() || value.is_binary() || is_time
}

/// Starts a column of a type.
///
/// # Errors
/// The type has no text.
fn cells(to: &DataType) -> Result<Box<dyn Cells>, ArrowError> {
    use DataType::*;
    if let Some(number) = number(to) {
        return Ok(number);
    }
    let cast = |inner: DataType| {
        let inner = cells(&inner)?;
        Ok::<Box<dyn Cells>, ArrowError>(Box::new(CastCells { inner, to: to.clone() }))
    };
    Ok(match to {
        Null => Box::<NullCells>::default(),
        Boolean => Box::<BooleanCells>::default(),
        Utf8 => Box::<TextCells>::default(),
        Binary => Box::<HexCells>::default(),
        Date32 => primitive::<Date32Type>(to, |text| date(text.as_bytes())),
        Date64 => primitive::<Date64Type>(to, date64),
        Time32(unit) | Time64(unit) => time_of_day(to, *unit),
        Timestamp(unit, zone) => timestamp(to, *unit, zone.is_some()),
        Duration(unit) => duration_column(to, *unit),
        Interval(unit) => interval_column(to, *unit),
        List(item) => Box::new(ListCells::new(item.clone(), column(item)?)),
        Struct(fields) => Box::new(struct_column(fields)?),
        Map(entries, sorted) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(ArrowError::InvalidArgumentError("a map whose entries are no struct".into()));
            };
            let columns = [column(&fields[0])?, column(&fields[1])?];
            Box::new(MapCells::new(entries.clone(), *sorted, fields.clone(), columns))
        }
        LargeUtf8 | Utf8View => cast(Utf8)?,
        LargeBinary | BinaryView => cast(Binary)?,
        FixedSizeBinary(width) => Box::new(CastCells { inner: Box::new(HexCells::of_width(*width)), to: to.clone() }),
        LargeList(item) | ListView(item) | LargeListView(item) => cast(List(item.clone()))?,
        FixedSizeList(item, size) => {
            let inner = Box::new(ListCells::new(item.clone(), column(item)?).with_size(*size));
            Box::new(CastCells { inner, to: to.clone() })
        }
        Dictionary(_, value) if is_gathered_by_cast(value) => cast(value.as_ref().clone())?,
        Dictionary(key, value) => Box::new(DictionaryCells::new(key, value, cells(value)?)),
        RunEndEncoded(_, value) => cast(value.data_type().clone())?,
        other => {
            let text = format!("{other} has no text form: put it from Parquet or Arrow, or name another with --type");
            return Err(ArrowError::InvalidArgumentError(text));
        }
    })
}
