//! Handles of prepared statements. A handle has the statement and the values of its parameters, so that every member can run it
//! and nothing is kept for it. It needs no signature: it gives no right that the statement's text would not give.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use volley_common::{Error, Result, TransactionId};

use super::message::transaction_of;

/// Longest handle, bytes. It is part of descriptors and tickets, and a message has at most 4 MiB.
pub const MAX_HANDLE_BYTES: usize = 1 << 20;
/// What handles begin with.
const MAGIC: &[u8] = b"VLYS1";

/// A statement and the values of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedHandle {
    /// Its text.
    pub sql: String,
    /// An IPC stream of rows, as [`super::ParameterEncoder`] makes it; none: no values are bound yet.
    pub parameters: Option<Bytes>,
    /// The transaction in which it was prepared, and to which it belongs.
    pub transaction: Option<TransactionId>,
}

/// A handle, after [`MAGIC`].
#[derive(Clone, PartialEq, Message)]
struct HandleMessage {
    #[prost(string, tag = "1")]
    sql: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    parameters: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    transaction: Option<Bytes>,
}

impl PreparedHandle {
    /// The handle's bytes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it would be too long.
    pub fn encode(&self) -> Result<Bytes> {
        let transaction = self.transaction.map(|id| id.to_string().into());
        let message = HandleMessage { sql: self.sql.clone(), parameters: self.parameters.clone(), transaction };
        let length = MAGIC.len() + message.encoded_len();
        if length > MAX_HANDLE_BYTES {
            return Err(Error::invalid(format!(
                "the statement with its parameters has {length} bytes, more than the limit of {MAX_HANDLE_BYTES}: put the values into a table and join it"
            )));
        }
        let mut handle = BytesMut::with_capacity(length);
        handle.put_slice(MAGIC);
        handle.put_slice(&message.encode_to_vec());
        Ok(handle.freeze())
    }

    /// The handle of these bytes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: they are no handle.
    pub fn decode(handle: &[u8]) -> Result<Self> {
        let foreign =
            || Error::invalid("the handle is not that of a prepared statement of this cluster: prepare it again");
        if handle.len() > MAX_HANDLE_BYTES {
            return Err(Error::invalid(format!(
                "the handle has {} bytes, those of prepared statements have at most {MAX_HANDLE_BYTES}: prepare the statement again",
                handle.len()
            )));
        }
        let message = handle.strip_prefix(MAGIC).ok_or_else(foreign)?;
        let HandleMessage { sql, parameters, transaction } = HandleMessage::decode(message).map_err(|_| foreign())?;
        let transaction = transaction_of(transaction).map_err(|_| foreign())?;
        Ok(PreparedHandle { sql, parameters, transaction })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use volley_common::Code;

    use super::*;

    #[test]
    fn handle_round_trips_with_and_without_parameters() {
        let transaction = Some(TransactionId::new(7));
        for (parameters, transaction) in
            [(None, None), (Some(Bytes::new()), transaction), (Some(Bytes::from_static(b"\xff\xff\xff\xff")), None)]
        {
            let handle = PreparedHandle { sql: "SELECT 'ü' = $1".into(), parameters, transaction };
            assert_eq!(PreparedHandle::decode(&handle.encode().unwrap()).unwrap(), handle);
        }
    }

    #[test]
    fn encoding_is_the_same_in_every_version() {
        let handle = PreparedHandle { sql: "S".into(), parameters: Some(Bytes::from_static(b"p")), transaction: None };
        assert_eq!(handle.encode().unwrap(), &b"VLYS1\x0a\x01S\x12\x01p"[..]);
        // Fields that a later version adds are skipped.
        assert_eq!(PreparedHandle::decode(b"VLYS1\x0a\x01S\x12\x01p\x20\x07").unwrap(), handle);
    }

    #[test]
    fn handle_over_the_limit_is_refused_both_ways() {
        // The magic, and the field's tag and length.
        let most = MAX_HANDLE_BYTES - MAGIC.len() - 4;
        let handle = |sql: String, parameters| PreparedHandle { sql, parameters, transaction: None }.encode();
        let largest = handle("x".repeat(most), None).unwrap();
        assert_eq!(largest.len(), MAX_HANDLE_BYTES);
        assert_eq!(PreparedHandle::decode(&largest).unwrap().sql.len(), most);
        assert_eq!(handle("x".repeat(most + 1), None).unwrap_err().code, Code::InvalidArgument);
        assert!(handle(String::new(), Some(Bytes::from(vec![0; MAX_HANDLE_BYTES]))).is_err());
        let error = PreparedHandle::decode(&vec![b'V'; MAX_HANDLE_BYTES + 1]).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("1048577 bytes"), "{error}");
    }

    #[test]
    fn foreign_and_malformed_handles_are_refused() {
        for bytes in [
            &b""[..],
            b"VLYS",
            b"SELECT 1",
            b"VLYS1\x0a\x05ab",
            b"VLYS1\x0a\x01\xff",
            b"VLYS2\x0a\x01S",
            b"VLYS1\x0a\x01S\x1a\x01t",
        ] {
            let error = PreparedHandle::decode(bytes).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.message.contains("prepare it again"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_after_the_magic_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let handle = [MAGIC, &bytes[..]].concat();
            if let Ok(decoded) = PreparedHandle::decode(&handle) {
                prop_assert_eq!(PreparedHandle::decode(&decoded.encode().unwrap()).unwrap(), decoded);
            }
        }
    }
}
