//! The messages of a read: its endpoints one after the other, or some of its rows.

use std::collections::HashMap;

use arrow_flight::FlightData;
use bytes::Bytes;
use volley_common::ipc::encode::{IpcMessage, first_rows, rows_from};
use volley_common::ipc::schema::flight_header;
use volley_common::ipc::stream_format::{StreamMessageKind, message_kind, message_prefix};
use volley_common::{Error, Result};

use super::waiting_tickets::WaitingTickets;
use crate::budget::RequestShare;
use crate::flight_calls::{FlightCalls, GetMessages};

/// A message of more bytes is counted in the request's memory.
const LARGE_MESSAGE: usize = 2 << 20;

/// What is read, by Flight.
pub(crate) struct FlightRows {
    calls: FlightCalls,
    tickets: WaitingTickets,
    /// Whether bodies are uncompressed.
    decompress: bool,
    /// The reply to the current ticket.
    messages: Option<GetMessages>,
    /// The schema's header; empty before the first reply.
    schema: Bytes,
    /// Rows to leave out before the next one.
    skip: u64,
    /// The most rows that follow.
    left: Option<u64>,
    /// The dictionaries of the current reply, if its batches may be cut, and their ids.
    dictionaries: Vec<IpcMessage>,
    ids: Vec<i64>,
    memory: MessageMemory,
}

/// Memory for messages.
struct MessageMemory {
    share: RequestShare,
    /// What the request takes without large messages.
    base: u64,
    /// Bytes of the dictionaries that are kept, by id.
    kept: HashMap<i64, u64>,
    keeps_dictionaries: bool,
}

impl FlightRows {
    /// Reads these tickets. `schema`: the encapsulated schema message, of which the rows are if there is no ticket; or empty. `share`:
    /// the memory of the request, which has `base` bytes once the first reply has begun.
    pub fn new(calls: FlightCalls, tickets: WaitingTickets, schema: &[u8], share: RequestShare, base: u64) -> Self {
        FlightRows {
            calls,
            tickets,
            decompress: true,
            messages: None,
            schema: flight_header(schema),
            skip: 0,
            left: None,
            dictionaries: Vec::new(),
            ids: Vec::new(),
            memory: MessageMemory { share, base, kept: HashMap::new(), keeps_dictionaries: false },
        }
    }

    /// The bodies as they are stored, or compressed for a slow link.
    pub fn with_stored_compression(self) -> Self {
        FlightRows { decompress: false, ..self }
    }

    /// The rows after the first `skip`, and at most `left`.
    pub fn with_rows(self, skip: u64, left: Option<u64>) -> Self {
        FlightRows { skip, left, ..self }.with_dictionaries()
    }

    /// Counts dictionaries in the request's memory: its messages are decoded.
    pub fn with_dictionaries(mut self) -> Self {
        self.memory.keeps_dictionaries = true;
        self
    }

    /// Opens the first reply, and returns the schema's header.
    ///
    /// # Errors
    /// Those of DoGet. INTERNAL: the reply does not begin with a schema. RESOURCE_EXHAUSTED: there is no memory for the request.
    pub async fn open(&mut self) -> Result<Bytes> {
        while self.open_next().await? {
            while let Some(message) = self.next_message().await? {
                if !message.data_header.is_empty() {
                    self.schema = message.data_header;
                    return match message_kind(&self.schema)? {
                        StreamMessageKind::Schema => self.opened(),
                        _ => Err(Error::internal("a reply does not begin with a schema")),
                    };
                }
            }
        }
        match self.schema.is_empty() {
            true => Err(Error::internal("the read has no schema")),
            false => self.opened(),
        }
    }

    /// The schema's header. The caller is known by now, so that the request takes all of its memory.
    fn opened(&self) -> Result<Bytes> {
        self.memory.share.raise_to(self.memory.base)?;
        Ok(self.schema.clone())
    }

    /// The next message after the schema, a dictionary or rows; none at the end.
    ///
    /// # Errors
    /// Those of DoGet. RESOURCE_EXHAUSTED: there is no memory for a large message.
    pub async fn next(&mut self) -> Result<Option<FlightData>> {
        while self.left != Some(0) {
            let Some(message) = self.next_message().await? else {
                if self.open_next().await? {
                    continue;
                }
                return Ok(None);
            };
            if message.data_header.is_empty() {
                continue;
            }
            if let Some(message) = self.selected(message)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Redeems the next ticket, if there is one.
    async fn open_next(&mut self) -> Result<bool> {
        (self.dictionaries, self.ids) = (Vec::new(), Vec::new());
        let Some(ticket) = self.tickets.next() else { return Ok(false) };
        self.messages = Some(self.calls.get(ticket, self.decompress).await?);
        Ok(true)
    }

    /// The next message of the current reply.
    async fn next_message(&mut self) -> Result<Option<FlightData>> {
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let next = messages.next_of_reply().await?;
        if next.is_none() {
            self.messages = None;
        }
        Ok(next)
    }

    /// The message, or its part that is read.
    fn selected(&mut self, message: FlightData) -> Result<Option<FlightData>> {
        let kind = message_kind(&message.data_header)?;
        self.memory.count(kind, message.data_header.len() + message.data_body.len())?;
        match kind {
            // Of a further reply: that of the first one.
            StreamMessageKind::Schema => Ok(None),
            StreamMessageKind::Dictionary { id, is_delta } => {
                if self.skip > 0 || self.left.is_some() {
                    self.keep(id, is_delta, &message);
                }
                Ok(Some(message))
            }
            StreamMessageKind::Batch(rows) if rows > 0 && rows <= self.skip => {
                self.skip -= rows;
                Ok(None)
            }
            StreamMessageKind::Batch(rows) => self.cut(message, rows).map(Some),
        }
    }

    /// Keeps a dictionary for batches that are cut.
    fn keep(&mut self, id: i64, is_delta: bool, message: &FlightData) {
        if !is_delta {
            let ids = std::mem::take(&mut self.ids);
            let kept = ids.into_iter().zip(std::mem::take(&mut self.dictionaries)).filter(|(other, _)| *other != id);
            (self.ids, self.dictionaries) = kept.unzip();
        }
        self.ids.push(id);
        self.dictionaries.push(IpcMessage { header: message.data_header.clone(), body: message.data_body.clone() });
    }

    /// The rows of a batch that are read.
    fn cut(&mut self, message: FlightData, mut rows: u64) -> Result<FlightData> {
        // What is more was left out before.
        let skip = self.skip.min(rows);
        let left = self.left.unwrap_or(u64::MAX);
        if skip == 0 && rows <= left {
            self.left = self.left.map(|left| left - rows);
            return Ok(message);
        }
        let mut batch = IpcMessage { header: message.data_header, body: message.data_body };
        if skip > 0 {
            batch = rows_from(self.schema.clone(), &self.dictionaries, &batch, index(skip))?;
            self.skip = 0;
            rows -= skip;
        }
        if rows > left {
            batch = first_rows(&message_prefix(&self.schema), &self.dictionaries, &batch, index(left))?;
            rows = left;
        }
        self.left = self.left.map(|left| left - rows);
        Ok((&batch).into())
    }
}

impl MessageMemory {
    fn count(&mut self, kind: StreamMessageKind, bytes: usize) -> Result<()> {
        if let StreamMessageKind::Dictionary { id, is_delta } = kind
            && self.keeps_dictionaries
        {
            let kept = self.kept.entry(id).or_default();
            *kept = if is_delta { *kept } else { 0 } + bytes as u64;
        }
        if self.kept.is_empty() && bytes <= LARGE_MESSAGE {
            return Ok(());
        }
        // As it arrives, as it is decoded, and as it is sent.
        let large = if bytes > LARGE_MESSAGE { 3 * bytes as u64 } else { 0 };
        self.share.raise_to(self.base + 2 * self.kept.values().sum::<u64>() + large)
    }
}

fn index(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}
