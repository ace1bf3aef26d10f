//! Arrow IPC messages: decoding with validation, splitting, projection, and FlightData on the wire.
//!
//! | module | what it does |
//! |---|---|
//! | [`schema`] | schemas to and from their message; whether a put's schema fits its table |
//! | [`flight_decoder`], [`flight_stream`] | FlightData from received bytes |
//! | [`body_builder`] | where the decoder stores bodies: as the received slices, or |
//! | [`buffer_pool`] | in aligned memory that is reused |
//! | [`stall_timer`] | whether a message that has begun still advances |
//! | [`decode`] | FlightData to record batches, validated by `schema_validation` and `batch_validation` (with `lz4`) |
//! | `stream_budget` | what a stream may cost by what it sent |
//! | [`spool`] | where a decoder stores what is too large for memory, also by `streamed_decompression` |
//! | [`conform`] | a batch with the schema of its table, by `widen` where its types are narrower |
//! | [`split`] | batches of about 1 MiB |
//! | [`size`] | the size of a batch as a message, without encoding it |
//! | [`shrink`] | sliced batches without the memory that their rows do not need |
//! | `shrink_shared` | the same for types whose rows may share values |
//! | [`row_bytes`] | the bytes of each row, with the values that it shares |
//! | [`take`] | picks values by position, for every type |
//! | [`unshared`] | how much rows that share values grow when they are copied |
//! | [`stored`] | some columns of stored messages, in the messages' own memory |
//! | [`mapped_part`] | the rows of a part whose file a reader has mapped, in that memory |
//! | [`statistics`] | nulls and bounds of the columns of a part's record batches, in the footer of its file |
//! | [`copy_shared`] | copies of rows whose memory is not their own |
//! | [`encode`] | single batches to messages; the first rows of a message |
//! | [`batch_header`] | headers of record batches, and the `app_metadata` that a part keeps in them |
//! | [`decompress`], [`compress`] | messages without their compression, or with one |
//! | [`accepted_codecs`] | which codecs the reader of a stream accepts |
//! | [`compressibility`] | what LZ4 would leave of a batch, by samples |
//! | [`dictionary_keys`] | batches with the keys of dictionaries in place of their values |
//! | [`project`] | some columns of an encoded message, without a copy |
//! | [`mod@file`] | Arrow IPC files, written as slices |
//! | [`flight_encoder`] | FlightData to gRPC messages, without a copy of the body |
//! | `used_ranges` | the values that such rows need |
//! | `expansion` | the limit for values that widening repeats |
//! | `view_lengths` | how long the values of views are together |
//! | `field_path`, `malformed` | what an error says of a field, and of a malformed flatbuffer |
//! | `item_nulls` | nulls in nested fields that cannot be null |
//! | [`layout`] | which nodes, buffers and dictionaries a type has, in order |
//! | [`stream_format`] | IPC streams in bytes, as HTTP has them |
//! | `test_data` | random batches of every type, for tests |

pub mod accepted_codecs;
pub mod batch_header;
mod batch_validation;
pub mod body_builder;
pub mod buffer_pool;
pub mod compress;
pub mod compressibility;
pub mod conform;
pub mod copy_shared;
pub mod decode;
pub mod decompress;
pub mod dictionary_keys;
pub mod encode;
mod expansion;
mod field_path;
pub mod file;
pub mod flight_decoder;
pub mod flight_encoder;
pub mod flight_stream;
mod item_nulls;
pub mod layout;
mod lz4;
mod malformed;
pub mod mapped_part;
pub mod project;
pub mod row_bytes;
pub mod schema;
mod schema_validation;
pub mod shrink;
mod shrink_shared;
pub mod size;
pub mod split;
pub mod spool;
pub mod stall_timer;
pub mod statistics;
pub mod stored;
mod stream_budget;
pub mod stream_format;
mod streamed_decompression;
pub mod take;
#[cfg(test)]
mod test_data;
pub mod unshared;
mod used_ranges;
mod view_lengths;
mod widen;

/// The size that messages are split to, bytes. Measured, see docs: a client's cost is half of that at 32 MiB.
pub const MESSAGE_BYTES: usize = 1 << 20;
/// No message is larger unless it is one row, or rows that share a value as large: gRPC clients accept 4 MiB by default, framing included.
pub const MAX_SPLIT_BYTES: usize = (4 << 20) - (64 << 10);
