//! What a descriptor or a ticket asks for: a statement, or what Flight SQL tells about the tables.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use volley_common::options::fields::cut;
use volley_common::options::sql::{SQL_HEADER, is_flight_sql};
use volley_common::options::{HEADER_PREFIX, UnambiguousMap};
use volley_common::{Error, Result};
use volley_sql::flight_sql::{MetadataCommand, NO_TRANSACTIONS, PreparedHandle, SqlCommand, decode};

/// Options of headers, without their prefix, that mean something for a statement, or that concern the connection.
const QUERY_HEADERS: [&str; 7] = ["sql", "decompress", "max-endpoints", "listener", "leader", "relayed", "hop"];

/// A statement, with values of its parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementText {
    /// The statement.
    pub sql: String,
    /// An IPC stream of one row; `None`: there are no parameters, or they are not known yet.
    pub parameters: Option<Bytes>,
}

/// What a read asks for.
pub enum SqlRead {
    /// The rows of a query.
    Statement(StatementText),
    /// What Flight SQL tells about the tables and the server.
    Metadata(MetadataCommand),
}

/// What the bytes of a command or ticket and the headers of its call ask for.
///
/// # Errors
/// INVALID_ARGUMENT: no statement, two different ones, or a command that changes tables. UNIMPLEMENTED: a transaction. Those of
/// [`decode`].
pub fn sql_read(command: &[u8], headers: &HeaderMap) -> Result<SqlRead> {
    if !is_flight_sql(command) {
        return statement_text(command, headers).map(SqlRead::Statement);
    }
    let text = match decode(command)? {
        SqlCommand::Statement { sql, transaction } => {
            check_no_transaction(transaction.as_deref())?;
            StatementText { sql, parameters: None }
        }
        SqlCommand::PreparedQuery { handle } => prepared(&handle)?,
        SqlCommand::Metadata(command) => return Ok(SqlRead::Metadata(command)),
        SqlCommand::Update { .. } | SqlCommand::PreparedUpdate { .. } | SqlCommand::Ingest(_) => {
            return Err(Error::invalid(
                "this command of Flight SQL changes tables: send it by do_put, as execute_update and ingest do",
            ));
        }
        SqlCommand::StatementTicket { .. } => {
            return Err(Error::invalid(
                "this ticket is not from get_flight_info of this cluster: call it, and use the tickets of its reply",
            ));
        }
    };
    Ok(SqlRead::Statement(text))
}

/// The statement of a prepared statement's handle.
///
/// # Errors
/// INVALID_ARGUMENT: it is no handle.
pub fn prepared(handle: &[u8]) -> Result<StatementText> {
    let PreparedHandle { sql, parameters } = PreparedHandle::decode(handle)?;
    Ok(StatementText { sql, parameters })
}

/// Checks that a statement belongs to no transaction.
///
/// # Errors
/// UNIMPLEMENTED.
pub fn check_no_transaction(transaction: Option<&[u8]>) -> Result<()> {
    match transaction {
        None | Some([]) => Ok(()),
        Some(_) => Err(Error::unimplemented(NO_TRANSACTIONS)),
    }
}

/// The statement of a JSON command, or of the header `x-volley-sql`. With the header the command may be anything: such clients can
/// only name a table.
///
/// # Errors
/// INVALID_ARGUMENT: there is none, there are two different ones, or JSON with other keys.
pub fn statement_text(command: &[u8], headers: &HeaderMap) -> Result<StatementText> {
    let sql = match (json_statement(command)?, header_statement(headers)?) {
        (Some(text), Some(other)) if text != other => {
            return Err(Error::invalid(format!(
                "the header {SQL_HEADER} and the command have two different statements: leave one out"
            )));
        }
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) => return Err(Error::invalid("the command has no statement: give {\"sql\": \"SELECT ...\"}")),
    };
    Ok(StatementText { sql, parameters: None })
}

fn json_statement(command: &[u8]) -> Result<Option<String>> {
    if !command.trim_ascii_start().starts_with(b"{") {
        return Ok(None);
    }
    let UnambiguousMap(map) = serde_json::from_slice(command)
        .map_err(|e| Error::invalid(format!("the command is not a valid JSON object: {}", cut(&e.to_string()))))?;
    let mut sql = None;
    for (key, value) in map.into_iter().filter(|(_, value)| !value.is_null()) {
        match (key.as_str(), value) {
            ("sql", Value::String(text)) => sql = Some(text),
            ("sql", _) => return Err(Error::invalid("\"sql\" is the text of a statement")),
            (other, _) => {
                return Err(Error::invalid(format!(
                    "the key {:?} has no effect beside \"sql\": write it into the statement",
                    cut(other)
                )));
            }
        }
    }
    Ok(sql)
}

fn header_statement(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(SQL_HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Ok(Some(text.to_string())),
            Err(_) => Err(Error::invalid(format!("the header {SQL_HEADER} is not UTF-8"))),
        },
        (Some(_), Some(_)) => Err(Error::invalid(format!("the header {SQL_HEADER} is given twice: leave one out"))),
    }
}

/// Checks that no header has an option that a statement ignores.
///
/// # Errors
/// INVALID_ARGUMENT, naming the header.
pub fn check_query_headers(headers: &HeaderMap) -> Result<()> {
    let option = |name: &str| name.strip_prefix(HEADER_PREFIX).map(str::to_string);
    let ignored = headers.keys().find(|name| {
        // Binary headers are those of members.
        option(name.as_str()).is_some_and(|o| !QUERY_HEADERS.contains(&o.as_str()) && !o.ends_with("-bin"))
    });
    match ignored {
        None => Ok(()),
        Some(name) => {
            Err(Error::invalid(format!("the header {name} has no effect on a statement: write it into the text")))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn statement_comes_from_the_command_or_the_header() {
        let text = |command: &str, values: &[(&'static str, &str)]| {
            statement_text(command.as_bytes(), &headers(values)).map(|text| text.sql)
        };
        let one = r#"{"sql": "SELECT 1", "where": null}"#;
        assert_eq!(text(one, &[]).unwrap(), "SELECT 1");
        assert_eq!(text("t", &[(SQL_HEADER, "SELECT 2")]).unwrap(), "SELECT 2");
        assert_eq!(text(one, &[(SQL_HEADER, "SELECT 1")]).unwrap(), "SELECT 1");
        for (command, values, why) in [
            (one, &[(SQL_HEADER, "SELECT 2")][..], "two different"),
            ("", &[(SQL_HEADER, "a"), (SQL_HEADER, "b")], "twice"),
            ("t", &[], "no statement"),
            (r#"{"sql": 7}"#, &[], "text of a statement"),
            (r#"{"sql": "SELECT 1", "limit": 3}"#, &[], "\"limit\""),
            (r#"{"sql": "#, &[], "JSON"),
        ] {
            let error = text(command, values).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.message.contains(why), "{command}: {error}");
        }
    }

    #[test]
    fn option_that_a_query_ignores_is_refused() {
        let check = |name: &'static str| check_query_headers(&headers(&[(name, "1")]));
        for name in [SQL_HEADER, "x-volley-decompress", "x-volley-listener", "x-volley-assertion-bin", "x-other"] {
            check(name).unwrap();
        }
        for name in ["x-volley-limit", "x-volley-where", "x-volley-colums"] {
            assert!(check(name).unwrap_err().message.contains(name));
        }
    }

    #[test]
    fn transaction_is_refused_and_an_empty_one_is_none() {
        check_no_transaction(None).unwrap();
        check_no_transaction(Some(b"")).unwrap();
        assert_eq!(check_no_transaction(Some(b"1")).unwrap_err().code, Code::Unimplemented);
    }
}
