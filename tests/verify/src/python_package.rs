//! The Python package as tests import it: its Python beside the native module that cargo has built. maturin, which makes the wheels,
//! would compile most crates again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Project, VerifyResult, run};

/// Lays the package out below the folder of the binaries. Returns the folder for the search path of Python.
///
/// # Errors
/// The native module is not built, or a file cannot be copied.
pub fn lay_out(project: &Project, profile: &str) -> Result<PathBuf, String> {
    let folder = project.binaries(profile).join("python");
    let (source, package) = (project.root.join("python/volley"), folder.join("volley"));
    // A module that is gone must not be imported any more.
    if package.exists() {
        fs::remove_dir_all(&package).map_err(|e| failed(&package, &e))?;
    }
    fs::create_dir_all(&package).map_err(|e| failed(&package, &e))?;
    for entry in fs::read_dir(&source).map_err(|e| failed(&source, &e))? {
        let path = entry.map_err(|e| failed(&source, &e))?.path();
        if path.is_file()
            && let Some(name) = path.file_name()
        {
            copy(&path, &package.join(name))?;
        }
    }
    copy(&project.binaries(profile).join("lib_volley.so"), &package.join("_volley.abi3.so"))?;
    Ok(folder)
}

/// Builds the wheels and the source distribution of a release, and tries the wheel of this machine in an empty environment.
///
/// # Errors
/// A tool, a build or the trial fails.
pub fn build_wheels(project: &Project) -> VerifyResult {
    let mut build = Command::new(project.python()?);
    build.arg("python/build_wheels.py").arg("--target-dir").arg(project.target.join("wheel"));
    run(build.arg("--out").arg(project.target.join("wheels")).current_dir(&project.root))
}

/// Installs what tests of a release need beside the packages of all tests.
///
/// # Errors
/// A package cannot be installed.
pub fn install_large_libraries(python: &Path, project: &Project) -> VerifyResult {
    let mut install = Command::new(python);
    install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
    run(install.args(["-r", "tests/python/requirements-release.txt"]).current_dir(&project.root))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|e| failed(from, &e))
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("the Python package cannot be laid out: {}: {error}", path.display())
}
