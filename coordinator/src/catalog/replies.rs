//! Replies of commands.

use volley_common::Error;
use volley_common::wire::catalog::reply::Reply;

/// The error for a reply of the wrong kind, which only a programming error can cause.
pub fn unexpected_reply(command: &str, reply: &Reply) -> Error {
    let kind = match reply {
        Reply::Done(_) => "done",
        Reply::Refusal(_) => "a refusal",
        Reply::Write(_) => "a write",
        Reply::Outcome(_) => "an outcome",
        Reply::Table(_) => "a table",
        Reply::Restored(_) => "a restored version",
        Reply::Transaction(_) => "a transaction",
        Reply::Expired(_) => "expired tables",
    };
    Error::internal(format!("the reply to {command} was {kind}"))
}
