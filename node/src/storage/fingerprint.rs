//! What shows that a file was written to, truncated or replaced.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A file's length and times. Writing into a file, truncating or replacing it changes the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFingerprint {
    /// Length of the file, bytes.
    pub bytes: u64,
    /// Last change of the contents (mtime), nanoseconds since 1970.
    pub modified_ns: i64,
    /// Last change of contents, name or permissions (ctime), nanoseconds since 1970.
    pub changed_ns: i64,
}

impl FileFingerprint {
    /// The fingerprint of a file with this metadata.
    pub fn of(file: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        FileFingerprint {
            bytes: file.len(),
            modified_ns: ns(file.mtime(), file.mtime_nsec()),
            changed_ns: ns(file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether the contents are unchanged; name and permissions may differ.
    pub fn has_same_contents(&self, other: &FileFingerprint) -> bool {
        (self.bytes, self.modified_ns) == (other.bytes, other.modified_ns)
    }
}
