//! Files that are compressed by gzip or Zstandard, as a name says or the first bytes. They are read as streams, so memory does not
//! depend on how much a file decompresses to.

use std::fmt;
use std::io::{BufReader, Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read as zstd_read;

/// First bytes of an input that are looked at.
pub const MAGIC_BYTES: u64 = 4;
/// Compressed bytes read at a time.
const READ_BYTES: usize = 128 << 10;

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCompression {
    /// gzip, `.gz`; members one after another are one file.
    Gzip,
    /// Zstandard, `.zst`; frames one after another are one file.
    Zstd,
}

impl fmt::Display for FileCompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileCompression::Gzip => "gzip",
            FileCompression::Zstd => "Zstandard",
        })
    }
}

impl FileCompression {
    /// What the path's extension names.
    pub fn of(path: &Path) -> Option<FileCompression> {
        match path.extension()?.to_string_lossy().to_lowercase().as_str() {
            "gz" => Some(FileCompression::Gzip),
            "zst" => Some(FileCompression::Zstd),
            _ => None,
        }
    }

    /// The path without an extension of compression: its own extension names the format.
    pub fn strip(path: &Path) -> PathBuf {
        match FileCompression::of(path) {
            Some(_) => path.with_extension(""),
            None => path.to_path_buf(),
        }
    }

    /// What the first `MAGIC_BYTES` of a file say. No format of tables begins with them, nor does text.
    pub fn of_content(start: &[u8]) -> Option<FileCompression> {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Some(FileCompression::Gzip),
            // The second begins a frame that is to be skipped, as parallel compressors write before the first one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(FileCompression::Zstd),
            _ => None,
        }
    }

    /// Reads what the file holds. A file that is cut off or damaged is an error, never an end.
    pub fn reader<R: Read + Send + 'static>(self, file: R) -> Result<DecompressedFile> {
        let file = BufReader::with_capacity(READ_BYTES, file);
        let decoder: Box<dyn Read + Send> = match self {
            FileCompression::Gzip => Box::new(MultiGzDecoder::new(file)),
            FileCompression::Zstd => Box::new(zstd_read::Decoder::with_buffer(file)?),
        };
        Ok(DecompressedFile { decoder, compression: self })
    }

    /// An error of the decoder with its cause; one of the operating system about the file as it is.
    fn read_error(self, error: Error) -> Error {
        if error.raw_os_error().is_some() || error.kind() == ErrorKind::Interrupted {
            return error;
        }
        let text = match error.kind() {
            ErrorKind::UnexpectedEof => format!("the file ends within data compressed by {self}: it is not complete"),
            _ => format!("the data compressed by {self} cannot be decompressed: {error}"),
        };
        // Another kind than that of an early end, which readers of Arrow streams take for the end of the stream.
        Error::new(ErrorKind::InvalidData, text)
    }
}

/// What a compressed file holds.
pub struct DecompressedFile {
    decoder: Box<dyn Read + Send>,
    compression: FileCompression,
}

impl Read for DecompressedFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.decoder.read(buffer).map_err(|e| self.compression.read_error(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_known_by_extension_and_first_bytes() {
        let of = |name: &str| FileCompression::of(Path::new(name));
        assert_eq!((of("a.csv.gz"), of("a.csv.ZST")), (Some(FileCompression::Gzip), Some(FileCompression::Zstd)));
        assert_eq!((of("a.csv"), of(".gz"), of("gz"), of("-")), (None, None, None, None));
        assert_eq!(FileCompression::strip(Path::new("d.gz/a.csv.gz")), Path::new("d.gz/a.csv"));
        assert_eq!(FileCompression::strip(Path::new("a.csv")), Path::new("a.csv"));
        let cases: [(&[u8], Option<FileCompression>); 6] = [
            (b"\x1f\x8b\x08\0", Some(FileCompression::Gzip)),
            (b"\x28\xb5\x2f\xfd", Some(FileCompression::Zstd)),
            (b"\x50\x2a\x4d\x18", Some(FileCompression::Zstd)),
            (b"P*M,", None),
            (b"\x1f\x8b", None),
            (b"", None),
        ];
        for (start, expected) in cases {
            assert_eq!(FileCompression::of_content(start), expected, "{start:?}");
        }
    }
}
