//! The task of an endpoint: streams it to its end, from one location after the other.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use volley_common::ipc::buffer_pool::BufferPool;
use volley_common::net::Failover;
use volley_common::{Code, Error, Result};

use super::FetchedBatch;
use super::endpoint::FetchEndpoint;
use super::local::{LocalReader, WireFallback};
use super::tickets::TicketSource;
use super::window::{ReaderDropped, WindowSender};
use crate::Client;
use crate::address::EndpointLocation;
use crate::local_reads::OfferedSocket;
use crate::pushback::Pushback;
use crate::stream::BatchStream;

/// What the tasks of a fetch share.
pub(super) struct FetchContext {
    pub client: Client,
    pub tickets: TicketSource,
    /// The schema of every batch.
    pub schema: SchemaRef,
    /// The memory of all streams.
    pub bodies: BufferPool,
}

/// Why the reading of an endpoint stopped before its end.
enum ReadStopped {
    /// The fetch was dropped.
    ReceiverDropped,
    Failed(Error),
}

impl From<Error> for ReadStopped {
    fn from(error: Error) -> Self {
        ReadStopped::Failed(error)
    }
}

impl From<ReaderDropped> for ReadStopped {
    fn from(_: ReaderDropped) -> Self {
        ReadStopped::ReceiverDropped
    }
}

/// Streams an endpoint into `window`, then its end or its error.
pub(super) async fn run_endpoint(context: Arc<FetchContext>, endpoint: FetchEndpoint, window: WindowSender) {
    let reader = EndpointTask { context: &context, endpoint, window: &window, delivered: 0 };
    let outcome = match reader.read().await {
        Ok(()) => Ok(()),
        Err(ReadStopped::Failed(error)) => Err(context.client.name(error)),
        Err(ReadStopped::ReceiverDropped) => return,
    };
    window.end(outcome).await;
}

struct EndpointTask<'a> {
    context: &'a FetchContext,
    endpoint: FetchEndpoint,
    window: &'a WindowSender,
    /// Rows that the reader of the fetch has, or will get from the window.
    delivered: usize,
}

impl EndpointTask<'_> {
    /// Streams the endpoint to its end. After UNAVAILABLE from one location it continues at the next one, until all locations in
    /// succession have failed without delivering a row. After NOT_FOUND for a ticket that has expired it continues with a new one,
    /// and after a refusal for the moment, when some time has passed.
    async fn read(mut self) -> Result<(), ReadStopped> {
        if self.read_local().await? {
            return Ok(());
        }
        let client = &self.context.client;
        let locations = self.endpoint.locations.len();
        let mut candidates = self.endpoint.locations.clone();
        candidates.sort_by_cached_key(|location| client.pool_of(location).health(client.address_of(location)).rank());
        let mut failover = Failover::new(candidates);
        failover.set_attempts_left(locations + 1);
        let (mut is_replaced, mut pushback) = (false, Pushback::default());
        while let Some(location) = failover.next_candidate() {
            let delivered_before = self.delivered;
            let error = match self.read_location(&location).await {
                Err(ReadStopped::Failed(error)) => error,
                outcome => return outcome,
            };
            let goes_on = self.delivered == 0 || self.endpoint.resumes;
            if !goes_on && error.code == Code::Unavailable {
                return Err(error.at("the query broke after some of its rows: run it again").into());
            }
            if self.delivered > delivered_before {
                failover.set_attempts_left(locations);
                (is_replaced, pushback) = (false, Pushback::default());
            }
            let (index, address) = (self.endpoint.index, client.address_of(&location));
            tracing::debug!(endpoint = index, address, %error, "reading an endpoint failed");
            if !is_replaced && self.has_expired(&error) {
                self.endpoint.ticket = self.context.tickets.replace(&self.endpoint.ticket, index).await?;
                is_replaced = true;
                failover.set_attempts_left(locations);
                continue;
            }
            if goes_on && let Some(pause) = pushback.pause(&error) {
                failover.set_attempts_left(locations);
                tokio::time::sleep(pause).await;
                continue;
            }
            failover.record::<()>(Err(error.at(format!("endpoint {index} at {address}"))))?;
        }
        Err(failover.into_error().unwrap_or_else(|| Error::internal("an endpoint has no location")).into())
    }

    /// Whether an error says that the ticket has expired, and there can be another one.
    fn has_expired(&self, error: &Error) -> bool {
        error.code == Code::NotFound && self.endpoint.ticket.may_have_expired() && self.context.tickets.can_replace()
    }

    /// Reads the endpoint by files, if a node on this machine offers that; whether that gave all rows. If not, `delivered` of them.
    async fn read_local(&mut self) -> Result<bool, ReaderDropped> {
        let client = &self.context.client;
        let mut last = None;
        for offered in std::mem::take(&mut self.endpoint.local) {
            if client.local.is_avoided(&offered.socket.path) {
                continue;
            }
            let Some(fallback) = self.read_socket(&offered).await? else { return Ok(true) };
            let tries_next = self.delivered == 0 && fallback.is_of_node();
            last = Some(fallback);
            if !tries_next {
                break;
            }
        }
        if let Some(WireFallback { reason, error }) = last {
            client.local.count_fallback(reason);
            tracing::debug!(endpoint = self.endpoint.index, reason, %error, "an endpoint is read by the wire");
        }
        Ok(false)
    }

    /// Reads the endpoint by the files of one node; why the rest is to be read in another way, if it is.
    async fn read_socket(&mut self, offered: &OfferedSocket) -> Result<Option<WireFallback>, ReaderDropped> {
        let FetchContext { client, schema, .. } = self.context;
        let ticket = self.endpoint.ticket.ticket.clone();
        let mut reader = LocalReader::new(client, &offered.socket, &ticket, schema);
        loop {
            let local = match reader.next().await {
                Ok(Some(local)) => local,
                Ok(None) => {
                    client.local.count_endpoint();
                    return Ok(None);
                }
                Err(fallback) => return Ok(Some(fallback)),
            };
            let (endpoint, from, rows) = (self.endpoint.index, offered.address.clone(), local.rows.num_rows());
            self.delivered += rows;
            client.local.count_rows(rows);
            let fetched = FetchedBatch { endpoint, batch: local.rows, from };
            self.window.send_counted(fetched, local.bytes).await?;
        }
    }

    /// Streams the endpoint from one location, without the rows that were delivered.
    async fn read_location(&mut self, location: &EndpointLocation) -> Result<(), ReadStopped> {
        let FetchContext { client, schema, bodies, .. } = self.context;
        let mut left_to_skip = self.delivered;
        let from: Arc<str> = client.address_of(location).into();
        let channel = client.channel_at(location)?;
        // A member that hangs keeps the connection open.
        let mut silence = client.pool_of(location).silence(&from);
        let ticket = &self.endpoint.ticket.ticket;
        let open = || BatchStream::open_into(channel.clone(), ticket.clone(), bodies.for_stream());
        let mut batches = tokio::select! {
            biased;
            opened = client.authenticated(open) => opened?,
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
            self.delivered += batch.num_rows();
            let fetched = FetchedBatch { endpoint: self.endpoint.index, batch, from: from.clone() };
            self.window.send(fetched).await?;
        }
    }
}
