//! Schema messages: what is accepted can be encoded, and is the same afterwards.

use arrow_flight::FlightData;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::project::{SchemaMetadata, project_schema};
use volley_common::ipc::schema::{check_appendable, flight_header, parse_schema, schema_message};

use crate::batches;
use crate::input::check_error;

/// The largest message, bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let parsed = parse_schema(data);
    check_decoder(data, parsed.is_ok());
    let schema = match parsed {
        Ok(schema) => schema,
        Err(error) => return check_error(&error, data.len()),
    };
    assert!(schema.fields().len() <= data.len(), "more fields than bytes");
    check_appendable(&schema, &schema).expect("a put with the schema of its table");
    match schema_message(&schema) {
        Ok(message) => {
            let again = parse_schema(&message).expect("a message that was just encoded");
            assert_eq!(again, schema);
            // The catalog compares schemas by their bytes.
            assert_eq!(schema_message(&again).as_ref(), Ok(&message));
            check_projection(&message, schema.fields().len());
        }
        Err(error) => check_error(&error, data.len()),
    }
}

/// The same message at the front of a put.
fn check_decoder(data: &[u8], is_schema: bool) {
    let header = flight_header(data);
    if header.is_empty() {
        return;
    }
    match BatchDecoder::new(MAX_MESSAGE).push(FlightData::new().with_data_header(header)) {
        Ok(DecodedMessage::Schema(_)) => assert!(is_schema),
        Ok(other) => panic!("a stream begins with {other:?}"),
        Err(error) => check_error(&error, data.len()),
    }
}

fn check_projection(message: &[u8], fields: usize) {
    let last = fields.saturating_sub(1);
    match project_schema(message, &[last, 0], SchemaMetadata::Kept) {
        Ok(projected) => {
            let projected = parse_schema(&projected).expect("a projected schema");
            assert_eq!(projected.fields().len(), 2);
        }
        Err(error) => {
            assert_eq!(fields, 0, "{error}");
            check_error(&error, message.len());
        }
    }
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let messages = batches::samples().into_iter().map(|batch| schema_message(batch.schema_ref()));
    messages.flatten().map(Vec::from).collect()
}
