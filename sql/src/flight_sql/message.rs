//! Messages of Flight SQL inside a protobuf `Any`.

use arrow::error::ArrowError;
use arrow_flight::sql::{Any, Command};
use prost::Message;
use volley_common::options::fields::cut;
use volley_common::{Error, Result};

/// What the type URLs of Flight SQL begin with.
const TYPE_PREFIX: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// The message in an `Any`.
///
/// # Errors
/// INVALID_ARGUMENT: the `Any` or the message in it is malformed, or is of no type of Flight SQL. UNIMPLEMENTED: a type that
/// this version does not know.
pub(super) fn unpack(bytes: &[u8]) -> Result<Command> {
    let any = Any::decode(bytes)
        .map_err(|e| Error::invalid(format!("the message of Flight SQL is not a valid google.protobuf.Any: {e}")))?;
    let name = message_name(&any.type_url);
    match Command::try_from(any) {
        Ok(Command::Unknown(any)) if any.type_url.starts_with(TYPE_PREFIX) => Err(Error::unimplemented(format!(
            "the message {name} of Flight SQL is not supported: ask with get_sql_info what is"
        ))),
        Ok(Command::Unknown(any)) => Err(Error::invalid(format!(
            "a message of the type {:?} is none of Flight SQL: the type begins with {TYPE_PREFIX:?}",
            cut(&any.type_url)
        ))),
        Ok(command) => Ok(command),
        Err(ArrowError::ParseError(text)) => Err(Error::invalid(format!("{name} is malformed: {text}"))),
        Err(error) => Err(Error::invalid(format!("{name} is malformed: {error}"))),
    }
}

/// The name of a message's type, for errors.
pub(super) fn message_name(type_url: &str) -> String {
    cut(type_url.strip_prefix(TYPE_PREFIX).unwrap_or(type_url))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::sql::{CommandGetCatalogs, CommandStatementQuery, ProstMessageExt};
    use bytes::Bytes;
    use proptest::prelude::*;
    use volley_common::Code;

    use super::*;

    fn packed(type_url: &str, value: &'static [u8]) -> Vec<u8> {
        Any { type_url: type_url.into(), value: Bytes::from_static(value) }.encode_to_vec()
    }

    #[test]
    fn message_of_flight_sql_is_unpacked() {
        let command = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None };
        assert_eq!(unpack(&command.as_any().encode_to_vec()).unwrap(), Command::CommandStatementQuery(command));
        let empty = packed("type.googleapis.com/arrow.flight.protocol.sql.CommandGetCatalogs", b"");
        assert_eq!(unpack(&empty).unwrap(), Command::CommandGetCatalogs(CommandGetCatalogs {}));
    }

    #[test]
    fn malformed_and_unknown_messages_are_refused_with_their_name() {
        let query = "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery";
        let later = "type.googleapis.com/arrow.flight.protocol.sql.CommandOfTomorrow";
        let long = "x".repeat(100_000);
        for (bytes, code, why) in [
            (vec![0x0a, 0xff], Code::InvalidArgument, "Any"),
            (packed(query, b"\x0a\x05ab"), Code::InvalidArgument, "CommandStatementQuery is malformed"),
            (packed(query, b"\x0a\x01\xff"), Code::InvalidArgument, "CommandStatementQuery is malformed"),
            (packed(later, b""), Code::Unimplemented, "CommandOfTomorrow"),
            (
                packed("type.googleapis.com/google.protobuf.Duration", b""),
                Code::InvalidArgument,
                "google.protobuf.Duration",
            ),
            (packed("", b""), Code::InvalidArgument, "none of Flight SQL"),
            (packed(&long, b""), Code::InvalidArgument, "none of Flight SQL"),
        ] {
            let error = unpack(&bytes).unwrap_err();
            assert!(error.code == code && error.message.contains(why), "{why}: {error}");
            assert!(error.message.len() < 1000);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_or_unpacked(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }
}
