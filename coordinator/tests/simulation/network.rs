//! A network in memory: it delays, loses, doubles and reorders messages, and is cut in parts, one way or both.
//!
//! What it carries are the HTTP requests of the real clients and servers, so that every codec is used.

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
use volley_coordinator::raft::network::{Dial, Link, LinkError};

use crate::checks::Checks;
use crate::dice::Dice;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
/// What answers on a coordinator's peer port.
pub type Server = BoxCloneSyncService<Request, Response, Infallible>;

/// The service of [`wire`]'s messages.
const RAFT: &str = "/volley.raft.v1.Raft/";
/// A connection breaks when it was silent for so long: two keepalives of the real ones.
const SILENCE: Duration = Duration::from_secs(10);
/// Before a message on the wire: a flag and its length.
const GRPC_HEAD: usize = 5;

/// One life of one coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub id: u64,
    pub life: u64,
}

/// How the network is at present.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Chance of a message to be lost.
    pub loss: f64,
    /// Chance of one of Raft's messages to come twice.
    pub doubling: f64,
    /// The longest delay, in microseconds.
    pub delay_us: u64,
    /// From whom to whom nothing comes through.
    pub cuts: BTreeSet<(u64, u64)>,
}

impl Weather {
    pub fn fair() -> Weather {
        Weather { delay_us: 2000, ..Weather::default() }
    }
}

/// The network.
pub struct Network {
    dice: Mutex<Dice>,
    weather: Mutex<Weather>,
    servers: Mutex<BTreeMap<u64, (Life, Server)>>,
    checks: Arc<Checks>,
}

/// The address of a coordinator, and back.
pub fn address(id: u64) -> String {
    format!("c{id}:1")
}

fn at_address(address: &str) -> Option<u64> {
    address.strip_prefix('c')?.strip_suffix(":1")?.parse().ok()
}

#[derive(Debug, thiserror::Error)]
#[error("the simulated network: {0}")]
struct Broken(&'static str);

fn reset(why: &'static str) -> LinkError {
    LinkError(Broken(why).into())
}

fn refused() -> LinkError {
    LinkError(tonic::ConnectError(Broken("nobody is there").into()).into())
}

impl Network {
    pub fn new(dice: Dice, checks: Arc<Checks>) -> Arc<Network> {
        let (weather, servers) = (Mutex::new(Weather::fair()), Mutex::default());
        Arc::new(Network { dice: Mutex::new(dice), weather, servers, checks })
    }

    /// Changes how it is.
    pub fn set(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.weather.lock());
    }

    /// From now on a coordinator is there.
    pub fn serve(&self, life: Life, server: Server) {
        self.servers.lock().insert(life.id, (life, server));
    }

    /// From now on it is not.
    pub fn vanish(&self, id: u64) {
        self.servers.lock().remove(&id);
    }

    /// How a coordinator reaches others.
    pub fn dial(self: &Arc<Self>, from: Life) -> Dial {
        let network = self.clone();
        Arc::new(move |address: &str| {
            let to = at_address(address).ok_or_else(|| volley_common::Error::invalid("an address of nobody"))?;
            let network = network.clone();
            let call = move |request| network.clone().carry(from, to, request);
            Ok(Link::new(service_fn(call)))
        })
    }

    fn roll(&self, chance: f64) -> bool {
        chance > 0.0 && self.dice.lock().random_bool(chance)
    }

    async fn travel(&self) {
        let longest = self.weather.lock().delay_us;
        let delay = self.dice.lock().random_range(0..=longest.max(1));
        sleep(Duration::from_micros(delay)).await;
    }

    fn alive(&self, life: Life) -> bool {
        self.servers.lock().get(&life.id).is_some_and(|(now, _)| *now == life)
    }

    fn cut(&self, from: u64, to: u64) -> bool {
        self.weather.lock().cuts.contains(&(from, to))
    }

    fn losing(&self) -> bool {
        let loss = self.weather.lock().loss;
        self.roll(loss)
    }

    /// A message that does not come through: the connection breaks, at once or when it was silent for too long.
    async fn lost<T>(&self) -> Result<T, LinkError> {
        if self.roll(0.5) {
            sleep(SILENCE).await;
        }
        self.travel().await;
        Err(reset("the connection broke"))
    }

    async fn carry(self: Arc<Self>, from: Life, to: u64, request: Request) -> Result<Response, LinkError> {
        self.travel().await;
        // A dead sender sends nothing; its tasks just do not know yet.
        if !self.alive(from) || self.cut(from.id, to) || self.losing() {
            return self.lost().await;
        }
        let Some((receiver, server)) = self.servers.lock().get(&to).cloned() else { return Err(refused()) };
        let path = request.uri().path().to_string();
        let (head, body) = request.into_parts();
        let calling = if path.ends_with("/Snapshot") {
            let body = self.clone().slowly(from.id, to, body);
            self.deliver(receiver, server, http::Request::from_parts(head, body), false, false)
        } else {
            let bytes = body.collect().await.map_err(|e| LinkError(e.into()))?.to_bytes();
            let vote = path.strip_prefix(RAFT) == Some("Vote")
                && content::<wire::VoteRequest>(&bytes).is_some_and(|message| !message.pre_vote);
            let again = http::Request::from_parts(head.clone(), whole(bytes.clone()));
            let doubling = self.weather.lock().doubling;
            if path.starts_with(RAFT) && self.roll(doubling) {
                self.deliver(receiver, server.clone(), again, vote, true);
            }
            self.deliver(receiver, server, http::Request::from_parts(head, whole(bytes)), vote, false)
        };
        let Ok(Some(response)) = calling.await else { return Err(reset("the receiver died")) };
        if !self.alive(receiver) || !self.alive(from) || self.cut(to, from.id) || self.losing() {
            return self.lost().await;
        }
        Ok(response)
    }

    /// The receiver works on it though the sender gives up; `late` lets it come once more, later;
    /// a `vote` counts for what it promises.
    fn deliver(
        self: &Arc<Self>,
        receiver: Life,
        mut server: Server,
        request: Request,
        vote: bool,
        late: bool,
    ) -> tokio::task::JoinHandle<Option<Response>> {
        let network = self.clone();
        tokio::spawn(async move {
            if late {
                network.travel().await;
                network.travel().await;
            }
            if !network.alive(receiver) {
                return None;
            }
            let Ok(response) = server.ready().await.ok()?.call(request).await;
            let (head, body) = response.into_parts();
            let collected = body.collect().await.ok()?;
            let trailers = collected.trailers().cloned();
            let bytes = collected.to_bytes();
            // What a dead process answered was never sent, and so it promised nothing.
            if !network.alive(receiver) {
                return None;
            }
            if vote {
                network.voted(receiver, &bytes);
            }
            network.travel().await;
            let frames = [(!bytes.is_empty()).then_some(Frame::data(bytes)), trailers.map(Frame::trailers)];
            let frames = frames.into_iter().flatten().map(Ok::<_, Infallible>);
            Some(http::Response::from_parts(head, Body::new(StreamBody::new(futures::stream::iter(frames)))))
        })
    }

    /// A stream goes piece by piece, and stops where the network is cut.
    fn slowly(self: Arc<Self>, from: u64, to: u64, body: Body) -> Body {
        let pieces = futures::stream::unfold((self, body), move |(network, mut body)| async move {
            let piece = body.frame().await?;
            network.travel().await;
            if network.cut(from, to) {
                return Some((Err(tonic::Status::unavailable("the connection broke")), (network, body)));
            }
            Some((piece, (network, body)))
        });
        Body::new(StreamBody::new(pieces))
    }

    /// A vote that was granted is a promise.
    fn voted(&self, by: Life, bytes: &Bytes) {
        if let Some(message) = content::<wire::VoteReply>(bytes)
            && message.granted
            && let Some(leader) = message.vote.and_then(|vote| vote.leader)
        {
            self.checks.promised(by.id, (leader.term, leader.node));
        }
    }
}

fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

fn content<M: Message + Default>(bytes: &Bytes) -> Option<M> {
    M::decode(bytes.get(GRPC_HEAD..)?).ok()
}
