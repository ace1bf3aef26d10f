//! What is to be written, in order: a bounded queue between async tasks and the writer.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::catalog::Change;

/// Called when a job is durable, or cannot become so.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One change of the database.
pub enum Job {
    /// Log records by index.
    Append(Vec<(u64, Vec<u8>)>),
    /// The vote's bytes.
    Vote(Vec<u8>),
    /// Log records from this index on go.
    Truncate(u64),
    /// Log records up to this index go; the bytes of its id are kept.
    Purge(u64, Vec<u8>),
    /// Rows that applied entries changed, and up to which entry.
    Apply(Applied),
    /// All rows are replaced by a snapshot file's.
    Install(PathBuf, Applied),
    /// Nothing: done when everything before it is durable.
    Flush,
}

/// The state machine's part of a transaction.
pub struct Applied {
    /// Rows that changed.
    pub changes: Vec<Change>,
    /// The id of the last entry applied, as bytes.
    pub last: Vec<u8>,
    /// The membership, if it changed, as bytes.
    pub membership: Option<Vec<u8>>,
}

/// Jobs that wait, with whom to tell.
pub struct Waiting {
    pub(super) job: Job,
    pub(super) done: Done,
    _room: OwnedSemaphorePermit,
}

/// Jobs at most.
const CAPACITY: usize = 512;
/// Applied rows wait this long for a commit that is due anyway: what they say is in the log already.
const LAZY: Duration = Duration::from_millis(50);
/// ... unless so many jobs wait.
const MANY: usize = CAPACITY / 4;

/// The queue.
pub struct Queue {
    state: Mutex<State>,
    /// Wakes a writer that is a thread...
    wake: Condvar,
    /// ... and one that is a task.
    notify: Notify,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Waiting>,
    urgent: bool,
    oldest: Option<Instant>,
    closed: Option<&'static str>,
}

/// What a writer does next.
enum Next {
    Write(Vec<Waiting>),
    WaitUntil(Instant),
    Wait,
    End,
}

impl State {
    /// Everything that waits, once it is worth a commit.
    fn next(&mut self, now: Instant) -> Next {
        let hurry = self.urgent || self.closed.is_some() || self.jobs.len() >= MANY;
        match self.oldest.map(|oldest| oldest + LAZY) {
            None if self.closed.is_some() => Next::End,
            None => Next::Wait,
            Some(due) if hurry || due <= now => {
                self.urgent = false;
                self.oldest = None;
                Next::Write(self.jobs.drain(..).collect())
            }
            Some(due) => Next::WaitUntil(due),
        }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Queue {
            state: Mutex::default(),
            wake: Condvar::new(),
            notify: Notify::new(),
            room: Arc::new(Semaphore::new(CAPACITY)),
        }
    }

    /// Puts a job at the end, waiting for room.
    ///
    /// # Errors
    /// If the store is closed; `done` is not called then.
    pub async fn push(&self, job: Job, done: Done) -> io::Result<()> {
        let room = self.room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let mut state = self.state.lock();
        if let Some(why) = state.closed {
            return Err(io::Error::other(why));
        }
        state.urgent |= !matches!(job, Job::Apply(_));
        state.oldest.get_or_insert_with(Instant::now);
        state.jobs.push_back(Waiting { job, done, _room: room });
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        self.wake.notify_one();
        self.notify.notify_one();
    }

    /// Everything that waits, once it is worth a commit; None when closed and empty. Blocks.
    pub fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        loop {
            match state.next(Instant::now()) {
                Next::Write(batch) => return Some(batch),
                Next::WaitUntil(due) => drop(self.wake.wait_until(&mut state, due.into_std())),
                Next::Wait => self.wake.wait(&mut state),
                Next::End => return None,
            }
        }
    }

    /// The same for a task.
    pub async fn taken(&self) -> Option<Vec<Waiting>> {
        loop {
            let next = self.state.lock().next(Instant::now());
            match next {
                Next::Write(batch) => return Some(batch),
                Next::WaitUntil(due) => drop(timeout_at(due, self.notify.notified()).await),
                Next::Wait => self.notify.notified().await,
                Next::End => return None,
            }
        }
    }

    /// No more jobs; those that wait are still taken.
    pub fn close(&self, why: &'static str) {
        self.state.lock().closed.get_or_insert(why);
        self.tell();
    }
}
