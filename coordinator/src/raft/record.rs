//! A log record's bytes on disk: a format version, CRC-32C of the rest, bincode of [`Record`].
//!
//! The only place that uses bincode: these bytes are written and read by one binary on one machine.

use std::io;

use bincode::Options;
use openraft::EntryPayload;
use prost::Message;
use serde::{Deserialize, Serialize};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::Command;
use volley_common::wire::raft as wire;

use super::convert::{membership_in, membership_out};
use super::types::{Blob, Entry, LeaderId, LogId, Op};

/// The format that is written; a newer one is refused.
const FORMAT: u8 = 1;
/// Format and checksum.
const HEAD: usize = 5;

#[derive(Serialize, Deserialize)]
struct Record {
    term: u64,
    node: u64,
    index: u64,
    payload: Payload,
}

#[derive(Serialize, Deserialize)]
enum Payload {
    Blank,
    /// `Command` in protobuf.
    Command(Blob),
    /// `Membership` in protobuf.
    Membership(Blob),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(2 * MAX_PEER_MESSAGE as u64)
        .reject_trailing_bytes()
}

/// The bytes of a log entry.
///
/// # Errors
/// If the entry is larger than twice [`MAX_PEER_MESSAGE`].
pub fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(op) => Payload::Command(Blob(op.0.encode_to_vec())),
        EntryPayload::Membership(m) => Payload::Membership(Blob(membership_out(m).encode_to_vec())),
    };
    let leader = &entry.log_id.leader_id;
    let record = Record { term: leader.term, node: leader.node_id, index: entry.log_id.index, payload };
    let mut bytes = vec![FORMAT, 0, 0, 0, 0];
    options().serialize_into(&mut bytes, &record).map_err(io::Error::other)?;
    let crc = crc32c::crc32c(&bytes[HEAD..]);
    bytes[1..HEAD].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The log entry that bytes on disk hold.
///
/// # Errors
/// If the format is unknown, the checksum does not match, or the content makes no sense.
pub fn decode(bytes: &[u8]) -> io::Result<Entry> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("a Raft log record {why}"));
    let Some((head, body)) = bytes.split_at_checked(HEAD) else {
        return Err(bad("is cut off".into()));
    };
    if head[0] != FORMAT {
        return Err(bad(format!("has format {}, this software knows {FORMAT}", head[0])));
    }
    if crc32c::crc32c(body).to_le_bytes() != head[1..] {
        return Err(bad("does not match its checksum".into()));
    }
    let record: Record = options().deserialize(body).map_err(|e| bad(format!("is not readable: {e}")))?;
    let payload = match record.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(blob) => {
            let command = Command::decode(blob.0.as_slice()).map_err(|e| bad(format!("holds no command: {e}")))?;
            EntryPayload::Normal(Op(command.into()))
        }
        Payload::Membership(blob) => {
            let wire =
                wire::Membership::decode(blob.0.as_slice()).map_err(|e| bad(format!("holds no members: {e}")))?;
            EntryPayload::Membership(membership_in(wire).map_err(|e| bad(format!("holds no members: {e}")))?)
        }
    };
    let leader_id = LeaderId { term: record.term, node_id: record.node };
    Ok(Entry { log_id: LogId { leader_id, index: record.index }, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let command = Command { now_ms: 7, op: None };
        let leader_id = LeaderId { term: 3, node_id: 2 };
        Entry { log_id: LogId { leader_id, index: 9 }, payload: EntryPayload::Normal(Op(command.into())) }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let bytes = encode(&entry()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), entry());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&entry()).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[at] ^= 1 << bit;
                assert!(decode(&broken).is_err(), "byte {at} bit {bit}");
            }
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode(&longer).is_err());
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = encode(&entry()).unwrap();
        bytes[0] = 9;
        assert!(decode(&bytes).unwrap_err().to_string().contains("format 9"));
    }
}
