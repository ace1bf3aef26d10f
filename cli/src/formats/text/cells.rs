//! Builds an array of a type from the texts of cells or JSON values. A value that the type cannot hold as it is, is refused.

use std::sync::Arc;

use arrow::array::*;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::*;
use arrow::error::ArrowError;

use super::json::{JsonFault, string};
use super::json_cells::{ListCells, MapCells, StructCells};
use super::number::{NumberText, special};
use super::time::{TimestampText, date, time};
use super::{boolean, cut};

/// A column that is being built.
pub trait Cells: Send {
    /// Appends a null.
    fn add_null(&mut self);
    /// Appends the value of a text, or says why not.
    fn add_text(&mut self, text: &str) -> Result<(), String>;
    /// Appends a JSON value that is not null. A string is what its text is.
    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        match value.as_bytes()[0] {
            b'"' => self.add_text(&string(value)?),
            b'[' | b'{' => Err(format!("{} where a single value belongs", cut(value))),
            _ => self.add_text(value),
        }
        .map_err(|message| JsonFault::new(value, message))
    }
    /// The column so far; the next one begins.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

/// What parses a text.
type Parse<N> = Box<dyn Fn(&str) -> Option<N> + Send>;

struct PrimitiveCells<T: ArrowPrimitiveType> {
    builder: PrimitiveBuilder<T>,
    data_type: DataType,
    parse: Parse<T::Native>,
}

struct BooleanCells(BooleanBuilder);
struct TextCells(StringBuilder);
/// Binary values as hexadecimal digits, as they are written to text.
struct HexCells(BinaryBuilder);
struct NullCells(usize);

/// Values that are built as another type and cast, which keeps them.
struct CastCells {
    inner: Box<dyn Cells>,
    to: DataType,
}

fn refused(text: &str, data_type: &DataType) -> String {
    format!("{:?} cannot be a {data_type} without a change", cut(text))
}

impl<T: ArrowPrimitiveType> Cells for PrimitiveCells<T> {
    fn add_null(&mut self) {
        self.builder.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.builder.append_value((self.parse)(text).ok_or_else(|| refused(text, &self.data_type))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.builder.finish()))
    }
}

impl Cells for BooleanCells {
    fn add_null(&mut self) {
        self.0.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.0.append_value(boolean(text).ok_or_else(|| refused(text, &DataType::Boolean))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.0.finish()))
    }
}

impl Cells for TextCells {
    fn add_null(&mut self) {
        self.0.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.0.append_value(text);
        Ok(())
    }

    /// What is not a string is kept as its JSON.
    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        let text = if value.starts_with('"') { string(value)? } else { value.into() };
        self.0.append_value(text);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.0.finish()))
    }
}

impl Cells for HexCells {
    fn add_null(&mut self) {
        self.0.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let pairs = text.as_bytes().chunks(2);
        let bytes = pairs.map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        self.0.append_value(bytes.ok_or_else(|| format!("{:?} is not hexadecimal", cut(text)))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.0.finish()))
    }
}

impl Cells for NullCells {
    fn add_null(&mut self) {
        self.0 += 1;
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        Err(refused(text, &DataType::Null))
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(NullArray::new(std::mem::take(&mut self.0))))
    }
}

impl Cells for CastCells {
    fn add_null(&mut self) {
        self.inner.add_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.inner.add_text(text)
    }

    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        self.inner.add_json(value)
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&self.inner.finish()?, &self.to, &options)
    }
}

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

/// Starts a column of a type.
///
/// # Errors
/// The type has no text.
pub fn cells(to: &DataType) -> Result<Box<dyn Cells>, ArrowError> {
    use DataType::*;
    if let Some(number) = number(to) {
        return Ok(number);
    }
    let cast = |inner: DataType| {
        let inner = cells(&inner)?;
        Ok::<Box<dyn Cells>, ArrowError>(Box::new(CastCells { inner, to: to.clone() }))
    };
    Ok(match to {
        Null => Box::new(NullCells(0)),
        Boolean => Box::new(BooleanCells(BooleanBuilder::new())),
        Utf8 => Box::new(TextCells(StringBuilder::new())),
        Binary => Box::new(HexCells(BinaryBuilder::new())),
        Date32 => primitive::<Date32Type>(to, |text| date(text.as_bytes())),
        Date64 => primitive::<Date64Type>(to, date64),
        Time32(unit) | Time64(unit) => time_of_day(to, *unit),
        Timestamp(unit, zone) => timestamp(to, *unit, zone.is_some()),
        List(item) => Box::new(ListCells::new(item.clone())?),
        Struct(fields) => Box::new(StructCells::new(fields.clone())?),
        Map(entries, sorted) => Box::new(MapCells::new(entries.clone(), *sorted)?),
        LargeUtf8 | Utf8View => cast(Utf8)?,
        LargeBinary | BinaryView | FixedSizeBinary(_) => cast(Binary)?,
        LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => cast(List(item.clone()))?,
        Dictionary(_, value) => cast(value.as_ref().clone())?,
        RunEndEncoded(_, value) => cast(value.data_type().clone())?,
        other => {
            let text = format!("{other} has no text form: put it from Parquet or Arrow");
            return Err(ArrowError::InvalidArgumentError(text));
        }
    })
}
