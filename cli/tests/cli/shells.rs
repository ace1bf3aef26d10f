//! Tests what shells and terminals get: completions, pages of man, colours.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{DevProcess, one_error, volley};

fn ok(args: &[&str]) -> String {
    let output = volley(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What bash offers for the last word.
fn bash_offers(script: &Path, words: &[&str], address: &str) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_volley");
    let body = r#"
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
        _volley_or_tables "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", body, "bash", script.to_str().unwrap(), program]).args(words);
    let output = bash.env("VOLLEY_CLUSTER", address).env_remove("VOLLEY_CONTEXT").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

#[test]
fn bash_completes_commands_and_tables() {
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("volley.bash");
    std::fs::write(&script, ok(&["completions", "bash"])).unwrap();
    let nobody = "grpc://127.0.0.1:1";
    assert!(bash_offers(&script, &["cluster", "rot"], nobody).contains(&"rotate-keys".to_string()));
    assert!(!bash_offers(&script, &["get", ""], nobody).contains(&"days/one".to_string()));

    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let csv = folder.path().join("t.csv");
    std::fs::write(&csv, "n\n1\n").unwrap();
    for table in ["days/one", "other"] {
        dev.ok(&["put", csv.to_str().unwrap(), "--table", table]);
    }
    // Under load the answer may take longer than a shell waits.
    let offers =
        |words: &[&str]| (0..100).any(|_| bash_offers(&script, words, &dev.address).contains(&"days/one".into()));
    assert!(offers(&["get", "da"]));
    let address = dev.address.clone();
    dev.stop();
    assert!(!bash_offers(&script, &["get", "da"], &address).contains(&"days/one".to_string()));
}

#[test]
fn completion_of_tables_never_prints_an_error() {
    for more in [&["--cluster", "127.0.0.1:1"][..], &["--cluster", "no address"], &["--context", "nowhere"]] {
        let args = [&["__complete-tables", "--prefix=", "--", "volley", "get"][..], more].concat();
        let output = volley(&args).env("VOLLEY_LOG", "!").output().unwrap();
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
    }
}

#[test]
fn every_command_has_a_page_of_man() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("man");
    assert!(ok(&["man", dir.to_str().unwrap()]).contains("pages"));
    let page = std::fs::read_to_string(dir.join("volley-cluster-status.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("yellow"), "{page}");
    let names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    for name in ["volley.1", "volley-put.1", "volley-context-use.1"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("__")), "{names:?}");
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    let nobody = ["ls", "--cluster", "127.0.0.1:1"];
    let plain = one_error(volley(&nobody).output().unwrap(), &nobody);
    assert!(!plain.contains('\u{1b}'), "{plain}");
    let coloured = volley(&nobody).args(["--color", "always"]).output().unwrap();
    let text = String::from_utf8(coloured.stderr).unwrap();
    assert!(text.starts_with("\u{1b}[") && text.contains("volley:\u{1b}[0m "), "{text:?}");
}
