//! Clusters of `volley dev`, for the tests of the program.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A running `volley dev`, killed on drop.
pub struct DevProcess {
    child: Child,
    pub address: String,
}

impl DevProcess {
    pub fn start(folder: &Path, more: &[&str]) -> DevProcess {
        let mut child = volley(&["dev", "--port", "0", "--data-dir", folder.to_str().unwrap()])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line:?}")).trim().to_string();
        DevProcess { child, address }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        volley(args).env("VOLLEY_CLUSTER", &self.address).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// The error line of a command that fails.
    pub fn error(&self, args: &[&str]) -> String {
        one_error(self.run(args), args)
    }

    /// Stops it with SIGINT.
    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for DevProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn volley(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_volley"));
    command.args(args);
    // The developer's own cluster and login.
    let login = ["CONTEXT", "USER", "PASSWORD", "TOKEN", "TOKEN_FILE", "PLAINTEXT_LOGIN"];
    for variable in login.into_iter().chain(["CLUSTER", "LOCAL", "PREFER"]) {
        command.env_remove(format!("VOLLEY_{variable}"));
    }
    // There are no contexts.
    command.env("XDG_CONFIG_HOME", "/nonexistent/volley-tests");
    command
}

pub fn one_error(output: Output, args: &[&str]) -> String {
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("volley: ") && text.lines().count() == 1, "{args:?}: {text}");
    text
}

pub fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1..].sort_unstable();
    lines
}
