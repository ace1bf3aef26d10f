//! A file to read, which may be a pipe: what cannot be read twice is copied to a temporary file first.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use volley_common::{Error, Result};

use super::int96::Int96Needs;
use super::{Format, io_error};

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
    /// The copy of what can be read only once. It has no name, so that it never outlives the process.
    spooled: Option<File>,
}

impl InputFile {
    /// Opens a file; `-` is the standard input. A pipe, a socket or a device is read to its end.
    ///
    /// # Errors
    /// NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE of the operating system; INVALID_ARGUMENT: a folder, or a format that
    /// cannot be told. All name the file.
    pub fn new(path: &Path, format: Option<Format>) -> Result<InputFile> {
        let format = match format {
            Some(format) => format,
            None => Format::of(path)?,
        };
        if path == Path::new("-") {
            return InputFile::spool(Path::new("standard input"), format, &mut std::io::stdin().lock());
        }
        let mut file = File::open(path).map_err(|e| io_error(path, &e))?;
        let meta = file.metadata().map_err(|e| io_error(path, &e))?;
        if meta.is_dir() {
            return Err(Error::invalid(format!("{} is a folder: name its files", path.display())));
        }
        if !meta.is_file() {
            return InputFile::spool(path, format, &mut file);
        }
        Ok(InputFile { path: path.to_path_buf(), format, bytes: meta.len(), int96: None, spooled: None })
    }

    fn spool(path: &Path, format: Format, input: &mut impl Read) -> Result<InputFile> {
        let folder = std::env::temp_dir();
        let failed = |e: std::io::Error| {
            let text = format!(
                "cannot copy {} to a temporary file in {}, which TMPDIR names: {e}",
                path.display(),
                folder.display()
            );
            Error::unavailable(text)
        };
        let mut spooled = tempfile::tempfile().map_err(failed)?;
        let bytes = std::io::copy(input, &mut spooled).map_err(failed)?;
        Ok(InputFile { path: path.to_path_buf(), format, bytes, int96: None, spooled: Some(spooled) })
    }

    /// Whether it was a pipe or a device, of which this is a copy.
    pub fn is_copy(&self) -> bool {
        self.spooled.is_some()
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
}
