//! The Unix-domain socket of a node, as a file.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::{Error, Result};

/// Everybody who reaches the folder may connect, as everybody on the machine may to a port: rights are those of the credentials
/// that a caller presents. The permissions of the folder limit who reaches it.
const MODE: u32 = 0o666;

/// The file of a socket that this process listens on; removed on drop, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file itself. While it is open, no other file gets its number.
    file: File,
}

/// Listens on a new socket at `path`. A file that a process left which has ended is replaced.
///
/// # Errors
/// FAILED_PRECONDITION: another file is there. UNAVAILABLE: another process listens there, or the socket cannot be made.
pub async fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let shown = path.display();
    let failed = |what: &str, e: &io::Error| Error::unavailable(format!("--local-socket {shown}: {what}: {e}"));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::precondition(format!(
                "--local-socket {shown}: a file that is no socket is there: remove it, or choose another path"
            )));
        }
        Ok(_) => remove_stale(path).await?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed("the path cannot be used", &e)),
    }
    let listener = UnixListener::bind(path).map_err(|e| failed("cannot listen there", &e))?;
    let file = open_for_all(path).map_err(|e| failed("its permissions cannot be set", &e))?;
    Ok((listener, SocketFile { path: path.to_path_buf(), file }))
}

/// Lets everybody connect to the socket that was just made. Not by its path: by now a link to any file of this user may be there.
fn open_for_all(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::InvalidData, "another file is there now"));
    }
    fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::Permissions::from_mode(MODE))?;
    Ok(file)
}

/// Removes a socket that nobody listens on.
async fn remove_stale(path: &Path) -> Result<()> {
    let shown = path.display();
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
        // It was removed meanwhile.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        _ => {
            return Err(Error::unavailable(format!(
                "--local-socket {shown}: another process listens there: stop it, or choose another path"
            )));
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::unavailable(format!("--local-socket {shown}: the socket of before cannot be removed: {e}")))
        }
        _ => Ok(()),
    }
}

impl SocketFile {
    /// Whether the path still leads to it.
    fn is_there(&self) -> io::Result<bool> {
        let (made, now) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((made.dev(), made.ino()) == (now.dev(), now.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there().unwrap_or(false)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "the local socket cannot be removed");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    #[tokio::test]
    async fn socket_of_an_ended_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        let (listener, file) = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        let error = bind(&path).await.unwrap_err();
        assert!(error.code == Code::Unavailable && error.message.contains("another process listens"), "{error}");
        // As a process that is killed leaves it.
        drop(listener);
        let (_listener, second) = bind(&path).await.unwrap();
        drop(file);
        assert!(path.exists(), "it is another socket now");
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn link_in_place_of_the_socket_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("node.sock"), folder.path().join("secret"));
        fs::write(&other, "text").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(open_for_all(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(bind(&path).await.unwrap_err().code, Code::FailedPrecondition);
        assert_eq!(fs::metadata(&other).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn other_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        fs::write(&path, "text").unwrap();
        let error = bind(&path).await.unwrap_err();
        assert!(error.code == Code::FailedPrecondition && error.message.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let error = bind(&folder.path().join("missing/node.sock")).await.unwrap_err();
        assert!(error.code == Code::Unavailable && error.message.contains("cannot listen there"), "{error}");
    }
}
