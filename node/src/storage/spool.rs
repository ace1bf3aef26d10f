//! Files without a name for what is too large for memory: a large message, or what a message decompresses to. Their
//! bytes are page cache, which the system can write out and drop, instead of the process's own memory.
#![allow(unsafe_code, reason = "large messages are mapped")]

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;
use volley_common::ipc::spool::SpoolTarget;
use volley_common::{Error, Result};

use super::blocking_drop::BlockingDrop;
use super::fs_ops;
use super::part_store::PartStore;
use super::volume::Volume;

/// A growing file of the data folder that disappears with the last use of it, also if the process ends.
pub struct SpoolFile {
    file: BlockingDrop<File>,
    volume: Arc<Volume>,
    bytes: u64,
}

/// The bytes of a spool file.
struct SpooledBytes(BlockingDrop<Mmap>);

impl PartStore {
    /// Creates a spool file for this many bytes. Blocks.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the disk is too full. UNAVAILABLE: it failed.
    pub fn create_spool(&self, bytes: u64) -> Result<SpoolFile> {
        let volume = self.0.volume.clone();
        volume.check_writable(bytes)?;
        let file = fs_ops::create_unnamed(&volume.layout().tmp()).map_err(|e| volume.write_error("a message", &e))?;
        Ok(SpoolFile { file: BlockingDrop::new(file), volume, bytes: 0 })
    }
}

impl SpoolFile {
    /// Appends. Blocks.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let before = self.bytes;
        self.file.get().write_all(bytes).map_err(|e| self.volume.write_error("a message", &e))?;
        self.bytes += bytes.len() as u64;
        self.volume.check_growth(before, self.bytes)
    }

    /// Maps the whole file.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the process has too many mappings.
    pub fn map(self) -> Result<Bytes> {
        if self.bytes == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: the file has no name, so no other program can open it by one, and this is its only descriptor, which ends
        // here: nobody writes to the file or truncates it while it is mapped.
        let map = unsafe { Mmap::map(self.file.get()) };
        let map = map.map_err(|e| Error::exhausted(format!("a message cannot be mapped ({e}): try again")))?;
        Ok(Bytes::from_owner(SpooledBytes(BlockingDrop::new(map))))
    }
}

impl SpoolTarget for SpoolFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        SpoolFile::append(self, bytes)
    }

    fn map(self: Box<Self>) -> Result<Bytes> {
        SpoolFile::map(*self)
    }
}

impl AsRef<[u8]> for SpooledBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use volley_common::Code;

    use super::*;
    use crate::storage::DiskSpace;

    #[test]
    fn spooled_bytes_outlive_the_file_and_leave_no_name() {
        let dir = TempDir::new().unwrap();
        let store = PartStore::open(dir.path()).unwrap();
        let mut spool = store.create_spool(10).unwrap();
        spool.append(b"01234").unwrap();
        spool.append(b"56789").unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        let bytes = spool.map().unwrap();
        let slice = bytes.slice(3..7);
        drop(bytes);
        assert_eq!(&slice[..], b"3456");
        assert!(store.create_spool(0).unwrap().map().unwrap().is_empty());
    }

    #[test]
    fn spool_is_refused_above_the_high_watermark() {
        let dir = TempDir::new().unwrap();
        let store = PartStore::open(dir.path()).unwrap();
        store.override_space(Some(DiskSpace { total: 1 << 30, free: 200 << 20 }));
        assert_eq!(store.create_spool(190 << 20).err().unwrap().code, Code::ResourceExhausted);
        let mut spool = store.create_spool(1 << 20).unwrap();
        store.override_space(Some(DiskSpace { total: 1 << 30, free: 1 << 20 }));
        let growth = vec![0; 65 << 20];
        assert_eq!(spool.append(&growth).unwrap_err().code, Code::ResourceExhausted);
    }
}
