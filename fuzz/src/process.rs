//! What the targets of a process share: a runtime, and folders for files.

use std::path::PathBuf;
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// The runtime for asynchronous code. Targets run outside of it.
///
/// # Panics
/// It cannot be created.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"))
}

/// A folder for the files of one thread, removed when the thread ends. libFuzzer ends without that: `cargo fuzz-all` gives each
/// process a folder for temporary files, and removes it.
pub struct ScratchDir(TempDir);

impl ScratchDir {
    /// A new folder.
    ///
    /// # Panics
    /// It cannot be created.
    pub fn new() -> Self {
        ScratchDir(tempfile::tempdir().expect("a folder for temporary files"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in it; returns its path.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    }

    /// The names of its files and folders.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the folder for temporary files");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Default for ScratchDir {
    fn default() -> Self {
        ScratchDir::new()
    }
}
