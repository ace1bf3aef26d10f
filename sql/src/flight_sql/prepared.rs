//! Handles of prepared statements. A handle has the statement and the values of its parameters, so that every member can run it
//! and nothing is kept for it. It needs no signature: it gives no right that the statement's text would not give.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use volley_common::{Error, Result};

/// Longest handle, bytes. It is part of descriptors and tickets, and a message has at most 4 MiB.
pub const MAX_HANDLE_BYTES: usize = 1 << 20;
/// What handles begin with.
const MAGIC: &[u8] = b"VLYS1";

/// A statement and the values of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedHandle {
    /// Its text.
    pub sql: String,
    /// An IPC stream of one row, as [`super::encode_parameters`] makes it; none: no values are bound yet.
    pub parameters: Option<Bytes>,
}

/// A handle, after [`MAGIC`].
#[derive(Clone, PartialEq, Message)]
struct HandleMessage {
    #[prost(string, tag = "1")]
    sql: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    parameters: Option<Bytes>,
}

impl PreparedHandle {
    /// The handle's bytes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it would be too long.
    pub fn encode(&self) -> Result<Bytes> {
        let message = HandleMessage { sql: self.sql.clone(), parameters: self.parameters.clone() };
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
        let HandleMessage { sql, parameters } = HandleMessage::decode(message).map_err(|_| foreign())?;
        Ok(PreparedHandle { sql, parameters })
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
        for parameters in [None, Some(Bytes::new()), Some(Bytes::from_static(b"\xff\xff\xff\xff"))] {
            let handle = PreparedHandle { sql: "SELECT 'ü' = $1".into(), parameters };
            assert_eq!(PreparedHandle::decode(&handle.encode().unwrap()).unwrap(), handle);
        }
    }

    #[test]
    fn encoding_is_the_same_in_every_version() {
        let handle = PreparedHandle { sql: "S".into(), parameters: Some(Bytes::from_static(b"p")) };
        assert_eq!(handle.encode().unwrap(), &b"VLYS1\x0a\x01S\x12\x01p"[..]);
        // Fields that a later version adds are skipped.
        assert_eq!(PreparedHandle::decode(b"VLYS1\x0a\x01S\x12\x01p\x18\x07").unwrap(), handle);
    }

    #[test]
    fn handle_over_the_limit_is_refused_both_ways() {
        // The magic, and the field's tag and length.
        let most = MAX_HANDLE_BYTES - MAGIC.len() - 4;
        let largest = PreparedHandle { sql: "x".repeat(most), parameters: None }.encode().unwrap();
        assert_eq!(largest.len(), MAX_HANDLE_BYTES);
        assert_eq!(PreparedHandle::decode(&largest).unwrap().sql.len(), most);
        let error = PreparedHandle { sql: "x".repeat(most + 1), parameters: None }.encode().unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        let parameters = Some(Bytes::from(vec![0; MAX_HANDLE_BYTES]));
        assert!(PreparedHandle { sql: String::new(), parameters }.encode().is_err());
        let error = PreparedHandle::decode(&vec![b'V'; MAX_HANDLE_BYTES + 1]).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("1048577 bytes"), "{error}");
    }

    #[test]
    fn foreign_and_malformed_handles_are_refused() {
        for bytes in [&b""[..], b"VLYS", b"SELECT 1", b"VLYS1\x0a\x05ab", b"VLYS1\x0a\x01\xff", b"VLYS2\x0a\x01S"] {
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
