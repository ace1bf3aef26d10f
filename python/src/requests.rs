//! What Python asks for, parsed: commands are JSON, with the options that Flight descriptors have.

use std::path::PathBuf;

use arrow_flight::FlightInfo;
use prost::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use volley_client::{Client, ClientBuilder, ClientLogin, FetchOptions, LocalMode, Secret};
use volley_common::options::{Options, TableRequest};
use volley_common::tls::ClientTls;
use volley_common::{Error, Result, TableName};

/// Where to connect, and as whom.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectSettings {
    addresses: Vec<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_server_name: Option<String>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    plaintext_login: bool,
    local: Option<String>,
    /// Networks and hosts, separated by commas.
    #[serde(default)]
    prefer: Option<String>,
}

/// A client that is not connected yet.
///
/// # Errors
/// INVALID_ARGUMENT, without what was given: it is not such settings.
pub fn client_settings(json: &str) -> Result<ClientBuilder> {
    // The text may have a password.
    let settings: ConnectSettings =
        serde_json::from_str(json).map_err(|_| Error::invalid("the settings of the connection cannot be read"))?;
    if settings.user.is_none() && settings.password.is_some() {
        return Err(Error::invalid("there is a password and no user: give user=, or set VOLLEY_USER"));
    }
    let login = match (settings.user, settings.token, settings.token_file) {
        (None, None, None) => ClientLogin::none(),
        (Some(user), None, None) => {
            let password = settings.password.ok_or_else(|| {
                Error::invalid(format!("there is no password for {user:?}: give password=, or set VOLLEY_PASSWORD"))
            })?;
            ClientLogin::password(user, Secret::new(password))
        }
        (None, Some(token), None) => ClientLogin::token(Secret::new(token)),
        (None, None, Some(path)) => ClientLogin::token_file(path),
        _ => return Err(Error::invalid("user, token and token_file are ways to log in: give one of them")),
    };
    let tls = ClientTls {
        ca: settings.tls_ca,
        cert: settings.tls_cert,
        key: settings.tls_key,
        server_name: settings.tls_server_name,
    };
    let login = login.allow_plaintext(settings.plaintext_login);
    let local = settings.local.as_deref().map_or(Ok(LocalMode::default()), str::parse)?;
    let client = Client::builder().addresses(&settings.addresses).tls(tls).login(login);
    Ok(client.prefer(settings.prefer.unwrap_or_default()).local(local).traceparent_of_environment())
}

/// What is read.
pub enum ReadRequest {
    /// A table, with options.
    Table(TableName, Box<Options>),
    /// The rows of a query.
    Query(String),
    /// What was planned before.
    Plan(Box<FlightInfo>),
}

impl ReadRequest {
    /// `{"table": ..., OPTIONS}` or `{"sql": ...}`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the option.
    pub fn parse(command: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(command).map_err(|e| Error::invalid(format!("the request: {e}")))?;
        if let Some(sql) = value["sql"].as_str() {
            return match value.as_object().map_or(0, Map::len) {
                1 => Ok(ReadRequest::Query(sql.to_string())),
                _ => Err(Error::invalid("a query has no options: write them into the statement")),
            };
        }
        let request = TableRequest::from_command(command.as_bytes(), &Default::default())?.for_read()?;
        Ok(ReadRequest::Table(request.name, Box::new(request.options)))
    }

    /// A plan as [`partitions`] makes it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is not one.
    pub fn of_partition(bytes: &[u8]) -> Result<Self> {
        let plan =
            FlightInfo::decode(bytes).map_err(|e| Error::invalid(format!("the partition cannot be read: {e}")))?;
        Ok(ReadRequest::Plan(Box::new(plan)))
    }

    /// Its plan.
    ///
    /// # Errors
    /// The client's.
    pub async fn plan(self, client: &Client) -> Result<FlightInfo> {
        match self {
            ReadRequest::Table(name, options) => client.info(&name, &options).await,
            ReadRequest::Query(sql) => client.query_info(&sql).await,
            ReadRequest::Plan(plan) => Ok(*plan),
        }
    }
}

/// The table and the options of a put.
///
/// # Errors
/// INVALID_ARGUMENT names the option.
pub fn write_request(command: &str) -> Result<(TableName, Options)> {
    let request = TableRequest::from_command(command.as_bytes(), &Default::default())?.for_put()?;
    Ok((request.name, Options { table: None, ..request.options }))
}

/// Streams and memory of a read: none are the client's defaults.
pub fn fetch_options(streams: Option<usize>, window_bytes: Option<usize>) -> FetchOptions {
    let default = FetchOptions::default();
    FetchOptions {
        streams: streams.unwrap_or(default.streams),
        window_bytes: window_bytes.unwrap_or(default.window_bytes),
    }
}

/// The plan of each endpoint alone, encoded, and its rows if they are known.
pub fn partitions(plan: &FlightInfo) -> Vec<(Vec<u8>, Option<u64>)> {
    let of_endpoint = |endpoint: &arrow_flight::FlightEndpoint| {
        let metadata: Option<Value> = serde_json::from_slice(&endpoint.app_metadata).ok();
        let rows = metadata.and_then(|metadata| metadata["rows"].as_u64());
        let total_records = rows.and_then(|rows| i64::try_from(rows).ok()).unwrap_or(-1);
        let alone = FlightInfo { endpoint: vec![endpoint.clone()], total_records, total_bytes: -1, ..plan.clone() };
        (alone.encode_to_vec(), rows)
    };
    plan.endpoint.iter().map(of_endpoint).collect()
}

/// What a plan says about its table, as JSON.
pub fn description(plan: &FlightInfo) -> Value {
    let metadata: Value = serde_json::from_slice(&plan.app_metadata).unwrap_or_default();
    let descriptor = plan.flight_descriptor.as_ref();
    let request = descriptor.and_then(|descriptor| TableRequest::from_descriptor(descriptor, &Default::default()).ok());
    json!({
        "table": request.map(|request| request.name.to_string()),
        "version": metadata.as_u64().or_else(|| metadata["version"].as_u64()),
        "rows": Some(plan.total_records).filter(|rows| *rows >= 0),
        "bytes": Some(plan.total_bytes).filter(|bytes| *bytes >= 0),
        "ordered": plan.ordered,
        "endpoints": plan.endpoint.len(),
    })
}
