//! All connections of a process to members, by `HOST:PORT`, and calls that do not wait for a member that hangs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::body::Incoming;

use super::address_map::AddressMap;
use super::connector::Connector;
use super::failover::Failover;
use super::member_channel::MemberChannel;
use super::member_connections::{MemberConnections, SendError};
use super::member_health::MemberHealth;
use crate::fairness::CallerKey;
use crate::http2::relay_budget::{RELAY_CLASSES, RELAY_MEMORY, RelayBudget};
use crate::http2::settings::{ClientSettings, MEMBER};
use crate::http2::{ProxyRequestBody, SilenceWatch, StreamPermit};
use crate::identity::Access;
use crate::tls::MemberRole;
use crate::{Error, Result};

/// Maximum number of members whose health is remembered.
const MAX_MEMBERS: usize = 4096;

/// Connections to members, by `HOST:PORT`: tonic channels for calls, HTTP/2 connections below tonic for requests that are
/// sent as they are. Cheap to clone; all clones share the connections and what is known about the members' health.
#[derive(Clone)]
pub struct ConnectionPool {
    settings: &'static ClientSettings,
    connector: Connector,
    channels: Arc<AddressMap<MemberChannel>>,
    /// Those that accept only a coordinator, if members have TLS.
    coordinator_channels: Arc<AddressMap<MemberChannel>>,
    /// One map for each of [`RELAY_CLASSES`].
    connections: Arc<[AddressMap<Arc<MemberConnections>>; RELAY_CLASSES.len()]>,
    budget: RelayBudget,
    health: Arc<AddressMap<Arc<MemberHealth>>>,
}

/// How an attempt at one member ended.
pub enum Attempt<T> {
    /// The result for the caller.
    Done(Result<T>),
    /// Another member may be tried.
    TryNext(Error),
}

impl<T> Attempt<T> {
    /// An attempt that may be repeated elsewhere if it was UNAVAILABLE.
    pub fn repeatable(outcome: Result<T>) -> Self {
        match outcome {
            Err(error) if super::failover::is_unavailable(&error) => Attempt::TryNext(error),
            outcome => Attempt::Done(outcome),
        }
    }
}

impl Default for ConnectionPool {
    fn default() -> Self {
        ConnectionPool::new()
    }
}

impl ConnectionPool {
    /// A pool of a member, without any connection yet.
    pub fn new() -> Self {
        ConnectionPool::with_settings(&MEMBER)
    }

    /// As [`ConnectionPool::new`], with other settings for its connections.
    pub fn with_settings(settings: &'static ClientSettings) -> Self {
        let health = Arc::new(AddressMap::bounded(MAX_MEMBERS));
        let (connector, channels, coordinator_channels, connections) = Default::default();
        let budget = RelayBudget::new(RELAY_MEMORY);
        ConnectionPool { settings, connector, channels, coordinator_channels, connections, budget, health }
    }

    /// The same settings and relay memory, with another way to dial, without any connection yet.
    #[must_use]
    pub fn with_connector(self, connector: Connector) -> Self {
        ConnectionPool { connector, budget: self.budget, ..ConnectionPool::with_settings(self.settings) }
    }

    /// The pool for requests to coordinators: if members have TLS, one of its own that refuses nodes, with the same relay
    /// memory; else this one.
    #[must_use]
    pub fn to_coordinators(&self) -> Self {
        match self.connector.is_tls() {
            true => self.clone().with_connector(self.connector.clone().expecting(MemberRole::Coordinator)),
            false => self.clone(),
        }
    }

    /// Limits the memory of all replies of [`ConnectionPool::send`], bytes.
    #[must_use]
    pub fn limit_relay_memory(self, bytes: u64) -> Self {
        ConnectionPool { budget: RelayBudget::new(bytes), ..self }
    }

    /// Sets the gauges of the relay memory.
    pub fn update_gauges(&self) {
        let (taken, limit) = self.budget.usage();
        metrics::gauge!("volley_relay_memory_bytes").set(taken as f64);
        metrics::gauge!("volley_relay_memory_limit_bytes").set(limit as f64);
    }

    /// The channel to the member at `addr`; it connects when it is first used.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not `HOST:PORT`.
    pub fn channel(&self, addr: &str) -> Result<MemberChannel> {
        let make = || self.connector.observed_channel(self.settings, addr, self.health(addr).received());
        self.channels.get_or_insert(addr, make)
    }

    /// A connection of its own to the member at `addr`.
    ///
    /// # Errors
    /// Why there is no connection. INVALID_ARGUMENT, as the outer error: `addr` is not `HOST:PORT`.
    pub async fn connected_channel(&self, addr: &str) -> Result<Result<MemberChannel, tonic::transport::Error>> {
        self.connector.connected_channel(self.settings, addr, self.health(addr).received()).await
    }

    /// As [`ConnectionPool::channel`], for a member that must be a coordinator: if members have TLS, a node at that address
    /// is refused.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not `HOST:PORT`.
    pub fn coordinator_channel(&self, addr: &str) -> Result<MemberChannel> {
        if !self.connector.is_tls() {
            return self.channel(addr);
        }
        let connector = self.connector.clone().expecting(MemberRole::Coordinator);
        let make = || connector.observed_channel(self.settings, addr, self.health(addr).received());
        self.coordinator_channels.get_or_insert(addr, make)
    }

    /// Sends `request` to the member at `addr`. The connection counts as used until the [`StreamPermit`] is dropped. The more
    /// of the process's relay memory is taken, the less of the response may wait for its reader. The [`Access`] in the request's
    /// extensions says whose share it is; without one it is nobody's in particular.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the relay memory, or the caller's part of it, is used up.
    /// UNAVAILABLE naming `addr`: it is unreachable, or the connection broke before a response began. INVALID_ARGUMENT:
    /// `addr` is not `HOST:PORT`.
    pub async fn send<B: Into<ProxyRequestBody>>(
        &self,
        addr: &str,
        request: http::Request<B>,
    ) -> Result<(http::Response<Incoming>, StreamPermit), SendError> {
        let caller = CallerKey::of(&Access::of(request.extensions())).budget_owner();
        let share = Arc::new(self.budget.take(caller.as_ref()).map_err(SendError::Refused)?);
        let class = share.class();
        let make = || {
            let (connector, window) = (self.connector.clone(), RELAY_CLASSES[class].window);
            let received = self.health(addr).received();
            Ok(Arc::new(MemberConnections::new(addr, self.settings, connector, window, received)))
        };
        let connections = self.connections[class].get_or_insert(addr, make).map_err(SendError::NotSent)?;
        connections.send(request.map(Into::into), share).await
    }

    /// The health of the member at `addr`. When it hangs, its connections are abandoned: later calls open new ones.
    pub fn health(&self, addr: &str) -> Arc<MemberHealth> {
        self.health.get_or_insert_with(addr, || {
            let (channels, connections, member) = (self.channels.clone(), self.connections.clone(), addr.to_string());
            let coordinator_channels = self.coordinator_channels.clone();
            let known = Arc::downgrade(&self.health);
            MemberHealth::new(addr, self.settings, self.connector.clone(), known, move || {
                channels.remove(&member);
                coordinator_channels.remove(&member);
                connections.iter().for_each(|class| class.remove(&member));
            })
        })
    }

    /// Completes once the member at `addr` does not answer probes.
    pub fn silence(&self, addr: &str) -> SilenceWatch {
        self.health(addr).silence()
    }

    /// The outcome of `call`, which waits for the member at `addr`, for as long as that member answers probes. So a call
    /// may take its time, but not because its member hangs or is cut off.
    ///
    /// # Errors
    /// Those of `call`. UNAVAILABLE: the member does not answer; whether the call took effect is unknown.
    pub async fn while_answering<T, E: From<Error>>(
        &self,
        addr: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let health = self.health(addr);
        tokio::select! {
            biased;
            outcome = call => {
                if outcome.is_ok() {
                    health.record_reply();
                }
                outcome
            }
            error = health.clone().silence() => Err(error.into()),
        }
    }

    /// Sorts addresses: members that answer first, those that hang last. While one of them does not answer, the others are
    /// what it is compared with.
    pub fn sort_by_health(&self, addrs: &mut [String]) {
        addrs.sort_by_cached_key(|addr| self.health(addr).rank());
    }

    /// The first of these members to answer, of those that left a probe unanswered: they may be busy, and not hang. None if they
    /// do not answer within a few seconds, or none of them may be busy.
    pub async fn first_to_answer(&self, addrs: &[String]) -> Option<String> {
        let wait = |addr: String| async move { self.health(&addr).answers_late().await.then_some(addr) };
        let mut waits: FuturesUnordered<_> = addrs.iter().cloned().map(wait).collect();
        while let Some(answering) = waits.next().await {
            if answering.is_some() {
                return answering;
            }
        }
        None
    }

    /// Makes attempts at the candidates of `failover` until one is done; `None` if each asked to try the next one.
    ///
    /// `hedge_after`: when an attempt takes longer, the next one is started beside it, and the first that is done counts.
    /// Only for calls that may take effect twice.
    pub async fn attempt_any<T, F: Future<Output = Attempt<T>>>(
        &self,
        failover: &mut Failover<String>,
        hedge_after: Option<Duration>,
        attempt: impl Fn(String) -> F,
    ) -> Option<Result<T>> {
        let mut running = FuturesUnordered::new();
        let (mut waiting, mut is_slow) = (Vec::<String>::new(), false);
        loop {
            let is_hedge = std::mem::take(&mut is_slow);
            if let Some(addr) = failover.next_candidate() {
                if is_hedge {
                    metrics::counter!("volley_hedged_calls_total").increment(1);
                }
                waiting.push(addr.clone());
                let attempt = attempt(addr.clone());
                running.push(async move { (addr, attempt.await) });
            } else if running.is_empty() {
                return None;
            }
            let hedge = async {
                match hedge_after {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((addr, outcome)) = running.next() => {
                    waiting.retain(|other| *other != addr);
                    match outcome {
                        Attempt::Done(result) => {
                            if result.is_ok() {
                                self.health(&addr).record_answer();
                            }
                            waiting.iter().for_each(|slower| self.health(slower).deprioritize());
                            return Some(result);
                        }
                        Attempt::TryNext(error) => {
                            self.health(&addr).deprioritize();
                            failover.record_error(error);
                        }
                    }
                }
                () = hedge => is_slow = true,
            }
        }
    }
}
