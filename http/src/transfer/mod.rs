//! Rows from Flight to a response, and from a request's body to Flight. Memory is bounded, and each side waits for the other.
//!
//! | module | what it has |
//! |---|---|
//! | [`flight_rows`] | the messages of a read |
//! | [`waiting_tickets`] | its tickets, which are renewed while they wait |
//! | [`response`] | them as the body of a response: Arrow messages as they are, or |
//! | [`conversion`] | other formats and compressed bodies, by a thread |
//! | [`upload`] | the body of a request, with its limits |
//! | [`ingest`] | it as the messages of a put |
//! | [`parquet_decoder`] | a body in Parquet as an Arrow stream, decoded by a process of its own |
//! | [`spool`] | bodies that must be complete before they are read |
//! | [`http_words`] | errors of formats in the words of HTTP |

pub(crate) mod conversion;
pub(crate) mod flight_rows;
pub(crate) mod http_words;
pub(crate) mod ingest;
pub(crate) mod parquet_decoder;
pub(crate) mod response;
pub(crate) mod spool;
pub(crate) mod upload;
pub(crate) mod waiting_tickets;

/// Items that wait between a task and a thread.
const QUEUE_LEN: usize = 4;
