//! Programs in Python that run with the release build.

use std::path::Path;
use std::process::Command;

use volley_verify::{Project, VerifyResult, run};

/// Their names, and where they are: `cargo verify-compose`, `cargo verify-kubernetes`, and with TLS; `cargo attack`.
const RELEASE_TESTS: [(&str, &str); 5] = [
    ("compose", "tests/deploy/compose.py"),
    ("compose-tls", "tests/deploy/compose_tls.py"),
    ("kubernetes", "tests/deploy/kubernetes.py"),
    ("kubernetes-tls", "tests/deploy/kubernetes_tls.py"),
    ("attack", "tests/attack/main.py"),
];

/// Where the program with this name is, if there is one.
pub fn script(name: &str) -> Option<&'static str> {
    RELEASE_TESTS.iter().find(|(known, _)| *known == name).map(|(_, script)| *script)
}

/// Builds the programs of a release, and runs a script on them.
///
/// # Errors
/// The build, the Python environment or the script fails.
pub fn run_script(project: &Project, script: &str, arguments: &[String]) -> VerifyResult {
    run(&mut project.cargo(&[
        "build",
        "--release",
        "--bins",
        "--locked",
        "-p",
        "volley",
        "-p",
        "volley-coordinator",
        "-p",
        "volley-node",
    ]))?;
    let python = project.python()?;
    // The helm of the Python environment, if the machine has none.
    let known = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&known).chain(python.parent().map(Path::to_path_buf));
    let path = std::env::join_paths(folders).map_err(|e| format!("PATH: {e}"))?;
    let mut command = Command::new(python);
    command.arg(script).arg("--binaries").arg(project.binaries("release")).args(arguments);
    command.env("PATH", path);
    run(command.current_dir(&project.root))
}
