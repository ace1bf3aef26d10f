//! The actions of Flight SQL.

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Command,
};
use bytes::Bytes;
use volley_common::options::fields::cut;
use volley_common::{Error, Result};

use super::message::{message_name, unpack};

/// Why there is no transaction, and what there is instead.
pub const NO_TRANSACTIONS: &str = "transactions are not supported: switch autocommit on, each statement takes effect as a whole or not at all; several puts become visible at once by the actions begin_write and commit_write";

/// An action that is supported.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlAction {
    /// Prepares a statement. The reply is [`super::created_result`].
    CreatePreparedStatement {
        /// Its text.
        sql: String,
        /// The transaction that it belongs to; some clients send an empty one for none.
        transaction: Option<Bytes>,
    },
    /// Ends a prepared statement, of which nothing is kept. The reply is empty, whatever the handle.
    ClosePreparedStatement {
        /// What a client takes for a handle.
        handle: Bytes,
    },
    /// Cancels a query. The reply is [`super::cancel_result`].
    CancelQuery {
        /// The FlightInfo of the query, as protobuf.
        info: Bytes,
    },
}

/// Decodes an action: its name and its body.
///
/// # Errors
/// INVALID_ARGUMENT: a malformed body, or one of another action. UNIMPLEMENTED: transactions, savepoints, plans of Substrait, and
/// what is no action of Flight SQL.
pub fn decode_action(name: &str, body: &[u8]) -> Result<SqlAction> {
    match name {
        "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => {
            return Err(Error::unimplemented(NO_TRANSACTIONS));
        }
        "CreatePreparedSubstraitPlan" => {
            return Err(Error::unimplemented("plans of Substrait are not supported: prepare the query as SQL"));
        }
        _ => {}
    }
    match (name, unpack(body)?) {
        ("CreatePreparedStatement", Command::ActionCreatePreparedStatementRequest(request)) => {
            let ActionCreatePreparedStatementRequest { query, transaction_id } = request;
            Ok(SqlAction::CreatePreparedStatement { sql: query, transaction: transaction_id })
        }
        ("ClosePreparedStatement", Command::ActionClosePreparedStatementRequest(request)) => {
            let ActionClosePreparedStatementRequest { prepared_statement_handle } = request;
            Ok(SqlAction::ClosePreparedStatement { handle: prepared_statement_handle })
        }
        ("CancelQuery", Command::ActionCancelQueryRequest(request)) => {
            let ActionCancelQueryRequest { info } = request;
            Ok(SqlAction::CancelQuery { info })
        }
        ("CreatePreparedStatement" | "ClosePreparedStatement" | "CancelQuery", other) => Err(Error::invalid(format!(
            "the body of the action {name} is a {}: send an Action{name}Request",
            message_name(other.type_url())
        ))),
        _ => Err(Error::unimplemented(format!("there is no action {:?} of Flight SQL", cut(name)))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::sql::{ActionBeginTransactionRequest, ActionEndTransactionRequest, ProstMessageExt};
    use prost::Message;
    use volley_common::Code;

    use super::*;

    fn decoded(name: &str, message: &impl ProstMessageExt) -> Result<SqlAction> {
        decode_action(name, &message.as_any().encode_to_vec())
    }

    #[test]
    fn actions_are_decoded_from_their_messages() {
        let create = ActionCreatePreparedStatementRequest { query: "SELECT 1".into(), transaction_id: None };
        let expected = SqlAction::CreatePreparedStatement { sql: "SELECT 1".into(), transaction: None };
        assert_eq!(decoded("CreatePreparedStatement", &create).unwrap(), expected);
        let handle = Bytes::from_static(b"any");
        let close = ActionClosePreparedStatementRequest { prepared_statement_handle: handle.clone() };
        let expected = SqlAction::ClosePreparedStatement { handle };
        assert_eq!(decoded("ClosePreparedStatement", &close).unwrap(), expected);
        let info = Bytes::from_static(b"info");
        let cancel = decoded("CancelQuery", &ActionCancelQueryRequest { info: info.clone() }).unwrap();
        assert_eq!(cancel, SqlAction::CancelQuery { info });
    }

    #[test]
    fn transactions_and_plans_are_unimplemented_with_a_remedy() {
        let begin = decoded("BeginTransaction", &ActionBeginTransactionRequest {}).unwrap_err();
        assert!(begin.code == Code::Unimplemented && begin.message.contains("autocommit"), "{begin}");
        let end = ActionEndTransactionRequest { transaction_id: Bytes::from_static(b"t"), action: 1 };
        assert_eq!(decoded("EndTransaction", &end).unwrap_err(), begin);
        for name in ["BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan"] {
            assert_eq!(decode_action(name, b"\xff").unwrap_err().code, Code::Unimplemented, "{name}");
        }
    }

    #[test]
    fn wrong_bodies_are_refused() {
        let close = ActionClosePreparedStatementRequest { prepared_statement_handle: Bytes::new() };
        let other = decoded("CreatePreparedStatement", &close).unwrap_err();
        assert_eq!(other.code, Code::InvalidArgument);
        assert!(other.message.contains("ActionCreatePreparedStatementRequest"), "{other}");
        for body in [&b""[..], b"SELECT 1", b"\x0a"] {
            assert_eq!(decode_action("CancelQuery", body).unwrap_err().code, Code::InvalidArgument, "{body:?}");
        }
        assert_eq!(decoded("drop_table", &close).unwrap_err().code, Code::Unimplemented);
    }
}
