//! Reads a ticket's parts in order, as the messages of one get. Messages are produced on demand.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, Stream};
use volley_common::fairness::CallerKey;
use volley_common::identity::Access;
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, Result};

use super::compressing::CompressingGet;
use super::frames::{FrameReader, frames, join_frames};
use super::local::LocalPartReader;
use super::message::{EncodedMessage, Projection};
use super::remote::RemotePartReader;
use super::ticket_parts::TicketParts;
use crate::assertion::AssertedCaller;
use crate::context::GetContext;
use crate::get_resources::{GetShare, GetSlot};

/// A verified ticket and the position in its parts.
pub struct TicketReader {
    parts: TicketParts,
    /// The projection to the ticket's columns; `None` until the schema is known, and for all columns.
    projection: Option<Arc<Projection>>,
    /// Asserted to the nodes that parts are read from.
    caller: AssertedCaller,
    current: Option<PartReader>,
    /// Held from the first part on that is decompressed.
    decompression: Option<GetSlot>,
    /// The memory for what local parts copy.
    memory: Option<Arc<GetShare>>,
    /// Compresses what is sent; `None`: it is sent as it is stored.
    compression: Option<Box<CompressingGet>>,
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
        let mut reader = TicketReader {
            projection: None,
            caller: AssertedCaller::client(Access::open(), context.cluster.clone()),
            parts: TicketParts::new(context, ticket, hop)?,
            current: None,
            decompression: None,
            memory: None,
            compression: None,
        };
        if !reader.parts.ticket.schema.is_empty() {
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

    /// The same, compressed on the way where that brings rows faster.
    pub fn compressed(mut self, compression: Option<Box<CompressingGet>>) -> Self {
        self.compression = compression;
        self
    }

    /// The schema, then all messages. A frame has one message, or several that are ready and together have at most
    /// `max_bytes`. Nothing is read before the stream is polled.
    pub fn frames(mut self, max_bytes: usize) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
        self.parts.count_sent_rows();
        frames(self, max_bytes)
    }

    /// The next bytes of a part that is passed on as it arrives; `None` if the current part is not, or has ended.
    async fn next_relayed(&mut self) -> Result<Option<FlightFrame>> {
        let Some(PartReader::Remote(part)) = &mut self.current else { return Ok(None) };
        if !part.is_relayed(self.parts.remaining_rows).await? {
            return Ok(None);
        }
        let frame = part.next_relayed().await?;
        if frame.is_none() {
            self.parts.count_rows(part.rows());
            self.current = None;
        }
        Ok(frame)
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
        if self.parts.needs_next(&mut self.current) {
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
            Some(PartReader::Remote(part)) => part.next_messages(max_bytes, self.parts.remaining_rows).await?,
        };
        if messages.is_empty() {
            self.current = None;
        }
        let rows = messages.iter().filter_map(|message| message.rows).sum();
        self.parts.count_rows(rows);
        Ok(messages)
    }

    /// Opens the next part: on this node, or else at another holder. `None` after the last.
    async fn open_next_part(&mut self) -> Result<Option<PartReader>> {
        let Some(part) = self.parts.take_next()? else { return Ok(None) };
        let opened = self.open_local(&part).await;
        let Some(local) = self.parts.or_remote(&part, opened)? else { return self.open_remote(&part).map(Some) };
        if local.decompresses() {
            self.admit_decompression()?;
        }
        Ok(Some(PartReader::Local(local)))
    }

    async fn open_local(&mut self, part: &TicketPart) -> Result<Option<LocalPartReader>> {
        let Some(mapped) = self.parts.map(part).await? else { return Ok(None) };
        self.init_projection()?;
        let local = LocalPartReader::new(mapped, self.projection.clone(), part.skip_batches, self.parts.remaining_rows);
        let mut local = local.within(self.memory.clone());
        if self.parts.ticket.permitted_columns != 0 {
            local = local.without_app_metadata();
        }
        if self.parts.ticket.decompress {
            local = local.decompressed();
        }
        Ok(Some(local))
    }

    fn open_remote(&mut self, part: &TicketPart) -> Result<PartReader> {
        // Whether the part is compressed is known when its messages arrive.
        if self.parts.ticket.decompress {
            self.admit_decompression()?;
        }
        let TicketParts { context, ticket, .. } = &self.parts;
        Ok(PartReader::Remote(Box::new(RemotePartReader::new(context.clone(), self.caller.clone(), ticket, part))))
    }

    /// Takes one of the node's places for gets that decompress, unless this get has one.
    fn admit_decompression(&mut self) -> Result<()> {
        if self.decompression.is_none() {
            let caller = self.caller.access().map_or(CallerKey::Cluster, CallerKey::of);
            self.decompression = Some(self.parts.context.decompressions.admit(&caller)?);
        }
        Ok(())
    }

    /// Reads the rest of the current part from another holder: its file was damaged after `batches_read` batches.
    fn fail_over(&mut self, batches_read: u32, error: Error) -> Result<PartReader> {
        let part = TicketPart { skip_batches: batches_read, ..self.parts.report_damage(error)? };
        self.open_remote(&part)
    }

    /// Creates the projection, if the ticket names columns and there is none yet.
    fn init_projection(&mut self) -> Result<()> {
        let ticket = &self.parts.ticket;
        if let (None, Some(columns)) = (&self.projection, &ticket.columns) {
            self.projection = Some(Arc::new(Projection::new(&ticket.schema, columns)?));
        }
        Ok(())
    }
}

impl FrameReader for TicketReader {
    /// That of the ticket, or else of the first part.
    async fn schema_header(&mut self) -> Result<Bytes> {
        if self.parts.ticket.schema.is_empty() {
            self.current = self.open_next_part().await?;
        }
        if let (Some(PartReader::Remote(part)), true) = (&mut self.current, self.parts.ticket.schema.is_empty()) {
            return part.schema_header(self.parts.remaining_rows).await;
        }
        self.parts.schema_header()
    }

    async fn next_frame(&mut self, max_bytes: usize) -> Result<Option<FlightFrame>> {
        if let Some(compression) = &mut self.compression {
            compression.begin_frame();
        }
        while self.has_current_part().await? {
            if let Some(relayed) = self.next_relayed().await? {
                return Ok(Some(relayed));
            }
            let mut messages = self.read_current_part(max_bytes).await?;
            if let (Some(compression), false) = (&mut self.compression, messages.is_empty()) {
                // Boxed: few gets compress, and what this takes would be in each of them.
                messages = compression.compress(messages).boxed().await?;
            }
            let frame = join_frames(messages);
            match (frame, &self.current) {
                (Some(frame), Some(PartReader::Remote(part))) => return Ok(Some(part.count_unsent(frame))),
                (Some(frame), _) => return Ok(Some(frame)),
                (None, _) => {}
            }
        }
        Ok(None)
    }
}

impl Drop for TicketReader {
    /// Evicts a part that was not read to its end.
    fn drop(&mut self) {
        if let Some(PartReader::Local(part)) = self.current.take() {
            self.parts.evict(part.id(), part);
        }
    }
}
