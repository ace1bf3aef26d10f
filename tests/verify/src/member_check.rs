//! Clippy and rustdoc for the members of the workspace, on dependencies that are built as programs and tests need them. `cargo clippy` and
//! `cargo doc` need other builds of all dependencies, for checks alone, which take minutes.
//!
//! Cargo calls this program in place of the compiler for each target of a member (`RUSTC_WORKSPACE_WRAPPER`), which checks the target, and
//! makes its metadata but no code. cargo-miri does so, too. A target without code never counts as built: each run checks all members.

use std::path::Path;
use std::process::{Command, ExitCode};

use volley_verify::{Project, VerifyResult, run};

/// Has the name of the check while cargo runs.
const VARIABLE: &str = "VOLLEY_MEMBER_CHECK";
/// As cargo-clippy passes the arguments `-D warnings` to clippy.
const CLIPPY_ARGUMENTS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";

/// What members are checked with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MemberCheck {
    /// Clippy.
    Lint,
    /// Rustdoc.
    Docs,
}

impl MemberCheck {
    const fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Docs => "docs",
        }
    }

    /// The check for which cargo has called this program.
    pub fn of_environment() -> Option<Self> {
        let name = std::env::var(VARIABLE).ok()?;
        [Self::Lint, Self::Docs].into_iter().find(|check| check.name() == name)
    }

    /// Checks the targets of all members that these arguments of cargo choose.
    ///
    /// # Errors
    /// A dependency cannot be built, or there is a warning.
    pub fn run(self, project: &Project, targets: &[&str]) -> VerifyResult {
        let program = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
        let mut build = project.cargo(&["build", "--workspace", "--locked"]);
        build.args(targets).env("RUSTC_WORKSPACE_WRAPPER", program).env(VARIABLE, self.name());
        run(build.env("CLIPPY_ARGS", CLIPPY_ARGUMENTS))
    }

    /// Checks one target; `call` is cargo's call of the compiler.
    pub fn check_target(self, call: &[String]) -> ExitCode {
        let Some((rustc, arguments)) = call.split_first() else { return ExitCode::FAILURE };
        if self.succeeds(rustc, arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn succeeds(self, rustc: &str, arguments: &[String]) -> bool {
        let mut compiler = match self {
            Self::Lint => Command::new("clippy-driver"),
            Self::Docs => Command::new(rustc),
        };
        if self == Self::Lint {
            compiler.arg(rustc);
        }
        match CompilerCall::of(arguments) {
            CompilerCall::Question => finish(Command::new(rustc).args(arguments)),
            CompilerCall::BuildScript => finish(compiler.args(arguments)),
            CompilerCall::Target => {
                let arguments = without_code(arguments, |path| Path::new(path).exists());
                finish(compiler.args(&arguments)) && (self == Self::Lint || document(&arguments))
            }
        }
    }
}

/// What cargo calls the compiler for.
#[derive(Debug, PartialEq, Eq)]
enum CompilerCall {
    /// For its version, or the names of files.
    Question,
    /// For a program that runs during the build.
    BuildScript,
    /// For a target of a member.
    Target,
}

impl CompilerCall {
    fn of(arguments: &[String]) -> Self {
        let is_script = value(arguments, "--crate-name").is_some_and(|name| name.starts_with("build_script_"));
        match arguments.iter().any(|argument| argument.starts_with("--emit=")) {
            false => Self::Question,
            true if is_script || value(arguments, "--crate-type") == Some("proc-macro") => Self::BuildScript,
            true => Self::Target,
        }
    }
}

/// The argument after this one.
fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// Arguments with which the compiler makes metadata only. Members have no library, so the metadata of those takes its place.
fn without_code(arguments: &[String], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let changed = arguments.iter().map(|argument| {
        let library = argument.split_once('=').filter(|(_, path)| path.ends_with(".rlib") && !exists(path));
        match library {
            Some(_) => argument.trim_end_matches(".rlib").to_string() + ".rmeta",
            None if argument.starts_with("--emit=") => "--emit=dep-info,metadata".into(),
            None => argument.clone(),
        }
    });
    changed.collect()
}

/// Runs rustdoc for the target of these arguments. As with `cargo doc`, the library of a package is preferred to a program of its name,
/// and of programs everything is documented.
fn document(arguments: &[String]) -> bool {
    let is_program = value(arguments, "--crate-type") == Some("bin");
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default().replace('-', "_");
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let has_library = Path::new(&folder).join("src/lib.rs").exists();
    if is_program && has_library && value(arguments, "--crate-name") == Some(package.as_str()) {
        return true;
    }
    let project = match Project::find() {
        Ok(project) => project,
        Err(why) => {
            eprintln!("{why}");
            return false;
        }
    };
    let mut rustdoc = Command::new("rustdoc");
    rustdoc.args(documentation_arguments(arguments)).arg("--out-dir").arg(project.target.join("doc"));
    if is_program {
        rustdoc.arg("--document-private-items");
    }
    finish(rustdoc.args(["-D", "warnings"]))
}

/// The compiler's arguments that rustdoc has, too, without the folder of results.
fn documentation_arguments(arguments: &[String]) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        match argument {
            // With their values.
            "-C" | "--out-dir" => {
                rest.next();
            }
            emitted if emitted.starts_with("--emit=") => {}
            other => kept.push(other),
        }
    }
    kept
}

/// Whether a command succeeds. It says itself why it does not.
fn finish(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(e) => {
            eprintln!("{} could not be started: {e}", command.get_program().to_string_lossy());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "--crate-name a --edition=2024 a/src/lib.rs --crate-type lib --emit=dep-info,metadata,link -C opt-level=1 \
        --out-dir /t/deps -L dependency=/t/deps --extern b=/t/deps/libb-1.rlib --extern c=/t/deps/libc-2.rlib";

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn calls_of_the_compiler_are_told_apart() {
        assert_eq!(CompilerCall::of(&words(TARGET)), CompilerCall::Target);
        assert_eq!(CompilerCall::of(&words("- --crate-name ___ --print=file-names")), CompilerCall::Question);
        let script = "--crate-name build_script_build build.rs --crate-type bin --emit=dep-info,link";
        assert_eq!(CompilerCall::of(&words(script)), CompilerCall::BuildScript);
    }

    #[test]
    fn metadata_takes_the_place_of_missing_libraries() {
        let checked = without_code(&words(TARGET), |path| path.ends_with("libc-2.rlib")).join(" ");
        assert!(checked.contains("--emit=dep-info,metadata -C"), "{checked}");
        assert!(checked.ends_with("--extern b=/t/deps/libb-1.rmeta --extern c=/t/deps/libc-2.rlib"), "{checked}");
    }

    #[test]
    fn rustdoc_gets_no_arguments_about_code() {
        let wanted = "--crate-name a --edition=2024 a/src/lib.rs --crate-type lib -L dependency=/t/deps \
            --extern b=/t/deps/libb-1.rlib --extern c=/t/deps/libc-2.rlib";
        assert_eq!(documentation_arguments(&words(TARGET)).join(" "), words(wanted).join(" "));
    }
}
