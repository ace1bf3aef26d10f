//! Types that the user names: `--type COLUMN=TYPE` and `--schema FILE`.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;
use serde_json::Value;
use volley_common::simple_types::simple_type;
use volley_common::{Error, Result};

use super::cut;
use crate::input::InputFile;
use crate::leaves::map_leaves;
use crate::{Format, io_error};

/// Types within each other in the text of a type.
const MAX_TYPE_DEPTH: usize = 64;
const MAX_TYPE_BYTES: usize = 64 << 10;

/// A column and its type.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnType {
    /// The column.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, name) = text.rsplit_once('=').ok_or("must be COLUMN=TYPE, as in zip=utf8")?;
        Ok(ColumnType { column: column.to_string(), data_type: data_type(name)? })
    }
}

fn unit(text: &str) -> Option<TimeUnit> {
    Some(match text.trim() {
        "s" => TimeUnit::Second,
        "ms" => TimeUnit::Millisecond,
        "us" | "µs" => TimeUnit::Microsecond,
        "ns" => TimeUnit::Nanosecond,
        _ => return None,
    })
}

/// `timestamp(us)`, `timestamp(ms, Europe/Paris)`, `decimal(12, 2)`.
fn with_parameters(text: &str) -> Option<DataType> {
    let (name, parameters) = text.strip_suffix(')')?.split_once('(')?;
    let (first, second) = match parameters.split_once(',') {
        Some((first, second)) => (first, Some(second.trim())),
        None => (parameters, None),
    };
    match name.trim().to_ascii_lowercase().as_str() {
        "timestamp" => {
            let zone = second.map(|zone| zone.trim_matches('"')).filter(|zone| !zone.contains(['(', ')']));
            (zone.is_some() == second.is_some()).then_some(())?;
            Some(DataType::Timestamp(unit(first)?, zone.map(Into::into)))
        }
        "decimal" => {
            let (precision, scale) = (first.trim().parse().ok()?, second.unwrap_or("0").parse().ok()?);
            let valid = (1..=76).contains(&precision) && scale <= precision as i8;
            let decimal = if precision <= 38 { DataType::Decimal128 } else { DataType::Decimal256 };
            valid.then(|| decimal(precision, scale))
        }
        _ => None,
    }
}

/// Refuses a time zone that no reader could resolve.
fn check_zones(data_type: &DataType) -> Result<(), String> {
    let mut unknown = None;
    map_leaves(data_type, &mut |leaf| {
        if let DataType::Timestamp(_, Some(zone)) = leaf
            && zone.parse::<Tz>().is_err()
        {
            unknown = Some(zone.clone());
        }
        leaf.clone()
    });
    match unknown {
        Some(zone) => Err(format!(
            "the time zone {:?} is unknown: use UTC, a name of the IANA database as Europe/Zurich, or an offset as +02:00",
            cut(&zone)
        )),
        None => Ok(()),
    }
}

/// A type by a common name or as Arrow writes it.
fn data_type(text: &str) -> Result<DataType, String> {
    let data_type = parse_type(text.trim())?;
    check_zones(&data_type)?;
    Ok(data_type)
}

fn parse_type(text: &str) -> Result<DataType, String> {
    let depth = text.bytes().filter(|b| *b == b'(').count();
    if depth > MAX_TYPE_DEPTH || text.len() > MAX_TYPE_BYTES {
        return Err(format!("the type {:?} is too long", cut(text)));
    }
    // A name of this program alone.
    if text.eq_ignore_ascii_case("text") {
        return Ok(DataType::Utf8);
    }
    match simple_type(text).or_else(|| with_parameters(text)) {
        Some(known) => Ok(known),
        None => DataType::from_str(text).map_err(|_| {
            let text = cut(text);
            format!("{text:?} is no type: use int64, float64, utf8, bool, date32, decimal(P, S), timestamp(us), timestamp(us, ZONE), or a type as `volley info` shows it")
        }),
    }
}

#[derive(Deserialize)]
struct ColumnSpec {
    name: String,
    r#type: String,
    #[serde(default = "nullable")]
    nullable: bool,
}

fn nullable() -> bool {
    true
}

/// The schema of a file: `.json` with `fields` as in `create_table` or `columns` as of `volley info --json`, or the schema
/// of a Parquet or Arrow file.
///
/// # Errors
/// INVALID_ARGUMENT, naming the file, and the column.
pub fn schema_file(path: &Path) -> Result<SchemaRef> {
    if path.extension().is_none_or(|extension| extension != "json") {
        let input = InputFile::new(path, None)?;
        return match Format::of(path)? {
            Format::Csv | Format::Tsv | Format::Jsonl => {
                Err(Error::invalid(format!("{}: a schema is read from .json, .parquet or .arrow", path.display())))
            }
            _ => crate::schema(&input),
        };
    }
    let text = std::fs::read_to_string(path).map_err(|e| io_error(path, &e))?;
    json_schema(&text).map_err(|text| Error::invalid(format!("{}: {text}", path.display())))
}

fn json_schema(text: &str) -> Result<SchemaRef, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let list = match &mut value {
        Value::Object(map) => map.remove("fields").or_else(|| map.remove("columns")),
        _ => Some(value),
    };
    let list = list.ok_or("it has neither \"fields\" nor \"columns\"")?;
    let specs: Vec<ColumnSpec> = serde_json::from_value(list).map_err(|e| {
        format!("the columns must be a list of {{\"name\": ..., \"type\": ..., \"nullable\": ...}}: {e}")
    })?;
    let field = |spec: ColumnSpec| {
        let data_type = data_type(&spec.r#type).map_err(|e| format!("column {:?}: {e}", cut(&spec.name)))?;
        Ok::<_, String>(Field::new(spec.name, data_type, spec.nullable))
    };
    Ok(Arc::new(Schema::new(specs.into_iter().map(field).collect::<Result<Vec<_>, _>>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_parsed_by_any_of_their_names() {
        let parse = |text: &str| text.parse::<ColumnType>().map(|parsed| parsed.data_type);
        assert_eq!("a=b=int32".parse(), Ok(ColumnType { column: "a=b".into(), data_type: DataType::Int32 }));
        assert_eq!(parse("a=decimal(12, 2)"), Ok(DataType::Decimal128(12, 2)));
        let zoned = DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Paris".into()));
        assert_eq!(parse("a=timestamp(ms, Europe/Paris)"), Ok(zoned.clone()));
        for known in [zoned, DataType::Int8, DataType::Date32, DataType::Timestamp(TimeUnit::Nanosecond, None)] {
            assert_eq!(parse(&format!("a={known}")), Ok(known));
        }
        for text in ["zip", "a=integer64", "a=timestamp(h)", "a=decimal(99, 1)", "a=decimal(2, 3)"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&format!("a={}", "List(".repeat(2000))).unwrap_err().contains("too long"));
    }

    #[test]
    fn unknown_time_zone_is_refused() {
        let parse = |text: &str| text.parse::<ColumnType>().map(|parsed| parsed.data_type);
        for zone in ["UTC", "Europe/Zurich", "+02:00"] {
            assert!(parse(&format!("a=timestamp(us, {zone})")).is_ok(), "{zone}");
        }
        let zoned = DataType::Timestamp(TimeUnit::Second, Some("Europe/Zurch".into()));
        assert!(check_zones(&DataType::new_list(zoned.clone(), true)).is_err());
        for text in ["a=timestamp(us, Europe/Zurch)".to_string(), format!("a={zoned}")] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains("\"Europe/Zurch\" is unknown") && error.contains("IANA"), "{error}");
        }
    }

    #[test]
    fn schema_is_read_as_info_and_create_table_write_it() {
        let expected =
            Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, true)]);
        let list = "[{\"name\":\"a\",\"type\":\"Int64\",\"nullable\":false},{\"name\":\"b\",\"type\":\"string\"}]";
        for text in [list.to_string(), format!("{{\"fields\":{list}}}"), format!("{{\"rows\":1,\"columns\":{list}}}")] {
            assert_eq!(json_schema(&text).unwrap().as_ref(), &expected);
        }
        assert!(json_schema("{}").unwrap_err().contains("fields"));
        assert!(json_schema("[{\"name\":\"a\",\"type\":\"x\"}]").unwrap_err().contains("column \"a\""));
    }
}
