//! The bytes of a part for its holders, while this node writes it, or before it is durable here.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::watch;
use tonic::Status;
use volley_common::wire::cluster::{PartChunk, PartEnd};
use volley_common::{Error, PartId, Result};

use crate::storage::{BlockingDrop, FOLLOWED_BYTES, OpenPart, PartProgress};

/// One reader of an open part.
struct OpenPartReader {
    id: PartId,
    // Its last reader may be what closes the file.
    part: BlockingDrop<Arc<OpenPart>>,
    progress: watch::Receiver<PartProgress>,
    at: u64,
    /// The chunk before, whose memory is used again once that was sent.
    last: Option<Bytes>,
    is_done: bool,
}

/// Streams the bytes from `offset` on as they are written; the last chunk has the part's end. Between chunks no thread is used.
///
/// # Errors
/// INVALID_ARGUMENT: the part has no byte at `offset` yet. In the stream, UNAVAILABLE: the part was given up.
pub fn chunks(
    part: Arc<OpenPart>,
    id: PartId,
    offset: u64,
) -> Result<impl Stream<Item = Result<PartChunk, Status>> + Send + use<>> {
    let progress = part.progress();
    let written = progress.borrow().written;
    if offset > written {
        return Err(Error::invalid(format!("part {id} has {written} bytes so far, so none at {offset}")));
    }
    let part = BlockingDrop::new(part);
    let reader = OpenPartReader { id, part, progress, at: offset, last: None, is_done: false };
    Ok(stream::try_unfold(reader, |reader| async move { reader.next().await.map_err(Status::from) }))
}

impl OpenPartReader {
    /// The next chunk, as soon as there is one.
    async fn next(mut self) -> Result<Option<(PartChunk, Self)>> {
        if self.is_done {
            return Ok(None);
        }
        let progress = loop {
            let progress = *self.progress.borrow_and_update();
            if progress.end.is_some() || progress.written > self.at {
                break progress;
            }
            let given_up = |_| Error::unavailable(format!("the node that wrote part {} gave it up", self.id));
            self.progress.changed().await.map_err(given_up)?;
        };
        let length = progress.written.saturating_sub(self.at).min(FOLLOWED_BYTES);
        let (chunk, next) = self.read(length as usize, progress).await?;
        Ok(Some((chunk, next)))
    }

    /// Reads the next bytes on a blocking thread: if they are no more in memory, that waits for the disk.
    async fn read(mut self, length: usize, progress: PartProgress) -> Result<(PartChunk, Self)> {
        let id = self.id;
        let reading = tokio::task::spawn_blocking(move || {
            let free = self.last.take().and_then(|last| last.try_into_mut().ok());
            let mut buffer = free.unwrap_or_default();
            buffer.resize(length, 0);
            self.part.get().read(self.at, &mut buffer)?;
            let data = buffer.freeze();
            self.last = Some(data.clone());
            self.at += length as u64;
            let end: Option<PartEnd> = progress.end.filter(|end| end.bytes == self.at);
            self.is_done = end.is_some();
            Ok::<_, Error>((PartChunk { data, end }, self))
        });
        reading.await.map_err(|e| Error::internal(format!("reading part {id}: {e}")))?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use futures::StreamExt;
    use tempfile::TempDir;
    use volley_common::Code;
    use volley_common::wire::catalog::Compression;

    use super::*;
    use crate::storage::{PartSpec, PartStore, PartWriter};

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn writer(store: &PartStore) -> PartWriter {
        let schema = batch(0).schema();
        let table = "t".parse().unwrap();
        let spec = PartSpec { table, shard: 0, write: "w".into(), seq: 0, schema, compression: Compression::None };
        store.create(spec).unwrap()
    }

    #[tokio::test]
    async fn follower_gets_the_bytes_of_a_growing_part_and_its_end() {
        let dir = TempDir::new().unwrap();
        let store = PartStore::open(dir.path()).unwrap();
        let mut growing = writer(&store);
        let id = growing.id();
        let open = store.open_part_of(id).unwrap();
        assert_eq!(chunks(open.clone(), id, 1).err().unwrap().code, Code::InvalidArgument);
        let mut follower = Box::pin(chunks(open, id, 0).unwrap());
        growing.write(&batch(300_000)).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..2 {
            let chunk = follower.next().await.unwrap().unwrap();
            assert_eq!((chunk.data.len() as u64, chunk.end), (FOLLOWED_BYTES, None));
            bytes.extend_from_slice(&chunk.data);
        }
        let finished = growing.finish().unwrap();
        let late = store.open_part_of(id).unwrap();
        assert!(late.is_complete() && !store.holds(id));
        let sealed = finished.commit().unwrap();
        drop(late);
        let rest: Vec<PartChunk> = follower.map(|chunk| chunk.unwrap()).collect().await;
        rest.iter().for_each(|chunk| bytes.extend_from_slice(&chunk.data));
        assert_eq!(rest.last().unwrap().end, Some(PartEnd { bytes: sealed.bytes, crc32c: sealed.crc32c }));
        let part = store.part(id).unwrap().unwrap();
        assert_eq!(part.slice(0..part.len()), bytes);
        // A blocking thread drops it.
        while store.open_part_of(id).is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn follower_of_a_part_that_is_given_up_fails() {
        let dir = TempDir::new().unwrap();
        let store = PartStore::open(dir.path()).unwrap();
        let growing = writer(&store);
        let id = growing.id();
        let mut follower = Box::pin(chunks(store.open_part_of(id).unwrap(), id, 0).unwrap());
        drop(growing);
        let error = follower.next().await.unwrap().unwrap_err();
        assert!(error.code() == tonic::Code::Unavailable && error.message().contains("gave it up"), "{error:?}");
        assert!(store.inventory().is_empty());
    }
}
