//! Arrow IPC messages: decoding with checks, cutting, projecting, framing.
//!
//! | module | what it does |
//! |---|---|
//! | [`schema`] | schemas to and from their message; does a put fit a table |
//! | [`decode`] | FlightData → checked record batches; `check`, `types` and `lz4` come before arrow's decoder |
//! | [`cut`] | record batches of about 1 MiB |
//! | [`compact`] | slices that own no more than they show |
//! | [`encode`] | small messages: a batch cut short by `limit` |
//! | [`project`] | columns of an encoded message, without a copy |
//! | [`mod@file`] | Arrow IPC files, written as the slices that they consist of |
//! | [`fit`] | a batch under the schema of its table |
//! | [`frame`] | FlightData onto the wire, around slices |
//! | [`flight_decoder`] | FlightData from the wire, each body copied once ([`buffer_pool`]) or not at all ([`body_builder`]) |
//! | `walk` | which nodes, buffers and dictionaries a type has, in order |

pub mod body_builder;
pub mod buffer_pool;
mod check;
pub mod compact;
pub mod conform;
pub mod decode;
pub mod encode;
pub mod file;
pub mod flight_decoder;
pub mod frame;
mod lz4;
pub mod project;
#[cfg(test)]
mod samples;
pub mod schema;
pub mod split;
mod types;
mod walk;

/// The size that messages are cut to, bytes: measured, see docs (a client's cost halves against 32 MiB).
pub const MESSAGE_BYTES: usize = 1 << 20;
/// No message is larger unless one row is: gRPC clients take 4 MiB by default, framing included.
pub const MAX_CUT_BYTES: usize = (4 << 20) - (64 << 10);
