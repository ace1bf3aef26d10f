//! A part that comes from another node.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use volley_common::{Error, PartId, Result, TableName};

use super::disk;
use super::layout::PartFile;
use super::store::Store;

/// Takes a part's bytes in order; dropped without [`Receiver::finish`] it leaves nothing behind.
pub struct Receiver {
    store: Store,
    temp: Temp,
    file: File,
    wanted: Wanted,
    bytes: u64,
    crc32c: u32,
}

/// What the catalog says of the part.
pub(super) struct Wanted {
    pub name: PartFile,
    pub table: TableName,
    pub shard: u32,
    pub bytes: u64,
}

/// A file in `tmp/` that is removed unless it is kept.
pub(super) struct Temp(Option<PathBuf>);

impl Temp {
    pub fn new(path: PathBuf) -> Self {
        Temp(Some(path))
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// The file has been renamed: nothing is left to remove.
    pub fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Whatever stays is removed at the next start.
            let _ = disk::remove(&path);
        }
    }
}

impl Receiver {
    pub(super) fn new(store: Store, wanted: Wanted) -> Result<Self> {
        let (file, temp) = store.temporary(wanted.name.id, wanted.bytes)?;
        Ok(Receiver { store, temp: Temp::new(temp), file, wanted, bytes: 0, crc32c: 0 })
    }

    fn id(&self) -> PartId {
        self.wanted.name.id
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// DATA_LOSS: more than the catalog's length. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let total = self.bytes + bytes.len() as u64;
        if total > self.wanted.bytes {
            let (id, wanted) = (self.id(), self.wanted.bytes);
            return Err(Error::data_loss(format!("{id:?} was received with more than its {wanted} bytes")));
        }
        self.store.growing(self.bytes, total)?;
        self.file.write_all(bytes).map_err(|e| self.store.failed("a received part", &e))?;
        disk::grown(&self.file, self.bytes, total);
        self.bytes = total;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        Ok(())
    }

    /// Verifies length and CRC-32C (DATA_LOSS), makes the part durable and adds it to the inventory.
    pub fn finish(mut self) -> Result<()> {
        let (id, wanted) = (self.id(), &self.wanted);
        if (self.bytes, self.crc32c) != (wanted.bytes, wanted.name.crc32c) {
            return Err(Error::data_loss(format!(
                "{id:?} was received with {} bytes and checksum {:08x}, the catalog says {} and {:08x}",
                self.bytes, self.crc32c, wanted.bytes, wanted.name.crc32c
            )));
        }
        let shard = self.store.layout().shard(&wanted.table, wanted.shard);
        self.store.seal(&self.file, &mut self.temp, shard, wanted.name.clone(), wanted.bytes)
    }
}
