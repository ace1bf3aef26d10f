//! The actions of Flight SQL.

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionEndTransactionRequest, Command, EndTransaction,
};
use bytes::Bytes;
use volley_common::options::fields::cut;
use volley_common::{Error, Result, TransactionId};

use super::message::{message_name, transaction_of, unpack};

/// Why there is no savepoint, and what there is instead.
const NO_SAVEPOINTS: &str = "savepoints are not supported: a statement that fails has no effect, and the transaction goes on without it; use a transaction of its own for what is to be undone together";

/// An action that is supported.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlAction {
    /// Prepares a statement. The reply is [`super::created_result`].
    CreatePreparedStatement {
        /// Its text.
        sql: String,
        /// The transaction that it belongs to.
        transaction: Option<TransactionId>,
    },
    /// Begins a transaction. The reply is [`super::transaction_result`].
    BeginTransaction,
    /// Ends a transaction. The reply is empty.
    EndTransaction {
        /// The transaction.
        transaction: TransactionId,
        /// Whether it is committed; otherwise it is rolled back.
        commit: bool,
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
/// INVALID_ARGUMENT: a malformed body, one of another action, or no id of a transaction. UNIMPLEMENTED: savepoints, plans of
/// Substrait, and what is no action of Flight SQL.
pub fn decode_action(name: &str, body: &[u8]) -> Result<SqlAction> {
    match name {
        "BeginSavepoint" | "EndSavepoint" => return Err(Error::unimplemented(NO_SAVEPOINTS)),
        "CreatePreparedSubstraitPlan" => {
            return Err(Error::unimplemented("plans of Substrait are not supported: prepare the query as SQL"));
        }
        _ => {}
    }
    match (name, unpack(body)?) {
        ("CreatePreparedStatement", Command::ActionCreatePreparedStatementRequest(request)) => {
            let ActionCreatePreparedStatementRequest { query, transaction_id } = request;
            Ok(SqlAction::CreatePreparedStatement { sql: query, transaction: transaction_of(transaction_id)? })
        }
        ("BeginTransaction", Command::ActionBeginTransactionRequest(_)) => Ok(SqlAction::BeginTransaction),
        ("EndTransaction", Command::ActionEndTransactionRequest(request)) => end_transaction(request),
        ("ClosePreparedStatement", Command::ActionClosePreparedStatementRequest(request)) => {
            let ActionClosePreparedStatementRequest { prepared_statement_handle } = request;
            Ok(SqlAction::ClosePreparedStatement { handle: prepared_statement_handle })
        }
        ("CancelQuery", Command::ActionCancelQueryRequest(request)) => {
            let ActionCancelQueryRequest { info } = request;
            Ok(SqlAction::CancelQuery { info })
        }
        (
            "CreatePreparedStatement"
            | "ClosePreparedStatement"
            | "CancelQuery"
            | "BeginTransaction"
            | "EndTransaction",
            other,
        ) => Err(Error::invalid(format!(
            "the body of the action {name} is a {}: send an Action{name}Request",
            message_name(other.type_url())
        ))),
        _ => Err(Error::unimplemented(format!("there is no action {:?} of Flight SQL", cut(name)))),
    }
}

fn end_transaction(request: ActionEndTransactionRequest) -> Result<SqlAction> {
    let ActionEndTransactionRequest { transaction_id, action } = request;
    let transaction = transaction_of(Some(transaction_id))?.ok_or_else(|| {
        Error::invalid("the body of EndTransaction has no transaction id: send that of BeginTransaction")
    })?;
    match EndTransaction::try_from(action) {
        Ok(EndTransaction::Commit) => Ok(SqlAction::EndTransaction { transaction, commit: true }),
        Ok(EndTransaction::Rollback) => Ok(SqlAction::EndTransaction { transaction, commit: false }),
        Ok(EndTransaction::Unspecified) | Err(_) => Err(Error::invalid(
            "the body of EndTransaction does not say how the transaction ends: set its action to COMMIT or ROLLBACK",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::sql::{ActionBeginTransactionRequest, ProstMessageExt};
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
    fn transaction_begins_and_ends_as_its_action_says() {
        assert_eq!(
            decoded("BeginTransaction", &ActionBeginTransactionRequest {}).unwrap(),
            SqlAction::BeginTransaction
        );
        let transaction = TransactionId::new(7);
        let end = |action| ActionEndTransactionRequest { transaction_id: transaction.to_string().into(), action };
        for (action, commit) in [(1, true), (2, false)] {
            let expected = SqlAction::EndTransaction { transaction, commit };
            assert_eq!(decoded("EndTransaction", &end(action)).unwrap(), expected);
        }
        for wrong in [
            end(0),
            end(3),
            ActionEndTransactionRequest { transaction_id: Bytes::new(), action: 1 },
            ActionEndTransactionRequest { transaction_id: Bytes::from_static(b"\xfft"), action: 1 },
        ] {
            assert_eq!(decoded("EndTransaction", &wrong).unwrap_err().code, Code::InvalidArgument, "{wrong:?}");
        }
        let other = decoded("BeginTransaction", &end(1)).unwrap_err();
        assert!(other.message.contains("ActionBeginTransactionRequest"), "{other}");
    }

    #[test]
    fn statement_is_prepared_in_its_transaction() {
        let id = TransactionId::new(7);
        let create = |transaction_id: Bytes| ActionCreatePreparedStatementRequest {
            query: "SELECT 1".into(),
            transaction_id: Some(transaction_id),
        };
        let prepared = |create: &ActionCreatePreparedStatementRequest| decoded("CreatePreparedStatement", create);
        let expected = |transaction| SqlAction::CreatePreparedStatement { sql: "SELECT 1".into(), transaction };
        assert_eq!(prepared(&create(id.to_string().into())).unwrap(), expected(Some(id)));
        assert_eq!(prepared(&create(Bytes::new())).unwrap(), expected(None), "some clients send an empty one for none");
        assert_eq!(prepared(&create("t".into())).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn savepoints_and_plans_are_unimplemented_with_a_remedy() {
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
