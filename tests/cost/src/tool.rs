//! valgrind: whether it is there, and how a member runs under it.

use std::path::Path;
use std::process::Command;

use crate::profile::Profile;
use crate::{callgrind, dhat};

/// The first version that can count copies.
const OLDEST: (u32, u32) = (3, 17);

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Instructions in user space.
    Callgrind,
    /// Bytes that `memcpy` and its like copied.
    Dhat,
}

/// Checks that valgrind can do what is needed.
///
/// # Errors
/// One sentence that says what to install.
pub fn check() -> Result<(), String> {
    let needed = format!("valgrind {}.{} or later is needed (Debian: apt-get install valgrind)", OLDEST.0, OLDEST.1);
    let output = Command::new("valgrind").arg("--version").output().map_err(|e| format!("{needed}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match version(&text) {
        Some(version) if version >= OLDEST => Ok(()),
        _ => Err(format!("{needed}: `valgrind --version` says {:?}", text.trim())),
    }
}

/// Of `valgrind-3.19.0`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("valgrind-")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Tool {
    /// The words before a program that is to run under it; the profile is in `output` once the program has ended.
    pub fn runner(self, output: &Path) -> Vec<String> {
        let (environment, valgrind) = (
            // A copy by `rep movsb` counts as one instruction a byte, and which copies are made so depends on the C
            // library's version. No server is asked for debugging information.
            ["env", "-u", "DEBUGINFOD_URLS", "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x1000000000000000"],
            // Threads take turns: whoever waits for a lock does not spin for it.
            ["valgrind", "-q", "--command-line-only=yes", "--fair-sched=try"],
        );
        let own = match self {
            Tool::Callgrind => vec!["--tool=callgrind".into(), format!("--callgrind-out-file={}", output.display())],
            Tool::Dhat => vec![
                "--tool=dhat".into(),
                "--mode=copy".into(),
                "--num-callers=32".into(),
                format!("--fullpath-after={}/", root().display()),
                format!("--dhat-out-file={}", output.display()),
            ],
        };
        environment.into_iter().chain(valgrind).map(String::from).chain(own).collect()
    }

    /// Reads the profile.
    ///
    /// # Errors
    /// One sentence: it is missing, or not a profile.
    pub fn profile(self, output: &Path) -> Result<Profile, String> {
        let text = std::fs::read_to_string(output)
            .map_err(|e| format!("valgrind left no profile in {}: {e}", output.display()))?;
        match self {
            Tool::Callgrind => callgrind::parse(&text),
            Tool::Dhat => dhat::parse(&text),
        }
    }
}

/// The project's folder, which the paths of its sources begin with.
fn root() -> std::path::PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("valgrind-3.19.0\n"), Some((3, 19)));
        assert_eq!(version("valgrind-3.25.0.GIT"), Some((3, 25)));
        assert_eq!(version("sh: not found"), None);
        assert!(version("valgrind-3.16.1") < Some(OLDEST));
    }
}
