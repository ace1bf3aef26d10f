//! What a client process is told, and what it tells back: one JSON object each.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One thing for a client to do. Python's client knows the first three, Rust's the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Job {
    /// Put a table.
    Put(Put),
    /// Get streams, all at once, and keep what comes.
    Get(Get),
    /// As `Get`, but nothing is kept.
    Drain(Get),
    /// Put a table by Volley's own client.
    RustPut(RustPut),
    /// Get a table by Volley's own client.
    RustGet(RustGet),
    /// Many small calls.
    Small(Small),
    /// `get_flight_info` at a fixed rate.
    Infos(Infos),
}

/// What is put.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// Columns `c0`, `c1`, … of random float64 without nulls, of so many bytes together.
    Floats {
        /// Columns.
        columns: usize,
        /// Bytes of all values.
        bytes: u64,
    },
    /// An Arrow IPC file.
    File {
        /// Where it is.
        path: String,
        /// Rows in it.
        rows: u64,
        /// Bytes of its values.
        bytes: u64,
    },
}

impl Source {
    /// Bytes of Arrow data in it.
    pub fn bytes(&self) -> u64 {
        match self {
            Source::Floats { bytes, .. } | Source::File { bytes, .. } => *bytes,
        }
    }

    /// Rows in it.
    pub fn rows(&self) -> u64 {
        match self {
            Source::Floats { columns, bytes } => bytes / (8 * *columns as u64),
            Source::File { rows, .. } => *rows,
        }
    }
}

/// A table in one or several streams at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Put {
    /// The rows, cut into as many ranges as there are streams.
    pub source: Source,
    /// Rows of a batch: the `max_chunksize` of `write_table`.
    pub batch_rows: u64,
    /// Where each stream goes.
    pub streams: Vec<PutStream>,
    /// What is called when all have ended; the time ends after it.
    pub commit: Option<Call>,
}

/// Where a stream of a put goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutStream {
    /// HOST:PORT.
    pub address: String,
    /// The command of its descriptor.
    pub descriptor: Value,
}

/// An action.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Which.
    pub name: String,
    /// With what.
    pub body: Value,
}

/// Streams at once, of tickets one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Get {
    /// The tickets of each stream.
    pub streams: Vec<Vec<Fetch>>,
    /// What must come, if that is to be compared; not if nothing is kept.
    pub expect: Option<Source>,
}

/// One DoGet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fetch {
    /// HOST:PORT.
    pub address: String,
    /// The ticket in base64.
    pub ticket: String,
}

impl Fetch {
    /// A ticket, to be redeemed at HOST:PORT.
    pub fn new(address: &str, ticket: &[u8]) -> Fetch {
        Fetch { address: address.into(), ticket: BASE64_STANDARD.encode(ticket) }
    }

    /// A ticket that asks for a table by its name, with options.
    pub fn table(address: &str, table: &str, options: &Value) -> Fetch {
        let mut ticket = options.clone();
        ticket["table"] = json!(table);
        Fetch::new(address, ticket.to_string().as_bytes())
    }
}

/// A table by Volley's own client, which takes batches as they come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RustPut {
    /// HOST:PORT.
    pub address: String,
    /// The table's name.
    pub table: String,
    /// The rows.
    pub source: Source,
    /// Rows of a batch.
    pub batch_rows: u64,
}

/// A table by Volley's own client, all endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RustGet {
    /// HOST:PORT.
    pub address: String,
    /// The table's name.
    pub table: String,
    /// Endpoints at once.
    pub streams: usize,
    /// Rows that must come.
    pub rows: u64,
}

/// What each of many small calls does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmallCall {
    /// A table of its own.
    Put,
    /// Gets one of these tables.
    Get,
    /// Appends to the client's own table, which is made before the time begins.
    Append,
}

/// Clients that call one after the other, each on a connection of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Small {
    /// HOST:PORT, of the clients in turn.
    pub addresses: Vec<String>,
    /// What each call does.
    pub call: SmallCall,
    /// Calls in all.
    pub calls: usize,
    /// Clients at once.
    pub clients: usize,
    /// Rows of each call.
    pub rows: usize,
}

/// `get_flight_info`, at times fixed before: a slow answer does not hold the next question back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Infos {
    /// HOST:PORT, asked in turn.
    pub addresses: Vec<String>,
    /// The table.
    pub table: String,
    /// How many endpoints every answer must have.
    pub endpoints: usize,
    /// Calls a second.
    pub rate: u32,
    /// For how long, seconds.
    pub seconds: u32,
}

/// What a client did, and what it cost it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// How long it took.
    pub seconds: f64,
    /// CPU seconds of the client meanwhile.
    pub cpu: f64,
    /// Bytes of Arrow data that were moved.
    #[serde(default)]
    pub bytes: u64,
    /// Rows that were moved.
    #[serde(default)]
    pub rows: u64,
    /// Calls that were answered.
    #[serde(default)]
    pub calls: u64,
    /// The median time of a call, seconds.
    #[serde(default)]
    pub p50: f64,
    /// The 99th percentile of the times of calls, seconds.
    #[serde(default)]
    pub p99: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_knows_its_rows() {
        assert_eq!(Source::Floats { columns: 64, bytes: 64 * 8 * 1000 }.rows(), 1000);
        assert_eq!(Source::File { path: String::new(), rows: 7, bytes: 1 }.rows(), 7);
    }

    #[test]
    fn jobs_are_read_back_and_say_what_is_to_be_done() {
        let get = Get { streams: vec![vec![Fetch::table("h:1", "t", &json!({"columns": ["a"]}))]], expect: None };
        let text = serde_json::to_value(Job::Drain(get)).unwrap();
        assert_eq!((&text["do"], &text["streams"][0][0]["address"]), (&json!("drain"), &json!("h:1")));
        let Job::Drain(back) = serde_json::from_value(text).unwrap() else { panic!("another job came back") };
        let ticket = BASE64_STANDARD.decode(&back.streams[0][0].ticket).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&ticket).unwrap(), json!({"table": "t", "columns": ["a"]}));
    }

    #[test]
    fn an_outcome_may_leave_out_what_was_not_counted() {
        let outcome: Outcome = serde_json::from_str(r#"{"seconds": 1.5, "cpu": 0.5, "bytes": 3}"#).unwrap();
        assert_eq!((outcome.seconds, outcome.bytes, outcome.calls), (1.5, 3, 0));
    }
}
