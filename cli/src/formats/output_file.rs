//! A file that is written, compressed or not.

use std::io::{Error, Result, Write};

use flate2::write::GzEncoder;
use volley_formats::FileCompression;
use zstd::stream::write as zstd_write;

use super::target::CountingFile;

/// A file that is written, compressed or not.
pub enum OutputFile {
    /// As it is.
    Plain(CountingFile),
    /// By gzip.
    Gzip(Box<GzipFile>),
    /// By Zstandard, with checksums.
    Zstd(Box<zstd_write::Encoder<'static, CountingFile>>),
}

/// A file that is compressed by gzip. Dropped before [`OutputFile::finish`] it stays without an end, so that the reader of a
/// pipe sees that the output is not complete.
pub struct GzipFile(Option<GzEncoder<CountingFile>>);

impl Drop for GzipFile {
    fn drop(&mut self) {
        if let Some(encoder) = &mut self.0 {
            encoder.get_mut().refuse_writes();
        }
    }
}

fn finished() -> Error {
    Error::other("the output is finished")
}

impl OutputFile {
    /// Starts the compression, if there is one.
    pub fn new(file: CountingFile, compression: Option<FileCompression>) -> Result<OutputFile> {
        Ok(match compression {
            None => OutputFile::Plain(file),
            Some(FileCompression::Gzip) => {
                let encoder = GzEncoder::new(file, flate2::Compression::default());
                OutputFile::Gzip(Box::new(GzipFile(Some(encoder))))
            }
            Some(FileCompression::Zstd) => {
                let mut encoder = zstd_write::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.include_checksum(true)?;
                OutputFile::Zstd(Box::new(encoder))
            }
        })
    }

    /// Writes the end of the compressed data.
    pub fn finish(self) -> Result<CountingFile> {
        match self {
            OutputFile::Plain(file) => Ok(file),
            OutputFile::Gzip(mut gzip) => gzip.0.take().ok_or_else(finished)?.finish(),
            OutputFile::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        match self {
            OutputFile::Plain(file) => file.write(buffer),
            OutputFile::Gzip(gzip) => gzip.0.as_mut().ok_or_else(finished)?.write(buffer),
            OutputFile::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            OutputFile::Plain(file) => file.flush(),
            OutputFile::Gzip(gzip) => gzip.0.as_mut().ok_or_else(finished)?.flush(),
            OutputFile::Zstd(encoder) => encoder.flush(),
        }
    }
}
