//! What members send each other and keep on disk: what is decoded is the same when it is encoded again.
//!
//! The first byte chooses the message, the record of the log or the snapshot file that the others are.

use bytes::Bytes;
use prost::Message;
use volley_common::wire::catalog::{self, Command, Row, row};
use volley_common::wire::{cluster, raft};
use volley_coordinator::catalog::Catalog;
use volley_coordinator::raft::rpc::convert;
use volley_coordinator::raft::storage::files::LocalDataDir;
use volley_coordinator::raft::storage::{decode_record, encode_record, snapshot};
use volley_coordinator::raft::tables::{decode_log_id, decode_membership, decode_vote, encode_membership, encode_vote};

use crate::process::ScratchDir;

/// The first bytes of a log record and of a snapshot file: the format that this version writes.
const RECORD_FORMAT: u8 = 1;
const SNAPSHOT_PREFIX: &[u8] = b"VLYSNAP\n\x01\0\0\0";

thread_local! {
    static SCRATCH: ScratchDir = ScratchDir::new();
}

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind {
        0 => append_request(bytes),
        1 => append_reply(bytes),
        2 => vote_request(bytes),
        3 => vote_reply(bytes),
        4 => snapshot_header(bytes),
        5 => metadata(bytes),
        6 => log_record(bytes),
        7 => snapshot_file(bytes),
        _ => other_message(*kind, bytes),
    }
}

/// A message that is the same after it was encoded.
fn decoded<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice()).expect("an encoded message");
    assert!(again == message, "a message changes when it is encoded");
    Some(message)
}

fn append_request(bytes: &[u8]) {
    let Some(Ok(request)) = decoded(bytes).map(convert::append_in) else { return };
    let sent = convert::append_out(&request);
    let received = convert::append_in(sent.clone()).expect("what this version sends");
    assert!(convert::append_out(&received) == sent);
}

fn append_reply(bytes: &[u8]) {
    let Some(Ok(reply)) = decoded(bytes).map(convert::append_reply_in) else { return };
    let sent = convert::append_reply_out(&reply);
    let received = convert::append_reply_in(sent).expect("what this version sends");
    assert!(convert::append_reply_out(&received) == sent);
}

fn vote_request(bytes: &[u8]) {
    let Some(message) = decoded::<raft::VoteRequest>(bytes) else { return };
    let pre_vote = message.pre_vote;
    let Ok(request) = convert::vote_request_in(message) else { return };
    let sent = convert::vote_request_out(&request, pre_vote);
    let received = convert::vote_request_in(sent).expect("what this version sends");
    assert!(convert::vote_request_out(&received, pre_vote) == sent);
}

fn vote_reply(bytes: &[u8]) {
    let Some(Ok(reply)) = decoded(bytes).map(convert::vote_reply_in) else { return };
    let sent = convert::vote_reply_out(&reply);
    let received = convert::vote_reply_in(sent).expect("what this version sends");
    assert!(convert::vote_reply_out(&received) == sent);
}

fn snapshot_header(bytes: &[u8]) {
    let Some(chunk) = decoded::<raft::SnapshotChunk>(bytes) else { return };
    let Some(Ok(meta)) = chunk.header.map(convert::header_in) else { return };
    let sent = convert::header_out(&meta, None);
    let received = convert::header_in(sent.clone()).expect("what this version sends");
    assert!(convert::header_out(&received, None) == sent);
}

/// Values of the database.
fn metadata(bytes: &[u8]) {
    let _ = decode_log_id(Some(bytes.to_vec()));
    if let Ok(vote) = decode_vote(bytes) {
        assert_eq!(decode_vote(&encode_vote(&vote)).expect("an encoded vote"), vote);
    }
    if let Ok(membership) = decode_membership(bytes) {
        let again = decode_membership(&encode_membership(&membership)).expect("an encoded membership");
        assert!(again == membership);
    }
}

fn log_record(bytes: &[u8]) {
    assert!(decode_record(bytes).is_err() || bytes.first() == Some(&RECORD_FORMAT));
    // With the checksum that it needs.
    let record = [&[RECORD_FORMAT][..], &crc32c::crc32c(bytes).to_le_bytes(), bytes].concat();
    let Ok(entry) = decode_record(&record) else { return };
    let again = encode_record(&entry).expect("an entry of a record");
    assert_eq!(decode_record(&again).expect("an encoded entry"), entry);
}

fn snapshot_file(bytes: &[u8]) {
    SCRATCH.with(|scratch| {
        let mut file = [SNAPSHOT_PREFIX, bytes].concat();
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        let path = scratch.write("fuzz.snap", &file);
        let dir = LocalDataDir(path.with_file_name(""));
        let Ok(meta) = snapshot::verify(&dir, &path) else { return };
        assert_eq!(snapshot::read_meta(&dir, &path).expect("a verified snapshot"), meta);
        let mut catalog = Catalog::default();
        for row in snapshot::read_rows(&dir, &path).expect("a verified snapshot") {
            let row = row.expect("a verified snapshot");
            // Sums of larger numbers are the target `catalog`'s.
            if !matches!(row.row, Some(row::Row::Table(_) | row::Row::Part(_) | row::Row::Staged(_))) {
                catalog.insert_row(row);
            }
        }
        file[SNAPSHOT_PREFIX.len() + bytes.len()] ^= 1;
        let path = scratch.write("fuzz.snap", &file);
        assert!(snapshot::verify(&dir, &path).is_err(), "a damaged snapshot is accepted");
    });
}

/// Messages that need no conversion.
fn other_message(kind: u8, bytes: &[u8]) {
    let _is_known = match kind % 12 {
        0 => decoded::<cluster::ProposeRequest>(bytes).is_some(),
        1 => decoded::<cluster::NodeReport>(bytes).is_some(),
        2 => decoded::<cluster::NodeOrder>(bytes).is_some(),
        3 => decoded::<cluster::BeginWriteRequest>(bytes).is_some(),
        4 => decoded::<cluster::WritePlan>(bytes).is_some(),
        5 => decoded::<cluster::StagePartsRequest>(bytes).is_some(),
        6 => decoded::<cluster::PlanReadReply>(bytes).is_some(),
        7 => decoded::<cluster::LoginRequest>(bytes).is_some(),
        8 => decoded::<cluster::DeletablePartsReply>(bytes).is_some(),
        9 => decoded::<cluster::PartChunk>(bytes).is_some(),
        10 => decoded::<raft::Identity>(bytes).is_some(),
        _ => decoded::<raft::TransferRequest>(bytes).is_some(),
    };
}

/// Inputs to begin with.
///
/// # Panics
/// An entry cannot be encoded.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, message: &[u8]| [&[kind][..], message].concat();
    let leader = raft::LeaderId { term: 3, node: 2 };
    let vote = raft::Vote { leader: Some(leader), committed: true };
    let log_id = raft::LogId { leader: Some(leader), index: 9 };
    let config = |voters: &[u64]| raft::membership::Config { voters: voters.to_vec() };
    let peer = |id: u64| raft::Peer { id, addr: format!("h{id}:1"), store: 10 * id };
    let membership =
        raft::Membership { configs: vec![config(&[1, 2]), config(&[2, 3])], peers: vec![peer(1), peer(2), peer(3)] };
    let command = Command { now_ms: 7, op: Some(catalog::command::Op::Clear(catalog::Clear {})) };
    let entry = |payload| raft::Entry { log_id: Some(log_id), payload: Some(payload) };
    let append = raft::AppendRequest {
        vote: Some(vote),
        prev_log_id: Some(log_id),
        entries: vec![
            entry(raft::entry::Payload::Blank(raft::Blank {})),
            entry(raft::entry::Payload::Command(command.clone())),
            entry(raft::entry::Payload::Membership(membership.clone())),
        ],
        leader_commit: Some(log_id),
    };
    let reply = raft::AppendReply { reply: Some(raft::append_reply::Reply::Partial(log_id)) };
    let vote_request =
        raft::VoteRequest { vote: Some(vote), last_log_id: Some(log_id), leadership_transfer: true, pre_vote: true };
    let vote_reply = raft::VoteReply { vote: Some(vote), granted: true, last_log_id: Some(log_id) };
    let header = raft::SnapshotHeader {
        vote: Some(vote),
        last_log_id: Some(log_id),
        membership_log_id: Some(log_id),
        membership: Some(membership),
        ..raft::SnapshotHeader::default()
    };
    let chunk = raft::SnapshotChunk { header: Some(header.clone()), data: Bytes::from_static(b"data") };
    let entry = convert::entry_in(entry(raft::entry::Payload::Command(command.clone()))).expect("an entry");
    let record = encode_record(&entry).expect("an entry");
    let row = Row { row: Some(row::Row::Clock(catalog::CatalogClock { now_ms: 7 })) };
    let snapshot = [header.encode_length_delimited_to_vec(), row.encode_length_delimited_to_vec()].concat();
    vec![
        of(0, &append.encode_to_vec()),
        of(1, &reply.encode_to_vec()),
        of(2, &vote_request.encode_to_vec()),
        of(3, &vote_reply.encode_to_vec()),
        of(4, &chunk.encode_to_vec()),
        of(5, &vote.encode_to_vec()),
        of(5, &header.encode_to_vec()),
        of(6, &record[5..]),
        of(7, &snapshot),
        of(12, &cluster::ProposeRequest { command: Some(command), ..Default::default() }.encode_to_vec()),
        of(19, &cluster::LoginRequest::default().encode_to_vec()),
    ]
}
