//! A file to read, which may be a pipe, and may be compressed: what cannot be read as often or in the order that its format
//! needs is copied to a temporary file first.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use volley_common::{Error, Result};

use super::compression::{FileCompression, MAGIC_BYTES};
use super::int96::Int96Needs;
use super::ipc::FILE_MAGIC;
use super::{Format, io_error};
use crate::progress::{ProgressReader, ReadProgress};

/// A file to read, as often as needed.
#[derive(Debug)]
pub struct InputFile {
    /// Its name, for errors.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its bytes.
    pub bytes: u64,
    /// What the INT96 columns of all files need that are put together.
    pub int96: Option<Arc<Int96Needs>>,
    /// How it is compressed. It is decompressed each time that it is read, which needs no space.
    compression: Option<FileCompression>,
    /// The copy of what can be read only once, or must be decompressed to be read in any order. It has no name, so that it never
    /// outlives the process.
    spooled: Option<File>,
}

impl InputFile {
    /// Opens a file of this machine; `-` is the standard input. A pipe, a socket or a device is read to its end, so that this must not
    /// be called where async code runs. The first bytes tell whether it is compressed.
    ///
    /// # Errors
    /// NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE of the operating system; INVALID_ARGUMENT: a folder, a format that
    /// cannot be told, or data that cannot be decompressed. All name the file.
    pub fn new(path: &Path, format: Option<Format>) -> Result<InputFile> {
        let format = match format {
            Some(format) => format,
            None => Format::of(path)?,
        };
        let input = if path == Path::new("-") {
            InputFile::spool(Path::new("standard input"), format, &mut std::io::stdin().lock())?
        } else {
            let mut file = File::open(path).map_err(|e| io_error(path, &e))?;
            let meta = file.metadata().map_err(|e| io_error(path, &e))?;
            if meta.is_dir() {
                return Err(Error::invalid(format!("{} is a folder: name its files", path.display())));
            }
            if meta.is_file() {
                InputFile::of(path, format, meta.len(), None)
            } else {
                InputFile::spool(path, format, &mut file)?
            }
        };
        input.find_compression()
    }

    /// What was copied to a file without a name. `name` is for errors, and `bytes` is how much it has.
    ///
    /// # Errors
    /// As [`InputFile::new`].
    pub fn of_copy(name: &Path, format: Format, bytes: u64, copy: File) -> Result<InputFile> {
        InputFile::of(name, format, bytes, Some(copy)).find_compression()
    }

    fn of(path: &Path, format: Format, bytes: u64, spooled: Option<File>) -> InputFile {
        InputFile { path: path.to_path_buf(), format, bytes, int96: None, compression: None, spooled }
    }

    fn spool(path: &Path, format: Format, input: &mut impl Read) -> Result<InputFile> {
        let folder = std::env::temp_dir();
        let failed = |e: std::io::Error| {
            if e.kind() == ErrorKind::InvalidData {
                return io_error(path, &e);
            }
            let text = format!(
                "cannot copy {} to a temporary file in {}, which TMPDIR names: {e}",
                path.display(),
                folder.display()
            );
            Error::unavailable(text)
        };
        let mut spooled = tempfile::tempfile().map_err(failed)?;
        let bytes = std::io::copy(input, &mut spooled).map_err(failed)?;
        Ok(InputFile::of(path, format, bytes, Some(spooled)))
    }

    /// Learns how the file is compressed; what its format does not read from the start to the end is decompressed now.
    fn find_compression(mut self) -> Result<InputFile> {
        let start = self.start(MAGIC_BYTES)?;
        self.compression = FileCompression::of_content(&start);
        if let (None, Some(named)) = (self.compression, FileCompression::of(&self.path)) {
            let content = if start.is_empty() { "the file is empty" } else { "the file is not compressed by it" };
            let text = format!("its name says {named}, and {content}: is it complete?");
            return Err(Error::invalid(format!("{}: {text}", self.path.display())));
        }
        if self.compression.is_some() && self.is_read_in_any_order()? {
            return InputFile::spool(&self.path, self.format, &mut self.reader(ReadProgress::default())?);
        }
        Ok(self)
    }

    fn is_read_in_any_order(&self) -> Result<bool> {
        Ok(match self.format {
            Format::Parquet => true,
            Format::Arrow | Format::Arrows => self.start(FILE_MAGIC.len() as u64)? == FILE_MAGIC,
            Format::Csv | Format::Tsv | Format::Jsonl => false,
        })
    }

    /// The first bytes.
    fn start(&self, bytes: u64) -> Result<Vec<u8>> {
        let mut start = Vec::new();
        let read = self.reader(ReadProgress::default())?.take(bytes).read_to_end(&mut start);
        read.map_err(|e| io_error(&self.path, &e))?;
        Ok(start)
    }

    /// Whether it was a pipe, a device or a URL, of which this is a copy.
    pub fn is_copy(&self) -> bool {
        self.spooled.is_some()
    }

    /// Whether it can only be read from the start to the end, by [`InputFile::reader`].
    pub fn is_compressed(&self) -> bool {
        self.compression.is_some()
    }

    /// The file, at its start. One reader at a time: readers of a spooled file share their place.
    ///
    /// # Errors
    /// As [`InputFile::new`].
    pub fn open(&self) -> Result<File> {
        let file = match &self.spooled {
            None => File::open(&self.path),
            Some(spooled) => spooled.try_clone().and_then(|mut file| file.rewind().map(|()| file)),
        };
        file.map_err(|e| io_error(&self.path, &e))
    }

    /// What the file holds, decompressed, from its start. Advances the bar by the file's own bytes.
    ///
    /// # Errors
    /// As [`InputFile::new`].
    pub fn reader(&self, bar: ReadProgress) -> Result<Box<dyn Read + Send>> {
        let file = ProgressReader::new(self.open()?, bar);
        match self.compression {
            None => Ok(Box::new(file)),
            Some(compression) => match compression.reader(file) {
                Ok(file) => Ok(Box::new(file)),
                Err(e) => Err(io_error(&self.path, &e)),
            },
        }
    }
}
