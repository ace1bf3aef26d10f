//! How far a file is read.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

/// Is told of bytes as they are read; by default nobody is.
#[derive(Clone, Default)]
pub struct ReadProgress(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl ReadProgress {
    /// Calls `advance` with the number of bytes that were read since the last call.
    pub fn new(advance: impl Fn(u64) + Send + Sync + 'static) -> Self {
        ReadProgress(Some(Arc::new(advance)))
    }

    /// Bytes were read.
    pub(crate) fn inc(&self, bytes: u64) {
        if let Some(advance) = &self.0 {
            advance(bytes);
        }
    }
}

impl fmt::Debug for ReadProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadProgress").field("is_shown", &self.0.is_some()).finish()
    }
}

/// A reader that tells how far it is.
pub(crate) struct ProgressReader<R> {
    inner: R,
    progress: ReadProgress,
}

impl<R> ProgressReader<R> {
    /// Tells `progress` of the bytes read from `inner`.
    pub fn new(inner: R, progress: ReadProgress) -> Self {
        ProgressReader { inner, progress }
    }
}

impl<R: Read> Read for ProgressReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.progress.inc(n as u64);
        Ok(n)
    }
}

impl<R: Seek> Seek for ProgressReader<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}
