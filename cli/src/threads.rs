//! Blocking readers and writers beside the runtime, over bounded queues.

use arrow::array::RecordBatch;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use volley_common::{Error, Result};

/// Batches that may wait between a thread and the runtime.
const QUEUE: usize = 4;

/// What a blocking reader hands its batches to; an error means that nobody wants them any more.
pub type Emit<'a> = dyn FnMut(RecordBatch) -> Result<()> + 'a;

/// Runs a blocking reader as a stream. The stream ends cleanly only if the reader does: its error, or
/// its panic, is the last item.
pub fn read<F>(reader: F) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static
where
    F: FnOnce(&mut Emit<'_>) -> Result<()> + Send + 'static,
{
    let (send, queued) = mpsc::channel(QUEUE);
    let thread = tokio::task::spawn_blocking(move || {
        reader(&mut |batch| send.blocking_send(batch).map_err(|_| Error::cancelled("the put was given up")))
    });
    futures::stream::unfold(Some((queued, thread)), |state| async move {
        let (mut queued, thread) = state?;
        match queued.recv().await {
            Some(batch) => Some((Ok(batch), Some((queued, thread)))),
            None => joined(thread.await).err().map(|error| (Err(error), None)),
        }
    })
}

/// A blocking writer's queue. Only [`Writer::finish`] makes it keep what it wrote.
pub struct Writer {
    queue: mpsc::Sender<Option<RecordBatch>>,
    thread: JoinHandle<Result<()>>,
}

/// What a [`Writer`] runs in its thread.
pub trait Sink: Send {
    /// Takes the next rows.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
    /// All rows came: keeps them. Dropped without it, it leaves nothing.
    fn finish(self: Box<Self>) -> Result<()>;
}

impl Writer {
    /// Starts a thread that opens the sink and feeds it.
    pub fn start(open: impl FnOnce() -> Result<Box<dyn Sink>> + Send + 'static) -> Self {
        let (queue, mut queued) = mpsc::channel(QUEUE);
        let thread = tokio::task::spawn_blocking(move || {
            let mut sink = open()?;
            while let Some(item) = queued.blocking_recv() {
                match item {
                    Some(batch) => sink.write(&batch)?,
                    None => return sink.finish(),
                }
            }
            Ok(())
        });
        Writer { queue, thread }
    }

    /// Queues rows; false when the thread has ended, whose error [`Writer::finish`] then tells.
    pub async fn write(&self, batch: RecordBatch) -> bool {
        self.queue.send(Some(batch)).await.is_ok()
    }

    /// Waits until everything is written and kept.
    pub async fn finish(self) -> Result<()> {
        // A failed send means that the thread ended: its result says why.
        let _ = self.queue.send(None).await;
        drop(self.queue);
        joined(self.thread.await)
    }
}

fn joined(result: Result<Result<()>, JoinError>) -> Result<()> {
    result.unwrap_or_else(|_| Err(Error::internal("the thread that reads or writes the file broke off")))
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
    async fn a_reader_that_panics_or_fails_ends_in_an_error() {
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
    async fn a_reader_stops_when_nobody_listens() {
        let (told, ended) = tokio::sync::oneshot::channel();
        let stream = read(move |emit| {
            let error = loop {
                if let Err(error) = emit(batch()) {
                    break error;
                }
            };
            let _ = told.send(());
            Err(error)
        });
        let mut stream = Box::pin(stream);
        assert!(stream.next().await.unwrap().is_ok());
        drop(stream);
        ended.await.unwrap();
    }
}
