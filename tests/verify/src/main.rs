//! `cargo verify`: every check that a change must pass, in one command.
//!
//! ```text
//! cargo verify                 all steps, in order; stops at the first that fails
//! cargo verify STEP...         only these steps
//! cargo verify --list          the steps
//! cargo verify-compose         the compose file on this machine's Docker engine, disturbed
//! cargo verify-kubernetes      the chart on the cluster of KUBECONFIG, disturbed
//! ```
//!
//! What a step needs beyond the Rust toolchain is installed in the project's own folder: the Python
//! environment of the client tests in `.venv`, the dependency checker in `.tools`.
#![allow(clippy::print_stdout, reason = "this program talks to a person")]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use volley_verify::{Outcome, Project, run};

/// A check: its name, what it shows, how it runs.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Project) -> Outcome,
}

const STEPS: &[Step] = &[
    Step { name: "format", about: "the code is formatted", run: format },
    Step { name: "lint", about: "clippy finds nothing", run: lint },
    Step { name: "test", about: "unit tests, and integration tests on real processes", run: test },
    Step { name: "clients", about: "tests with pyarrow as the client", run: clients },
    Step { name: "deploy", about: "the chart, its schemas, the compose file, and their command lines", run: deploy },
    Step { name: "chaos", about: "a cluster of real processes under faults, judged; a short run", run: chaos },
    Step { name: "cost", about: "instructions and copies for a byte served and taken in, under valgrind", run: cost },
    Step { name: "demo", about: "the demo, small", run: demo },
    Step { name: "docs", about: "the documentation builds without a warning", run: docs },
    Step { name: "dependencies", about: "licences, bans and sources of what is linked", run: dependencies },
];

/// What tests/deploy disturbs for real: `cargo verify-compose`, `cargo verify-kubernetes`.
const SUITES: [&str; 2] = ["compose", "kubernetes"];

/// The checker's version: its answers change with it.
const CARGO_DENY: &str = "0.20.2";

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let [first, arguments @ ..] = &asked[..]
        && SUITES.contains(&first.as_str())
    {
        return ended(Project::find().and_then(|project| suite(&project, first, arguments)));
    }
    if asked.iter().any(|a| a == "--list" || a == "--help") {
        STEPS.iter().for_each(|s| println!("{:<14} {}", s.name, s.about));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = asked.iter().find(|a| STEPS.iter().all(|s| s.name != a.as_str())) {
        println!("there is no step {unknown:?}; `cargo verify --list` names them");
        return ExitCode::FAILURE;
    }
    let chosen = STEPS.iter().filter(|s| asked.is_empty() || asked.iter().any(|a| a == s.name));
    ended(Project::find().and_then(|project| run_all(&project, chosen)))
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("\nverify failed: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run_all<'a>(project: &Project, steps: impl Iterator<Item = &'a Step>) -> Outcome {
    let mut report = String::new();
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        let begin = Instant::now();
        (step.run)(project).map_err(|why| format!("{}: {why}", step.name))?;
        report += &format!("  {:<14} {:>5.0} s\n", step.name, begin.elapsed().as_secs_f64());
    }
    println!("\nverified:\n{report}");
    Ok(())
}

fn format(project: &Project) -> Outcome {
    run(&mut project.cargo(&["fmt", "--all", "--check"])).map_err(|e| format!("{e}; `cargo fmt --all` mends it"))
}

fn lint(project: &Project) -> Outcome {
    run(&mut project.cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

fn test(project: &Project) -> Outcome {
    // The integration tests start these as processes of their own.
    run(&mut project.cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    run(&mut project.cargo(&["test", "--workspace", "--locked"]))
}

fn clients(project: &Project) -> Outcome {
    run(&mut project.cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let python = project.python()?;
    run(Command::new(python)
        .args(["-m", "pytest", "-q", "--durations=5", "tests/python"])
        .current_dir(&project.root)
        .env("VOLLEY_BIN_DIR", project.binaries("debug")))
}

fn deploy(project: &Project) -> Outcome {
    run(&mut project.cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let python = project.python()?;
    let helm = python.with_file_name("helm");
    let mut check = Command::new(python);
    check.arg("tests/deploy/check.py").arg("--helm").arg(helm).arg("--binaries").arg(project.binaries("debug"));
    run(check.current_dir(&project.root))
}

/// A heavier suite of tests/deploy, on an engine or a cluster that is there: with what a release is made of.
fn suite(project: &Project, name: &str, arguments: &[String]) -> Outcome {
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
    // The environment's helm, where the machine has none.
    let known = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&known).chain(python.parent().map(Path::to_path_buf));
    let path = std::env::join_paths(folders).map_err(|e| format!("PATH: {e}"))?;
    let mut command = Command::new(python);
    command.arg(format!("tests/deploy/{name}.py")).arg("--binaries").arg(project.binaries("release")).args(arguments);
    command.env("PATH", path);
    run(command.current_dir(&project.root))
}

fn chaos(project: &Project) -> Outcome {
    run(&mut project.cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let mut command = Command::new(project.binaries("debug").join("volley-chaos"));
    run(command.args(["--faults", "25", "--seconds", "50"]).env_remove("VOLLEY_BIN_DIR"))
}

fn cost(project: &Project) -> Outcome {
    run(&mut project.cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    run(Command::new(project.binaries("debug").join("volley-cost")).env_remove("VOLLEY_BIN_DIR"))
}

fn demo(project: &Project) -> Outcome {
    run(&mut project.cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    run(Command::new(project.binaries("debug").join("volley")).args(["demo", "--scale", "0.05"]))
}

fn docs(project: &Project) -> Outcome {
    run(project.cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn dependencies(project: &Project) -> Outcome {
    let tools = project.root.join(".tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.exists() {
        let version = format!("cargo-deny@{CARGO_DENY}");
        let mut install = project.cargo(&["install", "--locked", "--quiet", "--profile", "dev", &version, "--root"]);
        run(install.arg(&tools)).map_err(|e| format!("the dependency checker could not be built: {e}"))?;
    }
    run(Command::new(deny).args(["check", "bans", "licenses", "sources"]).current_dir(&project.root))
}
