//! All endpoints of a FlightInfo in parallel, from any of their locations.
//!
//! Every endpoint is a lane: a task that streams it into a bounded queue, and starts it again elsewhere
//! where it broke, leaving out the rows that were delivered. `Fetch` reads the lanes front to back if the
//! info is ordered, else whichever has something.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightInfo, Ticket};
use futures::stream::SelectAll;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use super::address::{self, Target};
use super::stream::BatchStream;
use crate::ipc::schema::parse_schema;
use crate::{Code, Error, Result};

/// How to fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Streams open at a time.
    pub streams: usize,
    /// Batches kept ahead per stream.
    pub window: usize,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions { streams: 8, window: 4 }
    }
}

/// A batch and where it came from.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Index of the endpoint in the FlightInfo.
    pub endpoint: usize,
    /// The rows.
    pub batch: RecordBatch,
    /// The member that sent it: `HOST:PORT`.
    pub from: Arc<str>,
}

/// The stream of a fetch: ordered if its info is. Dropping it ends every open DoGet.
///
/// An error ends it: what came before is a part of the table only. Rows are counted, and fewer or more
/// than the FlightInfo says are an error (DATA_LOSS), so a stream that ends without one is complete.
pub struct Fetch {
    /// The schema of every batch.
    pub schema: SchemaRef,
    /// What is fetched.
    pub info: FlightInfo,
    client: Client,
    how: FetchOptions,
    waiting: VecDeque<Endpoint>,
    open: Lanes,
    rows: i64,
    failed: bool,
}

/// One endpoint, ready to be asked for.
#[derive(Clone)]
struct Endpoint {
    index: usize,
    ticket: Ticket,
    targets: Vec<Target>,
}

/// What a lane tells: a batch, or that the endpoint came to its end.
type Told = Result<Option<Fetched>>;

enum Lanes {
    Ordered(VecDeque<Lane>),
    Unordered(SelectAll<Lane>),
}

struct Lane {
    told: mpsc::Receiver<Told>,
    ended: bool,
    _task: AbortOnDropHandle<()>,
}

impl Fetch {
    pub(super) fn new(client: Client, info: FlightInfo, how: FetchOptions) -> Result<Fetch> {
        let waiting = info
            .endpoint
            .iter()
            .enumerate()
            .map(|(index, endpoint)| {
                let ticket = endpoint.ticket.clone();
                let ticket = ticket.ok_or_else(|| Error::internal(format!("endpoint {index} has no ticket")))?;
                Ok(Endpoint { index, ticket, targets: targets(endpoint, index)? })
            })
            .collect::<Result<_>>()?;
        Ok(Fetch {
            schema: parse_schema(&info.schema).map_err(|e| e.at("the schema of the FlightInfo"))?,
            open: if info.ordered { Lanes::Ordered(VecDeque::new()) } else { Lanes::Unordered(SelectAll::new()) },
            client,
            how: FetchOptions { streams: how.streams.max(1), window: how.window.max(1) },
            waiting,
            rows: 0,
            failed: false,
            info,
        })
    }

    /// Opens waiting endpoints while fewer than `streams` are open.
    fn open_more(&mut self) {
        while self.open.len() < self.how.streams {
            let Some(endpoint) = self.waiting.pop_front() else { return };
            let (tell, told) = mpsc::channel(self.how.window);
            let task = tokio::spawn(run(self.client.clone(), endpoint, self.schema.clone(), tell));
            self.open.push(Lane { told, ended: false, _task: AbortOnDropHandle::new(task) });
        }
    }

    fn check_rows(&self) -> Option<Result<Fetched>> {
        let promised = self.info.total_records;
        if promised < 0 || promised == self.rows {
            return None;
        }
        let got = self.rows;
        Some(Err(Error::data_loss(format!(
            "the endpoints sent {got} rows, the FlightInfo says {promised}: fetch again, and report it if it stays so"
        ))))
    }
}

impl Stream for Fetch {
    type Item = Result<Fetched>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        loop {
            self.open_more();
            let item = match std::task::ready!(self.open.poll_next(cx)) {
                Some(Ok(None)) => continue,
                Some(Ok(Some(fetched))) => {
                    self.rows += fetched.batch.num_rows() as i64;
                    Some(Ok(fetched))
                }
                Some(Err(error)) => Some(Err(error)),
                // An ended lane counts as open until it is polled again.
                None if !self.waiting.is_empty() => continue,
                None => self.check_rows(),
            };
            self.failed = !matches!(item, Some(Ok(_)));
            return Poll::Ready(item);
        }
    }
}

impl Lanes {
    fn len(&self) -> usize {
        match self {
            Lanes::Ordered(lanes) => lanes.len(),
            Lanes::Unordered(lanes) => lanes.len(),
        }
    }

    fn push(&mut self, lane: Lane) {
        match self {
            Lanes::Ordered(lanes) => lanes.push_back(lane),
            Lanes::Unordered(lanes) => lanes.push(lane),
        }
    }

    /// The next of what the lanes tell; none when no lane is open.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        match self {
            Lanes::Unordered(lanes) => lanes.poll_next_unpin(cx),
            Lanes::Ordered(lanes) => {
                let Some(front) = lanes.front_mut() else { return Poll::Ready(None) };
                let told = std::task::ready!(front.poll_next_unpin(cx));
                if front.ended {
                    lanes.pop_front();
                }
                Poll::Ready(told)
            }
        }
    }
}

impl Stream for Lane {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let told = std::task::ready!(self.told.poll_recv(cx));
        // A queue that closes before the end was told: the task died.
        let told = told.unwrap_or_else(|| Err(Error::internal("the task that fetched an endpoint broke off")));
        self.ended = !matches!(told, Ok(Some(_)));
        Poll::Ready(Some(told))
    }
}

/// Where an endpoint can be had; without any location it is the original connection.
fn targets(endpoint: &arrow_flight::FlightEndpoint, index: usize) -> Result<Vec<Target>> {
    if endpoint.location.is_empty() {
        return Ok(vec![Target::Origin]);
    }
    let targets: Vec<Target> = endpoint.location.iter().filter_map(|l| address::target(&l.uri)).collect();
    if targets.is_empty() {
        let shown: Vec<&str> = endpoint.location.iter().map(|l| l.uri.as_str()).collect();
        return Err(Error::unavailable(format!(
            "endpoint {index} has no location that this client can use (only grpc+tcp), of {}",
            shown.join(", ")
        )));
    }
    Ok(targets)
}

/// Why an endpoint's stream stopped.
enum Stop {
    /// Nobody reads any more.
    Unread,
    Broken(Error),
}

/// Streams an endpoint to its end: on to its next location whenever one is UNAVAILABLE, until every
/// location in turn has failed without bringing a row.
async fn run(client: Client, endpoint: Endpoint, schema: SchemaRef, tell: mpsc::Sender<Told>) {
    let mut delivered = 0;
    let mut fruitless = 0;
    let mut turn = 0;
    loop {
        let before = delivered;
        let target = &endpoint.targets[turn % endpoint.targets.len()];
        let error = match stream(&client, &endpoint, target, &schema, &mut delivered, &tell).await {
            Ok(()) => return drop(tell.send(Ok(None)).await),
            Err(Stop::Unread) => return,
            Err(Stop::Broken(error)) => error,
        };
        fruitless = if delivered > before { 1 } else { fruitless + 1 };
        turn += 1;
        if error.code != Code::Unavailable || fruitless > endpoint.targets.len() {
            let error = error.at(format!("endpoint {} at {}", endpoint.index, client.name_of(target)));
            return drop(tell.send(Err(error)).await);
        }
        tracing::debug!(endpoint = endpoint.index, at = client.name_of(target), %error, "trying its next location");
    }
}

/// Streams an endpoint from one target, without the first `delivered` rows; counts those that it delivers.
async fn stream(
    client: &Client,
    endpoint: &Endpoint,
    target: &Target,
    schema: &SchemaRef,
    delivered: &mut usize,
    tell: &mpsc::Sender<Told>,
) -> Result<(), Stop> {
    let mut skip = *delivered;
    let from: Arc<str> = client.name_of(target).into();
    let mut batches = BatchStream::open(client.channel_at(target)?, endpoint.ticket.clone()).await?;
    if batches.schema() != schema {
        return Err(Error::internal("the stream's schema is not the FlightInfo's").into());
    }
    while let Some(batch) = batches.next().await? {
        let again = skip.min(batch.num_rows());
        skip -= again;
        if again > 0 && again == batch.num_rows() {
            continue;
        }
        let batch = batch.slice(again, batch.num_rows() - again);
        *delivered += batch.num_rows();
        let fetched = Fetched { endpoint: endpoint.index, batch, from: from.clone() };
        tell.send(Ok(Some(fetched))).await.map_err(|_| Stop::Unread)?;
    }
    Ok(())
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Broken(error)
    }
}
