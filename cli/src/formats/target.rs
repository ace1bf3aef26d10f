//! Where an output goes. A regular file is written beside its place and renamed when it is complete, so that the old
//! one stays until then; a pipe, a device or the standard output is written into.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use volley_common::{Error, Result};

use super::io_error;
use super::remote::RemoteUrl;

/// Maximum number of symbolic links that are followed to a file that does not exist.
const MAX_LINKS: usize = 40;

/// The output of one command.
pub struct OutputTarget {
    /// As the user named it, for messages.
    path: PathBuf,
    /// The temporary file and its final place; without one the output is written directly.
    replace: Option<(NamedTempFile, PathBuf)>,
    stdout: bool,
    /// Where the output is uploaded.
    upload: Option<RemoteUrl>,
}

/// A file that counts the bytes written to it.
pub struct CountingFile {
    file: File,
    bytes: u64,
    refuses_writes: bool,
}

impl CountingFile {
    /// Writes nothing more: the output stays without its end.
    pub fn refuse_writes(&mut self) {
        self.refuses_writes = true;
    }
}

impl Write for CountingFile {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        if self.refuses_writes {
            return Err(std::io::Error::other("the output is not continued"));
        }
        let written = self.file.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Whether the path names the standard output.
pub fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

impl OutputTarget {
    /// Opens the target. An object is written to a temporary file first. A symbolic link is followed. Nothing appears in the place of a regular file until
    /// [`OutputTarget::finish`]; its permissions are kept. Opening a pipe waits for its reader.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a folder. NOT_FOUND: there is no such folder. PERMISSION_DENIED: the file or its folder is not
    /// writable. All name the path.
    pub fn open(path: &Path) -> Result<(OutputTarget, CountingFile)> {
        let target = |replace, stdout| OutputTarget { path: path.to_path_buf(), replace, stdout, upload: None };
        let counting = |file| CountingFile { file, bytes: 0, refuses_writes: false };
        if let Some(url) = RemoteUrl::of(path) {
            if !url.is_object_storage() {
                let text = "a file of an HTTP server can only be read: use s3://, gs:// or az://";
                return Err(Error::invalid(format!("{}: {text}", url.name().display())));
            }
            let file = tempfile::tempfile().map_err(|e| io_error(&std::env::temp_dir(), &e))?;
            return Ok((OutputTarget { upload: Some(url), ..target(None, false) }, counting(file)));
        }
        if is_stdout(path) {
            let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(|e| io_error(path, &e))?;
            return Ok((target(None, true), counting(File::from(stdout))));
        }
        if let Some(file) = open_directly(path)? {
            return Ok((target(None, false), counting(file)));
        }
        let (temp, place) = open_beside(path)?;
        let file = temp.as_file().try_clone().map_err(|e| io_error(path, &e))?;
        Ok((target(Some((temp, place)), false), counting(file)))
    }

    /// Puts the complete output into its place; returns its size in bytes.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be renamed: the old file stays.
    pub fn finish(self, file: CountingFile) -> Result<u64> {
        if let Some(url) = &self.upload {
            url.upload(&file.file)?;
        }
        if let Some((temp, place)) = self.replace {
            file.file.sync_all().map_err(|e| io_error(&self.path, &e))?;
            temp.persist(&place).map_err(|e| io_error(&self.path, &e.error))?;
        }
        Ok(file.bytes)
    }

    /// Ends the process with 0 if the error is that the reader of the standard output has left, as for other output.
    pub fn exit_if_closed(&self, error: &arrow::error::ArrowError) {
        // The writers of some formats keep only the text.
        if self.stdout && error.to_string().contains("Broken pipe") {
            std::process::exit(0);
        }
    }
}

/// Opens what is neither a regular file nor a folder, and descriptors of this process; `None` for all else.
fn open_directly(path: &Path) -> Result<Option<File>> {
    let Some(found) = metadata(path)? else { return Ok(None) };
    let kind = found.file_type();
    if kind.is_dir() {
        return Err(Error::invalid(format!("{} is a folder: name a file", path.display())));
    }
    let descriptor = path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    let special = kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket();
    if !descriptor && !special {
        return Ok(None);
    }
    OpenOptions::new().write(true).open(path).map(Some).map_err(|e| io_error(path, &e))
}

fn metadata(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(path, &e)),
    }
}

/// A temporary file in the folder of the file, and the file's place behind all links.
fn open_beside(path: &Path) -> Result<(NamedTempFile, PathBuf)> {
    let place = behind_links(path)?;
    let folder = match place.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if place.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::invalid(format!("{} is a folder: name a file", path.display())));
    }
    if !folder.is_dir() {
        let (path, folder) = (path.display(), folder.display());
        return Err(Error::not_found(format!("{path}: there is no folder {folder}")));
    }
    let old = metadata(&place)?;
    if old.is_some() {
        // A rename would also replace a file that is not writable.
        OpenOptions::new().write(true).open(&place).map_err(|e| io_error(path, &e))?;
    }
    let temp = tempfile::Builder::new()
        .prefix(".volley-")
        .suffix(".tmp")
        // The umask applies, as for any new file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|e| io_error(path, &e).at(format_args!("no file can be created in {}", folder.display())))?;
    if let Some(old) = old {
        keep_permissions(&temp, &old).map_err(|e| io_error(path, &e))?;
    }
    Ok((temp, place))
}

/// Gives the new file the permissions of the old one, and its owner if this process may.
fn keep_permissions(temp: &NamedTempFile, old: &Metadata) -> std::io::Result<()> {
    let new = temp.as_file().metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        // Only the superuser may give a file away: then it stays with this user, as every new file.
        let _ = fchown(temp.as_file(), Some(old.uid()), Some(old.gid()));
    }
    temp.as_file().set_permissions(Permissions::from_mode(old.mode() & 0o7777))
}

/// The file that the path names, which need not exist.
fn behind_links(path: &Path) -> Result<PathBuf> {
    let mut place = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(next) = std::fs::read_link(&place) else { return Ok(place) };
        place = place.parent().unwrap_or(Path::new("")).join(next);
    }
    Err(Error::invalid(format!("{}: too many symbolic links", path.display())))
}

#[cfg(test)]
mod tests;
