//! What an error of the operating system means: for this operation, for the file, for the disk.

use std::io::{self, ErrorKind};

/// The kinds of errors, which differ in what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFailure {
    /// This process or the system lacks something for the moment (open files, memory): only this operation fails.
    Transient,
    /// The disk or a quota is full: only this operation fails, until there is space.
    Space,
    /// The file is not there.
    Missing,
    /// The disk returns wrong bytes or none.
    Disk,
    /// Anything else, such as a file system that has become read-only.
    Other,
}

impl IoFailure {
    /// The kind of this error.
    pub fn of(error: &io::Error) -> IoFailure {
        const TRANSIENT: [i32; 6] =
            [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::ENOBUFS];
        const DISK: [i32; 5] = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EUCLEAN, libc::EREMOTEIO];
        let is_one_of = |codes: &[i32]| error.raw_os_error().is_some_and(|code| codes.contains(&code));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => IoFailure::Space,
            ErrorKind::NotFound => IoFailure::Missing,
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::OutOfMemory => IoFailure::Transient,
            _ if is_one_of(&TRANSIENT) => IoFailure::Transient,
            _ if is_one_of(&DISK) => IoFailure::Disk,
            _ => IoFailure::Other,
        }
    }

    /// Whether a failed read means that the file is damaged or missing.
    pub fn is_damage(self) -> bool {
        matches!(self, IoFailure::Missing | IoFailure::Disk)
    }
}

/// What an operator can do about a transient error; empty if nothing is known.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the process's limit of open files (ulimit -n, LimitNOFILE)",
        Some(libc::ENFILE) => "; raise the system's limit of open files (fs.file-max)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_what_follows() {
        for (code, kind) in [
            (libc::EMFILE, IoFailure::Transient),
            (libc::ENFILE, IoFailure::Transient),
            (libc::ENOMEM, IoFailure::Transient),
            (libc::EINTR, IoFailure::Transient),
            (libc::ENOSPC, IoFailure::Space),
            (libc::EDQUOT, IoFailure::Space),
            (libc::ENOENT, IoFailure::Missing),
            (libc::EIO, IoFailure::Disk),
            (libc::EBADMSG, IoFailure::Disk),
            (libc::EROFS, IoFailure::Other),
            (libc::EACCES, IoFailure::Other),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(IoFailure::of(&error), kind, "{error}");
            assert_eq!(IoFailure::of(&error).is_damage(), matches!(kind, IoFailure::Missing | IoFailure::Disk));
        }
    }
}
