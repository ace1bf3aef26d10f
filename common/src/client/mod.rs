//! A client of a cluster: puts tables, and fetches all endpoints of a table in parallel.
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`] | addresses of members and locations of endpoints |
//! | [`put`] | a put: encodes batches, applies backpressure, reads the outcome |
//! | [`get`] | reads endpoints in parallel, from any of their locations, in order or not |
//! | [`stream`] | one DoGet |
//! | [`request`] | encodes options as descriptors and headers |
//! | `failure` | errors of calls whose connection failed |

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, Criteria, FlightDescriptor, FlightInfo, Ticket};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use crate::http2::settings;
use crate::net::{ConnectionPool, Connector};
use crate::options::Options;
use crate::tls::ClientTls;
use crate::tls::client::ClientConnector;
use crate::tls::server::HttpVersions;
use crate::{Error, Result, TableName};
use address::{AddressTls, EndpointLocation};

pub use get::{FetchOptions, FetchStream, FetchedBatch};
pub use put::PutOutcome;
pub use stream::BatchStream;

pub mod address;
mod failure;
pub mod get;
pub mod put;
pub mod request;
pub mod stream;

/// The largest message that the client accepts: 512 MiB.
pub const MAX_MESSAGE: usize = 512 << 20;

/// A connection to one member, and on demand to all others. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// The connection to `address`.
    channel: Channel,
    address: Arc<str>,
    /// Connections to the locations of endpoints without TLS, and with it.
    pool: ConnectionPool,
    tls_pool: ConnectionPool,
    /// Whether the connection to `address` has TLS: then no other one is without.
    is_tls: bool,
}

fn uri_of(address: &str, is_tls: bool) -> String {
    format!("{}://{address}", if is_tls { "grpc+tls" } else { "grpc" })
}

impl Client {
    /// Connects to `grpc://HOST:PORT`, `grpc+tcp://HOST:PORT`, `http://HOST:PORT` or `HOST:PORT`; or by TLS, trusting the CAs of
    /// the system, to `grpc+tls://HOST:PORT` or `https://HOST:PORT`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is not such an address. UNAVAILABLE: no server answers there.
    pub async fn connect(address: &str) -> Result<Client> {
        Client::connect_with(address, ClientTls::default()).await
    }

    /// As [`Client::connect`], with settings of TLS. If any is given, an address without a scheme, or with `grpc://`, is
    /// dialled by TLS. A client that connected by TLS uses no location without TLS.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not an address, a file that cannot be used, or settings of TLS for an address without TLS.
    /// UNAVAILABLE: no server answers there. UNAUTHENTICATED: one of the sides refuses the other's certificate.
    pub async fn connect_with(address: &str, tls: ClientTls) -> Result<Client> {
        let (addr, demanded) = address::parse_address(address)?;
        let is_tls = match demanded {
            AddressTls::Yes => true,
            AddressTls::Open => tls.is_set(),
            AddressTls::No if tls.is_set() => {
                return Err(Error::invalid(format!(
                    "the address {address:?} is without TLS, but settings of TLS are given: write grpc+tls://{addr}, or leave them out"
                )));
            }
            AddressTls::No => false,
        };
        let connector = ClientConnector::new(tls, HttpVersions::Http2);
        if is_tls {
            connector.load()?;
        }
        let pool = ConnectionPool::with_settings(&settings::CLIENT);
        let tls_pool = pool.clone().with_connector(Connector::Client(connector));
        let used = if is_tls { &tls_pool } else { &pool };
        let channel = used.connector().connected_channel(&settings::CLIENT, &addr).await?;
        let channel = channel.map_err(|e| failure::unreachable(&uri_of(&addr, is_tls), &e))?;
        Ok(Client { channel, address: addr.into(), pool, tls_pool, is_tls })
    }

    /// Whether it connected by TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The pool of connections as that to `address`.
    fn own_pool(&self) -> &ConnectionPool {
        if self.is_tls { &self.tls_pool } else { &self.pool }
    }

    /// The address that this client connected to: `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same as a URI.
    fn uri(&self) -> String {
        uri_of(&self.address, self.is_tls)
    }

    /// The raw Flight client on the original connection.
    pub fn flight(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The pool that holds the connection to a location of an endpoint.
    fn pool_of(&self, location: &EndpointLocation) -> &ConnectionPool {
        match location {
            EndpointLocation::ReuseConnection => self.own_pool(),
            EndpointLocation::Member(_) => &self.pool,
            EndpointLocation::TlsMember(_) => &self.tls_pool,
        }
    }

    /// The channel to a location of an endpoint.
    fn channel_at(&self, location: &EndpointLocation) -> Result<Channel> {
        match location {
            EndpointLocation::ReuseConnection => Ok(self.channel.clone()),
            EndpointLocation::Member(address) | EndpointLocation::TlsMember(address) => {
                self.pool_of(location).channel(address)
            }
        }
    }

    /// `HOST:PORT` of a location of an endpoint.
    fn address_of<'a>(&'a self, location: &'a EndpointLocation) -> &'a str {
        match location {
            EndpointLocation::ReuseConnection => &self.address,
            EndpointLocation::Member(address) | EndpointLocation::TlsMember(address) => address,
        }
    }

    /// The FlightInfo of a table with read options.
    pub async fn info(&self, name: &TableName, options: &Options) -> Result<FlightInfo> {
        self.info_of(request::read_descriptor(name, options)).await
    }

    /// The FlightInfo of any descriptor.
    pub async fn info_of(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let mut flight = self.flight();
        self.call(async { Ok(flight.get_flight_info(descriptor).await?.into_inner()) }).await
    }

    /// The outcome of a call of the member that this client connected to, for as long as the member answers probes.
    ///
    /// # Errors
    /// The member's. UNAVAILABLE naming the address: the connection failed, or the member does not answer.
    async fn call<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T> {
        tokio::select! {
            biased;
            outcome = call => outcome.map_err(|status| failure::of_status(&self.uri(), status)),
            _ = self.own_pool().silence(&self.address) => Err(failure::silent(&self.uri())),
        }
    }

    /// Plans a table and fetches all its endpoints in parallel: [`Client::info`], then [`Client::fetch`].
    pub async fn get(&self, name: &TableName, options: &Options, fetch: FetchOptions) -> Result<FetchStream> {
        let info = self.info(name, options).await?;
        self.fetch(info, fetch)
    }

    /// Fetches the endpoints of a FlightInfo in parallel. The stream yields batches, each with its endpoint: in the order
    /// of the endpoints if the info is `ordered`, else as they arrive.
    pub fn fetch(&self, info: FlightInfo, options: FetchOptions) -> Result<FetchStream> {
        FetchStream::new(self.clone(), info, options)
    }

    /// All batches of a table: [`Client::get`], collected. For tables that fit in memory.
    pub async fn get_all(&self, name: &TableName, options: &Options) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let fetch = self.get(name, options, FetchOptions::default()).await?;
        let schema = fetch.schema.clone();
        let batches = fetch.map_ok(|fetched| fetched.batch).try_collect().await?;
        Ok((schema, batches))
    }

    /// One DoGet on the original connection, for a ticket or a table's name.
    pub async fn open(&self, ticket: Ticket) -> Result<BatchStream> {
        BatchStream::open(self.channel.clone(), ticket).await
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

    /// Puts a stream of batches as one write. An error in the stream aborts the write and is returned. Dropping the
    /// future before it is done aborts the write too.
    pub async fn put(
        &self,
        name: &TableName,
        options: &Options,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Result<PutOutcome> {
        let (descriptor, headers) = request::write_request(name, options);
        let outcome = tokio::select! {
            biased;
            outcome = put::put_stream(self, descriptor, headers, schema, batches) => outcome?,
            _ = self.own_pool().silence(&self.address) => return Err(failure::silent(&self.uri())),
        };
        serde_json::from_value(outcome)
            .map_err(|e| Error::internal(format!("the member's reply to the put of {name} cannot be read: {e}")))
    }

    /// The tables whose names begin with `prefix`, sorted by name.
    pub async fn list(&self, prefix: &str) -> Result<Vec<FlightInfo>> {
        let criteria = Criteria { expression: Bytes::copy_from_slice(prefix.as_bytes()) };
        let mut flight = self.flight();
        self.call(async { flight.list_flights(criteria).await?.into_inner().try_collect().await }).await
    }

    /// Calls an action with a JSON body (none for `Value::Null`). Returns the first result's JSON, or null.
    pub async fn action(&self, name: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let action = Action { r#type: name.to_string(), body };
        let mut flight = self.flight();
        let first = self.call(async {
            let mut results = flight.do_action(action).await?.into_inner();
            let mut first = None;
            // Read to the end: an error may follow the first result.
            while let Some(result) = results.next().await {
                first.get_or_insert(result?);
            }
            Ok(first)
        });
        match first.await? {
            Some(result) if !result.body.is_empty() => serde_json::from_slice(&result.body)
                .map_err(|e| Error::internal(format!("the reply to the action {name} is not JSON: {e}"))),
            _ => Ok(Value::Null),
        }
    }

    /// Drops a table.
    pub async fn drop_table(&self, name: &TableName) -> Result<Value> {
        self.action("drop_table", &json!({ "table": name.to_string() })).await
    }

    /// Statistics of the cluster.
    pub async fn stats(&self) -> Result<Value> {
        self.action("get_stats", &Value::Null).await
    }

    /// The members and their states.
    pub async fn status(&self) -> Result<Value> {
        self.action("cluster_status", &Value::Null).await
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
