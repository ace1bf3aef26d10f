//! The messages of a part on this node's disk, as slices of its mapping.
//!
//! They are made window by window. A window whose bytes are all in memory is made at once; any other by a thread that may
//! wait for the disk, while the window before it is being sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use volley_common::ipc::encode::{Encoded, first_rows};
use volley_common::{Error, PartId, Result};

use super::source::{Piece, Projection};
use crate::storage::{Part, PartMessage, copy_last_page};

/// What the messages of a window need from the disk at most, by what those of the last one needed: bytes. Beyond it only by
/// the last message.
const WINDOW: u64 = 8 << 20;
/// After so long what was in memory may be there no more: the reader has paused.
pub(super) const PAUSED: Duration = Duration::from_millis(200);
/// What of a window's messages is copied at most, and with it a stream's share of the node's memory: bytes.
const COPIED: u64 = 512 << 10;
/// What of a message's body is copied at most: bytes ([`copy_last_page`]).
const COPIED_BODY: u64 = 8 << 10;

/// A part and how far it has been sent: dictionaries first, then batches.
pub struct LocalPart {
    content: Content,
    /// Rows that may still be planned for.
    left: Option<u64>,
    /// What is planned for next.
    next_dictionary: usize,
    next_batch: usize,
    /// Record batches that were given, with those that were left out at the front.
    given: u32,
    window: VecDeque<Piece>,
    /// When the window was last seen to be in memory.
    seen: Instant,
    /// Of the bodies' bytes, how many are sent: as it was in the last window, all of them before the first.
    share: f64,
    /// The window after it.
    coming: Option<Coming>,
}

/// The pieces of a window, and the bytes of the bodies that they are from.
type Window = (Vec<Piece>, u64);

enum Coming {
    Made(Result<Window>),
    BeingMade(JoinHandle<Result<Window>>),
}

/// A message that is to be sent.
#[derive(Clone, Debug)]
struct Planned {
    message: PartMessage,
    /// Only so many rows of it.
    cut: Option<u64>,
}

impl LocalPart {
    /// `skip_batches`: record batches to leave out at the front. `left`: rows to give at most.
    pub fn new(part: Arc<Part>, projection: Option<Arc<Projection>>, skip_batches: u32, left: Option<u64>) -> Self {
        LocalPart {
            content: Content { part, projection },
            left,
            next_dictionary: 0,
            next_batch: skip_batches as usize,
            given: skip_batches,
            window: VecDeque::new(),
            seen: Instant::now(),
            share: 1.0,
            coming: None,
        }
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.content.part.id()
    }

    /// Record batches that were given so far, with those that were left out at the front.
    pub fn batches_given(&self) -> u32 {
        self.given
    }

    /// The next message, and those after it that are in memory already, of about `bytes` bytes together; none after the
    /// last. When this returns they are in memory, and are of the file as it was verified.
    ///
    /// # Errors
    /// DATA_LOSS: the file was changed or cannot be read. What was given before is right.
    pub async fn next(&mut self, bytes: usize) -> Result<Vec<Piece>> {
        while self.window.is_empty() {
            let Some(coming) = self.coming.take().or_else(|| self.begin()) else { return Ok(Vec::new()) };
            let (window, bodies) = coming.window().await?;
            if bodies > 0 {
                let sent: usize = window.iter().flat_map(|piece| &piece.body).map(Bytes::len).sum();
                self.share = sent as f64 / bodies as f64;
            }
            self.window = window.into();
            self.seen = Instant::now();
            self.coming = self.begin();
        }
        let mut pieces = Vec::new();
        let mut size = 0;
        while let Some(piece) = self.window.pop_front_if(|piece| pieces.is_empty() || size + piece.size() <= bytes) {
            size += piece.size();
            pieces.push(piece);
        }
        if self.seen.elapsed() > PAUSED {
            self.content.keep_in(&pieces).await?;
            self.seen = Instant::now();
        }
        self.content.part.check_unchanged()?;
        self.given += pieces.iter().filter(|piece| piece.rows.is_some()).count() as u32;
        Ok(pieces)
    }

    /// Has the next window made; `None` if there is none.
    fn begin(&mut self) -> Option<Coming> {
        let plan = self.plan();
        if plan.is_empty() {
            return None;
        }
        if let Some(made) = self.content.at_hand(&plan).transpose() {
            return Some(Coming::Made(made));
        }
        let content = self.content.clone();
        Some(Coming::BeingMade(tokio::task::spawn_blocking(move || content.fetched(&plan))))
    }

    fn plan(&mut self) -> Vec<Planned> {
        let (mut plan, mut needed, mut copied) = (Vec::new(), 0, 0);
        while needed < WINDOW && copied < COPIED {
            let Some(next) = self.plan_message() else { break };
            let header = next.message.header.end - next.message.header.start;
            let body = ((next.message.body.end - next.message.body.start) as f64 * self.share) as u64;
            needed += header + body;
            copied += header + body.min(COPIED_BODY);
            plan.push(next);
        }
        plan
    }

    fn plan_message(&mut self) -> Option<Planned> {
        let part = &self.content.part;
        let batch = part.batches().get(self.next_batch).filter(|_| self.left != Some(0))?;
        while let Some(dictionary) = part.dictionaries().get(self.next_dictionary) {
            self.next_dictionary += 1;
            if self.content.needs(dictionary) {
                return Some(Planned { message: dictionary.clone(), cut: None });
            }
        }
        self.next_batch += 1;
        let cut = self.left.filter(|left| *left < batch.rows);
        self.left = self.left.map(|left| left.saturating_sub(batch.rows));
        Some(Planned { message: batch.clone(), cut })
    }
}

impl Coming {
    async fn window(self) -> Result<Window> {
        match self {
            Coming::Made(made) => made,
            Coming::BeingMade(task) => {
                task.await.unwrap_or_else(|e| Err(Error::internal(format!("reading a part failed: {e}"))))
            }
        }
    }
}

/// What messages are made of.
#[derive(Clone)]
struct Content {
    part: Arc<Part>,
    projection: Option<Arc<Projection>>,
}

impl Content {
    fn needs(&self, dictionary: &PartMessage) -> bool {
        match (&self.projection, dictionary.dictionary_id) {
            (Some(projection), Some(id)) => projection.dictionaries.contains(&id),
            _ => true,
        }
    }

    /// Sees to it that messages which were made a while ago are still in memory.
    async fn keep_in(&self, pieces: &[Piece]) -> Result<()> {
        let slices = pieces.iter().flat_map(|piece| &piece.body);
        let ranges: Vec<_> = slices.filter_map(|slice| self.part.range_of(slice)).collect();
        if self.part.is_resident(ranges.iter().cloned()) {
            return Ok(());
        }
        let part = self.part.clone();
        let brought = tokio::task::spawn_blocking(move || part.prefault(ranges));
        brought.await.unwrap_or_else(|e| Err(Error::internal(format!("reading a part failed: {e}"))))
    }

    /// The messages, if that waits for no disk and takes no time.
    fn at_hand(&self, plan: &[Planned]) -> Result<Option<Window>> {
        if plan.iter().any(|planned| planned.cut.is_some()) {
            return Ok(None);
        }
        self.part.check_unchanged()?;
        self.make(plan, |ranges| Ok(self.part.is_resident(ranges)))
    }

    /// The messages, however long it takes.
    fn fetched(&self, plan: &[Planned]) -> Result<Window> {
        let made = self.make(plan, |ranges| self.part.prefault(ranges).map(|()| true))?;
        made.ok_or_else(|| Error::internal("a part's bytes were brought in and are not there"))
    }

    /// Makes the messages. `reach` sees to it that bytes are in memory, or says that they are not: `None` then.
    fn make(&self, plan: &[Planned], reach: impl Fn(Vec<Range<u64>>) -> Result<bool>) -> Result<Option<Window>> {
        let make = || {
            if !reach(self.read_first(plan))? {
                return Ok(None);
            }
            let mut pieces = plan.iter().map(|planned| self.piece(planned)).collect::<Result<Vec<Piece>>>()?;
            let slices = pieces.iter().flat_map(|piece| &piece.body);
            if self.projection.is_some() && !reach(slices.filter_map(|slice| self.part.range_of(slice)).collect())? {
                return Ok(None);
            }
            pieces.iter_mut().for_each(|piece| copy_last_page(&mut piece.body));
            let bodies = plan.iter().map(|planned| planned.message.body.end - planned.message.body.start).sum();
            Ok(Some((pieces, bodies)))
        };
        make().or_else(|error| {
            // Whatever else seems to be wrong: if the file was changed, that is why.
            self.part.check_unchanged()?;
            Err(error)
        })
    }

    /// The bytes that are read before it is known which of them are sent.
    fn read_first(&self, plan: &[Planned]) -> Vec<Range<u64>> {
        let whole = |message: &PartMessage| message.header.start..message.body.end;
        let mut ranges: Vec<_> = (plan.iter())
            .map(|planned| match self.projection.is_none() || planned.cut.is_some() || planned.is_dictionary() {
                true => whole(&planned.message),
                false => planned.message.header.clone(),
            })
            .collect();
        if plan.iter().any(|planned| planned.cut.is_some()) {
            ranges.extend(self.part.dictionaries().iter().map(whole));
        }
        ranges
    }

    fn piece(&self, planned: &Planned) -> Result<Piece> {
        let message = self.encoded(&planned.message);
        match planned.cut {
            _ if planned.is_dictionary() => Ok(whole(message, None)),
            None => self.batch(message, planned.message.rows),
            Some(rows) => self.batch(self.first_rows(&message, rows)?, rows),
        }
    }

    fn batch(&self, message: Encoded, rows: u64) -> Result<Piece> {
        let Some(projection) = &self.projection else { return Ok(whole(message, Some(rows))) };
        let projected = projection.projector.project(&message.header)?;
        let slice = |range: &Range<u64>| message.body.slice(range.start as usize..range.end as usize);
        Ok(Piece { header: projected.header, body: projected.body.iter().map(slice).collect(), rows: Some(rows) })
    }

    /// The batch that a limit ends in: the only one that is decoded and encoded.
    fn first_rows(&self, message: &Encoded, rows: u64) -> Result<Encoded> {
        let dictionaries: Vec<Encoded> = self.part.dictionaries().iter().map(|d| self.encoded(d)).collect();
        first_rows(&self.part.schema_message(), &dictionaries, message, rows as usize)
    }

    fn encoded(&self, message: &PartMessage) -> Encoded {
        Encoded { header: self.part.slice(message.header.clone()), body: self.part.slice(message.body.clone()) }
    }
}

impl Planned {
    fn is_dictionary(&self) -> bool {
        self.message.dictionary_id.is_some()
    }
}

/// The header is copied: it is vouched for once and for all.
fn whole(message: Encoded, rows: Option<u64>) -> Piece {
    Piece { header: Bytes::copy_from_slice(&message.header), body: vec![message.body], rows }
}
