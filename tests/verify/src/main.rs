//! `cargo verify`: every check that a change must pass, in one command.
//!
//! ```text
//! cargo verify                 all steps that a commit needs, in order; stops at the first that fails
//! cargo verify --all           what a release needs: heavy suites in their long form, and steps of their own
//! cargo verify STEP...         only these steps; with --all in their long form
//! cargo verify --list          the steps, and what the forms of each are
//! cargo verify-compose         the compose file on this machine's Docker engine, under faults
//! cargo verify-kubernetes      the chart on the cluster of KUBECONFIG, under faults
//! cargo verify-compose-tls     the compose file with TLS, and new certificates
//! cargo verify-kubernetes-tls  the chart from plaintext to TLS, and new certificates
//! cargo fuzz-all               the fuzz targets under libFuzzer, each for some minutes
//! cargo attack                 a cluster of real processes under attack by hostile clients, the long form
//! ```
//!
//! What a step needs beyond the Rust toolchain is installed in the project's folder: the Python environment of the client
//! tests, the dependency checker and mdBook in `.venv`; in `.tools` the latter two where they have to be built.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it prints its report")]

mod fuzz;
mod packaged_programs;
mod release_suites;
mod steps;

use std::process::ExitCode;
use std::time::Instant;

use steps::{STEPS, StepForms, VerifyPurpose, VerifyStep};
use volley_verify::{Project, VerifyResult, run};

/// Chooses the long form of every step.
const ALL: &str = "--all";
/// The programs that steps start. Tests build those of their own; the benchmarks are only linted and tested.
const PROGRAMS: [&str; 5] = ["volley", "volley-coordinator", "volley-node", "volley-chaos", "volley-cost"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, more @ ..] = &arguments[..]
        && let Some(script) = release_suites::script(first)
    {
        return exit_code(Project::find().and_then(|project| release_suites::run_script(&project, script, more)));
    }
    if let [first, more @ ..] = &arguments[..]
        && first == "fuzz"
    {
        return exit_code(Project::find().and_then(|project| fuzz::run_targets(&project, more)));
    }
    if arguments.iter().any(|a| a == "--list" || a == "--help") {
        STEPS.iter().for_each(list);
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = arguments.iter().filter(|a| *a != ALL).collect();
    if let Some(unknown) = names.iter().find(|name| STEPS.iter().all(|step| step.name != name.as_str())) {
        println!("there is no step {unknown:?}; `cargo verify --list` names them");
        return ExitCode::FAILURE;
    }
    let is_all = arguments.iter().any(|a| a == ALL);
    let purpose = if is_all { VerifyPurpose::Release } else { VerifyPurpose::Commit };
    let is_chosen = |step: &VerifyStep| match &names[..] {
        [] => step.is_needed_for(purpose),
        names => names.iter().any(|name| name.as_str() == step.name),
    };
    let chosen = STEPS.iter().filter(|&step| is_chosen(step));
    exit_code(Project::find().and_then(|project| run_all(&project, chosen, purpose)))
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

fn list(step: &VerifyStep) {
    println!("{:<14} {}", step.name, step.about);
    match step.forms {
        StepForms::One => {}
        StepForms::Two { short, long } => println!("                 short: {short}\n                 {ALL}: {long}"),
        StepForms::ReleaseOnly => println!("                 only with {ALL}, or by its name"),
    }
}

fn run_all<'a>(project: &Project, steps: impl Iterator<Item = &'a VerifyStep>, purpose: VerifyPurpose) -> VerifyResult {
    let mut report = String::new();
    let (mut is_built, mut is_shortened) = (false, false);
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        if step.needs_binaries && !is_built {
            let begin = Instant::now();
            let mut build = project.cargo(&["build", "--workspace", "--lib", "--locked"]);
            build.args(PROGRAMS.iter().flat_map(|name| ["--bin", *name]));
            run(&mut build).map_err(|why| format!("build: {why}"))?;
            report += &line("build", begin);
            is_built = true;
        }
        let begin = Instant::now();
        (step.run)(project, purpose).map_err(|why| format!("{}: {why}", step.name))?;
        report += &line(step.name, begin);
        is_shortened |= purpose == VerifyPurpose::Commit && matches!(step.forms, StepForms::Two { .. });
    }
    println!("\nverified:\n{report}");
    if is_shortened {
        println!("heavy suites ran in their short form; a release needs `cargo verify {ALL}`");
    }
    Ok(())
}

fn line(name: &str, begin: Instant) -> String {
    format!("  {name:<14} {:>5.0} s\n", begin.elapsed().as_secs_f64())
}
