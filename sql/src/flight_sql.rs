//! The messages of Flight SQL: commands and actions that clients send, and the results, handles and batches that answer them.
//!
//! Everything here is a function of bytes and of the tables that the caller may see. Nothing is kept between calls: a prepared
//! statement's handle has the statement itself, and the ticket of a metadata command is the command.
//!
//! | module | what it has |
//! |---|---|
//! | `message` | protobuf messages inside an `Any` |
//! | `command` | what a descriptor or a ticket asks for |
//! | `ingest` | bulk ingestion: the table, and what happens if it exists |
//! | `action` | the actions, and what to do instead of those that are not supported |
//! | `metadata` | the commands that ask what there is; `catalog_batches`, `key_schemas`, `sql_info`, `type_info` have their replies |
//! | `prepared` | handles of prepared statements |
//! | `parameters` | the values of parameters |
//! | `reply` | results of updates, and of preparing a statement |

mod action;
mod catalog_batches;
mod command;
mod ingest;
mod key_schemas;
mod message;
mod metadata;
mod parameters;
mod prepared;
mod reply;
mod sql_info;
mod type_info;

pub use self::action::{NO_TRANSACTIONS, SqlAction, decode_action};
pub use self::command::{SqlCommand, decode};
pub use self::ingest::{IngestCommand, IngestMode};
pub use self::metadata::MetadataCommand;
pub use self::parameters::{MAX_PARAMETER_BYTES, encode_parameters, parameters};
pub use self::prepared::{MAX_HANDLE_BYTES, PreparedHandle};
pub use self::reply::{cancel_result, created_result, prepared_result, update_result};
