//! Scans a ticket's parts in order: on this node's disk, or at other holders. If a part fails, another holder continues it at the
//! next row: the rows that a filter selects of a part, and their order, are the same everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, Result};

use super::local_scan::LocalScan;
use super::scan_output::ScanOutput;
use super::scan_plan::ScanPlan;
use crate::assertion::AssertedCaller;
use crate::context::GetContext;
use crate::get::message::EncodedMessage;
use crate::get::remote::RemotePartReader;
use crate::get::ticket_parts::TicketParts;

/// A verified ticket and the position in its parts.
pub struct ScanReader<T: ScanOutput> {
    parts: TicketParts,
    /// Asserted to the nodes that parts are read from.
    caller: AssertedCaller,
    /// `None` until the schema is known: other nodes make their own.
    plan: Option<Arc<ScanPlan>>,
    /// The names of the columns that the filter may have; `None`: all.
    visible: Option<BTreeSet<String>>,
    current: Option<ScannedPart<T>>,
    /// Rows that were returned of the current part.
    delivered_rows: u64,
}

/// The part that is being scanned.
enum ScannedPart<T: ScanOutput> {
    Local(Box<LocalScan<T>>),
    Remote(Box<RemoteScan<T>>),
}

/// The replies of other nodes, and their decoder.
struct RemoteScan<T: ScanOutput> {
    part: RemotePartReader,
    decoder: T::Decoder,
}

impl<T: ScanOutput> ScanReader<T> {
    /// By a plan, which must be that of the ticket's columns and filter.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket has neither a schema nor a part.
    pub fn new(context: Arc<GetContext>, caller: AssertedCaller, ticket: Ticket, plan: ScanPlan) -> Result<Self> {
        let mut reader = Self::unplanned(context, caller, ticket, false)?;
        reader.plan = Some(Arc::new(plan));
        Ok(reader)
    }

    /// By the ticket's columns and its filter, which has columns that are `visible` (names; `None`: all). `hop`: the get comes from
    /// another node, which does not have the part.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket has neither a schema nor a part; the filter or a column is wrong, if it has a schema: else that
    /// error comes later.
    pub fn of_filter(
        context: Arc<GetContext>,
        caller: AssertedCaller,
        ticket: Ticket,
        visible: Option<BTreeSet<String>>,
        hop: bool,
    ) -> Result<Self> {
        let mut reader = Self::unplanned(context, caller, ticket, hop)?;
        reader.visible = visible;
        if !reader.parts.ticket.schema.is_empty() {
            reader.plan()?;
        }
        Ok(reader)
    }

    fn unplanned(context: Arc<GetContext>, caller: AssertedCaller, ticket: Ticket, hop: bool) -> Result<Self> {
        Ok(ScanReader {
            caller,
            // Holders filter and do not send what they store; what they send of a part without a filter is decoded here.
            parts: TicketParts::new(context, Ticket { decompress: false, ..ticket }, hop)?,
            plan: None,
            visible: None,
            current: None,
            delivered_rows: 0,
        })
    }

    /// The bare flatbuffer of the schema: what an unfiltered get of the same columns begins with.
    ///
    /// # Errors
    /// Those of [`ScanReader::next_outputs`].
    pub async fn schema_header(&mut self) -> Result<Bytes> {
        if self.parts.ticket.schema.is_empty() {
            self.current = self.open_next_part().await?;
        }
        if let (Some(ScannedPart::Remote(remote)), true) = (&mut self.current, self.parts.ticket.schema.is_empty()) {
            return remote.part.schema_header(self.parts.remaining_rows).await;
        }
        self.parts.schema_header()
    }

    /// The next output, and those after it that are ready and with it have at most `max_bytes`; empty after the last.
    ///
    /// # Errors
    /// UNAVAILABLE, naming table and part: no node provides it. CANCELLED: the ticket's flight was cancelled. INVALID_ARGUMENT:
    /// the filter is wrong, or fails for a row. PERMISSION_DENIED, UNAUTHENTICATED: a holder refuses the caller.
    pub async fn next_outputs(&mut self, max_bytes: usize) -> Result<Vec<T>> {
        while self.has_current_part().await? {
            let outputs = match self.read_current_part(max_bytes).await {
                Err(error) if error.code == Code::DataLoss => {
                    self.fail_over(error)?;
                    continue;
                }
                outputs => outputs?,
            };
            let Some(outputs) = outputs else {
                self.current = None;
                continue;
            };
            let rows: u64 = outputs.iter().filter_map(T::rows).sum();
            self.delivered_rows += rows;
            self.parts.count_rows(rows);
            if !outputs.is_empty() {
                return Ok(outputs);
            }
        }
        Ok(Vec::new())
    }

    /// The rows are sent to the caller of a get: they count in the metrics.
    pub fn count_sent_rows(&mut self) {
        self.parts.count_sent_rows();
    }

    /// Counts a frame of the last outputs as unsent, if another node sent them.
    pub fn count_unsent(&self, frame: FlightFrame) -> FlightFrame {
        match &self.current {
            Some(ScannedPart::Remote(remote)) => remote.part.count_unsent(frame),
            _ => frame,
        }
    }

    /// Opens the next part if none is open; false after the last, or when the limit is reached.
    async fn has_current_part(&mut self) -> Result<bool> {
        if self.parts.needs_next(&mut self.current) {
            self.current = self.open_next_part().await?;
        }
        Ok(self.current.is_some())
    }

    /// The next outputs of the current part; `None` after the last.
    async fn read_current_part(&mut self, max_bytes: usize) -> Result<Option<Vec<T>>> {
        match &mut self.current {
            None => Ok(None),
            Some(ScannedPart::Local(part)) => {
                let outputs = part.next_outputs(max_bytes).await?;
                Ok((!outputs.is_empty()).then_some(outputs))
            }
            Some(ScannedPart::Remote(remote)) => {
                let messages = remote.part.next_messages(max_bytes, self.parts.remaining_rows).await?;
                if messages.is_empty() {
                    return Ok(None);
                }
                if let Some(plan) = &self.plan {
                    plan.count_received(&messages);
                }
                let schema_header = remote.part.schema_header(self.parts.remaining_rows).await?;
                remote.convert(&self.parts.context, schema_header, messages).await.map(Some)
            }
        }
    }

    /// Opens the next part: on this node, or else at another holder. `None` after the last.
    async fn open_next_part(&mut self) -> Result<Option<ScannedPart<T>>> {
        let Some(part) = self.parts.take_next()? else { return Ok(None) };
        self.delivered_rows = 0;
        let opened = self.open_local(&part).await;
        Ok(Some(match self.parts.or_remote(&part, opened)? {
            Some(local) => ScannedPart::Local(Box::new(local)),
            None => self.open_remote(&part),
        }))
    }

    async fn open_local(&mut self, part: &TicketPart) -> Result<Option<LocalScan<T>>> {
        let Some(mapped) = self.parts.map(part).await? else { return Ok(None) };
        let plan = self.plan()?;
        Ok(Some(LocalScan::new(mapped, plan, self.parts.context.scan_threads.clone(), self.parts.remaining_rows)))
    }

    fn open_remote(&self, part: &TicketPart) -> ScannedPart<T> {
        let TicketParts { context, ticket, .. } = &self.parts;
        let part = RemotePartReader::new(context.clone(), self.caller.clone(), ticket, part);
        let part = part.after_rows(self.delivered_rows);
        ScannedPart::Remote(Box::new(RemoteScan { part, decoder: T::Decoder::default() }))
    }

    /// The plan, which is made if there is none yet. The schema must be known.
    fn plan(&mut self) -> Result<Arc<ScanPlan>> {
        if let Some(plan) = &self.plan {
            return Ok(plan.clone());
        }
        let plan = Arc::new(ScanPlan::of_ticket(&self.parts.ticket, self.visible.as_ref())?);
        self.plan = Some(plan.clone());
        Ok(plan)
    }

    /// Reads the rest of the current part from another holder: its file was damaged.
    fn fail_over(&mut self, error: Error) -> Result<()> {
        let Some(ScannedPart::Local(_)) = &self.current else { return Err(error) };
        let part = self.parts.report_damage(error)?;
        self.current = Some(self.open_remote(&part));
        Ok(())
    }
}

impl<T: ScanOutput> RemoteScan<T> {
    /// Messages as outputs; may be none. `schema_header`: what the replies begin with.
    async fn convert(
        &mut self,
        context: &GetContext,
        schema_header: Bytes,
        messages: Vec<EncodedMessage>,
    ) -> Result<Vec<T>> {
        let mut decoder = std::mem::take(&mut self.decoder);
        if !T::DECODES {
            return T::of_messages(&mut decoder, &schema_header, messages);
        }
        let permit = context.scan_threads.acquire().await;
        let decode = move || {
            let outputs = T::of_messages(&mut decoder, &schema_header, messages);
            drop(permit);
            (decoder, outputs)
        };
        let decoded = tokio::task::spawn_blocking(decode).await;
        let (decoder, outputs) =
            decoded.map_err(|e| Error::internal(format!("decoding another node's reply failed: {e}")))?;
        self.decoder = decoder;
        outputs
    }
}

impl<T: ScanOutput> Drop for ScanReader<T> {
    /// Evicts a part that was not read to its end.
    fn drop(&mut self) {
        if let Some(ScannedPart::Local(part)) = self.current.take() {
            self.parts.evict(part.id(), part);
        }
    }
}
