//! A network in memory. It delays, loses, duplicates and reorders messages, and has symmetric and asymmetric partitions.
//!
//! It carries the HTTP requests of the real clients and services, so that every codec is used.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use prost::Message;
use rand::Rng;
use tokio::time::sleep;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};
use volley_common::wire::raft as wire;
use volley_coordinator::raft::rpc::network::{Dialer, PeerChannel, PeerChannelError};

use crate::checks::SimChecks;
use crate::rng::SimRng;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
/// The service on a coordinator's peer port.
pub type SimPeerService = BoxCloneSyncService<Request, Response, Infallible>;

/// The path of the service of [`wire`]'s messages.
const RAFT_SERVICE: &str = "/volley.raft.v1.Raft/";
/// A connection breaks after this long without an answer: two keepalive intervals of a real one.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of the flag and the length before a gRPC message.
const GRPC_PREFIX: usize = 5;

/// One process of one coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation {
    pub id: u64,
    pub number: u64,
}

/// The current state of the network.
#[derive(Clone, Debug, Default)]
pub struct NetworkConditions {
    /// Probability that a message is lost.
    pub loss: f64,
    /// Probability that a Raft message is delivered twice.
    pub duplication: f64,
    /// The longest delay, in microseconds.
    pub delay_us: u64,
    /// Pairs of sender and receiver between which no message is delivered.
    pub cut_links: BTreeSet<(u64, u64)>,
}

impl NetworkConditions {
    pub fn normal() -> NetworkConditions {
        NetworkConditions { delay_us: 2000, ..NetworkConditions::default() }
    }
}

/// The network.
pub struct SimNetwork {
    rng: Mutex<SimRng>,
    conditions: Mutex<NetworkConditions>,
    services: Mutex<BTreeMap<u64, (Incarnation, SimPeerService)>>,
    checks: Arc<SimChecks>,
}

/// The address of a coordinator.
pub fn address(id: u64) -> String {
    format!("c{id}:1")
}

/// The coordinator at an address.
fn coordinator_at(address: &str) -> Option<u64> {
    address.strip_prefix('c')?.strip_suffix(":1")?.parse().ok()
}

#[derive(Debug, thiserror::Error)]
#[error("the simulated network: {0}")]
struct SimNetworkError(&'static str);

fn connection_reset(why: &'static str) -> PeerChannelError {
    PeerChannelError(SimNetworkError(why).into())
}

fn connection_refused() -> PeerChannelError {
    PeerChannelError(tonic::ConnectError(SimNetworkError("no coordinator is up there").into()).into())
}

impl SimNetwork {
    pub fn new(rng: SimRng, checks: Arc<SimChecks>) -> Arc<SimNetwork> {
        let (conditions, services) = (Mutex::new(NetworkConditions::normal()), Mutex::default());
        Arc::new(SimNetwork { rng: Mutex::new(rng), conditions, services, checks })
    }

    /// Changes the conditions.
    pub fn change(&self, change: impl FnOnce(&mut NetworkConditions)) {
        change(&mut self.conditions.lock());
    }

    /// Makes a coordinator reachable.
    pub fn serve(&self, life: Incarnation, service: SimPeerService) {
        self.services.lock().insert(life.id, (life, service));
    }

    /// Makes a coordinator unreachable.
    pub fn stop_serving(&self, id: u64) {
        self.services.lock().remove(&id);
    }

    /// Connects a coordinator to others.
    pub fn dialer(self: &Arc<Self>, from: Incarnation) -> Dialer {
        let network = self.clone();
        Arc::new(move |_: u64, address: &str| {
            let to = coordinator_at(address).ok_or_else(|| volley_common::Error::invalid("an unknown address"))?;
            let network = network.clone();
            let call = move |request| network.clone().carry(from, to, request);
            Ok(PeerChannel::new(service_fn(call)))
        })
    }

    fn happens(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng.lock().random_bool(probability)
    }

    async fn delay(&self) {
        let longest = self.conditions.lock().delay_us;
        let delay = self.rng.lock().random_range(0..=longest.max(1));
        sleep(Duration::from_micros(delay)).await;
    }

    fn is_alive(&self, incarnation: Incarnation) -> bool {
        self.services.lock().get(&incarnation.id).is_some_and(|(now, _)| *now == incarnation)
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.conditions.lock().cut_links.contains(&(from, to))
    }

    fn loses_message(&self) -> bool {
        let loss = self.conditions.lock().loss;
        self.happens(loss)
    }

    /// Loses a message: the connection breaks, immediately or after the keepalive timeout.
    async fn lose<T>(&self) -> Result<T, PeerChannelError> {
        if self.happens(0.5) {
            sleep(KEEPALIVE_TIMEOUT).await;
        }
        self.delay().await;
        Err(connection_reset("the connection broke"))
    }

    async fn carry(
        self: Arc<Self>,
        from: Incarnation,
        to: u64,
        request: Request,
    ) -> Result<Response, PeerChannelError> {
        self.delay().await;
        // The remaining tasks of a crashed sender send nothing.
        if !self.is_alive(from) || self.is_cut(from.id, to) || self.loses_message() {
            return self.lose().await;
        }
        let Some((receiver, service)) = self.services.lock().get(&to).cloned() else {
            return Err(connection_refused());
        };
        let path = request.uri().path().to_string();
        let (head, body) = request.into_parts();
        let calling = if path.ends_with("/Snapshot") {
            let body = self.clone().delay_frames(from.id, to, body);
            self.deliver(receiver, service, http::Request::from_parts(head, body), false, false)
        } else {
            let bytes = body.collect().await.map_err(|e| PeerChannelError(e.into()))?.to_bytes();
            let vote = path.strip_prefix(RAFT_SERVICE) == Some("Vote")
                && grpc_message::<wire::VoteRequest>(&bytes).is_some_and(|message| !message.pre_vote);
            let again = http::Request::from_parts(head.clone(), full_body(bytes.clone()));
            let duplication = self.conditions.lock().duplication;
            if path.starts_with(RAFT_SERVICE) && self.happens(duplication) {
                self.deliver(receiver, service.clone(), again, vote, true);
            }
            self.deliver(receiver, service, http::Request::from_parts(head, full_body(bytes)), vote, false)
        };
        let Ok(Some(response)) = calling.await else { return Err(connection_reset("the receiver crashed")) };
        if !self.is_alive(receiver) || !self.is_alive(from) || self.is_cut(to, from.id) || self.loses_message() {
            return self.lose().await;
        }
        Ok(response)
    }

    /// Delivers a request. The receiver handles it even if the sender stops waiting. `duplicate` delivers it again
    /// later; the answer to a `vote` request is noted.
    fn deliver(
        self: &Arc<Self>,
        receiver: Incarnation,
        mut service: SimPeerService,
        request: Request,
        vote: bool,
        duplicate: bool,
    ) -> tokio::task::JoinHandle<Option<Response>> {
        let network = self.clone();
        tokio::spawn(async move {
            if duplicate {
                network.delay().await;
                network.delay().await;
            }
            if !network.is_alive(receiver) {
                return None;
            }
            let Ok(response) = service.ready().await.ok()?.call(request).await;
            let (head, body) = response.into_parts();
            let collected = body.collect().await.ok()?;
            let trailers = collected.trailers().cloned();
            let bytes = collected.to_bytes();
            // A crashed process sent no answer, so it granted no vote.
            if !network.is_alive(receiver) {
                return None;
            }
            if vote {
                network.note_vote(receiver, &bytes);
            }
            network.delay().await;
            let frames = [(!bytes.is_empty()).then_some(Frame::data(bytes)), trailers.map(Frame::trailers)];
            let frames = frames.into_iter().flatten().map(Ok::<_, Infallible>);
            Some(http::Response::from_parts(head, Body::new(StreamBody::new(futures::stream::iter(frames)))))
        })
    }

    /// Delays each frame of a stream, and breaks the stream if the network is partitioned.
    fn delay_frames(self: Arc<Self>, from: u64, to: u64, body: Body) -> Body {
        let frames = futures::stream::unfold((self, body), move |(network, mut body)| async move {
            let frame = body.frame().await?;
            network.delay().await;
            if network.is_cut(from, to) {
                return Some((Err(tonic::Status::unavailable("the connection broke")), (network, body)));
            }
            Some((frame, (network, body)))
        });
        Body::new(StreamBody::new(frames))
    }

    /// Notes a vote that was granted.
    fn note_vote(&self, by: Incarnation, bytes: &Bytes) {
        if let Some(message) = grpc_message::<wire::VoteReply>(bytes)
            && message.granted
            && let Some(leader) = message.vote.and_then(|vote| vote.leader)
        {
            self.checks.vote_granted(by.id, (leader.term, leader.node));
        }
    }
}

fn full_body(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

fn grpc_message<M: Message + Default>(bytes: &Bytes) -> Option<M> {
    M::decode(bytes.get(GRPC_PREFIX..)?).ok()
}
