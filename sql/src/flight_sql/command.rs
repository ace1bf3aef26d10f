//! What the bytes of a descriptor or a ticket ask for.

use arrow_flight::sql::Command;
use bytes::Bytes;
use volley_common::{Error, Result};

use super::ingest::IngestCommand;
use super::message::{message_name, unpack};
use super::metadata::MetadataCommand;

/// A command of Flight SQL.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlCommand {
    /// A query, which get_flight_info plans.
    Statement {
        /// Its text.
        sql: String,
        /// The transaction that it belongs to; some clients send an empty one for none.
        transaction: Option<Bytes>,
    },
    /// A prepared query: get_flight_info plans it, do_put binds its parameters.
    PreparedQuery {
        /// For [`super::PreparedHandle::decode`].
        handle: Bytes,
    },
    /// A prepared statement that changes tables, for do_put.
    PreparedUpdate {
        /// For [`super::PreparedHandle::decode`].
        handle: Bytes,
    },
    /// A statement that changes tables, for do_put.
    Update {
        /// Its text.
        sql: String,
        /// The transaction that it belongs to; some clients send an empty one for none.
        transaction: Option<Bytes>,
    },
    /// Rows for a table, for do_put.
    Ingest(IngestCommand),
    /// A question about the tables or the server. As a ticket it is its own answer.
    Metadata(MetadataCommand),
    /// The ticket of a statement, as other servers make them. Volley's are signed and of another form.
    StatementTicket {
        /// What the other server put into it.
        handle: Bytes,
    },
}

/// Decodes the bytes of a command, or of a ticket that is one.
///
/// ```
/// use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
/// use prost::Message;
/// use volley_sql::flight_sql::{SqlCommand, decode};
///
/// let command = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None };
/// let SqlCommand::Statement { sql, .. } = decode(&command.as_any().encode_to_vec())? else { panic!() };
/// assert_eq!(sql, "SELECT 1");
/// # Ok::<(), volley_common::Error>(())
/// ```
///
/// # Errors
/// INVALID_ARGUMENT: malformed, or a message that is no command. UNIMPLEMENTED: a command that is not supported. Those of an
/// ingest: INVALID_ARGUMENT, NOT_FOUND of a catalog, UNIMPLEMENTED.
pub fn decode(bytes: &[u8]) -> Result<SqlCommand> {
    Ok(match unpack(bytes)? {
        Command::CommandStatementQuery(command) => {
            SqlCommand::Statement { sql: command.query, transaction: command.transaction_id }
        }
        Command::CommandStatementUpdate(command) => {
            SqlCommand::Update { sql: command.query, transaction: command.transaction_id }
        }
        Command::CommandPreparedStatementQuery(command) => {
            SqlCommand::PreparedQuery { handle: command.prepared_statement_handle }
        }
        Command::CommandPreparedStatementUpdate(command) => {
            SqlCommand::PreparedUpdate { handle: command.prepared_statement_handle }
        }
        Command::CommandStatementIngest(command) => SqlCommand::Ingest(IngestCommand::new(command)?),
        Command::TicketStatementQuery(ticket) => SqlCommand::StatementTicket { handle: ticket.statement_handle },
        Command::CommandStatementSubstraitPlan(_) => {
            return Err(Error::unimplemented(
                "plans of Substrait (CommandStatementSubstraitPlan) are not supported: send the query as SQL",
            ));
        }
        other => {
            let name = message_name(other.type_url());
            let command = MetadataCommand::new(other).ok_or_else(|| {
                Error::invalid(format!("{name} is no command for a descriptor or a ticket: send it by its action"))
            })?;
            SqlCommand::Metadata(command)
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::sql::{
        ActionCreatePreparedStatementRequest, CommandGetTableTypes, CommandPreparedStatementQuery,
        CommandPreparedStatementUpdate, CommandStatementQuery, CommandStatementSubstraitPlan, CommandStatementUpdate,
        DoPutUpdateResult, ProstMessageExt, TicketStatementQuery,
    };
    use prost::Message;
    use volley_common::Code;

    use super::*;

    fn decoded(message: &impl ProstMessageExt) -> Result<SqlCommand> {
        decode(&message.as_any().encode_to_vec())
    }

    #[test]
    fn statements_are_decoded_with_their_transaction() {
        let (sql, transaction) = ("SELECT 1".to_string(), Some(Bytes::from_static(b"t")));
        let query = CommandStatementQuery { query: sql.clone(), transaction_id: transaction.clone() };
        let expected = SqlCommand::Statement { sql: sql.clone(), transaction: transaction.clone() };
        assert_eq!(decoded(&query).unwrap(), expected);
        let without = CommandStatementQuery { query: sql.clone(), transaction_id: None };
        assert_eq!(decoded(&without).unwrap(), SqlCommand::Statement { sql: sql.clone(), transaction: None });
        let update = CommandStatementUpdate { query: sql.clone(), transaction_id: transaction.clone() };
        assert_eq!(decoded(&update).unwrap(), SqlCommand::Update { sql, transaction });
    }

    #[test]
    fn handles_are_decoded_as_they_were_sent() {
        let handle = Bytes::from_static(b"\x00\xff");
        let query = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
        assert_eq!(decoded(&query).unwrap(), SqlCommand::PreparedQuery { handle: handle.clone() });
        let update = CommandPreparedStatementUpdate { prepared_statement_handle: handle.clone() };
        assert_eq!(decoded(&update).unwrap(), SqlCommand::PreparedUpdate { handle: handle.clone() });
        let ticket = TicketStatementQuery { statement_handle: handle.clone() };
        assert_eq!(decoded(&ticket).unwrap(), SqlCommand::StatementTicket { handle });
    }

    #[test]
    fn metadata_is_a_command_and_a_result_is_none() {
        let types = decoded(&CommandGetTableTypes {}).unwrap();
        assert_eq!(types, SqlCommand::Metadata(MetadataCommand::TableTypes));
        let result = decoded(&DoPutUpdateResult { record_count: 1 }).unwrap_err();
        assert!(result.code == Code::InvalidArgument && result.message.starts_with("DoPutUpdateResult"), "{result}");
        let action = ActionCreatePreparedStatementRequest { query: "SELECT 1".into(), transaction_id: None };
        assert!(decoded(&action).unwrap_err().message.contains("action"));
    }

    #[test]
    fn plan_of_substrait_is_unimplemented() {
        let plan = CommandStatementSubstraitPlan { plan: None, transaction_id: None };
        assert_eq!(decoded(&plan).unwrap_err().code, Code::Unimplemented);
    }
}
