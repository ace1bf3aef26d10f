//! Threads for blocking readers and writers, with bounded queues to the async runtime.

use arrow::array::RecordBatch;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use volley_common::{Error, Result};

/// Batches queued between a thread and the runtime.
const QUEUE_LEN: usize = 4;

/// A blocking reader calls this with every batch; an error means that the receiver is gone.
pub type Emit<'a> = dyn FnMut(RecordBatch) -> Result<()> + 'a;

/// Runs a blocking reader as a stream. If the reader fails or panics, the last item is an error.
pub fn read<F>(reader: F) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static
where
    F: FnOnce(&mut Emit<'_>) -> Result<()> + Send + 'static,
{
    let (send, queued) = mpsc::channel(QUEUE_LEN);
    let thread = tokio::task::spawn_blocking(move || {
        reader(&mut |batch| send.blocking_send(batch).map_err(|_| Error::cancelled("the put was cancelled")))
    });
    futures::stream::unfold(Some((queued, thread)), |state| async move {
        let (mut queued, thread) = state?;
        match queued.recv().await {
            Some(batch) => Some((Ok(batch), Some((queued, thread)))),
            None => joined(thread.await).err().map(|error| (Err(error), None)),
        }
    })
}

/// A thread that writes batches. The output is kept only if [`WriterThread::finish`] is called.
pub struct WriterThread {
    queue: mpsc::Sender<Option<RecordBatch>>,
    thread: JoinHandle<Result<u64>>,
}

/// The blocking writer of a [`WriterThread`].
pub trait BatchWriter: Send {
    /// Writes rows.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
    /// Completes the output; returns its bytes. A writer that is dropped without this leaves no output.
    fn finish(self: Box<Self>) -> Result<u64>;
}

impl WriterThread {
    /// Starts a thread that opens the writer and writes all queued batches.
    pub fn start(open: impl FnOnce() -> Result<Box<dyn BatchWriter>> + Send + 'static) -> Self {
        let (queue, mut queued) = mpsc::channel(QUEUE_LEN);
        let thread = tokio::task::spawn_blocking(move || {
            let mut writer = open()?;
            while let Some(item) = queued.blocking_recv() {
                match item {
                    Some(batch) => writer.write(&batch)?,
                    None => return writer.finish(),
                }
            }
            Ok(0)
        });
        WriterThread { queue, thread }
    }

    /// Queues rows; `false` if the thread has ended, whose error [`WriterThread::finish`] returns.
    pub async fn write(&self, batch: RecordBatch) -> bool {
        self.queue.send(Some(batch)).await.is_ok()
    }

    /// Waits until everything is written and the output is complete; returns its bytes.
    pub async fn finish(self) -> Result<u64> {
        // A failed send means that the thread has ended: its result has the reason.
        let _ = self.queue.send(None).await;
        drop(self.queue);
        joined(self.thread.await)
    }
}

fn joined<T>(result: Result<Result<T>, JoinError>) -> Result<T> {
    result.unwrap_or_else(|_| Err(Error::internal("the thread that reads or writes the file panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use futures::StreamExt;
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        RecordBatch::new_empty(Arc::new(Schema::empty()))
    }

    #[tokio::test]
    async fn reader_that_panics_or_fails_ends_in_an_error() {
        let panics = read(|emit| {
            emit(batch())?;
            panic!("on purpose")
        });
        let items: Vec<_> = panics.collect().await;
        assert!(items[0].is_ok() && items[1].is_err() && items.len() == 2);

        let fails = read(|_| Err(Error::data_loss("bad file")));
        let items: Vec<_> = fails.collect().await;
        assert_eq!(items.into_iter().next().unwrap().unwrap_err().message, "bad file");
    }

    #[tokio::test]
    async fn reader_stops_when_the_stream_is_dropped() {
        let (done, ended) = tokio::sync::oneshot::channel();
        let stream = read(move |emit| {
            let error = loop {
                if let Err(error) = emit(batch()) {
                    break error;
                }
            };
            let _ = done.send(());
            Err(error)
        });
        let mut stream = Box::pin(stream);
        assert!(stream.next().await.unwrap().is_ok());
        drop(stream);
        ended.await.unwrap();
    }
}
