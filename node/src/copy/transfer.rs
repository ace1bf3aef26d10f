//! One part's bytes from one source to the disk.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use volley_common::net::ConnectionPool;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{FetchPartRequest, PartChunk};
use volley_common::{Error, PartId, Result};

use crate::storage::PartReceiver;
use crate::throttle::Throttle;

/// A source that sends nothing for this long has failed, even if it answers probes.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Chunks of 1 MiB that may wait for the disk.
const MAX_QUEUED_CHUNKS: usize = 2;

/// Copies a part from a node to the receiver that `open` creates on a blocking thread. Returns only after that thread has
/// ended, so that the caller can remove what it wrote. On an error the receiver is dropped and leaves nothing.
///
/// # Errors
/// CANCELLED: by `stop`. Those of the source, of `open` and of the receiver. UNAVAILABLE: the source stalled.
pub async fn transfer(
    pool: &ConnectionPool,
    source: &str,
    id: PartId,
    open: impl FnOnce() -> Result<PartReceiver> + Send + 'static,
    throttle: Option<&Throttle>,
    stop: &CancellationToken,
) -> Result<()> {
    let cancelled = || Error::cancelled(format!("the copy of part {id} was cancelled"));
    let mut client = NodeClient::new(pool.channel(source)?).max_decoding_message_size(MAX_PEER_MESSAGE);
    let request = FetchPartRequest { id: Some(id.into()), offset: 0 };
    let fetch = async {
        let reply = tokio::time::timeout(STALL_TIMEOUT, client.fetch_part(request)).await;
        Ok::<_, Error>(reply.map_err(|_| stalled())??)
    };
    let reply = tokio::select! {
        reply = pool.while_answering(source, fetch) => reply?,
        () = stop.cancelled() => return Err(cancelled()),
    };
    let (chunks, queued) = mpsc::channel(MAX_QUEUED_CHUNKS);
    let writing = tokio::task::spawn_blocking(move || write_chunks(open()?, queued));
    let read = tokio::select! {
        read = pool.while_answering(source, read_chunks(reply.into_inner(), &chunks, throttle)) => read,
        () = stop.cancelled() => Err(cancelled()),
    };
    if read.is_ok() {
        // The receiver commits the part only after this end marker.
        let _ = chunks.send(None).await;
    }
    drop(chunks);
    let written = writing.await.map_err(|e| Error::internal(format!("writing part {id}: {e}")))?;
    read.and(written)
}

fn stalled() -> Error {
    Error::unavailable(format!("nothing was received for {} s", STALL_TIMEOUT.as_secs()))
}

async fn read_chunks(
    mut stream: tonic::Streaming<PartChunk>,
    chunks: &mpsc::Sender<Option<Bytes>>,
    throttle: Option<&Throttle>,
) -> Result<()> {
    loop {
        let chunk = tokio::time::timeout(STALL_TIMEOUT, stream.message()).await.map_err(|_| stalled())??;
        let Some(chunk) = chunk else { return Ok(()) };
        if let Some(throttle) = throttle {
            tokio::time::sleep(throttle.take(chunk.data.len())).await;
        }
        if chunks.send(Some(chunk.data)).await.is_err() {
            // The writer failed, and returns the error.
            return Ok(());
        }
    }
}

/// Blocks: writes chunks until the end marker (`None`); discards the part if the channel closes without one.
fn write_chunks(mut receiver: PartReceiver, mut chunks: mpsc::Receiver<Option<Bytes>>) -> Result<()> {
    loop {
        match chunks.blocking_recv() {
            Some(Some(bytes)) => receiver.write(&bytes)?,
            Some(None) => return receiver.finish(),
            None => return Err(Error::cancelled("the part was not received to its end")),
        }
    }
}
