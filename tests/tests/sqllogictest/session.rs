//! How the runner of sqllogictest sends statements, and how it reads results.

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, ColumnType, DBOutput};
use volley_client::{Client, FetchOptions};
use volley_common::{Error, Result};
use volley_tests::text_rows::text_rows;

/// First words of statements that only read.
const READS: [&str; 8] = ["DESC", "DESCRIBE", "EXPLAIN", "SELECT", "SHOW", "TABLE", "VALUES", "WITH"];

/// Sends each statement to the next member, so that every file is run by all of them.
pub struct RotatingSession {
    clients: Vec<Client>,
    calls: usize,
}

impl RotatingSession {
    pub async fn connect(addresses: Vec<String>) -> Result<RotatingSession, SqlFailure> {
        let mut clients = Vec::new();
        for address in addresses {
            clients.push(Client::connect(&address).await?);
        }
        Ok(RotatingSession { clients, calls: 0 })
    }
}

#[async_trait]
impl AsyncDB for RotatingSession {
    type Error = SqlFailure;
    type ColumnType = ValueType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<ValueType>, SqlFailure> {
        let client = self.clients[self.calls % self.clients.len()].clone();
        self.calls += 1;
        if !reads(sql) {
            let rows = client.execute_update(sql).await?;
            return Ok(DBOutput::StatementComplete(rows.unwrap_or_default()));
        }
        let (schema, batches) = query(&client, sql).await?;
        let types = schema.fields().iter().map(|field| ValueType::of(field.data_type())).collect();
        Ok(DBOutput::Rows { types, rows: text_rows(&batches) })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "volley"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The rows of a query, and the schema that its FlightInfo promised.
///
/// # Panics
/// A batch has another schema.
pub async fn query(client: &Client, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let rows = client.query(sql, FetchOptions::default()).await?;
    let schema = rows.schema.clone();
    let batches: Vec<RecordBatch> = rows.map_ok(|fetched| fetched.batch).try_collect().await?;
    for batch in &batches {
        assert_eq!(batch.schema(), schema, "the rows have the schema of the FlightInfo: {sql}");
    }
    Ok((schema, batches))
}

fn reads(sql: &str) -> bool {
    let text = sql.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    READS.contains(&word.to_ascii_uppercase().as_str())
}

/// An error of a statement, with its code before the message: `NotFound: there is no table "t"`.
#[derive(Debug)]
pub struct SqlFailure(Error);

impl fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for SqlFailure {}

impl From<Error> for SqlFailure {
    fn from(error: Error) -> Self {
        SqlFailure(error)
    }
}

/// The letters for columns in the files are those of DataFusion's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Boolean,
    Date,
    Integer,
    Timestamp,
    /// Floats and decimals.
    Real,
    Text,
    Other,
}

impl ValueType {
    fn of(data_type: &DataType) -> ValueType {
        match data_type {
            DataType::Boolean => ValueType::Boolean,
            DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => ValueType::Date,
            DataType::Timestamp(..) => ValueType::Timestamp,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ValueType::Text,
            DataType::Dictionary(_, values) => ValueType::of(values),
            number if number.is_integer() => ValueType::Integer,
            number if number.is_numeric() => ValueType::Real,
            _ => ValueType::Other,
        }
    }
}

impl ColumnType for ValueType {
    fn from_char(value: char) -> Option<ValueType> {
        Some(match value {
            'B' => ValueType::Boolean,
            'D' => ValueType::Date,
            'I' => ValueType::Integer,
            'P' => ValueType::Timestamp,
            'R' => ValueType::Real,
            'T' => ValueType::Text,
            '?' => ValueType::Other,
            _ => return None,
        })
    }

    fn to_char(&self) -> char {
        match self {
            ValueType::Boolean => 'B',
            ValueType::Date => 'D',
            ValueType::Integer => 'I',
            ValueType::Timestamp => 'P',
            ValueType::Real => 'R',
            ValueType::Text => 'T',
            ValueType::Other => '?',
        }
    }
}
