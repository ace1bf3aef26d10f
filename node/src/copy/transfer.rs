//! One part's bytes from a source to the disk.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use volley_common::net::ConnectionPool;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{FetchPartRequest, PartChunk, PartEnd};
use volley_common::{Error, PartId, Result};

use super::measured_copy::kind_of;
use crate::storage::PartReceiver;
use crate::throttle::Throttle;

/// Chunks of 1 MiB that may wait for the disk.
const MAX_QUEUED_CHUNKS: usize = 2;

/// What follows in a part's file.
enum ReceivedInput {
    /// Bytes.
    Data(Bytes),
    /// Length and checksum of an open part.
    End(PartEnd),
    /// The source has sent everything: the part is to be committed.
    Commit,
}

/// How long a source may keep this node waiting: in all `grace`, and longer for what it sends, at the least rate. The time
/// that this node itself takes does not count.
#[derive(Clone, Copy)]
struct SourcePace {
    grace: Duration,
    bytes_per_second: u64,
}

/// A source that sends nothing for 30 s, or in the long run less than 2 MB/s, has failed.
const PACE: SourcePace = SourcePace { grace: Duration::from_secs(30), bytes_per_second: 2_000_000 };

/// The source waits for the client whose part it writes, for any time. That it hangs is found by probes.
const PACE_OF_OPEN_PARTS: SourcePace = SourcePace { grace: Duration::MAX, bytes_per_second: 1 };

impl SourcePace {
    /// How much longer may be waited, after `waited` for `received` bytes.
    fn left(&self, waited: Duration, received: u64) -> Duration {
        let earned = Duration::from_secs_f64(received as f64 / self.bytes_per_second as f64);
        self.grace.saturating_add(earned).saturating_sub(waited).min(self.grace)
    }

    fn failed(&self, received: u64) -> Error {
        let (grace, rate) = (self.grace.as_secs(), self.bytes_per_second);
        Error::unavailable(format!(
            "the source is too slow: {received} bytes, less than {rate} a second after {grace} s"
        ))
    }
}

/// A transfer that failed.
pub struct FailedTransfer {
    /// Why.
    pub error: Error,
    /// What was received, if another source can continue.
    pub partial: Option<Box<PartReceiver>>,
}

impl From<Error> for FailedTransfer {
    fn from(error: Error) -> Self {
        FailedTransfer { error, partial: None }
    }
}

/// Copies a part from a node to `receiver`, from the byte on that it has not received yet, and commits it. Returns only after
/// nothing is being written. `open`: the source may still write it.
///
/// # Errors
/// CANCELLED: by `stop`. DATA_LOSS: the bytes are not the part's. Those of the source and of the receiver. UNAVAILABLE: the
/// source is too slow.
pub async fn transfer(
    pool: &ConnectionPool,
    source: &str,
    id: PartId,
    receiver: PartReceiver,
    open: bool,
    throttle: Option<&Throttle>,
    stop: &CancellationToken,
) -> Result<(), FailedTransfer> {
    let cancelled = || Error::cancelled(format!("the copy of part {id} was cancelled"));
    let mut client = NodeClient::new(pool.channel(source)?).max_decoding_message_size(MAX_PEER_MESSAGE);
    let request = FetchPartRequest { id: Some(id.into()), offset: receiver.received(), open };
    let fetch = async {
        let reply = tokio::time::timeout(PACE.grace, client.fetch_part(request)).await;
        Ok::<_, Error>(reply.map_err(|_| PACE.failed(0))??)
    };
    let reply = tokio::select! {
        reply = pool.while_answering(source, fetch) => reply,
        () = stop.cancelled() => Err(cancelled()),
    };
    let reply = match reply {
        Ok(reply) => reply.into_inner(),
        Err(error) => return Err(FailedTransfer { error, partial: Some(Box::new(receiver)) }),
    };
    let (chunks, queued) = mpsc::channel(MAX_QUEUED_CHUNKS);
    let writing = tokio::spawn(write_chunks(receiver, queued));
    let pace = if open { PACE_OF_OPEN_PARTS } else { PACE };
    let read = tokio::select! {
        read = pool.while_answering(source, read_chunks(reply, &chunks, throttle, pace)) => read,
        // The writer failed, and returns the error: the source may send nothing for any time.
        () = chunks.closed() => Ok(()),
        () = stop.cancelled() => Err(cancelled()),
    };
    if read.is_ok() {
        // The receiver commits the part only after this end marker.
        let _ = chunks.send(ReceivedInput::Commit).await;
    }
    drop(chunks);
    let partial = writing.await.map_err(|e| Error::internal(format!("writing part {id}: {e}")))??;
    read.map_err(|error| FailedTransfer { error, partial: partial.map(Box::new) })
}

async fn read_chunks(
    mut stream: impl Stream<Item = Result<PartChunk, Status>> + Unpin,
    chunks: &mpsc::Sender<ReceivedInput>,
    throttle: Option<&Throttle>,
    pace: SourcePace,
) -> Result<()> {
    let (mut waited, mut received) = (Duration::ZERO, 0);
    // Only copies in the background are throttled.
    let copied = metrics::counter!("volley_part_copy_bytes_total", "kind" => kind_of(throttle.is_some()));
    loop {
        let began = Instant::now();
        let chunk = tokio::time::timeout(pace.left(waited, received), stream.next()).await;
        waited += began.elapsed();
        let Some(chunk) = chunk.map_err(|_| pace.failed(received))?.transpose()? else { return Ok(()) };
        received += chunk.data.len() as u64;
        copied.increment(chunk.data.len() as u64);
        if let Some(throttle) = throttle {
            tokio::time::sleep(throttle.take(chunk.data.len())).await;
        }
        for input in [Some(ReceivedInput::Data(chunk.data)), chunk.end.map(ReceivedInput::End)].into_iter().flatten() {
            if chunks.send(input).await.is_err() {
                // The writer failed, and returns the error.
                return Ok(());
            }
        }
    }
}

/// Writes chunks and commits the part. If the channel closes before, returns the receiver, for another source. It uses a thread only
/// while there is something to write: an open part may pause for any time.
async fn write_chunks(
    mut receiver: PartReceiver,
    mut chunks: mpsc::Receiver<ReceivedInput>,
) -> Result<Option<PartReceiver>> {
    loop {
        let Some(first) = chunks.recv().await else { return Ok(Some(receiver)) };
        let writing = tokio::task::spawn_blocking(move || {
            let written = write_queued(receiver, first, &mut chunks);
            (written, chunks)
        });
        let (written, rest) = writing.await.map_err(|e| Error::internal(format!("the writer of a copy: {e}")))?;
        match written? {
            Some(unfinished) => (receiver, chunks) = (unfinished, rest),
            None => return Ok(None),
        }
    }
}

/// Blocks: writes what is queued, `first` before it. Returns nothing once the part is committed.
fn write_queued(
    mut receiver: PartReceiver,
    first: ReceivedInput,
    chunks: &mut mpsc::Receiver<ReceivedInput>,
) -> Result<Option<PartReceiver>> {
    let mut next = Some(first);
    while let Some(input) = next {
        match input {
            ReceivedInput::Data(bytes) => receiver.write(&bytes)?,
            ReceivedInput::End(end) => receiver.set_end(end),
            ReceivedInput::Commit => return receiver.finish().map(|()| None),
        }
        next = chunks.try_recv().ok();
    }
    Ok(Some(receiver))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::stream;
    use volley_common::Code;

    use super::*;

    const PACE: SourcePace = SourcePace { grace: Duration::from_millis(400), bytes_per_second: 100_000 };

    /// Sends chunks of this size, one after each pause.
    async fn read(count: usize, bytes: usize, pause: Duration) -> Result<()> {
        let chunk = move |at: usize| async move {
            tokio::time::sleep(pause).await;
            (at < count).then(|| (Ok(PartChunk { data: vec![0; bytes].into(), end: None }), at + 1))
        };
        let (chunks, mut queued) = mpsc::channel(1);
        let source = Box::pin(stream::unfold(0, chunk));
        let reading = async move { read_chunks(source, &chunks, None, PACE).await };
        let writing = async { while queued.recv().await.is_some() {} };
        tokio::join!(reading, writing).0
    }

    #[tokio::test]
    async fn source_that_drips_fails_although_it_never_stalls() {
        let began = Instant::now();
        let error = read(1000, 10, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains("too slow"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        read(20, 100_000, Duration::from_millis(50)).await.unwrap();
    }

    #[test]
    fn source_may_take_longer_for_more_bytes() {
        assert_eq!(PACE.left(Duration::from_millis(500), 0), Duration::ZERO);
        assert_eq!(PACE.left(Duration::from_millis(500), 30_000), Duration::from_millis(200));
        assert_eq!(PACE.left(Duration::ZERO, 1 << 30), PACE.grace, "a stall does not last longer for that");
    }
}
