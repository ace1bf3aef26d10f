//! Receives a part from another node.

use std::fs::File;
use std::io::Write;

use volley_common::wire::catalog;
use volley_common::wire::cluster::PartEnd;
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
    /// Unknown while the part is written by its source: then the checksum in `name` is unknown, too.
    expected_bytes: Option<u64>,
    bytes: u64,
    crc32c: u32,
}

impl PartReceiver {
    /// Creates a receiver for the part with this row in the catalog.
    pub(super) fn new(committer: PartCommitter, part: &catalog::Part, table: &TableName) -> Result<Self> {
        PartReceiver::expecting(Some(part.bytes), committer, part, table)
    }

    /// Creates a receiver for a part whose length and checksum come with its last bytes.
    pub(super) fn of_open_part(committer: PartCommitter, part: &catalog::Part, table: &TableName) -> Result<Self> {
        PartReceiver::expecting(None, committer, part, table)
    }

    fn expecting(
        expected_bytes: Option<u64>,
        committer: PartCommitter,
        part: &catalog::Part,
        table: &TableName,
    ) -> Result<Self> {
        let id = part.part_id();
        let (file, temp) = committer.volume.create_temp(id, part.bytes)?;
        Ok(PartReceiver {
            committer,
            temp,
            file,
            name: PartFileName { write: part.write.clone(), seq: part.seq, id, crc32c: part.crc32c },
            table: table.clone(),
            shard: part.shard,
            expected_bytes,
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
        if let Some(expected) = self.expected_bytes.filter(|expected| total > *expected) {
            return Err(Error::data_loss(format!(
                "more than the {expected} bytes of {:?} were received",
                self.name.id
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

    /// Sets length and checksum of a part of which they were unknown.
    pub fn set_end(&mut self, end: PartEnd) {
        if self.expected_bytes.is_none() {
            self.expected_bytes = Some(end.bytes);
            self.name.crc32c = end.crc32c;
        }
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.bytes
    }

    /// Checks length and CRC-32C, makes the part durable and adds it to the inventory.
    ///
    /// # Errors
    /// DATA_LOSS: length or checksum differ from those that the catalog or the writer says. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the
    /// disk failed, or the end of an open part is unknown.
    pub fn finish(mut self) -> Result<()> {
        let id = self.name.id;
        let Some(expected) = self.expected_bytes else {
            return Err(Error::unavailable(format!("{} bytes of {id:?} were received without their end", self.bytes)));
        };
        if (self.bytes, self.crc32c) != (expected, self.name.crc32c) {
            return Err(Error::data_loss(format!(
                "{id:?} was received with {} bytes and checksum {:08x}, the catalog says {expected} and {:08x}",
                self.bytes, self.crc32c, self.name.crc32c
            )));
        }
        let dir = self.committer.volume.layout().shard(&self.table, self.shard);
        self.committer.commit(&self.file, &mut self.temp, dir, self.name, self.bytes)
    }
}
