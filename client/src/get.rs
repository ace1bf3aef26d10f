//! Reads all endpoints of a FlightInfo in parallel, each from any of its locations.
//!
//! Every endpoint has a task that streams it into a bounded queue (`reader`, `window`). If the stream breaks, the task restarts it
//! at the next location without the rows that were delivered. [`FetchStream`] reads the queues front to back if the info is
//! ordered, otherwise any queue that has a batch. `endpoint` orders the locations, `tickets` replaces tickets that have expired.
//! `local` reads an endpoint by the files of its parts, if one of its nodes is on this machine and offers that.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightInfo, Ticket};
use futures::stream::SelectAll;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio_util::task::AbortOnDropHandle;
use volley_common::ipc::buffer_pool::BufferPool;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::{Error, Result, TableName};

use super::Client;
use super::stream::BatchStream;
use endpoint::FetchEndpoint;
use reader::{FetchContext, run_endpoint};
use tickets::{TicketSource, keep_version};
use window::{EndpointEvent, WindowReceiver, window};

mod endpoint;
mod local;
mod reader;
mod tickets;
mod window;

/// Parallelism and memory of a fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Streams open at a time, at least 1.
    pub streams: usize,
    /// Bytes of batches that wait for the reader, of all streams together: each stream has its share, and at least one batch. In
    /// addition each stream has one batch that is being decoded, and up to 4 MiB in its HTTP/2 window.
    pub window_bytes: usize,
}

impl Default for FetchOptions {
    /// 8 streams, and 32 MiB.
    fn default() -> Self {
        FetchOptions { streams: 8, window_bytes: 32 << 20 }
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
    context: Arc<FetchContext>,
    options: FetchOptions,
    waiting: VecDeque<FetchEndpoint>,
    open: EndpointReaders,
    /// Keeps the version readable; there is none before the first endpoint is opened.
    keeper: Option<AbortOnDropHandle<()>>,
    rows: i64,
    failed: bool,
}

impl FetchStream {
    pub(super) fn new(client: Client, info: FlightInfo, options: FetchOptions) -> Result<FetchStream> {
        let (mut skipped, offered) = (0, client.local.offered(&info));
        let endpoints = info.endpoint.iter().enumerate();
        let waiting = endpoints
            .map(|(index, endpoint)| FetchEndpoint::new(index, endpoint, &client, &offered, &mut skipped))
            .collect::<Result<_>>()?;
        if skipped > 0 {
            let reason = if client.is_tls { "the FlightInfo came by TLS" } else { "they would receive the login" };
            tracing::warn!(
                skipped,
                reason,
                "locations without TLS are not used: give the nodes TLS, or all data may come through one member"
            );
        }
        let schema = parse_schema(&info.schema).map_err(|e| e.at("the schema of the FlightInfo"))?;
        let tickets = TicketSource::new(client.clone(), &info);
        let options = FetchOptions { streams: options.streams.max(1), ..options };
        let bodies = BufferPool::with_shared_blocks_of(options.streams.min(info.endpoint.len().max(1)));
        Ok(FetchStream {
            schema: schema.clone(),
            open: EndpointReaders::new(info.ordered),
            context: Arc::new(FetchContext { client, tickets, schema, bodies }),
            options,
            waiting,
            keeper: None,
            rows: 0,
            failed: false,
            info,
        })
    }

    /// Opens waiting endpoints while fewer than `streams` are open.
    fn open_more(&mut self) {
        self.start_keeper();
        let share = self.options.window_bytes / self.options.streams.min(self.info.endpoint.len().max(1));
        while self.open.len() < self.options.streams {
            let Some(endpoint) = self.waiting.pop_front() else { return };
            let (sender, events) = window(share);
            let task = tokio::spawn(run_endpoint(self.context.clone(), endpoint, sender));
            self.open.push(EndpointReader { events, ended: false, _task: AbortOnDropHandle::new(task) });
        }
    }

    /// Keeps the version of a table readable. A query, which has no location, has no ticket that can be renewed.
    fn start_keeper(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        if let Some(last) = self.info.endpoint.last().filter(|last| !last.location.is_empty()) {
            let task = tokio::spawn(keep_version(self.context.client.clone(), last.clone()));
            self.keeper = Some(AbortOnDropHandle::new(task));
        }
    }

    fn check_rows(&self) -> Option<Result<FetchedBatch>> {
        let expected = self.info.total_records;
        if expected < 0 || expected == self.rows {
            return None;
        }
        let rows = self.rows;
        Some(Err(self.context.client.name(Error::data_loss(format!(
            "the endpoints sent {rows} rows, but the FlightInfo says {expected}: fetch again, and report it if it happens again"
        )))))
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
            if self.failed {
                self.keeper = None;
            }
            return Poll::Ready(item);
        }
    }
}

/// The open endpoints.
enum EndpointReaders {
    Ordered(VecDeque<EndpointReader>),
    Unordered(SelectAll<EndpointReader>),
}

/// The receiving end of an endpoint's task. Dropping it ends the task.
struct EndpointReader {
    events: WindowReceiver,
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
        let event = ready!(self.events.poll_next(cx));
        // A queue that closes before the end of the endpoint: the task panicked.
        let event = event.unwrap_or_else(|| Err(Error::internal("the task that reads an endpoint ended unexpectedly")));
        self.ended = !matches!(event, Ok(Some(_)));
        Poll::Ready(Some(event))
    }
}

impl Client {
    /// Plans a table and fetches all its endpoints in parallel: [`Client::info`], then [`Client::fetch`]. The options are those
    /// of reads: columns, a filter, a version, a limit.
    ///
    /// # Errors
    /// Those of [`Client::info`] and [`Client::fetch`].
    pub async fn get(&self, name: &TableName, options: &Options, fetch: FetchOptions) -> Result<FetchStream> {
        let client = self.for_call();
        let info = client.info(name, options).await?;
        client.fetch(info, fetch)
    }

    /// Fetches the endpoints of a FlightInfo in parallel. The stream yields batches, each with its endpoint: in the order
    /// of the endpoints if the info is `ordered`, else as they arrive. Nothing is sent before the stream is polled.
    ///
    /// A stream that breaks continues at the next location at the row where it broke; that of a query fails. While tables are
    /// read, their version is kept, and tickets that have expired are replaced, unless the read has a filter.
    ///
    /// On the machine of a node that has a local socket, batches of whole tables and columns are the memory of its mapped files,
    /// see [`crate::LocalMode`]. They must not be written to, and stay readable when the node removes the files.
    ///
    /// ```no_run
    /// # async fn example(client: volley_client::Client) -> volley_client::Result<()> {
    /// use futures::TryStreamExt;
    /// use volley_client::{FetchOptions, Options};
    ///
    /// let info = client.info(&"trips".parse()?, &Options::default()).await?;
    /// println!("{} rows in {} endpoints", info.total_records, info.endpoint.len());
    /// let mut batches = client.fetch(info, FetchOptions { streams: 4, window_bytes: 8 << 20 })?;
    /// while let Some(fetched) = batches.try_next().await? {
    ///     println!("endpoint {}: {} rows", fetched.endpoint, fetched.batch.num_rows());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// INTERNAL: the FlightInfo has no schema, or an endpoint without a ticket. UNAVAILABLE: an endpoint has only locations of
    /// other transports. The stream's: UNAVAILABLE: no location of an endpoint answers. NOT_FOUND: a ticket has expired, or the
    /// table may not be read any more. ABORTED: it has expired and cannot be replaced. DATA_LOSS: rows are missing.
    pub fn fetch(&self, info: FlightInfo, options: FetchOptions) -> Result<FetchStream> {
        FetchStream::new(self.for_call(), info, options)
    }

    /// All batches of a table: [`Client::get`], collected. For tables that fit in memory.
    ///
    /// # Errors
    /// Those of [`Client::get`] and of its stream.
    pub async fn get_all(&self, name: &TableName, options: &Options) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let fetch = self.get(name, options, FetchOptions::default()).await?;
        let schema = fetch.schema.clone();
        let batches = fetch.map_ok(|fetched| fetched.batch).try_collect().await?;
        Ok((schema, batches))
    }

    /// One DoGet on the original connection, for a ticket or a table's name.
    ///
    /// # Errors
    /// The member's; UNAVAILABLE if it is unreachable.
    pub async fn open(&self, ticket: Ticket) -> Result<BatchStream> {
        let client = self.for_call();
        client.named(client.authenticated(|| BatchStream::open(client.own_channel(), ticket.clone())).await)
    }

    /// [`Client::open`], collected.
    ///
    /// # Errors
    /// Those of [`Client::open`] and of its stream.
    pub async fn do_get(&self, ticket: Ticket) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let mut stream = self.open(ticket).await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await? {
            batches.push(batch);
        }
        Ok((stream.schema().clone(), batches))
    }
}
