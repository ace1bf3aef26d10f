//! A client of a cluster: puts tables, and fetches all endpoints of a table in parallel.
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`] | addresses of members and locations of endpoints |
//! | [`put`] | a put: encodes batches, applies backpressure, reads the outcome |
//! | [`get`] | reads endpoints in parallel, from any of their locations, in order or not |
//! | [`stream`] | one DoGet |
//! | `sql` | statements of SQL |
//! | [`request`] | encodes options as descriptors and headers |
//! | [`login`] | who the client's user is, how it proves that, and over which connections |
//! | `session` | the credential that all calls carry, and its renewal |
//! | `token_file` | reads the token of a file |
//! | [`channel`] | the channel that adds the credential to each call |
//! | `failure` | errors of calls whose connection failed |
#![forbid(unsafe_code)]

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
use volley_common::http2::settings;
use volley_common::net::{ConnectionPool, Connector};
use volley_common::options::Options;
use volley_common::tls::ClientTls;
use volley_common::tls::client::ClientConnector;
use volley_common::tls::server::HttpVersions;
use volley_common::{Code, Error, Result, TableName};

use address::{EndpointLocation, dial_target};
use session::{LoginSession, MIN_LEFT};

pub use channel::ClientChannel;
pub use get::{FetchOptions, FetchStream, FetchedBatch};
pub use login::ClientLogin;
pub use put::PutOutcome;
pub use stream::BatchStream;

pub mod address;
pub mod channel;
mod failure;
pub mod get;
pub mod login;
pub mod put;
pub mod request;
mod session;
mod sql;
pub mod stream;
mod token_file;

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
    /// The credential of every call; none without a login.
    session: Option<Arc<LoginSession>>,
    /// Whether passwords and tokens may go to other machines without TLS.
    allow_plaintext_login: bool,
}

fn uri_of(address: &str, is_tls: bool) -> String {
    format!("{}://{address}", if is_tls { "grpc+tls" } else { "grpc" })
}

/// A connection of its own to `HOST:PORT`, dialled as a pool dials.
async fn connected(pool: &ConnectionPool, addr: &str, is_tls: bool) -> Result<Channel> {
    let channel = pool.connector().connected_channel(&settings::CLIENT, addr).await?;
    channel.map_err(|e| failure::unreachable(&uri_of(addr, is_tls), &e))
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
        Client::connect_as(address, tls, ClientLogin::none()).await
    }

    /// As [`Client::connect_with`], as a user. The client logs in at its first call; every call to every location carries the
    /// credential, except that no location of another machine without TLS is used, unless the login allows it.
    ///
    /// # Errors
    /// Those of [`Client::connect_with`]. INVALID_ARGUMENT: the login would go to another machine without TLS, or is malformed.
    pub async fn connect_as(address: &str, tls: ClientTls, login: ClientLogin) -> Result<Client> {
        let (addr, is_tls) = dial_target(address, tls.is_set())?;
        login.check_target(&addr, is_tls)?;
        let connector = ClientConnector::new(tls, HttpVersions::Http2);
        if is_tls {
            connector.load()?;
        }
        let pool = ConnectionPool::with_settings(&settings::CLIENT);
        let tls_pool = pool.clone().with_connector(Connector::Client(connector));
        let channel = connected(if is_tls { &tls_pool } else { &pool }, &addr, is_tls).await?;
        let allow_plaintext_login = login.allows_plaintext();
        let session = LoginSession::new(login, channel.clone(), uri_of(&addr, is_tls))?;
        Ok(Client { channel, address: addr.into(), pool, tls_pool, is_tls, session, allow_plaintext_login })
    }

    /// A client of another member of the same cluster, with the same settings and the same session: it does not log in again.
    ///
    /// # Errors
    /// Those of [`Client::connect_as`]. INVALID_ARGUMENT: this client connected by TLS, and the address is without.
    pub async fn connect_to(&self, address: &str) -> Result<Client> {
        let (addr, is_tls) = dial_target(address, self.is_tls)?;
        if self.session.is_some() {
            login::check_confidential(&addr, is_tls, self.allow_plaintext_login)?;
        }
        let channel = connected(if is_tls { &self.tls_pool } else { &self.pool }, &addr, is_tls).await?;
        Ok(Client { channel, address: addr.into(), is_tls, ..self.clone() })
    }

    /// Checks that a password or token may be sent in a call's body.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the member is another machine, the connection has no TLS, and the login does not allow that.
    pub fn check_confidential(&self) -> Result<()> {
        login::check_confidential(&self.address, self.is_tls, self.allow_plaintext_login)
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

    /// The original connection.
    fn own_channel(&self) -> ClientChannel {
        ClientChannel::new(self.channel.clone(), self.session.clone())
    }

    /// The raw Flight client on the original connection. It logs in, and repeats no call.
    pub fn flight(&self) -> FlightServiceClient<ClientChannel> {
        FlightServiceClient::new(self.own_channel())
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
    fn channel_at(&self, location: &EndpointLocation) -> Result<ClientChannel> {
        let channel = match location {
            EndpointLocation::ReuseConnection => self.channel.clone(),
            EndpointLocation::Member(address) | EndpointLocation::TlsMember(address) => {
                self.pool_of(location).channel(address)?
            }
        };
        Ok(ClientChannel::new(channel, self.session.clone()))
    }

    /// Whether a location may be used: one without TLS neither if this client connected by TLS, nor if the credential would
    /// go to another machine.
    fn permits(&self, location: &EndpointLocation) -> bool {
        match location {
            EndpointLocation::Member(_) if self.is_tls => false,
            EndpointLocation::Member(address) if self.session.is_some() => {
                login::check_confidential(address, false, self.allow_plaintext_login).is_ok()
            }
            EndpointLocation::Member(_) | EndpointLocation::TlsMember(_) | EndpointLocation::ReuseConnection => true,
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
        let call = || {
            let (mut flight, descriptor) = (self.flight(), descriptor.clone());
            async move { Ok::<_, Status>(flight.get_flight_info(descriptor).await?.into_inner()) }
        };
        self.call(call).await
    }

    /// The outcome of a call of the member that this client connected to, for as long as the member answers probes.
    ///
    /// # Errors
    /// The member's. UNAVAILABLE naming the address: the connection failed, or the member does not answer.
    async fn call<T, F: Future<Output = Result<T, Status>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let explained = || {
            let outcome = call();
            async move { outcome.await.map_err(|status| failure::of_status(&self.uri(), status)) }
        };
        tokio::select! {
            biased;
            outcome = self.authenticated(explained) => outcome,
            _ = self.own_pool().silence(&self.address) => Err(failure::silent(&self.uri())),
        }
    }

    /// The outcome of a call, which is repeated once if a member refuses it and there is another credential then.
    ///
    /// # Errors
    /// The call's, and those of the login.
    async fn authenticated<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let Some(session) = &self.session else { return call().await };
        let used = session.credential(MIN_LEFT).await?.number();
        let outcome = call().await;
        let is_refused = outcome.as_ref().is_err_and(|error| error.code == Code::Unauthenticated);
        if is_refused && session.renew(used).await? { call().await } else { outcome }
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
        self.authenticated(|| BatchStream::open(self.own_channel(), ticket.clone())).await
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
        let call = || {
            let (mut flight, criteria) = (self.flight(), criteria.clone());
            async move { flight.list_flights(criteria).await?.into_inner().try_collect::<Vec<FlightInfo>>().await }
        };
        self.call(call).await
    }

    /// Calls an action with a JSON body (none for `Value::Null`). Returns the first result's JSON, or null.
    pub async fn action(&self, name: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let action = Action { r#type: name.to_string(), body };
        let call = || {
            let (mut flight, action) = (self.flight(), action.clone());
            async move {
                let mut results = flight.do_action(action).await?.into_inner();
                let mut first = None;
                // Read to the end: an error may follow the first result.
                while let Some(result) = results.next().await {
                    first.get_or_insert(result?);
                }
                Ok::<_, Status>(first)
            }
        };
        match self.call(call).await? {
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
