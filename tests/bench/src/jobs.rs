//! The jobs of client processes and their outcomes: one JSON object each.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A job for a client. The Python client runs the first eight, the Rust client the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ClientJob {
    /// Put a table.
    Put(PutJob),
    /// Get streams, all at once, and keep the rows.
    Get(GetJob),
    /// Like `Get`, but nothing is kept.
    Drain(GetJob),
    /// Put a table by the Python package.
    PackagePut(PackagePutJob),
    /// Get a table by the Python package.
    PackageGet(PackageGetJob),
    /// Read shuffled batches, as programs that train do.
    Train(TrainingJob),
    /// Download a Parquet file by HTTP, and decode it.
    Download(DownloadJob),
    /// Read a table of DuckDB by its protocol Quack.
    Quack(QuackJob),
    /// Put a table by Volley's own client.
    RustPut(RustPutJob),
    /// Get a table by Volley's own client.
    RustGet(RustGetJob),
    /// Many small calls.
    Small(SmallCallsJob),
    /// `get_flight_info` at a fixed rate.
    Infos(FlightInfoJob),
    /// Small gets at a fixed rate, beside bulk gets and puts.
    Mixed(MixedLoadJob),
}

impl ClientJob {
    /// Whether its client needs no unmeasured round: it warms up by itself, or is bound by its link.
    pub fn is_repeated(&self) -> bool {
        let warm = matches!(self, ClientJob::RustGet(_) | ClientJob::PackageGet(_) | ClientJob::Infos(_));
        warm || matches!(self, ClientJob::Download(_) | ClientJob::Quack(_) | ClientJob::Mixed(_))
    }
}

/// The rows of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RowSource {
    /// Columns `c0`, `c1`, … of random float64 without nulls, of this many bytes together.
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

impl RowSource {
    /// Bytes of Arrow data in it.
    pub fn bytes(&self) -> u64 {
        match self {
            RowSource::Floats { bytes, .. } | RowSource::File { bytes, .. } => *bytes,
        }
    }

    /// Rows in it.
    pub fn rows(&self) -> u64 {
        match self {
            RowSource::Floats { columns, bytes } => bytes / (8 * *columns as u64),
            RowSource::File { rows, .. } => *rows,
        }
    }
}

/// A table in one or several streams at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutJob {
    /// The rows, cut into as many ranges as there are streams.
    pub source: RowSource,
    /// Rows of a batch: the `max_chunksize` of `write_table`.
    pub batch_rows: u64,
    /// Where each stream goes.
    pub streams: Vec<PutStream>,
    /// The action to call when all have ended; it counts in the measured time.
    pub commit: Option<ActionCall>,
}

/// Where a stream of a put goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutStream {
    /// HOST:PORT.
    pub address: String,
    /// The command of its descriptor.
    pub descriptor: Value,
}

/// A call of an action.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActionCall {
    /// Its name.
    pub name: String,
    /// Its body.
    pub body: Value,
}

/// Parallel streams, each of tickets that are redeemed one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetJob {
    /// The tickets of each stream.
    pub streams: Vec<Vec<TicketFetch>>,
    /// The rows to compare with; none if they are not compared or not kept.
    pub expect: Option<RowSource>,
    /// A column whose values are summed up in the measured time.
    #[serde(default)]
    pub sum: Option<String>,
}

/// One DoGet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TicketFetch {
    /// HOST:PORT.
    pub address: String,
    /// The ticket in base64.
    pub ticket: String,
}

impl TicketFetch {
    /// A ticket and the HOST:PORT where it is redeemed.
    pub fn new(address: &str, ticket: &[u8]) -> TicketFetch {
        TicketFetch { address: address.into(), ticket: BASE64_STANDARD.encode(ticket) }
    }

    /// A ticket that names a table, with options.
    pub fn table(address: &str, table: &str, options: &Value) -> TicketFetch {
        let mut ticket = options.clone();
        ticket["table"] = json!(table);
        TicketFetch::new(address, ticket.to_string().as_bytes())
    }
}

/// A put by the Python package.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackagePutJob {
    /// HOST:PORT of members.
    pub addresses: Vec<String>,
    /// The table's name.
    pub table: String,
    /// The rows.
    pub source: RowSource,
    /// Rows of a batch.
    pub batch_rows: u64,
    /// The options of the put.
    pub options: Value,
}

/// A get by the Python package.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackageGetJob {
    /// HOST:PORT of members.
    pub addresses: Vec<String>,
    /// The table's name.
    pub table: String,
    /// Rows that must arrive.
    pub rows: u64,
    /// Whether it is read by files on the node's machine: `auto` or `never`.
    pub local: String,
    /// A column whose values are summed up in the measured time.
    pub sum: Option<String>,
}

/// What reads shuffled batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingLibrary {
    /// The Python package, from the cluster.
    Volley,
    /// Lance, from a file of its own.
    Lance,
    /// WebDataset, from archives.
    Webdataset,
}

/// An epoch of shuffled batches; or the first batch from a later row on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingJob {
    /// What reads them.
    pub library: TrainingLibrary,
    /// HOST:PORT of members.
    pub addresses: Vec<String>,
    /// The table's name.
    pub table: String,
    /// Its rows, for the files of the other libraries.
    pub source: RowSource,
    /// Where these files are.
    pub folder: String,
    /// The row at which it begins; 0: the whole epoch.
    pub position: u64,
}

/// A Parquet file over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DownloadJob {
    /// Where it is.
    pub url: String,
    /// Rows that must arrive.
    pub rows: u64,
    /// Bytes of their values in Arrow.
    pub bytes: u64,
}

/// A table of DuckDB by Quack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuackJob {
    /// Where it is served.
    pub uri: String,
    /// Rows that must arrive.
    pub rows: u64,
    /// Bytes of their values in Arrow.
    pub bytes: u64,
}

/// A put by Volley's own client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RustPutJob {
    /// HOST:PORT.
    pub address: String,
    /// The table's name.
    pub table: String,
    /// The rows.
    pub source: RowSource,
    /// Rows of a batch.
    pub batch_rows: u64,
}

/// A get of all endpoints by Volley's own client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RustGetJob {
    /// HOST:PORT.
    pub address: String,
    /// The table's name.
    pub table: String,
    /// Endpoints at once.
    pub streams: usize,
    /// Rows that must arrive.
    pub rows: u64,
    /// Whether nodes must not compress on the way.
    #[serde(default)]
    pub plain: bool,
}

/// What each of many small calls does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmallCall {
    /// Puts a table of its own.
    Put,
    /// Gets one of these tables.
    Get,
    /// Appends to the client's own table, which exists before the measured time.
    Append,
    /// Gets one of these tables by its FlightInfo, all rows by files of a node on this machine.
    Fetch,
}

/// Small calls by several clients at once; each client has a connection of its own and one call at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SmallCallsJob {
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

/// `get_flight_info` at a fixed rate: a slow answer does not delay the next request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlightInfoJob {
    /// HOST:PORT, called in turn.
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

/// Small gets at a fixed rate, beside bulk gets and puts of the same client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MixedLoadJob {
    /// HOST:PORT, called in turn.
    pub addresses: Vec<String>,
    /// The table of the bulk gets.
    pub table: String,
    /// Bulk gets at once.
    pub gets: usize,
    /// The tables that are put, all at once, again and again.
    pub puts: Vec<String>,
    /// The rows of a bulk put.
    pub source: RowSource,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// How many tables the small gets read in turn: those of [`SmallCall::Put`].
    pub tables: usize,
    /// Rows of each of them.
    pub rows: usize,
    /// Small gets a second.
    pub rate: u32,
    /// For how long, seconds.
    pub seconds: u32,
}

/// What a client did, and its cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobOutcome {
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
    /// Anonymous memory that the client has more than before, bytes.
    #[serde(default)]
    pub anonymous: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_knows_its_rows() {
        assert_eq!(RowSource::Floats { columns: 64, bytes: 64 * 8 * 1000 }.rows(), 1000);
        assert_eq!(RowSource::File { path: String::new(), rows: 7, bytes: 1 }.rows(), 7);
    }

    #[test]
    fn jobs_are_read_back_from_json() {
        let get = GetJob {
            streams: vec![vec![TicketFetch::table("h:1", "t", &json!({"columns": ["a"]}))]],
            expect: None,
            sum: None,
        };
        let text = serde_json::to_value(ClientJob::Drain(get)).unwrap();
        assert_eq!((&text["do"], &text["streams"][0][0]["address"]), (&json!("drain"), &json!("h:1")));
        let ClientJob::Drain(back) = serde_json::from_value(text).unwrap() else { panic!("another job came back") };
        let ticket = BASE64_STANDARD.decode(&back.streams[0][0].ticket).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&ticket).unwrap(), json!({"table": "t", "columns": ["a"]}));
    }

    #[test]
    fn outcome_may_omit_figures() {
        let outcome: JobOutcome = serde_json::from_str(r#"{"seconds": 1.5, "cpu": 0.5, "bytes": 3}"#).unwrap();
        assert_eq!((outcome.seconds, outcome.bytes, outcome.calls), (1.5, 3, 0));
    }
}
