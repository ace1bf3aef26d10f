//! valgrind: whether it is installed, and how a member runs under it.

use std::path::Path;
use std::process::Command;

use crate::profile::CostProfile;
use crate::{callgrind, dhat};

/// The first version that can count copies.
const OLDEST: (u32, u32) = (3, 17);

/// The tool that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValgrindTool {
    /// Instructions in user space.
    Callgrind,
    /// Bytes that `memcpy` and its like copied.
    Dhat,
}

/// Checks that valgrind is installed and new enough.
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

impl ValgrindTool {
    /// The command line under which a program runs; the profile is in `output` after the program has exited.
    pub fn runner(self, output: &Path) -> Vec<String> {
        let (environment, valgrind) = (
            // A copy by `rep movsb` counts as one instruction a byte, and whether it is used depends on the version of the C
            // library. valgrind must not fetch debugging information from a server.
            ["env", "-u", "DEBUGINFOD_URLS", "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x1000000000000000"],
            // Threads run in turn, so a thread that waits for a lock does not spin.
            ["valgrind", "-q", "--command-line-only=yes", "--fair-sched=try"],
        );
        let own = match self {
            ValgrindTool::Callgrind => {
                vec!["--tool=callgrind".into(), format!("--callgrind-out-file={}", output.display())]
            }
            ValgrindTool::Dhat => vec![
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
    pub fn profile(self, output: &Path) -> Result<CostProfile, String> {
        let text = std::fs::read_to_string(output)
            .map_err(|e| format!("valgrind left no profile in {}: {e}", output.display()))?;
        match self {
            ValgrindTool::Callgrind => callgrind::parse(&text),
            ValgrindTool::Dhat => dhat::parse(&text),
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
