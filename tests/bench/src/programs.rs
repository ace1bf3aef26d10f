//! Builds what is measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use volley_verify::{Project, python_package, run};

/// Builds the programs, with the Python package `volley` if it is measured, and returns the path of Python with the packages of the
/// clients. `as_they_are`: without building or installing anything.
///
/// # Errors
/// The build, or the installation, fails.
pub fn build(project: &Project, as_they_are: bool, with_package: bool) -> Result<PathBuf, String> {
    if as_they_are {
        return Ok(project.root.join(".venv/bin/python"));
    }
    // Not of the whole workspace, whose tests add features to dependencies.
    let mut build = project.cargo(&["build", "--release", "--bins", "--locked"]);
    let packages = ["volley", "volley-bench", "volley-coordinator", "volley-node"];
    build.args(packages.into_iter().flat_map(|name| ["-p", name]));
    if with_package {
        build.args(["-p", "volley-python", "--lib"]);
    }
    run(&mut build)?;
    if with_package {
        python_package::lay_out(project, "release")?;
    }
    project.python()
}

/// Whether a module of Python is installed.
pub fn has_module(python: &Path, module: &str) -> bool {
    let mut import = Command::new(python);
    import.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
    import.status().is_ok_and(|status| status.success())
}
