//! Reads on a node's own machine: the node hands the files of parts over a Unix-domain socket, and the reader maps them
//! ([ADR 22](../../../docs/adr/0022-local-reads.md)).
//!
//! A connection begins with [`PREFACE`], which the node answers with a `LocalHello`. Then each `LocalReadRequest` is answered by a
//! `LocalReadReply`, with a descriptor for each part in it. All messages are [`frames`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`frames`] | messages with descriptors on a socket |
//! | [`socket_hints`] | what a FlightInfo says of the sockets of its nodes |
//! | [`socket_file`] | the socket of a node, as a file |
//! | [`machine`] | the id of this machine |
//!
//! [`crate::ipc::mapped_part`] reads the rows of a mapped file.

pub mod frames;
pub mod machine;
pub mod socket_file;
pub mod socket_hints;

/// The first bytes of a connection. No HTTP/2 connection begins with the first of them.
pub const PREFACE: [u8; 8] = *b"\x01VOLLEYL";
/// The largest request, bytes: a ticket and a credential. Tickets of more parts are read by the wire.
pub const MAX_REQUEST: usize = 1 << 20;
/// The largest reply, bytes. It has few parts, and the indexes of columns.
pub const MAX_REPLY: usize = 8 << 20;
/// The most parts of one reply: as few files are open at once.
pub const MAX_PARTS: usize = frames::MAX_DESCRIPTORS;
