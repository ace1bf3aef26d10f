//! What a descriptor or a ticket asks for: a statement, or what Flight SQL tells about the tables.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use volley_common::options::fields::cut;
use volley_common::options::sql::{SQL_HEADER, is_flight_sql};
use volley_common::options::{HEADER_PREFIX, UnambiguousMap, header_text};
use volley_common::{Error, Result, TransactionId};
use volley_sql::flight_sql::{MetadataCommand, PreparedHandle, SqlCommand, decode};

/// The option `transaction` of puts as a header.
const TRANSACTION_HEADER: &str = "x-volley-transaction";
/// The option `max_endpoints` as a header.
const MAX_ENDPOINTS_HEADER: &str = "x-volley-max-endpoints";
/// Options of headers, without their prefix, that mean something for a statement, or that concern the connection.
const QUERY_HEADERS: [&str; 7] = ["sql", "decompress", "max-endpoints", "listener", "leader", "relayed", "hop"];

/// A statement, with values of its parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementText {
    /// The statement.
    pub sql: String,
    /// An IPC stream of rows; `None`: there are no parameters, or they are not known yet.
    pub parameters: Option<Bytes>,
    /// The transaction that it belongs to. A statement that only reads is the same within one.
    pub transaction: Option<TransactionId>,
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
/// INVALID_ARGUMENT: no statement, two different ones, or a command that changes tables. Those of [`decode`].
pub fn sql_read(command: &[u8], headers: &HeaderMap) -> Result<SqlRead> {
    if !is_flight_sql(command) {
        return statement_text(command, headers).map(SqlRead::Statement);
    }
    let text = match decode(command)? {
        SqlCommand::Statement { sql, transaction } => StatementText { sql, parameters: None, transaction },
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
    let PreparedHandle { sql, parameters, transaction } = PreparedHandle::decode(handle)?;
    Ok(StatementText { sql, parameters, transaction })
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
    Ok(StatementText { sql, parameters: None, transaction: None })
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
    check_headers(headers, |option| QUERY_HEADERS.contains(&option))
}

/// How many endpoints a client wants at most.
///
/// # Errors
/// INVALID_ARGUMENT: the header is no number of at least 1.
pub fn max_endpoints(headers: &HeaderMap) -> Result<Option<u32>> {
    let Some(text) = header_text(headers, MAX_ENDPOINTS_HEADER)? else { return Ok(None) };
    match text.trim().parse::<u32>() {
        Ok(most) if most > 0 => Ok(Some(most)),
        Ok(_) | Err(_) => Err(Error::invalid(format!(
            "the header {MAX_ENDPOINTS_HEADER} is {:?}, and must be a number of at least 1",
            cut(text)
        ))),
    }
}

/// The transaction of a statement that changes tables: by its command, or by the header of puts, for clients that cannot put it
/// into the command.
///
/// # Errors
/// INVALID_ARGUMENT: two different ones, or a header that [`check_query_headers`] refuses but this one.
pub fn update_transaction(headers: &HeaderMap, command: Option<TransactionId>) -> Result<Option<TransactionId>> {
    check_headers(headers, |option| option == "transaction" || QUERY_HEADERS.contains(&option))?;
    let header = header_text(headers, TRANSACTION_HEADER)?.map(str::parse::<TransactionId>).transpose()?;
    match (command, header) {
        (Some(command), Some(header)) if command != header => Err(Error::invalid(format!(
            "the header {TRANSACTION_HEADER} and the command have two different transactions: leave one out"
        ))),
        (command, header) => Ok(command.or(header)),
    }
}

fn check_headers(headers: &HeaderMap, has_effect: impl Fn(&str) -> bool) -> Result<()> {
    let ignored = headers.keys().find(|name| {
        // Binary headers are those of members.
        let option = name.as_str().strip_prefix(HEADER_PREFIX).filter(|option| !option.ends_with("-bin"));
        option.is_some_and(|option| !has_effect(option))
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
    fn number_of_endpoints_is_a_number() {
        let of = |text: &str| max_endpoints(&headers(&[(MAX_ENDPOINTS_HEADER, text)]));
        assert_eq!((max_endpoints(&HeaderMap::new()).unwrap(), of("1").unwrap()), (None, Some(1)));
        for text in ["0", "-1", "many"] {
            assert!(of(text).unwrap_err().message.contains(MAX_ENDPOINTS_HEADER), "{text}");
        }
    }

    #[test]
    fn transaction_of_a_change_is_in_its_command_or_header() {
        let (one, other) = (TransactionId::new(7), TransactionId::new(8));
        let of = |values: &[(&'static str, &str)], command| update_transaction(&headers(values), command);
        let text = one.to_string();
        let header = text.as_str();
        assert_eq!(of(&[], None).unwrap(), None);
        assert_eq!(of(&[], Some(one)).unwrap(), Some(one));
        assert_eq!(of(&[(TRANSACTION_HEADER, header)], None).unwrap(), Some(one));
        assert_eq!(of(&[(TRANSACTION_HEADER, header)], Some(one)).unwrap(), Some(one));
        for refused in [
            of(&[(TRANSACTION_HEADER, header)], Some(other)),
            of(&[(TRANSACTION_HEADER, "t")], None),
            of(&[("x-volley-limit", "1")], Some(one)),
        ] {
            assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
        }
        assert!(check_query_headers(&headers(&[(TRANSACTION_HEADER, header)])).is_err(), "it has no effect on a query");
    }
}
