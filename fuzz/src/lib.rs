//! Fuzz targets: what hostile clients, members, disks and operators can send, through every decoder of the workspace.
//!
//! Each target is a function of bytes that checks properties: nothing panics, no error is INTERNAL, what is accepted is sound
//! and comes back the same, what is refused changes nothing. `cargo test -p volley-fuzz` feeds them their seeds, slightly
//! altered seeds and `fuzz/corpus/`; `cargo fuzz-all` runs them under libFuzzer.
//!
//! | module | input |
//! |---|---|
//! | [`tickets`] | tickets and assertions of members, and the rights of who redeems a ticket |
//! | [`tokens`] | headers with credentials, tokens, payloads of Handshakes, hashes of passwords |
//! | [`descriptors`] | descriptors, commands, unsigned tickets, and headers with options |
//! | [`actions`] | bodies of actions |
//! | [`schemas`] | schema messages |
//! | [`messages`] | IPC messages: decoded, split, projected, encoded again |
//! | [`put`] | the stream of a DoPut, from HTTP/2's data to sealed parts and back |
//! | [`parts`] | the files of parts |
//! | [`catalog`] | commands, rows and row keys of the catalog |
//! | [`raft`] | messages between members, log records, snapshot files |
//! | [`framing`] | first bytes of connections, gRPC frames, gzip |
//! | [`config`] | configuration files and environments |
//! | [`certificates`] | PEM files and certificates |
//! | [`targets`] | the list of all targets |
//! | [`input`] | how targets read their bytes, and what they check of errors |
//! | [`batches`] | Arrow data for seeds |
//! | [`process`] | what the targets of a process share: a runtime, folders |
//! | [`entry`] | the entry points for libFuzzer |
#![forbid(unsafe_code)]

pub mod actions;
pub mod batches;
pub mod catalog;
pub mod certificates;
pub mod config;
pub mod descriptors;
pub mod entry;
pub mod framing;
pub mod input;
pub mod messages;
pub mod parts;
pub mod process;
pub mod put;
pub mod raft;
pub mod schemas;
pub mod targets;
#[allow(dead_code)]
#[path = "../../common/src/ipc/test_data.rs"]
mod test_data;
pub mod tickets;
pub mod tokens;
