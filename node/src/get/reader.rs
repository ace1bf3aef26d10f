//! Reads a ticket's parts in order, as the messages of one get. Messages are produced on demand.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use volley_common::fairness::CallerKey;
use volley_common::identity::Access;
use volley_common::ipc::flight_encoder::{FlightFrame, encode_flight_data};
use volley_common::ipc::project::SchemaMetadata;
use volley_common::ipc::{project, schema};
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, PartId, Result};

use super::local::LocalPartReader;
use super::message::{EncodedMessage, Projection};
use super::remote::RemotePartReader;
use crate::assertion::AssertedCaller;
use crate::context::GetContext;
use crate::get_resources::{DecompressionSlot, GetShare};
use crate::storage::{Part, PartStore};

/// A verified ticket and the position in its parts.
pub struct TicketReader {
    context: Arc<GetContext>,
    /// A ticket without a schema gets the schema of the first part on this node, because all parts of a table have the
    /// same schema.
    ticket: Ticket,
    /// The projection to the ticket's columns; `None` until the schema is known, and for all columns.
    projection: Option<Arc<Projection>>,
    /// The get comes from another node: only parts on this node are read.
    hop: bool,
    /// Asserted to the nodes that parts are read from.
    caller: AssertedCaller,
    /// Rows that may still be sent, if there is a limit.
    remaining_rows: Option<u64>,
    schema_sent: bool,
    next_part: usize,
    current: Option<PartReader>,
    /// Held from the first part on that is decompressed.
    decompression: Option<DecompressionSlot>,
    /// The memory for what local parts copy.
    memory: Option<Arc<GetShare>>,
    sent_bytes: metrics::Counter,
}

/// The part that is being read.
// There is one for each get.
#[allow(clippy::large_enum_variant)]
enum PartReader {
    Local(LocalPartReader),
    Remote(Box<RemotePartReader>),
}

impl TicketReader {
    /// `hop`: the get comes from another node, which does not have the part. Until [`TicketReader::on_behalf_of`], other nodes
    /// are read from without an identity, which suffices in an open cluster only.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket has neither a schema nor a part, or names columns that its schema does not have.
    pub fn new(context: Arc<GetContext>, ticket: Ticket, hop: bool) -> Result<Self> {
        if ticket.schema.is_empty() && ticket.parts.is_empty() {
            return Err(Error::invalid("the ticket names neither a schema nor a part: call get_flight_info again"));
        }
        let mut reader = TicketReader {
            projection: None,
            remaining_rows: ticket.limit,
            caller: AssertedCaller::client(Access::open(), context.cluster.clone()),
            context,
            ticket,
            hop,
            schema_sent: false,
            next_part: 0,
            current: None,
            decompression: None,
            memory: None,
            sent_bytes: metrics::counter!("volley_get_bytes_total"),
        };
        if !reader.ticket.schema.is_empty() {
            reader.init_projection()?;
        }
        Ok(reader)
    }

    /// The same for this caller, who was permitted to redeem the ticket.
    pub fn on_behalf_of(mut self, caller: AssertedCaller) -> Self {
        self.caller = caller;
        self
    }

    /// The same with a share of the node's memory; without one what it copies is not counted.
    pub fn within(mut self, memory: Arc<GetShare>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// The schema, then all messages. A frame has one message, or several that are ready and together have at most
    /// `max_bytes`. Nothing is read before the stream is polled.
    pub fn frames(self, max_bytes: usize) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
        stream::try_unfold(self, move |mut reader| async move {
            let frame = reader.next_frame(max_bytes).await?;
            Ok(frame.map(|frame| {
                reader.sent_bytes.increment(frame.len() as u64);
                (frame, reader)
            }))
        })
    }

    async fn next_frame(&mut self, max_bytes: usize) -> Result<Option<FlightFrame>> {
        if !self.schema_sent {
            let header = self.schema_header().await?;
            self.schema_sent = true;
            return Ok(Some(encode_flight_data(&header, None, std::iter::empty())));
        }
        while self.has_current_part().await? {
            if let Some(relayed) = self.next_relayed().await? {
                return Ok(Some(relayed));
            }
            let frames = self.read_current_part(max_bytes).await?.into_iter().map(EncodedMessage::into_frame);
            let frame = frames.reduce(|mut frame, next| {
                frame.append(next);
                frame
            });
            match (frame, &self.current) {
                (Some(frame), Some(PartReader::Remote(part))) => return Ok(Some(part.count_unsent(frame))),
                (Some(frame), _) => return Ok(Some(frame)),
                (None, _) => {}
            }
        }
        Ok(None)
    }

    /// The next bytes of a part that is passed on as it arrives; `None` if the current part is not, or has ended.
    async fn next_relayed(&mut self) -> Result<Option<FlightFrame>> {
        let Some(PartReader::Remote(part)) = &mut self.current else { return Ok(None) };
        if !part.is_relayed(self.remaining_rows).await? {
            return Ok(None);
        }
        let frame = part.next_relayed().await?;
        if frame.is_none() {
            self.remaining_rows = self.remaining_rows.map(|remaining| remaining.saturating_sub(part.rows()));
            self.current = None;
        }
        Ok(frame)
    }

    /// The bare flatbuffer of the schema: the ticket's, or else the first part's.
    async fn schema_header(&mut self) -> Result<Bytes> {
        if self.ticket.schema.is_empty() {
            self.current = self.open_next_part().await?;
        }
        let message = &self.ticket.schema;
        if let (Some(PartReader::Remote(part)), true) = (&mut self.current, message.is_empty()) {
            return part.schema_header(self.remaining_rows).await;
        }
        schema_header(&self.ticket)
    }

    /// The next message after the schema; `None` after the last.
    ///
    /// # Errors
    /// UNAVAILABLE, naming table and part: no node provides it. CANCELLED: the ticket's flight was cancelled.
    pub async fn next_message(&mut self) -> Result<Option<EncodedMessage>> {
        while self.has_current_part().await? {
            if let Some(message) = self.read_current_part(0).await?.pop() {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Opens the next part if none is open; false after the last, or when the limit is reached.
    async fn has_current_part(&mut self) -> Result<bool> {
        if self.remaining_rows == Some(0) {
            self.current = None;
        } else if self.current.is_none() {
            self.current = self.open_next_part().await?;
        }
        Ok(self.current.is_some())
    }

    /// The next message of the current part, and those after it that are ready, if they have at most `max_bytes` together.
    /// Empty if the part has ended, or is continued at another holder.
    async fn read_current_part(&mut self, max_bytes: usize) -> Result<Vec<EncodedMessage>> {
        let messages = match &mut self.current {
            None => Vec::new(),
            Some(PartReader::Local(part)) => match part.next_messages(max_bytes).await {
                Err(error) if error.code == Code::DataLoss => {
                    let batches_read = part.batches_read();
                    self.current = Some(self.fail_over(batches_read, error)?);
                    return Ok(Vec::new());
                }
                messages => messages?,
            },
            Some(PartReader::Remote(part)) => part.next_messages(max_bytes, self.remaining_rows).await?,
        };
        if messages.is_empty() {
            self.current = None;
        }
        let rows = messages.iter().filter_map(|message| message.rows).sum();
        self.remaining_rows = self.remaining_rows.map(|remaining| remaining.saturating_sub(rows));
        Ok(messages)
    }

    /// Opens the next part: on this node, or else at another holder. `None` after the last.
    async fn open_next_part(&mut self) -> Result<Option<PartReader>> {
        let Some(part) = self.ticket.parts.get(self.next_part).cloned() else { return Ok(None) };
        self.context.cluster.check_not_cancelled(&self.ticket)?;
        self.next_part += 1;
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        match self.open_local(id, part.skip_batches).await {
            Ok(Some(local)) => {
                if local.decompresses() {
                    self.admit_decompression()?;
                }
                Ok(Some(PartReader::Local(local)))
            }
            Ok(None) if self.hop => {
                let (table, node) = (self.ticket.table.join("/"), self.context.store.node());
                Err(Error::not_found(format!("part {id} of table {table:?} is not on node {node}")))
            }
            Ok(None) => self.open_remote(&part).map(Some),
            Err(error) if self.hop || error.code == Code::InvalidArgument => Err(error),
            Err(error) => {
                tracing::error!(part = %id, %error, "a local part cannot be read: reading it from another holder");
                self.open_remote(&part).map(Some)
            }
        }
    }

    async fn open_local(&mut self, id: PartId, skip_batches: u32) -> Result<Option<LocalPartReader>> {
        let Some(part) = map_part(&self.context.store, id).await? else { return Ok(None) };
        if self.ticket.schema.is_empty() {
            self.ticket.schema = part.schema_message();
        }
        self.init_projection()?;
        let local = LocalPartReader::new(part, self.projection.clone(), skip_batches, self.remaining_rows);
        let mut local = local.within(self.memory.clone());
        if self.ticket.permitted_columns != 0 {
            local = local.without_app_metadata();
        }
        if self.ticket.decompress {
            local = local.decompressed();
        }
        Ok(Some(local))
    }

    fn open_remote(&mut self, part: &TicketPart) -> Result<PartReader> {
        // Whether the part is compressed is known when its messages arrive.
        if self.ticket.decompress {
            self.admit_decompression()?;
        }
        let caller = self.caller.clone();
        Ok(PartReader::Remote(Box::new(RemotePartReader::new(self.context.clone(), caller, &self.ticket, part))))
    }

    /// Takes one of the node's places for gets that decompress, unless this get has one.
    fn admit_decompression(&mut self) -> Result<()> {
        if self.decompression.is_none() {
            let caller = self.caller.access().map_or(CallerKey::Cluster, CallerKey::of);
            self.decompression = Some(self.context.decompressions.admit(&caller)?);
        }
        Ok(())
    }

    /// Reads the rest of the current part from another holder: its file was damaged after `batches_read` batches.
    fn fail_over(&mut self, batches_read: u32, error: Error) -> Result<PartReader> {
        let part = self.ticket.parts.get(self.next_part.saturating_sub(1));
        let part = part.ok_or_else(|| Error::internal("a part was damaged before any was opened"))?;
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        tracing::error!(part = %id, %error, "a part could not be read to its end");
        let store = self.context.store.clone();
        // Quarantines the part if it is damaged.
        tokio::task::spawn_blocking(move || store.verify(id));
        if self.hop {
            return Err(Error::unavailable(error.message));
        }
        let part = TicketPart { skip_batches: batches_read, ..part.clone() };
        self.open_remote(&part)
    }

    /// Creates the projection, if the ticket names columns and there is none yet.
    fn init_projection(&mut self) -> Result<()> {
        if let (None, Some(columns)) = (&self.projection, &self.ticket.columns) {
            self.projection = Some(Arc::new(Projection::new(&self.ticket.schema, columns)?));
        }
        Ok(())
    }
}

/// The bare flatbuffer of a ticket's schema, which it must have: what its stream begins with.
///
/// # Errors
/// INVALID_ARGUMENT: it names columns that its schema does not have.
pub(super) fn schema_header(ticket: &Ticket) -> Result<Bytes> {
    let Some(columns) = &ticket.columns else { return Ok(schema::flight_header(&ticket.schema)) };
    let metadata = match ticket.permitted_columns {
        0 => SchemaMetadata::Kept,
        _ => SchemaMetadata::Removed,
    };
    let columns: Vec<usize> = columns.index.iter().map(|&at| at as usize).collect();
    project::project_schema(&ticket.schema, &columns, metadata).map(|message| schema::flight_header(&message))
}

/// Maps a part; `None` if it is not on this node.
pub(super) async fn map_part(store: &PartStore, id: PartId) -> Result<Option<Arc<Part>>> {
    if let Some(cached) = store.cached(id) {
        return Ok(Some(cached));
    }
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.part(id))
        .await
        .map_err(|e| Error::internal(format!("opening part {id} failed: {e}")))?
}

impl Drop for TicketReader {
    /// Evicts a part that was not read to its end: one of its pages may be unreadable, and the next reader must map the
    /// file again.
    fn drop(&mut self) {
        let Some(PartReader::Local(part)) = self.current.take() else { return };
        let store = self.context.store.clone();
        let evict = move || {
            let id = part.id();
            drop(part);
            store.evict(id);
        };
        // Unmapping takes time.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(evict)),
            Err(_) => evict(),
        }
    }
}
