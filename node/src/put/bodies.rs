//! Where the bodies of a put's messages are stored: in memory that is reserved from the node's budget, or in a spool
//! file. A large header or metadata is stored like a body; all of a message's are reserved at once, so that none waits
//! while another holds memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use volley_common::fairness::CallerKey;
use volley_common::ipc::body_builder::{BodyAllocator, BodyBuilder};
use volley_common::ipc::buffer_pool::{BodyBuffer, BufferPool};
use volley_common::ipc::spool::{SpoolReservation, SpoolStorage, SpoolTarget};
use volley_common::{Error, Result};

use crate::put_memory::{MAX_WAITING_BODY, MemoryReservation, PutMemory, UNIT};
use crate::storage::{PartStore, SpoolFile};

/// Bytes of a spooled body that are gathered for one write.
const SPOOL_STEP: usize = 1 << 20;
/// Bytes by which the reservations of a message's further bodies may be rounded up: it has a body, a header and metadata.
const ROUNDING: usize = 2 * UNIT;

/// The bodies of one put.
pub struct PutBodies {
    memory: Arc<PutMemory>,
    pool: BufferPool,
    store: PartStore,
    /// Whose turn it is when a body waits.
    caller: CallerKey,
    /// The message that is being received may have further bodies: they take what was reserved for them.
    has_rest: bool,
    rest: RestReservation,
}

/// What is reserved for the further bodies of a message; `None`: they are spooled.
type RestReservation = Arc<Mutex<Option<MemoryReservation>>>;

impl PutBodies {
    /// Bodies in blocks of `pool`, reserved from `memory`, or in spool files of `store`.
    pub fn new(memory: Arc<PutMemory>, pool: BufferPool, store: PartStore) -> Self {
        let (caller, rest) = (CallerKey::Cluster, RestReservation::default());
        PutBodies { memory, pool, store, caller, has_rest: false, rest }
    }

    /// The same for a put of this caller: bodies that wait for memory are served in turn of their callers.
    pub fn for_caller(self, caller: CallerKey) -> Self {
        PutBodies { caller, ..self }
    }

    /// The first body of a message: at most a quarter of the budget for one message.
    fn begin_first(&mut self, length: usize, rest: usize) -> Result<PutBody> {
        let own = BufferPool::block_bytes(length).next_multiple_of(UNIT);
        let bytes = own + if rest == 0 { 0 } else { BufferPool::most_block_bytes(rest) + ROUNDING };
        if bytes <= (self.memory.bytes() / 4).max(MAX_WAITING_BODY)
            && let Some(reservation) = self.memory.try_reserve(bytes)
        {
            let own = if rest == 0 { Some(reservation) } else { split(reservation, own, &self.rest) };
            return Ok(PutBody::Memory(self.pool.begin(length, 0)?, own));
        }
        Ok(match bytes <= MAX_WAITING_BODY {
            true => {
                let (memory, pool) = (self.memory.clone(), self.pool.for_stream());
                let rest = (rest > 0).then(|| self.rest.clone());
                let reserving = Box::pin(memory.reserve_for(self.caller.clone(), bytes));
                PutBody::Waiting { reserving, pool, length, own, rest }
            }
            false => PutBody::Spooled(SpooledBody::new(self.store.clone(), length)),
        })
    }

    /// A further body of a message: it never waits.
    fn begin_further(&mut self, length: usize) -> Result<PutBody> {
        let bytes = BufferPool::block_bytes(length);
        let reserved = self.rest.lock().as_mut().and_then(|rest| rest.split(bytes));
        Ok(match reserved {
            Some(reservation) => PutBody::Memory(self.pool.begin(length, 0)?, Some(reservation)),
            None => PutBody::Spooled(SpooledBody::new(self.store.clone(), length)),
        })
    }
}

/// Takes a body's own bytes out of its message's reservation, and leaves the others for further bodies.
fn split(mut reservation: MemoryReservation, own: usize, rest: &RestReservation) -> Option<MemoryReservation> {
    let own = reservation.split(own);
    *rest.lock() = Some(reservation);
    own
}

impl BodyAllocator for PutBodies {
    type Builder = PutBody;

    fn begin(&mut self, length: usize, rest: usize) -> Result<PutBody> {
        if length == 0 {
            return Ok(PutBody::Memory(self.pool.begin(0, 0)?, None));
        }
        if self.has_rest {
            return self.begin_further(length);
        }
        self.has_rest = rest > 0;
        self.begin_first(length, rest)
    }

    fn end_message(&mut self) {
        if std::mem::take(&mut self.has_rest) {
            *self.rest.lock() = None;
        }
    }
}

/// Where a put's decoder stores what is too large for memory.
pub struct PutSpool {
    /// What small dictionaries are reserved from.
    pub memory: Arc<PutMemory>,
    /// The spool files.
    pub store: PartStore,
}

impl SpoolStorage for PutSpool {
    fn create(&self, bytes: u64) -> Result<Box<dyn SpoolTarget>> {
        Ok(Box::new(self.store.create_spool(bytes)?))
    }

    fn reserve(&self, bytes: usize) -> Option<SpoolReservation> {
        self.memory.try_reserve_lasting(bytes).map(|reservation| Box::new(reservation) as SpoolReservation)
    }
}

/// A body that is being received.
pub enum PutBody {
    /// It waits for memory.
    Waiting {
        /// Its turn.
        reserving: BoxFuture<'static, MemoryReservation>,
        /// Gives the memory then.
        pool: BufferPool,
        /// Its bytes.
        length: usize,
        /// The memory of its own.
        own: usize,
        /// Receives what is reserved for the message's further bodies.
        rest: Option<RestReservation>,
    },
    /// In memory.
    Memory(BodyBuffer, Option<MemoryReservation>),
    /// In a file.
    Spooled(SpooledBody),
}

/// A complete body in memory. The reservation lasts as long as any slice of it.
struct ReservedBody {
    body: Bytes,
    _reservation: MemoryReservation,
}

impl AsRef<[u8]> for ReservedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl BodyBuilder for PutBody {
    type Body = Bytes;

    fn is_ready(&self) -> bool {
        match self {
            PutBody::Waiting { .. } => false,
            PutBody::Memory(_, _) => true,
            PutBody::Spooled(body) => body.is_ready(),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            PutBody::Waiting { reserving, pool, length, own, rest } => {
                let reservation = ready!(reserving.as_mut().poll(cx));
                let own = match rest {
                    Some(rest) => split(reservation, *own, rest),
                    None => Some(reservation),
                };
                *self = PutBody::Memory(pool.begin(*length, 0)?, own);
                Poll::Ready(Ok(()))
            }
            PutBody::Memory(_, _) => Poll::Ready(Ok(())),
            PutBody::Spooled(body) => body.poll_ready(cx),
        }
    }

    fn fill(&mut self, from: &mut Bytes) {
        match self {
            PutBody::Waiting { .. } => {}
            PutBody::Memory(body, _) => body.fill(from),
            PutBody::Spooled(body) => body.fill(from),
        }
    }

    fn is_full(&self) -> bool {
        match self {
            PutBody::Waiting { .. } => false,
            PutBody::Memory(body, _) => body.is_full(),
            PutBody::Spooled(body) => matches!(body.state, SpoolState::Mapped(_)),
        }
    }

    fn finish(self) -> Bytes {
        match self {
            PutBody::Memory(body, Some(reservation)) => {
                Bytes::from_owner(ReservedBody { body: body.finish(), _reservation: reservation })
            }
            PutBody::Memory(body, None) => body.finish(),
            PutBody::Spooled(SpooledBody { state: SpoolState::Mapped(body), .. }) => body,
            PutBody::Waiting { .. } | PutBody::Spooled(_) => Bytes::new(),
        }
    }

    fn into_bytes(body: Bytes) -> Bytes {
        body
    }
}

/// A body that is written to a spool file, in steps, by blocking threads.
pub struct SpooledBody {
    store: PartStore,
    length: usize,
    received: usize,
    /// Received and not written yet.
    step: Vec<Bytes>,
    step_bytes: usize,
    state: SpoolState,
}

enum SpoolState {
    /// No write is in progress; `None`: the file does not exist yet.
    Idle(Option<SpoolFile>),
    Writing(JoinHandle<Result<SpoolState>>),
    /// Complete.
    Mapped(Bytes),
}

impl SpooledBody {
    fn new(store: PartStore, length: usize) -> Self {
        let (step, state) = (Vec::new(), SpoolState::Idle(None));
        SpooledBody { store, length, received: 0, step, step_bytes: 0, state }
    }

    fn is_ready(&self) -> bool {
        match self.state {
            SpoolState::Idle(_) => self.step_bytes < SPOOL_STEP && self.received < self.length,
            SpoolState::Writing(_) => false,
            SpoolState::Mapped(_) => true,
        }
    }

    fn fill(&mut self, from: &mut Bytes) {
        let bytes = from.split_to(from.len().min(self.length - self.received));
        self.received += bytes.len();
        self.step_bytes += bytes.len();
        self.step.push(bytes);
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.is_ready() {
            self.state = match &mut self.state {
                SpoolState::Writing(write) => ready!(Pin::new(write).poll(cx))
                    .unwrap_or_else(|e| Err(Error::internal(format!("writing a message failed: {e}"))))?,
                SpoolState::Idle(file) => {
                    let (file, step) = (file.take(), std::mem::take(&mut self.step));
                    self.step_bytes = 0;
                    let (store, length, last) = (self.store.clone(), self.length, self.received == self.length);
                    SpoolState::Writing(tokio::task::spawn_blocking(move || {
                        write_step(&store, length, file, &step, last)
                    }))
                }
                SpoolState::Mapped(_) => return Poll::Ready(Ok(())),
            };
        }
        Poll::Ready(Ok(()))
    }
}

fn write_step(
    store: &PartStore,
    length: usize,
    file: Option<SpoolFile>,
    step: &[Bytes],
    last: bool,
) -> Result<SpoolState> {
    let mut file = match file {
        Some(file) => file,
        None => store.create_spool(length as u64)?,
    };
    step.iter().try_for_each(|bytes| file.append(bytes))?;
    Ok(if last { SpoolState::Mapped(file.map()?) } else { SpoolState::Idle(Some(file)) })
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;
    use tempfile::TempDir;
    use tokio::task::yield_now;

    use super::*;

    fn bodies(bytes: usize) -> (PutBodies, Arc<PutMemory>, TempDir) {
        let dir = TempDir::new().unwrap();
        let memory = PutMemory::new(bytes, 0);
        let store = PartStore::open(dir.path()).unwrap();
        (PutBodies::new(memory.clone(), BufferPool::for_many_streams(bytes), store), memory, dir)
    }

    async fn receive(mut body: PutBody, length: usize) -> Result<Bytes> {
        let mut rest = Bytes::from((0..length).map(|at| (at / 7) as u8).collect::<Vec<u8>>());
        while !(body.is_ready() && body.is_full()) {
            poll_fn(|cx| body.poll_ready(cx)).await?;
            let mut frame = rest.split_to(rest.len().min(100_000));
            body.fill(&mut frame);
            rest = if frame.is_empty() { rest } else { [frame, rest].concat().into() };
        }
        Ok(body.finish())
    }

    #[tokio::test]
    async fn body_is_stored_in_memory_or_in_a_file() {
        let (mut bodies, memory, _dir) = bodies(16 << 20);
        for (length, spooled) in [(1, false), (70_000, false), (4 << 20, false), ((4 << 20) + 1, true), (9 << 20, true)]
        {
            let builder = bodies.begin(length, 0).unwrap();
            assert_eq!(matches!(builder, PutBody::Spooled(_)), spooled, "{length} bytes");
            let body = receive(builder, length).await.unwrap();
            assert!(body.len() == length && body.iter().enumerate().all(|(at, byte)| *byte == (at / 7) as u8));
            assert_eq!(body.as_ptr().align_offset(8), 0);
            assert_eq!(memory.try_reserve(16 << 20).is_some(), spooled, "a body in memory is reserved until its drop");
            drop(body);
            assert!(memory.try_reserve(16 << 20).is_some());
        }
    }

    #[tokio::test]
    async fn small_body_waits_and_large_one_is_spooled_without_memory() {
        let (mut bodies, memory, _dir) = bodies(16 << 20);
        let held = memory.try_reserve(16 << 20).unwrap();
        let large = bodies.begin(5 << 20, 0).unwrap();
        assert_eq!(receive(large, 5 << 20).await.unwrap().len(), 5 << 20);
        let small = tokio::spawn(receive(bodies.begin(1000, 0).unwrap(), 1000));
        while !memory.is_short() {
            yield_now().await;
        }
        assert!(!small.is_finished());
        drop(held);
        assert_eq!(small.await.unwrap().unwrap().len(), 1000);
    }

    #[tokio::test]
    async fn message_reserves_memory_for_all_its_bodies_at_once() {
        let (first, memory, _dir) = bodies(8 << 20);
        let mut streams = vec![first];
        for _ in 0..7 {
            let (pool, store) = (streams[0].pool.for_stream(), streams[0].store.clone());
            streams.push(PutBodies::new(memory.clone(), pool, store));
        }
        // A header and a body of 1 MiB each take 3 MiB at most.
        let headers: Vec<_> = streams.iter_mut().map(|bodies| bodies.begin(1 << 20, 1 << 20).unwrap()).collect();
        let has_memory = |body: &PutBody| matches!(body, PutBody::Memory(_, _));
        assert_eq!(headers.iter().map(has_memory).collect::<Vec<_>>()[..3], [true, true, false]);
        let messages = streams.into_iter().zip(headers).map(|(mut bodies, header)| async move {
            let header = receive(header, 1 << 20).await.unwrap();
            let body = bodies.begin(1 << 20, 0).unwrap();
            assert!(has_memory(&body), "the body of a message whose header has memory does not wait");
            let body = receive(body, 1 << 20).await.unwrap();
            bodies.end_message();
            assert_eq!((header.len(), body.len()), (1 << 20, 1 << 20));
        });
        futures::future::join_all(messages).await;
        assert!(memory.try_reserve(8 << 20).is_some(), "all is given back");
    }

    #[tokio::test]
    async fn bodies_beyond_what_a_message_reserved_are_spooled() {
        let (mut bodies, memory, _dir) = bodies(8 << 20);
        let header = bodies.begin(100_000, 4).unwrap();
        // A message may repeat a field; each takes a unit.
        let repeated: Vec<_> = (0..4).map(|_| bodies.begin(1, 0).unwrap()).collect();
        assert!(matches!(repeated.first(), Some(PutBody::Memory(_, _))));
        assert!(matches!(repeated.last(), Some(PutBody::Spooled(_))));
        bodies.end_message();
        drop((header, repeated));
        assert!(memory.try_reserve(8 << 20).is_some());
        let held = memory.try_reserve(8 << 20).unwrap();
        let header = bodies.begin(4 << 20, 1).unwrap();
        assert!(matches!(header, PutBody::Spooled(_)), "a message over 4 MiB does not wait");
        assert!(matches!(bodies.begin(1, 0).unwrap(), PutBody::Spooled(_)), "nor does the rest of it");
        drop(held);
    }
}
