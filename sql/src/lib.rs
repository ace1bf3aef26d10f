//! SQL over Volley's tables: statements, the filter language of reads, the engine that runs queries, and the messages of Flight SQL.
//!
//! Nothing here knows how a node reads or writes: [`source::TableSource`] is what the engine needs of one.
//!
//! | module | what it has |
//! |---|---|
//! | [`names`] | tables as SQL names them: catalog, schema, table |
//! | [`statement`] | the text of a statement, parsed and classified: what becomes an ordinary read, what the engine runs, what is refused |
//! | `parsing` | the parser of SQL, within bounds of time, and the precedence of its operators |
//! | [`predicate`] | the filter of a read: parsed, checked, evaluated on batches |
//! | [`source`] | what the engine needs of a node |
//! | [`query_network`] | the same, to run a query on several nodes |
//! | [`engine`] | sessions of DataFusion over a source: memory, limits, cancellation |
//! | [`flight_sql`] | commands, results and handles of the Flight SQL protocol |
//! | `erased` | values of DataFusion whose types the compiler does not look into |
//! | `exact_casts` | casts that DataFusion would move in comparisons, with other results |
//! | [`fault`] | errors of DataFusion as errors of Volley |
#![forbid(unsafe_code)]

pub mod engine;
mod erased;
mod exact_casts;
pub mod fault;
pub mod flight_sql;
pub mod names;
mod parsing;
pub mod predicate;
pub mod query_network;
pub mod source;
pub mod statement;
