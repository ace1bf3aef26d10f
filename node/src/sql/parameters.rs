//! The values of parameters, as clients bind them: rows in a stream of a DoPut.

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use arrow_flight::FlightData;
use bytes::Bytes;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::{Error, Result};
use volley_sql::flight_sql::{MAX_PARAMETER_BYTES, encode_parameters};

use crate::put::PutInput;
use crate::put::handshake::next_message;

/// The most rows of parameters of one call: a statement runs once for each.
const MAX_ROWS: usize = 10_000;

/// Reads all rows of parameters of a DoPut whose first message was read already. Each row is an IPC stream.
///
/// # Errors
/// INVALID_ARGUMENT: messages that cannot be read. RESOURCE_EXHAUSTED: too many rows, or too large ones. Those of
/// [`next_message`].
pub async fn read_rows(first: FlightData, input: &mut PutInput) -> Result<Vec<Bytes>> {
    let (mut decoder, mut rows, mut bytes) = (BatchDecoder::new(MAX_PARAMETER_BYTES).with_cost_limit(), Vec::new(), 0);
    let mut message = Some(first);
    while let Some(data) = message {
        // The first one has only the descriptor, if the client binds nothing.
        if !data.data_header.is_empty()
            && let DecodedMessage::Batch(batch) = decoder.push(data)?
        {
            for row in 0..batch.num_rows() {
                // Many rows take a while.
                tokio::task::coop::consume_budget().await;
                let row = encode_parameters(&[batch.slice(row, 1)])?;
                bytes += row.len();
                rows.push(row);
                if rows.len() > MAX_ROWS || bytes > MAX_PARAMETER_BYTES {
                    return Err(Error::exhausted(format!(
                        "more than {MAX_ROWS} rows or {MAX_PARAMETER_BYTES} bytes of parameters are bound: insert them by an ingest or a put"
                    )));
                }
            }
        }
        message = next_message(input).await?;
    }
    Ok(rows)
}

/// The type that clients are told for a parameter of this type. Some make their values by it; a value of it is cast where it is used.
///
/// JDBC's driver writes milliseconds for a time and days for a date, whatever the unit. It binds neither views nor half floats, and
/// takes a dictionary for its keys.
pub fn declared_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Date64 => DataType::Date32,
        DataType::Float16 => DataType::Float32,
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => declared_type(values),
        DataType::RunEndEncoded(_, values) => declared_type(values.data_type()),
        other => other.clone(),
    }
}

/// The types of parameters of an INSERT of which the text says none: those that stand alone in the rows of VALUES have the types of
/// the columns that they are for. `schema`: the parameters, by their names. `targets`: the columns, in the order of the values.
pub fn typed_by_columns(schema: &Schema, query: &str, targets: &[Field]) -> Schema {
    let columns = placeholder_columns(query);
    let field = |field: &FieldRef| {
        let target = columns.iter().find(|(name, _)| name == field.name()).and_then(|(_, at)| targets.get(*at));
        match target {
            Some(target) if *field.data_type() == DataType::Null => {
                Field::new(field.name(), declared_type(target.data_type()), true)
            }
            _ => field.as_ref().clone(),
        }
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

/// The parameters that stand alone in the rows of VALUES, and the positions of their columns. The engine's text has no comments.
fn placeholder_columns(query: &str) -> Vec<(String, usize)> {
    let text = query.trim_start();
    let is_values = text.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("values"));
    let (mut found, mut value, mut column) = (Vec::new(), String::new(), 0);
    let (mut depth, mut quote) = (0usize, None);
    for c in text.chars().skip(6).filter(|_| is_values) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => {
                depth += 1;
                if depth == 1 {
                    (column, value) = (0, String::new());
                    continue;
                }
            }
            (None, ')' | ',') if depth == 1 => {
                let name = value.trim();
                let number = name.strip_prefix('$').unwrap_or_default();
                if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
                    found.push((name.to_string(), column));
                }
                (column, value) = (column + 1, String::new());
                depth -= usize::from(c == ')');
                continue;
            }
            (None, ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        value.push(c);
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow_flight::FlightDescriptor;
    use arrow_flight::utils::batches_to_flight_data;
    use arrow_ipc::reader::StreamReader;
    use futures::stream;

    use super::*;

    fn batch(values: Vec<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(values));
        RecordBatch::try_from_iter([("1", column)]).unwrap()
    }

    async fn rows_of(batches: Vec<RecordBatch>) -> Result<Vec<Bytes>> {
        let schema = batch(Vec::new()).schema();
        let mut messages = batches_to_flight_data(&schema, batches).unwrap().into_iter();
        let first = messages.next().unwrap().with_descriptor(FlightDescriptor::new_cmd("prepared"));
        let mut rest: PutInput = Box::pin(stream::iter(messages.map(Ok::<_, Error>)));
        read_rows(first, &mut rest).await
    }

    #[tokio::test]
    async fn each_row_of_parameters_is_a_stream_of_its_own() {
        let rows = rows_of(vec![batch(vec![1, 2]), batch(vec![]), batch(vec![3])]).await.unwrap();
        let read = |row: &Bytes| StreamReader::try_new(&row[..], None).unwrap().next().unwrap().unwrap();
        let expected = [1, 2, 3].map(|value| batch(vec![value]));
        assert_eq!(rows.iter().map(read).collect::<Vec<_>>(), expected);
        let mut nothing: PutInput = Box::pin(stream::empty::<Result<FlightData>>());
        assert!(read_rows(FlightData::default(), &mut nothing).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn too_many_rows_of_parameters_are_refused() {
        let error = rows_of(vec![batch(vec![0; MAX_ROWS + 1])]).await.unwrap_err();
        assert_eq!(error.code, volley_common::Code::ResourceExhausted);
    }

    #[test]
    fn declared_types_are_those_that_every_client_can_bind() {
        let zone = || Some("UTC".into());
        let dictionary = |values| DataType::Dictionary(Box::new(DataType::Int32), Box::new(values));
        for (wanted, declared) in [
            (DataType::Int64, DataType::Int64),
            (DataType::Decimal128(10, 2), DataType::Decimal128(10, 2)),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), DataType::Timestamp(TimeUnit::Millisecond, None)),
            (DataType::Timestamp(TimeUnit::Second, zone()), DataType::Timestamp(TimeUnit::Millisecond, zone())),
            (DataType::Time64(TimeUnit::Nanosecond), DataType::Time32(TimeUnit::Millisecond)),
            (DataType::Date64, DataType::Date32),
            (dictionary(DataType::Utf8View), DataType::Utf8),
        ] {
            assert_eq!(declared_type(&wanted), declared, "{wanted}");
        }
    }

    #[test]
    fn parameters_of_values_have_the_types_of_their_columns() {
        let named =
            |pairs: &[(&str, usize)]| pairs.iter().map(|(name, at)| (name.to_string(), *at)).collect::<Vec<_>>();
        assert_eq!(
            placeholder_columns("VALUES ($1, 'a,($9', $2), (f($3, 1), $4, 5)"),
            named(&[("$1", 0), ("$2", 2), ("$4", 1)])
        );
        assert_eq!(placeholder_columns("SELECT $1"), named(&[]));
        let untyped = |name: &str| Field::new(name, DataType::Null, true);
        let schema = Schema::new(vec![untyped("$1"), Field::new("$2", DataType::Int64, true), untyped("$3")]);
        let targets = [Field::new("a", DataType::Utf8, false), Field::new("b", DataType::Int8, true)];
        let typed = typed_by_columns(&schema, "values ($1, $2)", &targets);
        let types: Vec<&DataType> = typed.fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Int64, &DataType::Null]);
    }
}
