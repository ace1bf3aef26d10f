//! The bytes of a log record on disk.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | format version |
//! | 4 | CRC-32C of the rest, little-endian |
//! | 28 or 36 | [`RecordHeader`] in bincode, integers of fixed size |
//! | the rest | the payload in protobuf: `Command`, `Membership`, or nothing |
//!
//! The payload is encoded once, straight into the record's buffer. Only this module uses bincode: one binary on one machine
//! writes and reads these bytes.

use std::io;

use bincode::Options;
use openraft::EntryPayload;
use prost::Message;
use serde::{Deserialize, Serialize};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::Command;
use volley_common::wire::raft as wire;

use crate::raft::rpc::convert::{membership_in, membership_out};
use crate::raft::types::{LeaderId, LogCommand, LogId, RaftLogEntry};

/// The format that is written; a newer one is refused.
const FORMAT: u8 = 1;
/// Length of format and checksum.
const PREFIX: usize = 5;
/// The largest header and payload together.
const MAX_BODY: u64 = 2 * MAX_PEER_MESSAGE as u64;

#[derive(Serialize, Deserialize)]
struct RecordHeader {
    term: u64,
    node: u64,
    index: u64,
    payload: RecordPayload,
}

/// The kind of a payload and its length in bytes.
#[derive(Serialize, Deserialize)]
enum RecordPayload {
    Blank,
    Command(u64),
    Membership(u64),
}

fn bincode_options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MAX_BODY)
}

/// Encodes a log entry.
///
/// # Errors
/// The entry is larger than twice [`MAX_PEER_MESSAGE`].
pub fn encode(entry: &RaftLogEntry) -> io::Result<Vec<u8>> {
    match &entry.payload {
        EntryPayload::Blank => encode_with(&entry.log_id, RecordPayload::Blank, &()),
        EntryPayload::Normal(command) => {
            let length = command.0.encoded_len() as u64;
            encode_with(&entry.log_id, RecordPayload::Command(length), &*command.0)
        }
        EntryPayload::Membership(membership) => {
            let message = membership_out(membership);
            encode_with(&entry.log_id, RecordPayload::Membership(message.encoded_len() as u64), &message)
        }
    }
}

fn encode_with(id: &LogId, payload: RecordPayload, message: &impl Message) -> io::Result<Vec<u8>> {
    let header = RecordHeader { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index, payload };
    let header_length = bincode_options().serialized_size(&header).map_err(io::Error::other)?;
    let body_length = header_length.saturating_add(message.encoded_len() as u64);
    if body_length > MAX_BODY {
        return Err(io::Error::other(format!("a Raft log record of {body_length} bytes is larger than {MAX_BODY}")));
    }
    let mut bytes = Vec::with_capacity(PREFIX + body_length as usize);
    bytes.extend([FORMAT, 0, 0, 0, 0]);
    bincode_options().serialize_into(&mut bytes, &header).map_err(io::Error::other)?;
    message.encode(&mut bytes).map_err(io::Error::other)?;
    let crc = crc32c::crc32c(&bytes[PREFIX..]);
    bytes[1..PREFIX].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Decodes a log entry.
///
/// # Errors
/// INVALID_DATA: the format is unknown, the checksum does not match, or the content is malformed.
pub fn decode(bytes: &[u8]) -> io::Result<RaftLogEntry> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("a Raft log record {why}"));
    let Some((prefix, body)) = bytes.split_at_checked(PREFIX) else {
        return Err(bad("is truncated".into()));
    };
    if prefix[0] != FORMAT {
        return Err(bad(format!("has format {}, this software knows {FORMAT}", prefix[0])));
    }
    if crc32c::crc32c(body).to_le_bytes() != prefix[1..] {
        return Err(bad("does not match its checksum".into()));
    }
    let mut payload = body;
    let header: RecordHeader =
        bincode_options().deserialize_from(&mut payload).map_err(|e| bad(format!("has no valid header: {e}")))?;
    let length = match header.payload {
        RecordPayload::Blank => 0,
        RecordPayload::Command(length) | RecordPayload::Membership(length) => length,
    };
    if length != payload.len() as u64 {
        return Err(bad(format!("has a payload of {} bytes instead of {length}", payload.len())));
    }
    let payload = match header.payload {
        RecordPayload::Blank => EntryPayload::Blank,
        RecordPayload::Command(_) => {
            let command = Command::decode(payload).map_err(|e| bad(format!("holds no command: {e}")))?;
            EntryPayload::Normal(LogCommand(command.into()))
        }
        RecordPayload::Membership(_) => {
            let message = wire::Membership::decode(payload).map_err(|e| bad(format!("holds no membership: {e}")))?;
            EntryPayload::Membership(membership_in(message).map_err(|e| bad(format!("holds no membership: {e}")))?)
        }
    };
    let leader_id = LeaderId { term: header.term, node_id: header.node };
    Ok(RaftLogEntry { log_id: LogId { leader_id, index: header.index }, payload })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use volley_common::wire::catalog::{Clear, command};

    use super::*;
    use crate::raft::types::{RaftMembership, RaftPeer};

    fn entry(index: u64, payload: EntryPayload<LogCommand, u64, RaftPeer>) -> RaftLogEntry {
        let leader_id = LeaderId { term: 3, node_id: 2 };
        RaftLogEntry { log_id: LogId { leader_id, index }, payload }
    }

    /// One entry of each kind.
    fn entries() -> [RaftLogEntry; 3] {
        let command = Command { now_ms: 7, op: Some(command::Op::Clear(Clear {})) };
        let peer = |id: u64| (id, RaftPeer { addr: format!("h{id}:1"), store_id: 10 * id });
        let peers = BTreeMap::from([peer(1), peer(2), peer(3)]);
        let membership = RaftMembership::new(vec![[1, 2].into(), [2, 3].into()], peers).unwrap();
        [
            entry(9, EntryPayload::Blank),
            entry(10, EntryPayload::Normal(LogCommand(command.into()))),
            entry(11, EntryPayload::Membership(membership)),
        ]
    }

    /// The same entries, as the release 0.1 wrote them.
    const RECORDED: [&str; 3] = [
        "01ffc08fc503000000000000000200000000000000090000000000000000000000",
        "01ce19abca030000000000000002000000000000000a000000000000000100000005000000000000000807820100",
        "01615d5413030000000000000002000000000000000b000000000000000200000045000000000000000a040a0201020a\
         040a02020312110801120468313a31190a0000000000000012110802120468323a311914000000000000001211080312\
         0468333a31191e00000000000000",
    ];

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn record_of_an_earlier_release_is_read_and_written_the_same() {
        for (entry, recorded) in entries().iter().zip(RECORDED) {
            let recorded = from_hex(recorded);
            assert_eq!(decode(&recorded).unwrap(), *entry);
            assert_eq!(encode(entry).unwrap(), recorded);
        }
    }

    #[test]
    fn every_flipped_bit_and_truncation_is_detected() {
        for entry in entries() {
            let bytes = encode(&entry).unwrap();
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut broken = bytes.clone();
                    broken[at] ^= 1 << bit;
                    assert!(decode(&broken).is_err(), "byte {at} bit {bit}");
                }
                assert!(decode(&bytes[..at]).is_err(), "truncated at {at}");
            }
        }
    }

    /// Gives bytes the checksum that matches them.
    fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&bytes[PREFIX..]);
        bytes[1..PREFIX].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn payload_of_another_length_is_refused_despite_its_checksum() {
        for entry in entries() {
            let bytes = encode(&entry).unwrap();
            assert_eq!(decode(&with_checksum(bytes.clone())).unwrap(), entry);
            let longer = with_checksum([bytes.as_slice(), &[0]].concat());
            assert!(decode(&longer).unwrap_err().to_string().contains("instead of"));
            let shorter = with_checksum(bytes[..bytes.len() - 1].to_vec());
            assert!(decode(&shorter).is_err());
        }
    }

    #[test]
    fn newer_format_is_named_in_the_error() {
        let mut bytes = encode(&entries()[0]).unwrap();
        bytes[0] = 9;
        assert!(decode(&bytes).unwrap_err().to_string().contains("format 9"));
    }
}
