//! The messages of a query that wait for its reader.
//!
//! There are few of them, and they do not wait for ever: if the reader takes none for as long as a query may run, they are dropped,
//! and the reader gets an error when it reads on. Each message that is taken starts that time again, so that a slow reader gets all.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use volley_common::{Error, Result};
use volley_sql::engine::RowsShare;

/// Messages that wait for the reader of a query: each has about 1 MiB.
const QUEUED_MESSAGES: usize = 4;

/// A message that waits, and the memory of its rows unless the message itself has it.
pub struct WaitingMessage<T> {
    message: T,
    _share: Option<RowsShare>,
}

impl<T> WaitingMessage<T> {
    /// A message whose rows have this memory until it is taken.
    pub fn new(message: T, share: Option<RowsShare>) -> Self {
        WaitingMessage { message, _share: share }
    }
}

/// A body that counts in the memory of queries until its last byte was sent.
struct CountedBody {
    bytes: Bytes,
    _share: RowsShare,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same bytes, with the memory in which they count until they are dropped.
pub fn counted(bytes: Bytes, share: RowsShare) -> Bytes {
    Bytes::from_owner(CountedBody { bytes, _share: share })
}

/// Where a query sends its messages.
pub struct ResultSender<T> {
    messages: mpsc::Sender<WaitingMessage<T>>,
    /// Only the reader keeps the queue.
    reader: Weak<ResultReader<T>>,
    limit: Duration,
}

/// Where the reader of a query takes its messages.
pub struct ResultReader<T> {
    messages: Mutex<mpsc::Receiver<WaitingMessage<T>>>,
}

/// A queue whose messages wait for at most `limit` until the reader takes one; zero: as long as it likes.
pub fn result_queue<T>(limit: Duration) -> (ResultSender<T>, Arc<ResultReader<T>>) {
    let (sender, receiver) = mpsc::channel(QUEUED_MESSAGES);
    let reader = Arc::new(ResultReader { messages: Mutex::new(receiver) });
    (ResultSender { messages: sender, reader: Arc::downgrade(&reader), limit }, reader)
}

impl<T> ResultSender<T> {
    /// Ends when the reader has gone.
    pub async fn closed(&self) {
        self.messages.closed().await;
    }

    /// Sends messages, one after the other, as soon as there is room. False: the reader has gone.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED: the reader takes none. Those that wait are dropped.
    pub async fn send(&self, messages: Vec<WaitingMessage<T>>) -> Result<bool> {
        for message in messages {
            match self.in_time(self.messages.reserve()).await? {
                Ok(place) => place.send(message),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Waits until the reader has taken all messages, or has gone.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED: the reader takes none. Those that wait are dropped.
    pub async fn drained(&self) -> Result<()> {
        for free in self.messages.capacity() + 1..=self.messages.max_capacity() {
            if self.in_time(self.messages.reserve_many(free)).await?.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The result of waiting until the reader takes one more message.
    async fn in_time<R>(&self, taken: impl Future<Output = R>) -> Result<R> {
        if self.limit.is_zero() {
            return Ok(taken.await);
        }
        match timeout(self.limit, taken).await {
            Ok(taken) => Ok(taken),
            Err(_) => {
                if let Some(reader) = self.reader.upgrade() {
                    reader.clear();
                }
                Err(not_read(self.limit))
            }
        }
    }
}

impl<T> ResultReader<T> {
    /// The next message; `None`: the query has ended.
    pub async fn recv(&self) -> Option<T> {
        let waiting = poll_fn(|context| self.messages.lock().poll_recv(context)).await?;
        Some(waiting.message)
    }

    fn clear(&self) {
        let mut messages = self.messages.lock();
        while messages.try_recv().is_ok() {}
    }
}

fn not_read(limit: Duration) -> Error {
    Error::deadline(format!(
        "nothing of the query's result was read for {} s, which is the limit (`statement_timeout_s`): run the query again, and read its rows as they come",
        limit.as_secs_f64()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;
    use volley_common::Code;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    fn messages(count: usize) -> Vec<WaitingMessage<Arc<()>>> {
        (0..count).map(|_| WaitingMessage::new(Arc::new(()), None)).collect()
    }

    #[tokio::test]
    async fn messages_that_nobody_takes_are_dropped_in_time() {
        for more in [0, 1] {
            let (sender, reader) = result_queue(LIMIT);
            let message = Arc::new(());
            let waiting = WaitingMessage::new(message.clone(), None);
            assert!(sender.send(vec![waiting]).await.unwrap());
            let ended = match sender.send(messages(QUEUED_MESSAGES - 1 + more)).await {
                Ok(_) => sender.drained().await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(ended.code, Code::DeadlineExceeded, "{ended}");
            assert!(ended.message.contains("statement_timeout_s"), "{ended}");
            assert_eq!(Arc::strong_count(&message), 1, "it waits");
            drop(sender);
            assert!(reader.recv().await.is_none());
        }
    }

    #[tokio::test]
    async fn queue_without_a_limit_waits_for_its_reader() {
        let (sender, reader) = result_queue(Duration::ZERO);
        assert!(sender.send(messages(QUEUED_MESSAGES)).await.unwrap());
        let mut drained = Box::pin(sender.drained());
        for _ in 0..QUEUED_MESSAGES {
            assert!(drained.as_mut().now_or_never().is_none());
            reader.recv().await.unwrap();
        }
        drained.await.unwrap();
    }

    #[tokio::test]
    async fn sender_ends_when_its_reader_has_gone() {
        let (sender, reader) = result_queue(Duration::ZERO);
        assert!(sender.send(messages(1)).await.unwrap());
        drop(reader);
        sender.closed().await;
        assert!(!sender.send(messages(1)).await.unwrap());
        sender.drained().await.unwrap();
    }
}
