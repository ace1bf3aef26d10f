//! The steps of `cargo verify`, each in the form that a commit needs and in the form that a release needs.

use std::num::NonZero;
use std::process::Command;

use volley_verify::{Project, VerifyResult, python_package, run};

use crate::packaged_programs::{DEPENDENCY_CHECKER, MDBOOK};
use crate::{fuzz, release_suites};

/// What the steps are run for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum VerifyPurpose {
    /// A commit, `cargo verify`: heavy suites run in their short form, which has a test of every property.
    Commit,
    /// A release, `cargo verify --all`: all suites run in their long form.
    Release,
}

/// In which forms a step runs.
pub enum StepForms {
    /// It is the same for a commit and for a release.
    One,
    /// A short one for a commit and a long one for a release, in words.
    Two {
        /// What the short one does.
        short: &'static str,
        /// What the long one does.
        long: &'static str,
    },
    /// A commit does not need it.
    ReleaseOnly,
}

/// A check.
pub struct VerifyStep {
    /// As the command line has it.
    pub name: &'static str,
    /// What it checks.
    pub about: &'static str,
    /// What of it a commit needs, and what a release.
    pub forms: StepForms,
    /// Whether it starts the programs of the workspace, which must be built before.
    pub needs_binaries: bool,
    /// Runs it in the form for this purpose.
    pub run: fn(&Project, VerifyPurpose) -> VerifyResult,
}

impl VerifyStep {
    const fn new(name: &'static str, about: &'static str, run: fn(&Project, VerifyPurpose) -> VerifyResult) -> Self {
        Self { name, about, forms: StepForms::One, needs_binaries: false, run }
    }

    const fn with_binaries(mut self) -> Self {
        self.needs_binaries = true;
        self
    }

    const fn with_forms(mut self, short: &'static str, long: &'static str) -> Self {
        self.forms = StepForms::Two { short, long };
        self
    }

    const fn for_releases(mut self) -> Self {
        self.forms = StepForms::ReleaseOnly;
        self
    }

    /// Whether the command without names of steps runs it.
    pub fn is_needed_for(&self, purpose: VerifyPurpose) -> bool {
        purpose == VerifyPurpose::Release || !matches!(self.forms, StepForms::ReleaseOnly)
    }
}

/// All steps, in their order.
pub const STEPS: &[VerifyStep] = &[
    VerifyStep::new("format", "the code is formatted", format),
    VerifyStep::new("lint", "clippy finds nothing", lint),
    VerifyStep::new("test", "unit tests, and integration tests on real processes", test).with_binaries().with_forms(
        "coordinators are simulated for 30 s; SQL joins each key type and each sharding once",
        "for 10 minutes; every pair of them",
    ),
    VerifyStep::new(
        "clients",
        "tests with pyarrow and the Python package as clients, and attacks in their short form",
        clients,
    )
    .with_binaries()
    .with_forms("of a matrix of cases, each row and each column", "all cases"),
    VerifyStep::new("deploy", "the chart, its schemas, the compose file, their command lines, and archives", deploy)
        .with_binaries(),
    VerifyStep::new("chaos", "a cluster of real processes under faults, its history checked", chaos)
        .with_binaries()
        .with_forms("15 faults or 30 s", "200 faults or 10 minutes"),
    VerifyStep::new("cost", "instructions and copies for each byte served or stored, under valgrind", cost)
        .with_binaries()
        .with_forms("each way of a byte once", "all cases"),
    VerifyStep::new("demo", "the demo, small", demo).with_binaries(),
    VerifyStep::new("docs", "the documentation of the code builds without a warning", docs),
    VerifyStep::new("book", "the documentation for users as a site, whose links all lead somewhere", book),
    VerifyStep::new("dependencies", "licences, bans and sources of dependencies", dependencies),
    VerifyStep::new("attack", "attacks in their long form on the release build, as `cargo attack`", attack)
        .for_releases(),
    VerifyStep::new("fuzz", "a minute of libFuzzer for each target, as `cargo fuzz-all`", fuzz_targets).for_releases(),
    VerifyStep::new("wheel", "the Python package: wheels with the program, and its sources; a trial", wheel)
        .for_releases(),
];

/// Seconds and seeds of the simulation, and the form of the join matrix, for a commit and for a release; who sets the variables
/// chooses their own.
const TEST_FORMS: [(&str, &str, &str); 3] = [
    ("VOLLEY_SIM_SECONDS", "30", "600"),
    ("VOLLEY_SIM_SEEDS", "1000", "10000"),
    ("VOLLEY_JOIN_MATRIX", "short", "long"),
];

/// Cases of `cargo cost` for a commit: each way of a byte once. The others are the same ways with other columns or messages.
const SHORT_COST: &str = "get,get-columns,get-remote,get-proxied,put,put-strings,put-copy,put-proxied";

/// The variable for how many tests of an executable run beside each other, and how many do. Those of clusters mostly wait for processes, so
/// there are more than processors of a small machine.
const TEST_THREADS: (&str, usize) = ("RUST_TEST_THREADS", 3);

/// How many client tests run beside each other. They mostly wait for processes, so there are more than processors of a small
/// machine. Each begins with consecutive files, and takes tests from the others at its end: a shared cluster starts once for each.
const CLIENT_WORKERS: [&str; 4] = ["-n", "4", "--dist", "worksteal"];

fn format(project: &Project, _: VerifyPurpose) -> VerifyResult {
    run(&mut project.cargo(&["fmt", "--all", "--check"])).map_err(|e| format!("{e}; `cargo fmt --all` formats it"))
}

fn lint(project: &Project, _: VerifyPurpose) -> VerifyResult {
    run(&mut project.cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

fn test(project: &Project, purpose: VerifyPurpose) -> VerifyResult {
    // Without a choice of targets cargo would link the examples, too, which clippy has compiled.
    let mut command = project.cargo(&["test", "--workspace", "--tests", "--locked"]);
    for (name, commit, release) in TEST_FORMS {
        if std::env::var_os(name).is_none() {
            command.env(name, if purpose == VerifyPurpose::Commit { commit } else { release });
        }
    }
    let (variable, threads) = TEST_THREADS;
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    if processors < threads && std::env::var_os(variable).is_none() {
        command.env(variable, threads.to_string());
    }
    run(&mut command)?;
    run(&mut project.cargo(&["test", "--workspace", "--doc", "--locked"]))
}

fn clients(project: &Project, purpose: VerifyPurpose) -> VerifyResult {
    let python = project.python()?;
    let package = python_package::lay_out(project, "debug")?;
    if purpose == VerifyPurpose::Release {
        python_package::install_large_libraries(&python, project)?;
    }
    // Then those that measure time or memory, one after the other.
    for (tests, workers) in [("not alone", &CLIENT_WORKERS[..]), ("alone", &[][..])] {
        let chosen = match purpose {
            VerifyPurpose::Commit => format!("{tests} and not release"),
            VerifyPurpose::Release => tests.to_string(),
        };
        let mut command = Command::new(&python);
        command.args(["-m", "pytest", "-q", "--durations=5", "-m", chosen.as_str()]).args(workers);
        command.args(["tests/python", "tests/attack"]).env("VOLLEY_BIN_DIR", project.binaries("debug"));
        command.env("PYTHONPATH", &package);
        run(command.current_dir(&project.root))?;
    }
    Ok(())
}

fn deploy(project: &Project, _: VerifyPurpose) -> VerifyResult {
    let python = project.python()?;
    let helm = python.with_file_name("helm");
    let mut check = Command::new(python);
    check.arg("tests/deploy/check.py").arg("--helm").arg(helm).arg("--binaries").arg(project.binaries("debug"));
    run(check.current_dir(&project.root))
}

fn chaos(project: &Project, purpose: VerifyPurpose) -> VerifyResult {
    let (faults, seconds, pause) =
        if purpose == VerifyPurpose::Commit { ("15", "30", "15") } else { ("200", "600", "120") };
    let mut command = Command::new(project.binaries("debug").join("volley-chaos"));
    let limits = ["--faults", faults, "--seconds", seconds, "--longest-pause", pause];
    run(command.args(limits).env_remove("VOLLEY_BIN_DIR"))
}

fn cost(project: &Project, purpose: VerifyPurpose) -> VerifyResult {
    let mut command = Command::new(project.binaries("debug").join("volley-cost"));
    if purpose == VerifyPurpose::Commit {
        command.args(["--only", SHORT_COST]);
    }
    run(command.env_remove("VOLLEY_BIN_DIR"))
}

fn demo(project: &Project, _: VerifyPurpose) -> VerifyResult {
    run(Command::new(project.binaries("debug").join("volley")).args(["demo", "--scale", "0.05"]))
}

fn docs(project: &Project, _: VerifyPurpose) -> VerifyResult {
    run(project.cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn book(project: &Project, _: VerifyPurpose) -> VerifyResult {
    let python = project.python()?;
    let mdbook = MDBOOK.provide(project)?;
    let mut test = Command::new(&python);
    run(test.args(["-m", "pytest", "-q", "tests/docs"]).current_dir(&project.root))?;
    let mut build = Command::new(python);
    build.arg("tests/docs/book.py").arg("--mdbook").arg(mdbook).arg("--out").arg(project.target.join("book"));
    run(build.current_dir(&project.root))
}

fn dependencies(project: &Project, _: VerifyPurpose) -> VerifyResult {
    let deny = DEPENDENCY_CHECKER.provide(project)?;
    run(Command::new(deny).args(["check", "bans", "licenses", "sources"]).current_dir(&project.root))
}

fn attack(project: &Project, _: VerifyPurpose) -> VerifyResult {
    let script = release_suites::script("attack").ok_or("there is no program of attacks")?;
    release_suites::run_script(project, script, &[])
}

fn fuzz_targets(project: &Project, _: VerifyPurpose) -> VerifyResult {
    fuzz::run_targets(project, &[])
}

fn wheel(project: &Project, _: VerifyPurpose) -> VerifyResult {
    python_package::build_wheels(project)
}
