//! `cargo fuzz-all`: builds the fuzz targets of `fuzz/` with coverage, runs each under libFuzzer for some minutes, and prints
//! what it did.
//!
//! ```text
//! cargo fuzz-all [--minutes N] [--jobs N] [TARGET...]
//! ```
//!
//! Everything but the inputs of findings, in `fuzz/artifacts/`, is in `target/fuzz/`: programs, logs, seeds, and the corpus that
//! grows with every run. The flags are those of `cargo fuzz run --sanitizer none` (cargo-fuzz 0.13, `src/project.rs`), which a
//! stable compiler accepts; without `--cfg fuzzing`, so that what is tested is what is deployed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use volley_verify::{Project, VerifyResult, run};

const PACKAGE: &str = "volley-fuzz";
/// Instead of those in `.cargo/config.toml`, so `tokio_unstable` is here, too.
const RUSTFLAGS: &str = "--cfg tokio_unstable \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-sanitizer-coverage-stack-depth \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
/// The variable that makes a target write its seeds to a folder.
const SEEDS: &str = "VOLLEY_FUZZ_SEEDS";
/// Resident memory that is a finding, MiB.
const MAX_RESIDENT_MIB: u32 = 2048;
/// Address space, KiB: an allocation that is never touched takes no resident memory, and is one, too.
const MAX_ADDRESSES_KIB: u32 = 8 << 20;
/// An input that takes longer is a finding, seconds.
const MAX_SECONDS: u32 = 25;
/// The longest input, bytes.
const MAX_INPUT: u32 = 64 << 10;
/// Inputs of findings begin with one of these; libFuzzer also keeps slow ones.
const FINDINGS: [&str; 4] = ["crash-", "oom-", "timeout-", "leak-"];

/// What the command line asks for.
struct FuzzOptions {
    minutes: f64,
    jobs: usize,
    targets: Vec<String>,
}

/// The result of one target.
struct FuzzReport {
    target: String,
    executions: u64,
    per_second: u64,
    new_inputs: usize,
    resident_mib: u64,
    /// What ended it too early, or the inputs of its findings.
    problems: Vec<String>,
}

/// Builds and runs the targets that `arguments` name, or all.
///
/// # Errors
/// A bad argument; the build fails; a target has a finding.
pub fn run_targets(project: &Project, arguments: &[String]) -> VerifyResult {
    let known = targets(project)?;
    if arguments.iter().any(|argument| argument == "--list" || argument == "--help") {
        println!("cargo fuzz-all [--minutes N] [--jobs N] [TARGET...]; the targets:\n{}", known.join("\n"));
        return Ok(());
    }
    let options = parse(arguments, known)?;
    let programs = build(project, &options.targets)?;
    let queue = Mutex::new(options.targets.iter());
    let next = || queue.lock().ok()?.next();
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while let Some(target) = next() {
                    println!("{target} ...");
                    let report = fuzz(project, &programs, target, options.minutes);
                    println!("{target}: {}", report.outcome());
                    if let Ok(mut reports) = reports.lock() {
                        reports.push(report);
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().map_err(|e| e.to_string())?;
    reports.sort_by_key(|report| options.targets.iter().position(|target| *target == report.target));
    print(&reports);
    let failed: Vec<&str> =
        reports.iter().filter(|report| !report.problems.is_empty()).map(|report| report.target.as_str()).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("findings of {}", failed.join(", "))) }
}

/// The names of all targets.
fn targets(project: &Project) -> Result<Vec<String>, String> {
    let folder = project.root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_string());
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| name(entry.path())).collect();
    names.sort();
    Ok(names)
}

fn parse(arguments: &[String], known: Vec<String>) -> Result<FuzzOptions, String> {
    let mut options = FuzzOptions { minutes: 1.0, jobs: 1, targets: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a number"));
        match argument.as_str() {
            "--minutes" => options.minutes = number(value()?)?,
            "--jobs" => options.jobs = number::<usize>(value()?)?.max(1),
            name if known.iter().any(|target| target == name) => options.targets.push(name.to_string()),
            other => return Err(format!("there is no target {other:?}: the targets are {}", known.join(", "))),
        }
    }
    if options.targets.is_empty() {
        options.targets = known;
    }
    if options.minutes > 0.0 { Ok(options) } else { Err("--minutes must be more than 0".into()) }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Builds the programs; returns their folder.
fn build(project: &Project, targets: &[String]) -> Result<PathBuf, String> {
    let host = host()?;
    let folder = project.target.join("fuzz");
    let mut command = project.cargo(&["build", "--locked", "--package", PACKAGE, "--features", "libfuzzer"]);
    // With a target, the flags do not apply to build scripts and macros of the compiler, which libFuzzer is not part of.
    command.args(["--profile", "fuzz", "--target", host.as_str(), "--target-dir"]).arg(&folder);
    command.args(targets.iter().flat_map(|target| ["--bin", target.as_str()]));
    run(command.env("RUSTFLAGS", RUSTFLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(folder.join(host).join("fuzz"))
}

/// The triple of this machine.
fn host() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc could not be started: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_string).ok_or_else(|| "rustc -vV names no host".into())
}

/// Runs a target for some minutes, or until its first finding.
fn fuzz(project: &Project, programs: &Path, target: &str, minutes: f64) -> FuzzReport {
    let mut report = FuzzReport {
        target: target.to_string(),
        executions: 0,
        per_second: 0,
        new_inputs: 0,
        resident_mib: 0,
        problems: Vec::new(),
    };
    let artifacts = project.root.join("fuzz/artifacts").join(target);
    let corpus = project.target.join("fuzz/corpus").join(target);
    let (known, inputs) = (names(&artifacts), names(&corpus).len());
    match run_program(project, programs, target, minutes) {
        Ok(log) => {
            report.executions = statistic(&log, "number_of_executed_units");
            report.per_second = statistic(&log, "average_exec_per_sec");
            report.resident_mib = statistic(&log, "peak_rss_mb");
        }
        Err(problem) => report.problems.push(problem),
    }
    report.new_inputs = names(&corpus).len().saturating_sub(inputs);
    let new = names(&artifacts).into_iter().filter(|name| !known.contains(name));
    let findings = new.filter(|name| FINDINGS.iter().any(|kind| name.starts_with(kind)));
    report.problems.extend(findings.map(|name| format!("fuzz/artifacts/{target}/{name}")));
    report
}

/// Runs a target's program; returns its log.
fn run_program(project: &Project, programs: &Path, target: &str, minutes: f64) -> Result<String, String> {
    let work = project.target.join("fuzz");
    let artifacts = project.root.join("fuzz/artifacts").join(target);
    let [corpus, seeds, logs] = ["corpus", "seeds", "logs"].map(|name| work.join(name));
    let (corpus, seeds, log) = (corpus.join(target), seeds.join(target), logs.join(format!("{target}.log")));
    // Parts are written there, and memory is faster than a disk.
    let memory = Path::new("/dev/shm");
    let temporary = if memory.is_dir() { memory } else { work.as_path() };
    let temporary = temporary.join(format!("volley-fuzz-{}-{target}", std::process::id()));
    for folder in [&artifacts, &corpus, &seeds, &logs, &temporary] {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let output = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
    let (output, errors) = output.map_err(|e| format!("{}: {e}", log.display()))?;
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v \"$0\" && exec \"$@\""]).arg(MAX_ADDRESSES_KIB.to_string());
    command.arg(programs.join(target));
    command.arg(format!("-max_total_time={}", (minutes * 60.0).ceil().max(1.0)));
    command.arg(format!("-timeout={MAX_SECONDS}")).arg(format!("-rss_limit_mb={MAX_RESIDENT_MIB}"));
    command.arg(format!("-max_len={MAX_INPUT}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let dictionary = project.root.join("fuzz/dictionaries").join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    // libFuzzer adds to the first folder, and only reads the others.
    command.args([&corpus, &seeds]);
    command.args(Some(project.root.join("fuzz/corpus").join(target)).filter(|folder| folder.exists()));
    command.env(SEEDS, &seeds).env("TMPDIR", &temporary).current_dir(&project.root);
    let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status();
    let _ = fs::remove_dir_all(&temporary);
    let status = status.map_err(|e| format!("{} could not be started: {e}", programs.join(target).display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    match status.success() || text.contains("stat::") {
        true => Ok(text),
        false => Err(format!("it ended with {status}, see {}", log.display())),
    }
}

/// The names of the files of a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A number of libFuzzer's final statistics, as `stat::peak_rss_mb: 52`.
fn statistic(log: &str, name: &str) -> u64 {
    let line = log.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
    line.and_then(|value| value.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
}

impl FuzzReport {
    fn outcome(&self) -> String {
        if self.problems.is_empty() { "no finding".into() } else { self.problems.join(", ") }
    }
}

fn print(reports: &[FuzzReport]) {
    println!("\n{:<14} {:>12} {:>8} {:>11} {:>8}  outcome", "target", "executions", "exec/s", "new inputs", "RSS MiB");
    for report in reports {
        let FuzzReport { target, executions, per_second, new_inputs, resident_mib, .. } = report;
        let outcome = report.outcome();
        println!("{target:<14} {executions:>12} {per_second:>8} {new_inputs:>11} {resident_mib:>8}  {outcome}");
    }
    let all: u64 = reports.iter().map(|report| report.executions).sum();
    println!("{:<14} {all:>12}", "all");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn arguments_choose_targets_and_times() {
        let options = parse(&words("--minutes 0.5 put --jobs 2"), words("parts put")).unwrap();
        assert_eq!((options.minutes, options.jobs, options.targets), (0.5, 2, words("put")));
        assert_eq!(parse(&[], words("parts put")).unwrap().targets, words("parts put"));
        for bad in ["gone", "--minutes", "--minutes x", "--minutes 0"] {
            assert!(parse(&words(bad), words("parts put")).is_err(), "{bad}");
        }
    }

    #[test]
    fn statistics_are_read_from_the_log() {
        let log = "#12 DONE\nstat::number_of_executed_units: 1204\nstat::average_exec_per_sec:     301\n";
        assert_eq!(statistic(log, "number_of_executed_units"), 1204);
        assert_eq!(statistic(log, "average_exec_per_sec"), 301);
        assert_eq!(statistic(log, "peak_rss_mb"), 0);
    }
}
