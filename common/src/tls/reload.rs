//! The last good value of files that may change while the process runs.
//!
//! A timer polls the files: a notification of the system does not see a Secret that Kubernetes mounts over another one, nor a
//! network file system. Only the poll does file I/O. Handshakes, and whoever asks for failures, take what the last poll left,
//! without a lock: a network file system that hangs stalls none of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::pem::{CertificateValidity, FileError, TlsFile};

/// How often a timer polls the files.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What is read from files.
pub trait FileValue {
    /// The validity of the own certificate among them.
    fn validity(&self) -> Option<&CertificateValidity>;
}

/// Reads the value from its files.
type Load<T> = Box<dyn Fn() -> Result<T, FileError> + Send + Sync>;

/// A value that is read from files, and read again when one of them changes. A bad new file keeps the old value.
pub struct Reloaded<T> {
    files: Vec<TlsFile>,
    load: Load<T>,
    current: ArcSwap<T>,
    /// Why the files as they are now cannot be used, once that was reported.
    failure: ArcSwapOption<String>,
    /// Held while files are read: only polls take it, and they do not wait for it.
    state: Mutex<ReloadState>,
}

struct ReloadState {
    /// The versions of the current value's files.
    loaded: Vec<FileVersion>,
    failed: Option<FailedVersions>,
}

/// The versions of files that could not be loaded.
struct FailedVersions {
    seen: Vec<FileVersion>,
    /// A certificate and its key are two files: until the second poll, a pair that does not fit may be half-written.
    is_reported: bool,
}

/// What tells one content of a file from the next without reading it; `None` if there is no file. The time of the inode's
/// change is among it: a file whose permissions were repaired has no other difference.
type FileVersion = Option<(SystemTime, u64, u64, (i64, i64))>;

fn version_of(path: &Path) -> FileVersion {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino(), changed))
}

impl<T: FileValue> Reloaded<T> {
    /// Reads the value for the first time. `load` reads `files`. Blocks.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn new(
        files: Vec<TlsFile>,
        load: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let loaded = versions_of(&files);
        let first = load()?;
        log_invalid(&first);
        Ok(Reloaded {
            files,
            load: Box::new(load),
            current: ArcSwap::from_pointee(first),
            failure: ArcSwapOption::empty(),
            state: Mutex::new(ReloadState { loaded, failed: None }),
        })
    }

    /// The value of the last good files.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Why the files as they are now cannot be used; `None` while the value is theirs.
    pub fn failure(&self) -> Option<String> {
        self.failure.load_full().map(|message| (*message).clone())
    }

    /// Loads the files if they changed, and again while they cannot be used: what an error depends on may be repaired without a
    /// change of the files. Blocks; returns at once while another thread does it.
    pub fn poll(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        let seen = versions_of(&self.files);
        if seen == state.loaded {
            // The old files are back.
            state.failed = None;
            self.failure.store(None);
            return;
        }
        match self.load_changed() {
            Ok(value) => {
                log_invalid(&value);
                self.current.store(Arc::new(value));
                *state = ReloadState { loaded: seen, failed: None };
                self.failure.store(None);
                tracing::info!(files = self.names(), "certificates were reloaded");
            }
            Err(error) => {
                let before = state.failed.as_ref().filter(|failed| failed.seen == seen);
                let (is_second, was_reported) = (before.is_some(), before.is_some_and(|failed| failed.is_reported));
                if is_second && !was_reported {
                    tracing::warn!(%error, "new certificate files cannot be used; the old ones stay in use");
                    metrics::counter!("volley_tls_reload_failures_total", "file_kind" => error.setting).increment(1);
                }
                if is_second {
                    self.failure.store(Some(Arc::new(error.message)));
                }
                state.failed = Some(FailedVersions { seen, is_reported: is_second });
            }
        }
    }

    /// The value of the changed files. One that is not valid now does not replace one that is.
    fn load_changed(&self) -> Result<T, FileError> {
        let new = (self.load)()?;
        let problem = |value: &T| value.validity().and_then(CertificateValidity::problem);
        match problem(&new) {
            Some(error) if problem(&self.current()).is_none() => Err(error),
            _ => Ok(new),
        }
    }

    fn names(&self) -> String {
        self.files.iter().map(TlsFile::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Logs that a certificate that comes into use is not valid at this moment.
fn log_invalid(value: &impl FileValue) {
    if let Some(problem) = value.validity().and_then(CertificateValidity::problem) {
        tracing::warn!(%problem, "a certificate is not valid now");
    }
}

fn versions_of(files: &[TlsFile]) -> Vec<FileVersion> {
    files.iter().map(|file| version_of(&file.path)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::pem::certified_key;
    use super::super::testing::{TestCa, write};
    use super::*;

    impl FileValue for u64 {
        fn validity(&self) -> Option<&CertificateValidity> {
            None
        }
    }

    impl FileValue for CertificateValidity {
        fn validity(&self) -> Option<&CertificateValidity> {
            Some(self)
        }
    }

    fn number(dir: &Path) -> Reloaded<u64> {
        let file = TlsFile::new("tls_cert", dir.join("number"));
        let path = file.path.clone();
        let load = move || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.parse().map_err(|_| FileError { setting: "tls_cert", message: format!("{text:?} is no number") })
        };
        Reloaded::new(vec![file], load).unwrap()
    }

    #[test]
    fn changed_file_is_loaded_by_a_poll_only() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "number", "1");
        let value = number(dir.path());
        write(dir.path(), "number", "20");
        assert_eq!(*value.current(), 1, "a use reads no file");
        value.poll();
        assert_eq!(*value.current(), 20);
    }

    #[test]
    fn bad_file_keeps_the_old_value_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "number", "1");
        let value = number(dir.path());
        write(dir.path(), "number", "bad");
        value.poll();
        assert_eq!((*value.current(), value.failure()), (1, None), "it may be half-written");
        value.poll();
        assert_eq!((*value.current(), value.failure()), (1, Some("\"bad\" is no number".into())));
        std::fs::remove_file(dir.path().join("number")).unwrap();
        value.poll();
        assert_eq!(*value.current(), 1);
        write(dir.path(), "number", "300");
        value.poll();
        assert_eq!((*value.current(), value.failure()), (300, None));
    }

    #[test]
    fn failed_load_is_repeated_though_no_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = TlsFile::new("tls_cert", write(dir.path(), "file", "1"));
        let is_readable = Arc::new(AtomicBool::new(true));
        let readable = is_readable.clone();
        let load = move || match readable.load(Ordering::SeqCst) {
            true => Ok(7),
            false => Err(FileError { setting: "tls_cert", message: "no permission".into() }),
        };
        let value: Reloaded<u64> = Reloaded::new(vec![file], load).unwrap();
        is_readable.store(false, Ordering::SeqCst);
        write(dir.path(), "file", "22");
        (0..3).for_each(|_| value.poll());
        assert_eq!(value.failure(), Some("no permission".into()));
        is_readable.store(true, Ordering::SeqCst);
        value.poll();
        assert_eq!(value.failure(), None);
    }

    #[test]
    fn changed_permissions_are_another_version() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "file", "1");
        let before = version_of(&path);
        // The clock of a file system ticks every few milliseconds.
        let changed = (0..10_000_000).any(|_| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            version_of(&path) != before
        });
        assert!(changed);
    }

    #[test]
    fn expired_certificate_does_not_replace_a_valid_one() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
        let (cert, key) = ca.issue_server(&["localhost"]).write(dir.path(), "own");
        let (cert, key) = (TlsFile::new("tls_cert", cert), TlsFile::new("tls_key", key));
        let files = vec![cert.clone(), key.clone()];
        let load = move || -> Result<CertificateValidity, FileError> {
            let certified = certified_key(&cert, &key)?;
            Ok(CertificateValidity::of(&cert, &certified).unwrap())
        };
        let value = Reloaded::new(files, load).unwrap();
        let valid_until = value.current().until();
        ca.issue_expired(&["localhost"]).write(dir.path(), "own");
        value.poll();
        value.poll();
        assert_eq!(value.current().until(), valid_until);
        assert!(value.failure().unwrap().contains("has expired"));
    }

    #[test]
    fn first_load_returns_its_error() {
        let failed = || Err(FileError { setting: "tls_cert", message: "no".into() });
        assert!(Reloaded::<u64>::new(Vec::new(), failed).is_err());
    }
}
