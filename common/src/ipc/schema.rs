//! Schemas to and from their IPC message, and whether a put's schema fits its table.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_ipc::{MessageHeader, MetadataVersion};
use bytes::Bytes;
use flatbuffers::VerifierOptions;

use super::field_path::FieldPath;
use super::layout::child_fields;
use super::malformed::{MAX_DEPTH, describe_malformed};
use super::schema_validation::{validate_field, validate_schema};
use super::widen::holds;
use crate::{Error, Result};

/// Bytes before the flatbuffer of an encapsulated message: 0xFFFFFFFF and its length.
pub const PREFIX_BYTES: usize = 8;

/// How many times its size a flatbuffer may have once its shared tables and texts are unpacked. Sound ones have less than
/// three: only the layouts of tables are shared.
const MAX_UNPACKED_FACTOR: usize = 8;
/// Smaller flatbuffers may always have this unpacked size, bytes.
const MIN_UNPACKED_LIMIT: usize = 64 << 10;

/// Every message of a file, and every buffer of a body, begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 64;

/// A bare flatbuffer with its prefix and padding: what a body follows.
pub(super) fn encapsulate(header: &[u8]) -> Vec<u8> {
    let length = (PREFIX_BYTES + header.len()).next_multiple_of(ALIGNMENT);
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&[0xff; 4]);
    message.extend_from_slice(&((length - PREFIX_BYTES) as i32).to_le_bytes());
    message.extend_from_slice(header);
    message.resize(length, 0);
    message
}

/// The schema as an encapsulated IPC message: `FlightInfo.schema`, `Table.schema`, and what every part begins with.
///
/// Dictionaries are numbered from 0 in the order of the fields, inner ones first.
///
/// # Errors
/// INVALID_ARGUMENT: a type that IPC cannot encode, such as a dictionary whose values are a dictionary.
pub fn schema_message(schema: &Schema) -> Result<Bytes> {
    schema.fields().iter().try_for_each(|field| validate_field(field, FieldPath::new(field.name())))?;
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(true);
    let encoded = IpcDataGenerator {}.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
    let mut message = Vec::new();
    write_message(&mut message, encoded, &options)
        .map_err(|e| Error::internal(format!("the schema cannot be encoded: {e}")))?;
    Ok(message.into())
}

/// Reads an encapsulated schema message.
///
/// # Errors
/// INVALID_ARGUMENT: it is not one, or is malformed.
pub fn parse_schema(message: &[u8]) -> Result<SchemaRef> {
    match encapsulated_header(message) {
        Some(header) => schema_of(&verify_message(header)?),
        None => Err(Error::invalid("the schema is not an encapsulated IPC message, or is truncated")),
    }
}

/// The bare flatbuffer of an encapsulated message: `FlightData.data_header`. Empty if `message` is truncated.
pub fn flight_header(message: &[u8]) -> Bytes {
    encapsulated_header(message).map(Bytes::copy_from_slice).unwrap_or_default()
}

/// An encapsulated message's flatbuffer; `None` if it is truncated. Messages from before 2019 do not begin with 0xFFFFFFFF.
fn encapsulated_header(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(&[0xff; 4]).unwrap_or(message);
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(i32::from_le_bytes(*length)).ok()?)
}

/// Verifies a bare flatbuffer. It may have no more tables than fit in its bytes, and unpacked at most
/// [`MAX_UNPACKED_FACTOR`] times its bytes: tables and texts that are used many times would take memory that nobody sent.
/// The verifier limits the nesting of tables to 64, so what follows may recurse.
pub(super) fn verify_message(header: &[u8]) -> Result<arrow_ipc::Message<'_>> {
    let options = VerifierOptions {
        max_tables: header.len() / 8 + 16,
        max_apparent_size: header.len().saturating_mul(MAX_UNPACKED_FACTOR).saturating_add(MIN_UNPACKED_LIMIT),
        max_depth: MAX_DEPTH,
        ..VerifierOptions::default()
    };
    let message = arrow_ipc::root_as_message_with_opts(&options, header).map_err(|e| {
        Error::invalid(format!("the IPC message's header is malformed: {}", describe_malformed(&e, header)))
    })?;
    match message.version() {
        MetadataVersion::V4 | MetadataVersion::V5 => Ok(message),
        other => Err(Error::invalid(format!("IPC metadata version {other:?} is not supported: send version 4 or 5"))),
    }
}

/// The schema of a verified schema message; dictionary ids stay as the message has them.
pub(super) fn schema_of(message: &arrow_ipc::Message<'_>) -> Result<SchemaRef> {
    let Some(schema) = message.header_as_schema() else {
        let kind = message.header_type();
        return Err(Error::invalid(format!("a schema message is expected, this is a {} message", kind_name(kind))));
    };
    validate_schema(&schema)?;
    let schema = catch_panics("the schema", || Ok(arrow_ipc::convert::fb_to_schema(schema)))?;
    schema.fields().iter().try_for_each(|field| validate_field(field, FieldPath::new(field.name())))?;
    Ok(Arc::new(schema))
}

pub(super) fn kind_name(kind: MessageHeader) -> &'static str {
    kind.variant_name().unwrap_or("unknown")
}

/// Runs arrow's code on data from a client: an error or a panic becomes INVALID_ARGUMENT.
pub(super) fn catch_panics<T>(what: &str, run: impl FnOnce() -> Result<T, arrow::error::ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::invalid(format!("{what} is invalid: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason is given");
            Err(Error::invalid(format!("{what} is invalid: {text}")))
        }
    }
}

/// Checks that rows of schema `put` may be added to a table of schema `table`.
///
/// Names and extension types must agree, in order; a type must be the table's or one whose values the table's holds
/// exactly (`widen`), and nullable only if the table's field is. Other metadata may differ.
///
/// # Errors
/// INVALID_ARGUMENT names the first differing field.
pub fn check_appendable(table: &Schema, put: &Schema) -> Result<()> {
    for (have, got) in table.fields().iter().zip(put.fields()) {
        same_field(have, got, FieldPath::new(have.name()))?;
    }
    let (have, got) = (table.fields().len(), put.fields().len());
    match have.cmp(&got) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Error::invalid(format!(
            "the schema does not fit the table's: field {:?} is missing ({got} of {have} fields)",
            table.field(got).name()
        ))),
        std::cmp::Ordering::Less => Err(Error::invalid(format!(
            "the schema does not fit the table's: it has a field {:?} that the table does not have",
            put.field(have).name()
        ))),
    }
}

fn same_field(have: &Field, got: &Field, path: FieldPath<'_>) -> Result<()> {
    let differs = |what: &str, have: &dyn std::fmt::Debug, got: &dyn std::fmt::Debug| {
        Err(Error::invalid(format!(
            "the schema does not fit the table's: field {:?} has {what} {got:?}, the table's {have:?}",
            path.to_string()
        )))
    };
    if have.name() != got.name() {
        return differs("the name", have.name(), got.name());
    }
    if !same_type(have.data_type(), got.data_type()) && !holds(have.data_type(), got.data_type()) {
        return differs("type", have.data_type(), got.data_type());
    }
    if got.is_nullable() && !have.is_nullable() {
        return differs("nullability", &have.is_nullable(), &got.is_nullable());
    }
    if extension_type(have.metadata()) != extension_type(got.metadata()) {
        return differs("the extension type", &extension_type(have.metadata()), &extension_type(got.metadata()));
    }
    let mut children = child_fields(have.data_type()).into_iter().zip(child_fields(got.data_type()));
    children.try_for_each(|(have, got)| same_field(have, got, path.child(have.name())))
}

/// Whether types agree, apart from their child fields.
pub(super) fn same_type(have: &DataType, got: &DataType) -> bool {
    use DataType::*;
    match (have, got) {
        (Dictionary(k, v), Dictionary(l, w)) => k == l && same_type(v, w),
        (FixedSizeList(_, n), FixedSizeList(_, m)) => n == m,
        (Map(_, sorted), Map(_, other)) => sorted == other,
        (Struct(a), Struct(b)) => a.len() == b.len(),
        (Union(a, mode), Union(b, other)) => mode == other && a.iter().map(|(id, _)| id).eq(b.iter().map(|(id, _)| id)),
        (List(_), List(_)) | (LargeList(_), LargeList(_)) => true,
        (ListView(_), ListView(_)) | (LargeListView(_), LargeListView(_)) => true,
        (RunEndEncoded(_, _), RunEndEncoded(_, _)) => true,
        (have, got) => have == got,
    }
}

/// The metadata that defines an extension type.
fn extension_type(metadata: &HashMap<String, String>) -> Vec<(&String, &String)> {
    let mut found: Vec<_> = metadata.iter().filter(|(key, _)| key.starts_with("ARROW:extension:")).collect();
    found.sort();
    found
}

/// The schema of these top-level columns, in this order. Indexes out of range are ignored.
pub fn project(schema: &Schema, columns: &[usize]) -> Schema {
    let fields: Vec<_> = columns.iter().filter_map(|&at| schema.fields().get(at).cloned()).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

#[cfg(test)]
mod tests;
