//! The last good value of files that may change while the process runs.
//!
//! Files are polled, at most once per second and only when the value is used or a timer asks: a notification of the system
//! does not see a Secret that Kubernetes mounts over another one, nor a network file system.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::pem::{FileError, TlsFile};

/// The least time between two looks at the files.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a timer looks at them: a bad file is reported though nobody connects.
pub const TIMER_INTERVAL: Duration = Duration::from_secs(10);

/// Reads the value from its files.
type Load<T> = Box<dyn Fn() -> Result<T, FileError> + Send + Sync>;

/// A value that is read from files, and read again when one of them changes. A bad new file keeps the old value.
pub struct Reloaded<T> {
    files: Vec<TlsFile>,
    load: Load<T>,
    current: ArcSwap<T>,
    state: Mutex<ReloadState>,
}

struct ReloadState {
    next_poll: Instant,
    /// What the files of the current value looked like.
    loaded: Vec<FileVersion>,
    failed: Option<ReloadFailure>,
}

/// Files that could not be loaded.
struct ReloadFailure {
    seen: Vec<FileVersion>,
    error: FileError,
    /// A certificate and its key are two files: until the second poll, a pair that does not fit may be half-written.
    is_reported: bool,
}

/// What tells one content of a file from the next without reading it; `None` if there is no file.
type FileVersion = Option<(SystemTime, u64, u64)>;

fn version_of(path: &Path) -> FileVersion {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

impl<T> Reloaded<T> {
    /// Reads the value for the first time. `load` reads `files`.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn new(
        files: Vec<TlsFile>,
        load: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let loaded = versions_of(&files);
        let current = ArcSwap::from_pointee(load()?);
        let state = ReloadState { next_poll: Instant::now() + POLL_INTERVAL, loaded, failed: None };
        Ok(Reloaded { files, load: Box::new(load), current, state: Mutex::new(state) })
    }

    /// The value, after a look at the files if the last one is a second old.
    pub fn current(&self) -> Arc<T> {
        self.poll();
        self.current.load_full()
    }

    /// Looks at the files, unless that was done less than a second ago, and loads them if they changed.
    pub fn poll(&self) {
        self.poll_at(Instant::now());
    }

    /// As [`Reloaded::poll`], at this time.
    pub(super) fn poll_at(&self, now: Instant) {
        // Another thread looks at them.
        let Some(mut state) = self.state.try_lock() else { return };
        if now < state.next_poll {
            return;
        }
        state.next_poll = now + POLL_INTERVAL;
        self.look(&mut state);
    }

    fn look(&self, state: &mut ReloadState) {
        let seen = versions_of(&self.files);
        if seen == state.loaded {
            // The old files are back.
            state.failed = None;
            return;
        }
        if state.failed.as_ref().is_some_and(|failed| failed.seen == seen && failed.is_reported) {
            return;
        }
        match (self.load)() {
            Ok(value) => {
                self.current.store(Arc::new(value));
                (state.loaded, state.failed) = (seen, None);
                tracing::info!(files = self.names(), "certificates were reloaded");
            }
            Err(error) => {
                let is_second = state.failed.as_ref().is_some_and(|failed| failed.seen == seen);
                if is_second {
                    tracing::warn!(%error, "new certificate files cannot be used; the old ones stay in use");
                    metrics::counter!("volley_tls_reload_failures_total", "file_kind" => error.setting).increment(1);
                }
                state.failed = Some(ReloadFailure { seen, error, is_reported: is_second });
            }
        }
    }

    /// Why the files as they are now cannot be used; `None` while the value is theirs.
    pub fn failure(&self) -> Option<String> {
        let state = self.state.lock();
        state.failed.as_ref().filter(|failed| failed.is_reported).map(|failed| failed.error.message.clone())
    }

    fn names(&self) -> String {
        self.files.iter().map(TlsFile::to_string).collect::<Vec<_>>().join(", ")
    }
}

fn versions_of(files: &[TlsFile]) -> Vec<FileVersion> {
    files.iter().map(|file| version_of(&file.path)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::write;
    use super::*;

    fn number(dir: &Path) -> Reloaded<u64> {
        let file = TlsFile::new("tls_cert", dir.join("number"));
        let path = file.path.clone();
        let load = move || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.parse().map_err(|_| FileError { setting: "tls_cert", message: format!("{text:?} is no number") })
        };
        Reloaded::new(vec![file], load).unwrap()
    }

    /// This many polls after the start.
    fn after(polls: u32) -> Instant {
        Instant::now() + polls * POLL_INTERVAL
    }

    #[test]
    fn changed_file_is_loaded_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "number", "1");
        let value = number(dir.path());
        write(dir.path(), "number", "20");
        assert_eq!(*value.current(), 1, "the files are not looked at for each use");
        value.poll_at(after(1));
        assert_eq!(*value.current(), 20);
    }

    #[test]
    fn bad_file_keeps_the_old_value_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "number", "1");
        let value = number(dir.path());
        write(dir.path(), "number", "bad");
        value.poll_at(after(1));
        assert_eq!((*value.current(), value.failure()), (1, None), "it may be half-written");
        value.poll_at(after(3));
        assert_eq!((*value.current(), value.failure()), (1, Some("\"bad\" is no number".into())));
        std::fs::remove_file(dir.path().join("number")).unwrap();
        value.poll_at(after(5));
        assert_eq!(*value.current(), 1);
        write(dir.path(), "number", "300");
        value.poll_at(after(7));
        assert_eq!((*value.current(), value.failure()), (300, None));
    }

    #[test]
    fn first_load_returns_its_error() {
        let failed = || Err(FileError { setting: "tls_cert", message: "no".into() });
        assert!(Reloaded::<u64>::new(Vec::new(), failed).is_err());
    }
}
