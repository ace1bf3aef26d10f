//! Receives a part from another node.

use std::fs::File;
use std::io::Write;

use volley_common::wire::catalog;
use volley_common::{Error, Result, TableName};

use super::commit_part::PartCommitter;
use super::fs_ops;
use super::layout::PartFileName;
use super::volume::TempPath;

/// Writes a part's bytes in order; leaves nothing behind if it is dropped before [`PartReceiver::finish`].
pub struct PartReceiver {
    committer: PartCommitter,
    temp: TempPath,
    file: File,
    name: PartFileName,
    table: TableName,
    shard: u32,
    expected_bytes: u64,
    bytes: u64,
    crc32c: u32,
}

impl PartReceiver {
    /// Creates a receiver for the part with this row in the catalog.
    pub(super) fn new(committer: PartCommitter, part: &catalog::Part, table: &TableName) -> Result<Self> {
        let id = part.part_id();
        let (file, temp) = committer.volume.create_temp(id, part.bytes)?;
        Ok(PartReceiver {
            committer,
            temp,
            file,
            name: PartFileName { write: part.write.clone(), seq: part.seq, id, crc32c: part.crc32c },
            table: table.clone(),
            shard: part.shard,
            expected_bytes: part.bytes,
            bytes: 0,
            crc32c: 0,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// DATA_LOSS: more bytes than the catalog says. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let total = self.bytes + bytes.len() as u64;
        if total > self.expected_bytes {
            return Err(Error::data_loss(format!(
                "more than the {} bytes of {:?} were received",
                self.expected_bytes, self.name.id
            )));
        }
        let volume = &self.committer.volume;
        volume.check_growth(self.bytes, total)?;
        self.file.write_all(bytes).map_err(|e| volume.write_error("a received part", &e))?;
        fs_ops::start_writeback(&self.file, self.bytes, total);
        self.bytes = total;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        Ok(())
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.bytes
    }

    /// Checks length and CRC-32C, makes the part durable and adds it to the inventory.
    ///
    /// # Errors
    /// DATA_LOSS: length or checksum differ from the catalog's. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn finish(mut self) -> Result<()> {
        if (self.bytes, self.crc32c) != (self.expected_bytes, self.name.crc32c) {
            return Err(Error::data_loss(format!(
                "{:?} was received with {} bytes and checksum {:08x}, the catalog says {} and {:08x}",
                self.name.id, self.bytes, self.crc32c, self.expected_bytes, self.name.crc32c
            )));
        }
        let dir = self.committer.volume.layout().shard(&self.table, self.shard);
        self.committer.commit(&self.file, &mut self.temp, dir, self.name, self.bytes)
    }
}
