//! The project's folders, and how its programs are built and run: for `cargo verify` and `cargo bench-flight`.
#![forbid(unsafe_code)]

pub mod python_package;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Nothing, or one sentence about the failure.
pub type VerifyResult = Result<(), String>;

/// The project's folders.
pub struct Project {
    /// The repository.
    pub root: PathBuf,
    /// The target folder of cargo.
    pub target: PathBuf,
}

impl Project {
    /// The project whose program cargo runs, or the one that it was built in: checkouts that share a target folder share the program.
    ///
    /// # Errors
    /// Its folder does not exist.
    pub fn find() -> Result<Self, String> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).join("../..");
        let root = root.canonicalize().map_err(|e| format!("the project's folder {}: {e}", root.display()))?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Project { root, target })
    }

    /// The folder of the binaries of a profile, `debug` or `release`.
    pub fn binaries(&self, profile: &str) -> PathBuf {
        self.target.join(profile)
    }

    /// A call of cargo in the project's folder.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.root);
        // Variables that `cargo run` sets for this program would make the next cargo build again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO" {
                command.env_remove(&name);
            }
        }
        command
    }

    /// The Python of the tests with the packages of their `requirements.txt`, created if it does not exist.
    ///
    /// # Errors
    /// Python or its venv module is missing, or a package cannot be installed.
    pub fn python(&self) -> Result<PathBuf, String> {
        let folder = self.root.join(".venv");
        let python = folder.join("bin/python");
        if !python.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder)).map_err(|e| {
                format!("the client tests need Python 3.11 or later with its venv module (Debian: python3-venv): {e}")
            })?;
        }
        let wanted = ["tests/python", "tests/deploy"].map(|folder| self.root.join(folder).join("requirements.txt"));
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
        install.args(wanted.iter().flat_map(|file| [OsStr::new("-r"), file.as_os_str()]));
        run(&mut install).map_err(|e| format!("the packages of the tests could not be installed: {e}"))?;
        Ok(python)
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or it fails.
pub fn run(command: &mut Command) -> VerifyResult {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let status = command.status().map_err(|e| format!("{shown} could not be started: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}
