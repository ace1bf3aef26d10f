//! A get with a filter: the rows of a ticket's parts for which it is true, encoded anew. Without a filter a get sends what is stored
//! ([`super::reader`]).
//!
//! The stream begins with the same schema as that of an unfiltered get. Bodies are not compressed, unless the reader accepts that over
//! a slow link, and batches have no `app_metadata`: they are not those that were put.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, Stream};
use volley_common::fairness::CallerKey;
use volley_common::identity::Access;
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::wire::cluster::Ticket;
use volley_common::{Error, Result};

use super::compressing::CompressingGet;
use super::frames::{FrameReader, frames, join_frames};
use super::message::EncodedMessage;
use super::part_scan::scan_reader::ScanReader;
use crate::assertion::AssertedCaller;
use crate::context::GetContext;
use crate::get_resources::GetSlot;

/// A verified ticket with a filter, and the position in its parts.
pub struct FilteredReader {
    reader: ScanReader<EncodedMessage>,
    _slot: GetSlot,
    /// Compresses what is sent.
    compression: Option<Box<CompressingGet>>,
}

impl FilteredReader {
    /// `access`: that of the get's caller, who was permitted to redeem the ticket. `hop`: the get comes from another node, which
    /// does not have the part.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket has neither a schema nor a part, or names columns that its schema does not have, or record
    /// batches to skip; the filter is wrong, or has a column that the caller may not see. RESOURCE_EXHAUSTED: the node filters for
    /// too many gets, in all or of this caller. Those of [`Access::ticket_columns`].
    pub fn new(
        context: Arc<GetContext>,
        ticket: Ticket,
        access: &Access,
        caller: AssertedCaller,
        hop: bool,
    ) -> Result<Self> {
        if ticket.parts.iter().any(|part| part.skip_batches > 0) {
            return Err(Error::invalid("a ticket with a filter skips no record batches: call get_flight_info again"));
        }
        let visible = access.ticket_columns(&ticket)?;
        let slot = context.filters.admit(&CallerKey::of(access))?;
        let reader = ScanReader::of_filter(context, caller, ticket, visible, hop)?;
        Ok(FilteredReader { reader, _slot: slot, compression: None })
    }

    /// The same, compressed on the way where that brings rows faster.
    pub fn compressed(self, compression: Option<Box<CompressingGet>>) -> Self {
        FilteredReader { compression, ..self }
    }

    /// The schema, then all messages. A frame has one message, or several that are ready and together have at most
    /// `max_bytes`. Nothing is read before the stream is polled.
    pub fn frames(mut self, max_bytes: usize) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
        self.reader.count_sent_rows();
        frames(self, max_bytes)
    }
}

impl FrameReader for FilteredReader {
    async fn schema_header(&mut self) -> Result<Bytes> {
        self.reader.schema_header().await
    }

    async fn next_frame(&mut self, max_bytes: usize) -> Result<Option<FlightFrame>> {
        if let Some(compression) = &mut self.compression {
            compression.begin_frame();
        }
        let mut messages = self.reader.next_outputs(max_bytes).await?;
        if let (Some(compression), false) = (&mut self.compression, messages.is_empty()) {
            // Boxed: few gets compress, and what this takes would be in each of them.
            messages = compression.compress(messages).boxed().await?;
        }
        let frame = join_frames(messages);
        Ok(frame.map(|frame| self.reader.count_unsent(frame)))
    }
}
