//! Reads all endpoints of a FlightInfo in parallel, each from any of its locations.
//!
//! Every endpoint has a task that streams it into a bounded queue. If the stream breaks, the task restarts it at the
//! next location without the rows that were delivered. [`FetchStream`] reads the queues front to back if the info is
//! ordered, otherwise any queue that has a batch.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightEndpoint, FlightInfo, Ticket};
use futures::stream::SelectAll;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use volley_common::ipc::schema::parse_schema;
use volley_common::net::Failover;
use volley_common::{Code, Error, Result};

use super::Client;
use super::address::{EndpointLocation, parse_location};
use super::stream::BatchStream;

/// Parallelism and buffering of a fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Streams open at a time.
    pub streams: usize,
    /// Batches buffered per stream.
    pub window: usize,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions { streams: 8, window: 4 }
    }
}

/// A batch and its source.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// Index of the endpoint in the FlightInfo.
    pub endpoint: usize,
    /// The rows.
    pub batch: RecordBatch,
    /// The member that sent it: `HOST:PORT`.
    pub from: Arc<str>,
}

/// The batches of all endpoints of a FlightInfo, in their order if the info is ordered. Dropping the stream ends every
/// open DoGet.
///
/// An error ends the stream: the batches before it are only a part of the table. A stream that ends without an error is
/// complete: rows are counted, and a count that differs from the FlightInfo's is an error (DATA_LOSS).
pub struct FetchStream {
    /// The schema of every batch.
    pub schema: SchemaRef,
    /// The FlightInfo that is fetched.
    pub info: FlightInfo,
    client: Client,
    options: FetchOptions,
    waiting: VecDeque<FetchEndpoint>,
    open: EndpointReaders,
    rows: i64,
    failed: bool,
}

/// An endpoint that can be read.
struct FetchEndpoint {
    index: usize,
    ticket: Ticket,
    locations: Vec<EndpointLocation>,
    /// Whether a stream that broke after some rows is continued. That of a query, which has no location, is not: a query that
    /// runs again may give its rows in another order.
    resumes: bool,
}

impl FetchEndpoint {
    /// Adds to `skipped` the locations that are left out, as [`locations`].
    fn new(index: usize, endpoint: &FlightEndpoint, client: &Client, skipped: &mut usize) -> Result<Self> {
        let ticket = endpoint.ticket.clone();
        let ticket = ticket.ok_or_else(|| Error::internal(format!("endpoint {index} has no ticket")))?;
        let locations = locations(endpoint, index, |location| client.permits(location), skipped)?;
        Ok(FetchEndpoint { index, ticket, locations, resumes: !endpoint.location.is_empty() })
    }
}

/// The locations of an endpoint that this client supports, and the original connection as the last one: every member
/// redeems every ticket, and a client that cannot dial the nodes still reaches the member that it called. Locations that the
/// client does not permit are left out, and added to `skipped`.
///
/// # Errors
/// UNAVAILABLE: there are locations, but none has a scheme that this client supports.
fn locations(
    endpoint: &FlightEndpoint,
    index: usize,
    permits: impl Fn(&EndpointLocation) -> bool,
    skipped: &mut usize,
) -> Result<Vec<EndpointLocation>> {
    if endpoint.location.is_empty() {
        return Ok(vec![EndpointLocation::ReuseConnection]);
    }
    let mut locations: Vec<_> = endpoint.location.iter().filter_map(|l| parse_location(&l.uri)).collect();
    if locations.is_empty() {
        let uris: Vec<&str> = endpoint.location.iter().map(|l| l.uri.as_str()).collect();
        return Err(Error::unavailable(format!(
            "endpoint {index} has no location that this client supports (only grpc+tcp and grpc+tls), of {}",
            uris.join(", ")
        )));
    }
    let known = locations.len();
    locations.retain(permits);
    *skipped += known - locations.len();
    if !locations.contains(&EndpointLocation::ReuseConnection) {
        locations.push(EndpointLocation::ReuseConnection);
    }
    Ok(locations)
}

impl FetchStream {
    pub(super) fn new(client: Client, info: FlightInfo, options: FetchOptions) -> Result<FetchStream> {
        let mut skipped = 0;
        let endpoints = info.endpoint.iter().enumerate();
        let waiting = endpoints
            .map(|(index, endpoint)| FetchEndpoint::new(index, endpoint, &client, &mut skipped))
            .collect::<Result<_>>()?;
        if skipped > 0 {
            let reason = if client.is_tls { "the FlightInfo came by TLS" } else { "they would receive the login" };
            tracing::warn!(
                skipped,
                reason,
                "locations without TLS are not used: give the nodes TLS, or all data may come through one member"
            );
        }
        Ok(FetchStream {
            schema: parse_schema(&info.schema).map_err(|e| e.at("the schema of the FlightInfo"))?,
            open: EndpointReaders::new(info.ordered),
            client,
            options: FetchOptions { streams: options.streams.max(1), window: options.window.max(1) },
            waiting,
            rows: 0,
            failed: false,
            info,
        })
    }

    /// Opens waiting endpoints while fewer than `streams` are open.
    fn open_more(&mut self) {
        while self.open.len() < self.options.streams {
            let Some(endpoint) = self.waiting.pop_front() else { return };
            let (sender, events) = mpsc::channel(self.options.window);
            let task = tokio::spawn(run_endpoint(self.client.clone(), endpoint, self.schema.clone(), sender));
            self.open.push(EndpointReader { events, ended: false, _task: AbortOnDropHandle::new(task) });
        }
    }

    fn check_rows(&self) -> Option<Result<FetchedBatch>> {
        let expected = self.info.total_records;
        if expected < 0 || expected == self.rows {
            return None;
        }
        let rows = self.rows;
        Some(Err(Error::data_loss(format!(
            "the endpoints sent {rows} rows, but the FlightInfo says {expected}: fetch again, and report it if it happens again"
        ))))
    }
}

impl Stream for FetchStream {
    type Item = Result<FetchedBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        loop {
            self.open_more();
            let item = match ready!(self.open.poll_next(cx)) {
                Some(Ok(None)) => continue,
                Some(Ok(Some(fetched))) => {
                    self.rows += fetched.batch.num_rows() as i64;
                    Some(Ok(fetched))
                }
                Some(Err(error)) => Some(Err(error)),
                // An ended reader counts as open until it is polled again.
                None if !self.waiting.is_empty() => continue,
                None => self.check_rows(),
            };
            self.failed = !matches!(item, Some(Ok(_)));
            return Poll::Ready(item);
        }
    }
}

/// A message of an endpoint's task: a batch, or `None` at the end of the endpoint.
type EndpointEvent = Result<Option<FetchedBatch>>;

/// The open endpoints.
enum EndpointReaders {
    Ordered(VecDeque<EndpointReader>),
    Unordered(SelectAll<EndpointReader>),
}

/// The receiving end of an endpoint's task. Dropping it ends the task.
struct EndpointReader {
    events: mpsc::Receiver<EndpointEvent>,
    ended: bool,
    _task: AbortOnDropHandle<()>,
}

impl EndpointReaders {
    fn new(ordered: bool) -> Self {
        match ordered {
            true => EndpointReaders::Ordered(VecDeque::new()),
            false => EndpointReaders::Unordered(SelectAll::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            EndpointReaders::Ordered(readers) => readers.len(),
            EndpointReaders::Unordered(readers) => readers.len(),
        }
    }

    fn push(&mut self, reader: EndpointReader) {
        match self {
            EndpointReaders::Ordered(readers) => readers.push_back(reader),
            EndpointReaders::Unordered(readers) => readers.push(reader),
        }
    }

    /// The next event; none when no endpoint is open.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<EndpointEvent>> {
        match self {
            EndpointReaders::Unordered(readers) => readers.poll_next_unpin(cx),
            EndpointReaders::Ordered(readers) => {
                let Some(front) = readers.front_mut() else { return Poll::Ready(None) };
                let event = ready!(front.poll_next_unpin(cx));
                if front.ended {
                    readers.pop_front();
                }
                Poll::Ready(event)
            }
        }
    }
}

impl Stream for EndpointReader {
    type Item = EndpointEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EndpointEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = ready!(self.events.poll_recv(cx));
        // A queue that closes before the end of the endpoint: the task panicked.
        let event = event.unwrap_or_else(|| Err(Error::internal("the task that reads an endpoint ended unexpectedly")));
        self.ended = !matches!(event, Ok(Some(_)));
        Poll::Ready(Some(event))
    }
}

/// Why the reading of an endpoint stopped before its end.
enum ReadStopped {
    /// The [`FetchStream`] was dropped.
    ReceiverDropped,
    Failed(Error),
}

impl From<Error> for ReadStopped {
    fn from(error: Error) -> Self {
        ReadStopped::Failed(error)
    }
}

/// Streams an endpoint into `sender`, then its end or its error.
async fn run_endpoint(client: Client, endpoint: FetchEndpoint, schema: SchemaRef, sender: mpsc::Sender<EndpointEvent>) {
    let last = match read_endpoint(&client, &endpoint, &schema, &sender).await {
        Ok(()) => Ok(None),
        Err(ReadStopped::Failed(error)) => Err(error),
        Err(ReadStopped::ReceiverDropped) => return,
    };
    let _ = sender.send(last).await;
}

/// Streams an endpoint to its end. After UNAVAILABLE from one location it continues at the next one, until all
/// locations in succession have failed without delivering a row.
async fn read_endpoint(
    client: &Client,
    endpoint: &FetchEndpoint,
    schema: &SchemaRef,
    sender: &mpsc::Sender<EndpointEvent>,
) -> Result<(), ReadStopped> {
    let locations = endpoint.locations.len();
    let mut candidates = endpoint.locations.clone();
    candidates.sort_by_cached_key(|location| client.pool_of(location).health(client.address_of(location)).rank());
    let mut failover = Failover::new(candidates);
    failover.set_attempts_left(locations + 1);
    let mut delivered = 0;
    while let Some(location) = failover.next_candidate() {
        let delivered_before = delivered;
        let error = match read_location(client, endpoint, &location, schema, &mut delivered, sender).await {
            Err(ReadStopped::Failed(error)) => error,
            outcome => return outcome,
        };
        if delivered > 0 && !endpoint.resumes && error.code == Code::Unavailable {
            return Err(error.at("the query broke after some of its rows: run it again").into());
        }
        if delivered > delivered_before {
            failover.set_attempts_left(locations);
        }
        let address = client.address_of(&location);
        tracing::debug!(endpoint = endpoint.index, address, %error, "reading an endpoint failed");
        failover.record::<()>(Err(error.at(format!("endpoint {} at {address}", endpoint.index))))?;
    }
    Err(failover.into_error().unwrap_or_else(|| Error::internal("an endpoint has no location")).into())
}

/// Streams an endpoint from one location, without the first `delivered` rows. Adds the rows that it sends to `delivered`.
async fn read_location(
    client: &Client,
    endpoint: &FetchEndpoint,
    location: &EndpointLocation,
    schema: &SchemaRef,
    delivered: &mut usize,
    sender: &mpsc::Sender<EndpointEvent>,
) -> Result<(), ReadStopped> {
    let mut left_to_skip = *delivered;
    let from: Arc<str> = client.address_of(location).into();
    let channel = client.channel_at(location)?;
    // A member that hangs keeps the connection open.
    let mut silence = client.pool_of(location).silence(&from);
    let mut batches = tokio::select! {
        biased;
        opened = client.authenticated(|| BatchStream::open(channel.clone(), endpoint.ticket.clone())) => opened?,
        error = &mut silence => return Err(error.into()),
    };
    if batches.schema() != schema {
        return Err(Error::internal("the stream's schema is not the FlightInfo's").into());
    }
    loop {
        let batch = tokio::select! {
            biased;
            batch = batches.next() => batch?,
            error = &mut silence => return Err(error.into()),
        };
        let Some(batch) = batch else { return Ok(()) };
        let skip = left_to_skip.min(batch.num_rows());
        left_to_skip -= skip;
        if skip > 0 && skip == batch.num_rows() {
            continue;
        }
        let batch = batch.slice(skip, batch.num_rows() - skip);
        *delivered += batch.num_rows();
        let fetched = FetchedBatch { endpoint: endpoint.index, batch, from: from.clone() };
        sender.send(Ok(Some(fetched))).await.map_err(|_| ReadStopped::ReceiverDropped)?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::Location;

    use super::*;

    fn endpoint(uris: &[&str]) -> FlightEndpoint {
        let location = uris.iter().map(|uri| Location { uri: uri.to_string() }).collect();
        FlightEndpoint { location, ..FlightEndpoint::default() }
    }

    #[test]
    fn client_with_tls_keeps_its_connection_for_plaintext_locations() {
        use EndpointLocation::{Member, ReuseConnection, TlsMember};
        let (plain, tls) = ("grpc+tcp://n:1", "grpc+tls://n:2");
        for (uris, is_tls, expected, expected_skipped) in [
            (&[plain][..], true, vec![ReuseConnection], 1),
            (&[plain, tls][..], true, vec![TlsMember("n:2".into()), ReuseConnection], 1),
            (&[plain, tls][..], false, vec![Member("n:1".into()), TlsMember("n:2".into()), ReuseConnection], 0),
            (&[][..], true, vec![ReuseConnection], 0),
        ] {
            let mut skipped = 0;
            let permits = |location: &EndpointLocation| !is_tls || !matches!(location, Member(_));
            let found = locations(&endpoint(uris), 0, permits, &mut skipped).unwrap();
            assert_eq!((found, skipped), (expected, expected_skipped), "{uris:?} {is_tls}");
        }
        let error = locations(&endpoint(&["grpc+unix:///tmp/s"]), 3, |_| true, &mut 0).unwrap_err();
        assert!(error.code == Code::Unavailable && error.message.contains("endpoint 3"), "{error}");
    }
}
