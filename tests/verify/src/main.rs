//! `cargo verify`: every check that a change must pass, in one command.
//!
//! ```text
//! cargo verify                 all steps, in order; stops at the first that fails
//! cargo verify STEP...         only these steps
//! cargo verify --list          the steps
//! cargo verify-compose         the compose file on this machine's Docker engine, under faults
//! cargo verify-kubernetes      the chart on the cluster of KUBECONFIG, under faults
//! cargo verify-compose-tls     the compose file with TLS, and new certificates
//! cargo verify-kubernetes-tls  the chart from plaintext to TLS, and new certificates
//! cargo fuzz-all               the fuzz targets under libFuzzer, each for some minutes
//! cargo attack                 a cluster of real processes under attack by hostile clients, the long form
//! ```
//!
//! What a step needs beyond the Rust toolchain is installed in the project's folder: the Python environment of the client
//! tests in `.venv`, the dependency checker in `.tools`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it prints its report")]

mod fuzz;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use volley_verify::{Project, VerifyResult, run};

/// A check.
struct VerifyStep {
    name: &'static str,
    about: &'static str,
    /// Whether it starts the programs of the workspace, which must be built before.
    needs_binaries: bool,
    run: fn(&Project) -> VerifyResult,
}

const fn step(name: &'static str, about: &'static str, run: fn(&Project) -> VerifyResult) -> VerifyStep {
    VerifyStep { name, about, needs_binaries: false, run }
}

const fn step_with_binaries(name: &'static str, about: &'static str, run: fn(&Project) -> VerifyResult) -> VerifyStep {
    VerifyStep { name, about, needs_binaries: true, run }
}

const STEPS: &[VerifyStep] = &[
    step("format", "the code is formatted", format),
    step("lint", "clippy finds nothing", lint),
    step_with_binaries("test", "unit tests, and integration tests on real processes", test),
    step_with_binaries("clients", "tests with pyarrow as the client, and attacks in their short form", clients),
    step_with_binaries("deploy", "the chart, its schemas, the compose file, and their command lines", deploy),
    step_with_binaries("chaos", "a cluster of real processes under faults, its history checked; a short run", chaos),
    step_with_binaries("cost", "instructions and copies for each byte served or stored, under valgrind", cost),
    step_with_binaries("demo", "the demo, small", demo),
    step("docs", "the documentation builds without a warning", docs),
    step("dependencies", "licences, bans and sources of dependencies", dependencies),
];

/// Programs in Python that run with the release build, and where they are: `cargo verify-compose`, `cargo verify-kubernetes`, and
/// with TLS; `cargo attack`.
const RELEASE_TESTS: [(&str, &str); 5] = [
    ("compose", "tests/deploy/compose.py"),
    ("compose-tls", "tests/deploy/compose_tls.py"),
    ("kubernetes", "tests/deploy/kubernetes.py"),
    ("kubernetes-tls", "tests/deploy/kubernetes_tls.py"),
    ("attack", "tests/attack/main.py"),
];

/// The version of the dependency checker, because its results depend on it.
const CARGO_DENY: &str = "0.20.2";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, more @ ..] = &arguments[..]
        && let Some((_, script)) = RELEASE_TESTS.iter().find(|(name, _)| name == first)
    {
        return exit_code(Project::find().and_then(|project| release_test(&project, script, more)));
    }
    if let [first, more @ ..] = &arguments[..]
        && first == "fuzz"
    {
        return exit_code(Project::find().and_then(|project| fuzz::run_targets(&project, more)));
    }
    if arguments.iter().any(|a| a == "--list" || a == "--help") {
        STEPS.iter().for_each(|s| println!("{:<14} {}", s.name, s.about));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.iter().find(|a| STEPS.iter().all(|s| s.name != a.as_str())) {
        println!("there is no step {unknown:?}; `cargo verify --list` names them");
        return ExitCode::FAILURE;
    }
    let chosen = STEPS.iter().filter(|s| arguments.is_empty() || arguments.iter().any(|a| a == s.name));
    exit_code(Project::find().and_then(|project| run_all(&project, chosen)))
}

fn exit_code(result: VerifyResult) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("\nverify failed: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run_all<'a>(project: &Project, steps: impl Iterator<Item = &'a VerifyStep>) -> VerifyResult {
    let mut report = String::new();
    let mut is_built = false;
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        let begin = Instant::now();
        if step.needs_binaries && !is_built {
            let mut build = project.cargo(&["build", "--workspace", "--bins", "--locked"]);
            run(&mut build).map_err(|why| format!("build: {why}"))?;
            is_built = true;
        }
        (step.run)(project).map_err(|why| format!("{}: {why}", step.name))?;
        report += &format!("  {:<14} {:>5.0} s\n", step.name, begin.elapsed().as_secs_f64());
    }
    println!("\nverified:\n{report}");
    Ok(())
}

fn format(project: &Project) -> VerifyResult {
    run(&mut project.cargo(&["fmt", "--all", "--check"])).map_err(|e| format!("{e}; `cargo fmt --all` formats it"))
}

fn lint(project: &Project) -> VerifyResult {
    run(&mut project.cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

fn test(project: &Project) -> VerifyResult {
    run(&mut project.cargo(&["test", "--workspace", "--locked"]))
}

fn clients(project: &Project) -> VerifyResult {
    let python = project.python()?;
    run(Command::new(python)
        .args(["-m", "pytest", "-q", "--durations=5", "tests/python", "tests/attack"])
        .current_dir(&project.root)
        .env("VOLLEY_BIN_DIR", project.binaries("debug")))
}

fn deploy(project: &Project) -> VerifyResult {
    let python = project.python()?;
    let helm = python.with_file_name("helm");
    let mut check = Command::new(python);
    check.arg("tests/deploy/check.py").arg("--helm").arg(helm).arg("--binaries").arg(project.binaries("debug"));
    run(check.current_dir(&project.root))
}

/// A program of [`RELEASE_TESTS`].
fn release_test(project: &Project, script: &str, arguments: &[String]) -> VerifyResult {
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

fn chaos(project: &Project) -> VerifyResult {
    let mut command = Command::new(project.binaries("debug").join("volley-chaos"));
    run(command.args(["--faults", "25", "--seconds", "50"]).env_remove("VOLLEY_BIN_DIR"))
}

fn cost(project: &Project) -> VerifyResult {
    run(Command::new(project.binaries("debug").join("volley-cost")).env_remove("VOLLEY_BIN_DIR"))
}

fn demo(project: &Project) -> VerifyResult {
    run(Command::new(project.binaries("debug").join("volley")).args(["demo", "--scale", "0.05"]))
}

fn docs(project: &Project) -> VerifyResult {
    run(project.cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn dependencies(project: &Project) -> VerifyResult {
    let tools = project.root.join(".tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.exists() {
        let version = format!("cargo-deny@{CARGO_DENY}");
        let mut install = project.cargo(&["install", "--locked", "--quiet", "--profile", "dev", &version, "--root"]);
        run(install.arg(&tools)).map_err(|e| format!("the dependency checker could not be built: {e}"))?;
    }
    run(Command::new(deny).args(["check", "bans", "licenses", "sources"]).current_dir(&project.root))
}
