//! A client of a cluster: puts tables, and fetches all endpoints of one in parallel.
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`] | URIs of members |
//! | [`put`] | batches into Flight messages, backpressure, the outcome |
//! | [`get`] | endpoints in parallel, from any of their locations, in order or not |
//! | [`stream`] | one DoGet |
//! | [`request`] | options into descriptors and headers |

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, Criteria, FlightDescriptor, FlightInfo, Ticket};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::options::Options;
use crate::{Error, Result, TableName};
use address::Target;

pub use get::{Fetch, FetchOptions, Fetched};
pub use put::PutOutcome;
pub use stream::BatchStream;

pub mod address;
pub mod get;
pub mod put;
pub mod request;
pub mod stream;

/// The largest message that the client takes: 512 MiB.
pub const MAX_MESSAGE: usize = 512 << 20;

/// A connection to one member, and on demand to all others. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    origin: Channel,
    address: Arc<str>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Client {
    /// Connects to `grpc://HOST:PORT`, `grpc+tcp://HOST:PORT`, `http://HOST:PORT` or `HOST:PORT`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not such an address. UNAVAILABLE: nobody answers there.
    pub async fn connect(address: &str) -> Result<Client> {
        let address = address::parse(address)?;
        let origin = address::endpoint(&address)?
            .connect()
            .await
            .map_err(|e| Error::unavailable(format!("cannot reach grpc://{address}: {}", root(&e))))?;
        Ok(Client { origin, address: address.into(), channels: Arc::default() })
    }

    /// Where this client connected to: `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The raw Flight client on the original connection.
    pub fn flight(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.origin.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The connection to a location of an endpoint; made when it is first used.
    fn channel_at(&self, target: &Target) -> Result<Channel> {
        let Target::Member(address) = target else { return Ok(self.origin.clone()) };
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = address::endpoint(address)?.connect_lazy();
        channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }

    fn name_of<'a>(&'a self, target: &'a Target) -> &'a str {
        match target {
            Target::Origin => &self.address,
            Target::Member(address) => address,
        }
    }

    /// A table's FlightInfo under read options.
    pub async fn info(&self, name: &TableName, options: &Options) -> Result<FlightInfo> {
        self.info_of(request::read_descriptor(name, options)).await
    }

    /// The FlightInfo of any descriptor.
    pub async fn info_of(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        Ok(self.flight().get_flight_info(descriptor).await?.into_inner())
    }

    /// Plans a table and fetches all its endpoints in parallel: [`Client::info`], then [`Client::fetch`].
    pub async fn get(&self, name: &TableName, options: &Options, how: FetchOptions) -> Result<Fetch> {
        let info = self.info(name, options).await?;
        self.fetch(info, how)
    }

    /// Fetches the endpoints of a FlightInfo in parallel; the stream yields batches, each with its endpoint.
    /// In the endpoints' order if the info is `ordered`, else as they come.
    pub fn fetch(&self, info: FlightInfo, how: FetchOptions) -> Result<Fetch> {
        Fetch::new(self.clone(), info, how)
    }

    /// All batches of a table: [`Client::get`], collected. For tables that fit into memory.
    pub async fn get_all(&self, name: &TableName, options: &Options) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let fetch = self.get(name, options, FetchOptions::default()).await?;
        let schema = fetch.schema.clone();
        let batches = fetch.map_ok(|fetched| fetched.batch).try_collect().await?;
        Ok((schema, batches))
    }

    /// One DoGet on the original connection: the stream of a ticket or of a table's name.
    pub async fn open(&self, ticket: Ticket) -> Result<BatchStream> {
        BatchStream::open(self.origin.clone(), ticket).await
    }

    /// [`Client::open`], collected.
    pub async fn do_get(&self, ticket: Ticket) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let mut stream = self.open(ticket).await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await? {
            batches.push(batch);
        }
        Ok((stream.schema().clone(), batches))
    }

    /// Puts a stream of batches as one write. An error in the stream undoes it and is returned.
    ///
    /// Dropping the future before it is done undoes the write as well.
    pub async fn put(
        &self,
        name: &TableName,
        options: &Options,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Result<PutOutcome> {
        let (descriptor, headers) = request::write_request(name, options);
        let outcome = put::put_stream(self, descriptor, headers, schema, batches).await?;
        serde_json::from_value(outcome)
            .map_err(|e| Error::internal(format!("the member's reply to the put of {name} cannot be read: {e}")))
    }

    /// The tables whose names begin with `prefix`, in the order of their names.
    pub async fn list(&self, prefix: &str) -> Result<Vec<FlightInfo>> {
        let criteria = Criteria { expression: Bytes::copy_from_slice(prefix.as_bytes()) };
        let flights = self.flight().list_flights(criteria).await?.into_inner();
        Ok(flights.try_collect().await?)
    }

    /// Calls an action with a JSON body (none for `Value::Null`); the first result's JSON, or null.
    pub async fn action(&self, name: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let action = Action { r#type: name.to_string(), body };
        let mut results = self.flight().do_action(action).await?.into_inner();
        let mut first = None;
        // Read to the end: an error may follow the first result.
        while let Some(result) = results.next().await {
            first.get_or_insert(result?);
        }
        match first {
            Some(result) if !result.body.is_empty() => serde_json::from_slice(&result.body)
                .map_err(|e| Error::internal(format!("the reply to the action {name} is not JSON: {e}"))),
            _ => Ok(Value::Null),
        }
    }

    /// Drops a table.
    pub async fn drop_table(&self, name: &TableName) -> Result<Value> {
        self.action("drop_table", &json!({ "table": name.to_string() })).await
    }

    /// Figures of the cluster.
    pub async fn stats(&self) -> Result<Value> {
        self.action("get_stats", &Value::Null).await
    }

    /// Members and their state.
    pub async fn status(&self) -> Result<Value> {
        self.action("cluster_status", &Value::Null).await
    }
}

/// What lies at the bottom: the layers above it only repeat each other.
fn root(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root)
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
