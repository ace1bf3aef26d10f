//! What the writer of a put tells of its parts.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use volley_common::wire::catalog;
use volley_common::{Error, Result};

use crate::storage::{BlockingDrop, FinishedPart};

/// Receives the events of all parts. The channel closes when the writer has ended and all its parts are finished.
pub type PartEventSender = mpsc::Sender<Result<PartEvent>>;

/// What happens to a part.
pub enum PartEvent {
    /// It has so many bytes that its holders may begin to copy it, while it grows. Its row has no rows, length or checksum yet.
    Growing(Box<catalog::Part>),
    /// Its last byte is written.
    Finished(Box<PendingPart>),
}

/// A part that is complete, and not durable on any node.
pub struct PendingPart {
    /// Its row in the catalog, without holders.
    pub row: catalog::Part,
    /// All of its bytes, if it is small.
    pub content: Option<Bytes>,
    file: Option<BlockingDrop<FinishedPart>>,
    seals: Vec<OwnedSemaphorePermit>,
    _places: Vec<OwnedSemaphorePermit>,
}

/// The file of a part that is to be made durable on this node.
pub struct UnsyncedFile {
    file: BlockingDrop<FinishedPart>,
    _seals: Vec<OwnedSemaphorePermit>,
}

impl PendingPart {
    /// A part with this row and file. `seals` are the permits to make it durable here, `places` those to wait for its copies.
    pub fn new(
        row: catalog::Part,
        file: FinishedPart,
        content: Option<Bytes>,
        seals: Vec<OwnedSemaphorePermit>,
        places: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        PendingPart { row, content, file: Some(BlockingDrop::new(file)), seals, _places: places }
    }

    /// The file, with its permits; none if it was taken before.
    pub fn take_file(&mut self) -> Option<UnsyncedFile> {
        let file = self.file.take()?;
        Some(UnsyncedFile { file, _seals: std::mem::take(&mut self.seals) })
    }

    /// The part is not made durable on this node, as a rule: the permits for that are for others.
    pub fn release_seals(&mut self) {
        self.seals.clear();
    }

    /// Makes the part durable on this node. Blocks.
    ///
    /// # Errors
    /// As [`FinishedPart::commit`].
    pub fn commit(mut self) -> Result<catalog::Part> {
        let file = self.take_file().ok_or_else(|| Error::internal("the file of a part was taken before"))?;
        file.commit()?;
        Ok(self.row)
    }
}

impl UnsyncedFile {
    /// Makes the part durable on this node. Blocks.
    ///
    /// # Errors
    /// As [`FinishedPart::commit`].
    pub fn commit(self) -> Result<()> {
        self.file.into_inner().commit().map(|_| ())
    }
}
