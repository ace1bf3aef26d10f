//! The messages of a part on this node's disk, as slices of its mapping.
//!
//! The messages are built window by window. A window whose bytes are all in memory is built immediately. Any other is
//! built by a blocking thread, which may wait for the disk, while the previous window is being sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use volley_common::ipc::batch_header::split_app_metadata;
use volley_common::ipc::encode::{IpcMessage, first_rows};
use volley_common::{Error, PartId, Result};

use super::message::{EncodedMessage, Projection, count_batches, decompress_front};
use crate::get_resources::{COPIED_BYTES, GetShare};
use crate::storage::{Part, PartMessage, copy_last_page};

/// Maximum bytes that the messages of a window read from the disk, estimated from the previous window. Only the last
/// message may exceed it.
const WINDOW_BYTES: u64 = 8 << 20;
/// A window that is decompressed ends with the message that reaches this many bytes: a stream holds few messages in memory.
const DECOMPRESSED_BYTES: usize = 1 << 20;
/// If the reader pauses for this long, a window may have been evicted from memory.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// Maximum bytes of a message's body that are copied ([`copy_last_page`]).
const COPIED_BODY_BYTES: u64 = 8 << 10;

/// A part and the position in it: dictionaries first, then batches.
pub struct LocalPartReader {
    builder: WindowBuilder,
    /// Rows that may still be planned, if there is a limit.
    remaining_rows: Option<u64>,
    /// The positions of the messages that are planned next.
    next_dictionary: usize,
    next_batch: usize,
    /// Messages that were planned, but left out of a window: they come next.
    unbuilt: VecDeque<PlannedMessage>,
    /// Record batches that were read, including skipped ones.
    batches_read: u32,
    window: VecDeque<EncodedMessage>,
    /// When the window was last known to be in memory.
    resident_at: Instant,
    /// The share of the bodies' bytes that is sent, measured in the last window; 1 before the first. Above 1 if they are
    /// decompressed.
    sent_share: f64,
    /// The next window.
    pending: Option<PendingWindow>,
    /// The memory for what is copied; `None`: as much as [`COPIED_BYTES`] permits, uncounted.
    memory: Option<Arc<GetShare>>,
}

/// Consecutive messages of a part.
struct MessageWindow {
    messages: Vec<EncodedMessage>,
    /// Bytes of the stored bodies, before projection.
    body_bytes: u64,
    /// The rest of the plan, if the window would have been too large.
    unbuilt: Vec<PlannedMessage>,
}

enum PendingWindow {
    Ready(Result<MessageWindow>),
    /// A blocking thread builds it.
    Loading(JoinHandle<Result<MessageWindow>>),
}

/// A message of the next window.
#[derive(Clone, Debug)]
struct PlannedMessage {
    message: PartMessage,
    /// If set, only this many of its rows are sent, because the get's limit ends here.
    first_rows: Option<u64>,
}

impl LocalPartReader {
    /// Skips the first `skip_batches` record batches, and reads `remaining_rows` rows at most.
    pub fn new(
        part: Arc<Part>,
        projection: Option<Arc<Projection>>,
        skip_batches: u32,
        remaining_rows: Option<u64>,
    ) -> Self {
        LocalPartReader {
            builder: WindowBuilder { part, projection, decompress: false, keeps_app_metadata: true },
            remaining_rows,
            next_dictionary: 0,
            next_batch: skip_batches as usize,
            unbuilt: VecDeque::new(),
            batches_read: skip_batches,
            window: VecDeque::new(),
            resident_at: Instant::now(),
            sent_share: 1.0,
            pending: None,
            memory: None,
        }
    }

    /// The same, with what it copies counted in this memory.
    pub fn within(mut self, memory: Option<Arc<GetShare>>) -> Self {
        self.memory = memory;
        self
    }

    /// The same messages without `app_metadata`: it may be about columns that the reader may not see.
    pub fn without_app_metadata(mut self) -> Self {
        self.builder.keeps_app_metadata = false;
        self
    }

    /// The same messages with uncompressed bodies.
    pub fn decompressed(mut self) -> Self {
        let part = &self.builder.part;
        self.builder.decompress = part.batches().iter().chain(part.dictionaries()).any(|message| message.compressed);
        self
    }

    /// Whether messages are decompressed.
    pub fn decompresses(&self) -> bool {
        self.builder.decompress
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.builder.part.id()
    }

    /// Record batches that were read, including skipped ones.
    pub fn batches_read(&self) -> u32 {
        self.batches_read
    }

    /// The next message, and those after it that are in memory already, of about `max_bytes` together; empty after the
    /// last. On return the messages are in memory, and the file is as it was verified.
    ///
    /// # Errors
    /// DATA_LOSS: the file was changed or cannot be read. The messages returned before are correct. RESOURCE_EXHAUSTED: there is
    /// no memory for what must be copied.
    pub async fn next_messages(&mut self, max_bytes: usize) -> Result<Vec<EncodedMessage>> {
        while self.window.is_empty() {
            let Some(pending) = self.pending.take().or_else(|| self.start_window()) else { return Ok(Vec::new()) };
            let MessageWindow { messages, body_bytes, unbuilt } = pending.get().await?;
            if body_bytes > 0 {
                let sent: usize = messages.iter().flat_map(|message| &message.body).map(Bytes::len).sum();
                self.sent_share = sent as f64 / body_bytes as f64;
            }
            self.window = messages.into();
            unbuilt.into_iter().rev().for_each(|planned| self.unbuilt.push_front(planned));
            self.resident_at = Instant::now();
            self.pending = self.start_window();
        }
        let (mut messages, mut size) = (Vec::new(), 0);
        while let Some(message) =
            self.window.pop_front_if(|message| messages.is_empty() || size + message.size() <= max_bytes)
        {
            size += message.size();
            messages.push(message);
        }
        if self.resident_at.elapsed() > PAUSE {
            self.builder.reload(&messages).await?;
            self.resident_at = Instant::now();
        }
        self.builder.part.check_unchanged()?;
        self.batches_read += count_batches(&messages);
        Ok(messages)
    }

    /// Starts to build the next window; `None` after the last.
    fn start_window(&mut self) -> Option<PendingWindow> {
        let (plan, copied) = self.plan_window();
        if plan.is_empty() {
            return None;
        }
        if let Some(Err(error)) = self.memory.as_ref().map(|memory| memory.cover(copied)) {
            return Some(PendingWindow::Ready(Err(error)));
        }
        if let Some(window) = self.builder.build_resident(&plan).transpose() {
            return Some(PendingWindow::Ready(window));
        }
        let builder = self.builder.clone();
        Some(PendingWindow::Loading(tokio::task::spawn_blocking(move || builder.build_blocking(&plan))))
    }

    /// The messages of the next window, and how many bytes of them are copied at most.
    fn plan_window(&mut self) -> (Vec<PlannedMessage>, u64) {
        let max_bytes = if self.builder.decompress { DECOMPRESSED_BYTES as u64 } else { WINDOW_BYTES };
        let max_copied = self.memory.as_ref().map_or(COPIED_BYTES, |memory| memory.copied_bytes());
        let (mut plan, mut read, mut copied) = (Vec::new(), 0, 0);
        while read < max_bytes && copied < max_copied {
            let Some(next) = self.unbuilt.pop_front().or_else(|| self.plan_message()) else { break };
            let header = next.message.header.end - next.message.header.start;
            let stored = next.message.body.end - next.message.body.start;
            let body = (stored as f64 * self.sent_share) as u64;
            read += header + body;
            copied += header;
            copied += match next.first_rows {
                // Encoded again.
                Some(rows) => stored.saturating_mul(rows) / next.message.rows.max(1),
                None => body.min(COPIED_BODY_BYTES),
            };
            plan.push(next);
        }
        (plan, copied)
    }

    fn plan_message(&mut self) -> Option<PlannedMessage> {
        let part = &self.builder.part;
        let batch = part.batches().get(self.next_batch).filter(|_| self.remaining_rows != Some(0))?;
        while let Some(dictionary) = part.dictionaries().get(self.next_dictionary) {
            self.next_dictionary += 1;
            if self.builder.needs_dictionary(dictionary) {
                return Some(PlannedMessage { message: dictionary.clone(), first_rows: None });
            }
        }
        self.next_batch += 1;
        let first_rows = self.remaining_rows.filter(|remaining| *remaining < batch.rows);
        self.remaining_rows = self.remaining_rows.map(|remaining| remaining.saturating_sub(batch.rows));
        Some(PlannedMessage { message: batch.clone(), first_rows })
    }
}

impl PendingWindow {
    async fn get(self) -> Result<MessageWindow> {
        match self {
            PendingWindow::Ready(window) => window,
            PendingWindow::Loading(task) => {
                task.await.unwrap_or_else(|e| Err(Error::internal(format!("reading a part failed: {e}"))))
            }
        }
    }
}

/// Builds the messages of a window from the part's file.
#[derive(Clone)]
struct WindowBuilder {
    part: Arc<Part>,
    projection: Option<Arc<Projection>>,
    /// The part is compressed, and its messages are sent uncompressed.
    decompress: bool,
    /// The batches' `app_metadata` is sent.
    keeps_app_metadata: bool,
}

impl WindowBuilder {
    fn needs_dictionary(&self, dictionary: &PartMessage) -> bool {
        match (&self.projection, dictionary.dictionary_id) {
            (Some(projection), Some(id)) => projection.dictionaries.contains(&id),
            _ => true,
        }
    }

    /// The window, if it can be built from memory without decoding; else `None`.
    fn build_resident(&self, plan: &[PlannedMessage]) -> Result<Option<MessageWindow>> {
        if self.decompress || plan.iter().any(|planned| planned.first_rows.is_some()) {
            return Ok(None);
        }
        self.part.check_unchanged()?;
        self.build(plan, |ranges| Ok(self.part.is_resident(ranges)))
    }

    /// The window. Blocks until its bytes are in memory.
    fn build_blocking(&self, plan: &[PlannedMessage]) -> Result<MessageWindow> {
        let window = self.build(plan, |ranges| self.part.prefault(ranges).map(|()| true))?;
        window.ok_or_else(|| Error::internal("a part's bytes were prefaulted and are not in memory"))
    }

    /// Builds the window. `load` makes bytes resident, or returns false if they are not; then the result is `None`.
    fn build(
        &self,
        plan: &[PlannedMessage],
        load: impl Fn(Vec<Range<u64>>) -> Result<bool>,
    ) -> Result<Option<MessageWindow>> {
        let build = || {
            if !load(self.ranges_before_projection(plan))? {
                return Ok(None);
            }
            let mut messages = plan.iter().map(|planned| self.encode(planned)).collect::<Result<Vec<_>>>()?;
            let slices = messages.iter().flat_map(|message| &message.body);
            if self.projection.is_some() && !load(slices.filter_map(|slice| self.part.range_of(slice)).collect())? {
                return Ok(None);
            }
            if self.decompress {
                messages = decompress_front(&mut messages.into(), DECOMPRESSED_BYTES)?;
            }
            let (built, unbuilt) = plan.split_at(messages.len());
            let mapped =
                messages.iter_mut().zip(built).filter(|(_, built)| !self.decompress || !built.message.compressed);
            mapped.for_each(|(message, _)| copy_last_page(&mut message.body));
            let body_bytes = built.iter().map(|built| built.message.body.end - built.message.body.start).sum();
            Ok(Some(MessageWindow { messages, body_bytes, unbuilt: unbuilt.to_vec() }))
        };
        build().or_else(|error| {
            // If the file was changed, that is the cause of every other error.
            self.part.check_unchanged()?;
            Err(error)
        })
    }

    /// The bytes that must be in memory before it is known which slices of the bodies are sent.
    fn ranges_before_projection(&self, plan: &[PlannedMessage]) -> Vec<Range<u64>> {
        let whole = |message: &PartMessage| message.header.start..message.body.end;
        let mut ranges: Vec<_> = (plan.iter())
            .map(|planned| match self.projection.is_none() || planned.first_rows.is_some() || planned.is_dictionary() {
                true => whole(&planned.message),
                false => planned.message.header.clone(),
            })
            .collect();
        if plan.iter().any(|planned| planned.first_rows.is_some()) {
            ranges.extend(self.part.dictionaries().iter().map(whole));
        }
        ranges
    }

    fn encode(&self, planned: &PlannedMessage) -> Result<EncodedMessage> {
        let mut message = self.stored(&planned.message);
        let mut app_metadata = Bytes::new();
        if planned.message.has_app_metadata {
            (message.header, app_metadata) = split_app_metadata(&message.header)?;
        }
        if !self.keeps_app_metadata {
            app_metadata = Bytes::new();
        }
        let encoded = match planned.first_rows {
            _ if planned.is_dictionary() => unprojected(message, None),
            None => self.project(message, planned.message.rows)?,
            Some(rows) => self.project(self.first_rows(&message, rows)?, rows)?,
        };
        Ok(EncodedMessage { app_metadata, ..encoded })
    }

    fn project(&self, message: IpcMessage, rows: u64) -> Result<EncodedMessage> {
        let Some(projection) = &self.projection else { return Ok(unprojected(message, Some(rows))) };
        let projected = projection.projector.project(&message.header)?;
        let slice = |range: &Range<u64>| match range.start <= range.end && range.end <= message.body.len() as u64 {
            true => Ok(message.body.slice(range.start as usize..range.end as usize)),
            false => Err(Error::data_loss("a message's header names bytes beyond its body")),
        };
        let body = projected.body.iter().map(slice).collect::<Result<_>>()?;
        Ok(EncodedMessage { header: projected.header, body, rows: Some(rows), app_metadata: Bytes::new() })
    }

    /// The first rows of the batch in which a limit ends: the only one that is decoded and encoded again.
    fn first_rows(&self, message: &IpcMessage, rows: u64) -> Result<IpcMessage> {
        let dictionaries: Vec<IpcMessage> = self.part.dictionaries().iter().map(|d| self.stored(d)).collect();
        first_rows(&self.part.schema_message(), &dictionaries, message, rows as usize)
    }

    /// A message as it is in the file.
    fn stored(&self, message: &PartMessage) -> IpcMessage {
        IpcMessage { header: self.part.slice(message.header.clone()), body: self.part.slice(message.body.clone()) }
    }

    /// Faults messages that were built a while ago in again, if their bytes were evicted from memory.
    async fn reload(&self, messages: &[EncodedMessage]) -> Result<()> {
        let slices = messages.iter().flat_map(|message| &message.body);
        let ranges: Vec<_> = slices.filter_map(|slice| self.part.range_of(slice)).collect();
        if self.part.is_resident(ranges.iter().cloned()) {
            return Ok(());
        }
        let part = self.part.clone();
        let loaded = tokio::task::spawn_blocking(move || part.prefault(ranges));
        loaded.await.unwrap_or_else(|e| Err(Error::internal(format!("reading a part failed: {e}"))))
    }
}

impl PlannedMessage {
    fn is_dictionary(&self) -> bool {
        self.message.dictionary_id.is_some()
    }
}

/// A message with its whole body. The header is copied, so that later changes of the file cannot reach it.
fn unprojected(message: IpcMessage, rows: Option<u64>) -> EncodedMessage {
    let header = Bytes::copy_from_slice(&message.header);
    EncodedMessage { header, body: vec![message.body], rows, app_metadata: Bytes::new() }
}
