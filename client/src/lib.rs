//! The client of a Volley cluster: connects to its members, fetches tables over many streams, puts them atomically.
//!
//! ```no_run
//! # async fn example() -> volley_client::Result<()> {
//! use futures::TryStreamExt;
//! use volley_client::{Client, FetchOptions, Options};
//!
//! let client = Client::connect("grpc://volley-1:8815,volley-2:8815").await?;
//! let options = Options { filter: Some("fare > 10".into()), ..Options::default() };
//! let mut rows = client.get(&"trips".parse()?, &options, FetchOptions::default()).await?;
//! while let Some(fetched) = rows.try_next().await? {
//!     println!("{} rows from {}", fetched.batch.num_rows(), fetched.from);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is cheap to clone, and its clones share their connections. All methods that wait need a runtime of tokio with
//! its timers and I/O. Whatever is dropped before its end is cancelled: a [`FetchStream`] ends its streams, a put is rolled back.
//!
//! | module | what it holds |
//! |---|---|
//! | [`builder`] | connects: addresses, TLS, login |
//! | `calls` | plans, lists and actions, at whichever member answers |
//! | [`get`] | reads endpoints in parallel, from any of their locations, in order or not |
//! | [`local_reads`] | reads by files on the machine of a node |
//! | [`stream`] | one DoGet |
//! | [`put`] | a put: encodes batches, applies backpressure, reads the outcome |
//! | `parallel_put` | a put by a stream to each holder of shards, with one commit |
//! | `scatter` | which rows go to which of these streams |
//! | `sql` | statements of SQL |
//! | [`address`] | addresses of members and locations of endpoints |
//! | [`request`] | encodes options as descriptors and headers |
//! | `request_id` | the id of a call, for the members' logs and the call's error |
//! | [`login`] | who the client's user is, how it proves that, and over which connections |
//! | `session` | the credential that all calls carry, and its renewal |
//! | `token_file` | reads the token of a file |
//! | [`channel`] | the channel that adds the credential to each call |
//! | `nearness` | which locations are near: on this machine, or where the program prefers |
//! | `failure` | errors of calls whose connection failed |
//! | `pushback` | repeats calls that a member refuses for the moment |
#![forbid(unsafe_code)]

use std::sync::Arc;

use arrow_flight::flight_service_client::FlightServiceClient;
use http::HeaderValue;
use tokio_util::task::TaskTracker;
use volley_common::net::{ConnectionPool, MemberChannel};

use address::EndpointLocation;
use local_reads::LocalReads;
use nearness::Nearness;
use request_id::RequestId;
use session::LoginSession;

pub use builder::ClientBuilder;
pub use channel::ClientChannel;
pub use get::{FetchOptions, FetchStream, FetchedBatch};
pub use local_reads::{LocalMode, LocalReadCounts};
pub use login::ClientLogin;
pub use parallel_put::ParallelPut;
pub use put::PutOutcome;
pub use stream::BatchStream;
pub use volley_common::identity::Secret;
pub use volley_common::options::{Codec, Mode, Options};
pub use volley_common::tls::ClientTls;
pub use volley_common::{Code, Error, Result, TableName};

/// The programs of the page for users are compiled with the examples of this crate.
#[cfg(doctest)]
#[doc = include_str!("../../docs/rust.md")]
pub struct RustPage;

pub mod address;
pub mod builder;
mod calls;
pub mod channel;
mod failure;
pub mod get;
pub mod local_reads;
pub mod login;
mod nearness;
mod parallel_put;
mod pushback;
pub mod put;
pub mod request;
mod request_id;
mod scatter;
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
    channel: MemberChannel,
    address: Arc<str>,
    /// The other addresses that the client was given, `HOST:PORT`, for calls that the first does not answer.
    others: Arc<[String]>,
    /// Connections to the locations of endpoints without TLS, and with it.
    pool: ConnectionPool,
    tls_pool: ConnectionPool,
    /// Whether the connection to `address` has TLS: then no other one is without.
    is_tls: bool,
    /// The credential of every call; none without a login.
    session: Option<Arc<LoginSession>>,
    /// Whether passwords and tokens may go to other machines without TLS.
    allow_plaintext_login: bool,
    /// Reads by files on this machine.
    local: Arc<LocalReads>,
    /// Which locations of endpoints are tried first.
    nearness: Arc<Nearness>,
    /// The tasks of parallel puts.
    writes: TaskTracker,
    /// Of a client for one call: the call's id.
    request_id: Option<RequestId>,
    /// The span to which the spans of all calls belong.
    traceparent: Option<HeaderValue>,
    /// Whether nodes may compress what they send.
    compress: bool,
}

fn uri_of(address: &str, is_tls: bool) -> String {
    format!("{}://{address}", if is_tls { "grpc+tls" } else { "grpc" })
}

impl Client {
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

    /// What came of the reads that nodes on this machine offered by files.
    pub fn local_reads(&self) -> LocalReadCounts {
        self.local.counts()
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
        self.channel_on(self.channel.clone())
    }

    /// The channel of this client's calls over a connection.
    fn channel_on(&self, channel: MemberChannel) -> ClientChannel {
        let (session, request_id) = (self.session.clone(), self.request_id.clone());
        ClientChannel::new(channel, session, request_id, self.traceparent.clone()).accepting_codecs(self.compress)
    }

    /// The client at one of its addresses, and only there.
    fn at(&self, addr: &str) -> Result<Client> {
        let channel = match addr == &*self.address {
            true => self.channel.clone(),
            false => self.own_pool().channel(addr)?,
        };
        Ok(Client { channel, address: addr.into(), others: Arc::default(), ..self.clone() })
    }

    /// The client's addresses, those first that are known to answer.
    fn addresses_by_health(&self) -> Vec<String> {
        let own = self.address.to_string();
        let mut addrs: Vec<String> = std::iter::once(own).chain(self.others.iter().cloned()).collect();
        self.own_pool().sort_by_health(&mut addrs);
        addrs
    }

    /// Where a call goes that cannot be repeated: of several addresses the first that answers a probe, or else the client's own,
    /// whose error says what is wrong.
    async fn answering_address(&self) -> Arc<str> {
        if !self.others.is_empty() {
            for addr in self.addresses_by_health() {
                if self.own_pool().health(&addr).answers().await {
                    return addr.into();
                }
            }
        }
        self.address.clone()
    }

    /// The client's other addresses, as locations of endpoints: every member redeems every ticket.
    fn other_locations(&self) -> Vec<EndpointLocation> {
        let location = if self.is_tls { EndpointLocation::TlsMember } else { EndpointLocation::Member };
        self.others.iter().cloned().map(location).collect()
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
        Ok(self.channel_on(channel))
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
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
