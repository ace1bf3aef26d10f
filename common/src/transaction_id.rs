//! Ids of transactions. The catalog knows a transaction from its first write on; before, the id is all that there is of it.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

/// What ids begin with.
const PREFIX: &str = "tx";
/// Hexadecimal digits of the time; it has 48 bits.
const TIME_DIGITS: usize = 12;
/// Hexadecimal digits of the random number.
const RANDOM_DIGITS: usize = 32;

/// The id of a transaction: when it began, and 128 random bits, so that nobody guesses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId {
    began_ms: u64,
    random: u128,
}

impl TransactionId {
    /// The id of a transaction that begins at this time, in milliseconds since 1970.
    pub fn new(began_ms: u64) -> Self {
        TransactionId { began_ms: began_ms & ((1u64 << (4 * TIME_DIGITS)) - 1), random: rand::random() }
    }

    /// When it began, milliseconds since 1970, by the clock of the member that made the id.
    pub fn began_ms(self) -> u64 {
        self.began_ms
    }

    /// The id of its write to a table: each member derives the same one, so that several streams join one write.
    pub fn write_id(self, table: &[String]) -> String {
        format!("{self}.{:016x}", xxh3_64(table.join("/").as_bytes()))
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:0TIME_DIGITS$x}{:0RANDOM_DIGITS$x}", self.began_ms, self.random)
    }
}

impl FromStr for TransactionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let foreign = || {
            Error::invalid(
                "the transaction id is not one of this cluster: begin a transaction by the action BeginTransaction or begin_transaction",
            )
        };
        let digits = text.strip_prefix(PREFIX).ok_or_else(foreign)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != TIME_DIGITS + RANDOM_DIGITS || !digits.bytes().all(is_digit) {
            return Err(foreign());
        }
        let (time, random) = digits.split_at(TIME_DIGITS);
        let began_ms = u64::from_str_radix(time, 16).map_err(|_| foreign())?;
        let random = u128::from_str_radix(random, 16).map_err(|_| foreign())?;
        Ok(TransactionId { began_ms, random })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn id_round_trips_and_keeps_its_time() {
        let id = TransactionId::new(1_790_000_000_123);
        assert_eq!(id.began_ms(), 1_790_000_000_123);
        assert_eq!(id.to_string().parse::<TransactionId>().unwrap(), id);
        assert_ne!(TransactionId::new(1), TransactionId::new(1));
        assert_eq!(TransactionId::new(u64::MAX).to_string().len(), 46);
    }

    #[test]
    fn write_of_each_table_has_a_valid_id_of_its_own() {
        let id: TransactionId = format!("tx{:012x}{:032x}", 7, 9).parse().unwrap();
        let write = |name: &str| id.write_id(&[name.to_string()]);
        // The same in every version: members of two of them join one write.
        assert_eq!(write("t"), format!("{id}.{:016x}", xxh3_64(b"t")));
        assert_ne!(write("t"), write("u"));
        assert_eq!(id.write_id(&["a".into(), "b".into()]), write("a/b"));
        assert!(write("t").len() <= 64, "write ids have at most 64 characters");
    }

    #[test]
    fn foreign_ids_are_refused() {
        let id = TransactionId::new(5).to_string();
        let longer = format!("{id}0");
        let (upper, signed) = (id.to_uppercase(), format!("tx+{}", &id[3..]));
        for text in ["", "tx", "7", &id[..45], &longer, &upper, &signed, &"\u{e9}".repeat(23), &"x".repeat(9999)] {
            let error = text.parse::<TransactionId>().unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{text}");
        }
    }
}
