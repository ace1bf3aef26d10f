//! The house rules that no compiler checks: who may depend on whom, where file and Flight types may
//! stand, how long a file may be.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines a source file may have; tests in a file of their own may have as many.
const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(under: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(under)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "{under} has no source");
    found
}

/// The members of this workspace that a member's manifest names.
fn depends_on(member: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let names = manifest.lines().filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()));
    names.filter(|name| name.starts_with("volley-")).map(str::to_string).collect()
}

#[test]
fn members_depend_only_on_whom_they_may() {
    for (member, allowed) in [
        ("common", &[][..]),
        ("coordinator", &["volley-common", "volley-linearizability"][..]),
        ("node", &["volley-common"][..]),
        ("cli", &["volley-common", "volley-coordinator", "volley-node"][..]),
    ] {
        for dependency in depends_on(member) {
            assert!(allowed.contains(&dependency.as_str()), "{member} depends on {dependency}");
        }
    }
}

#[test]
fn every_version_stands_in_the_workspace_manifest() {
    let tests = ["tests", "tests/bench", "tests/chaos", "tests/cost", "tests/linearizability", "tests/verify"];
    for member in ["common", "coordinator", "node", "cli"].into_iter().chain(tests) {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        let versioned = manifest.lines().find(|line| line.contains("version = \"") || line.ends_with("= \"*\""));
        assert_eq!(versioned, None, "{member}/Cargo.toml names a version: put it into [workspace.dependencies]");
    }
}

#[test]
fn files_stay_short() {
    for member in ["common", "coordinator", "node", "cli", "tests"] {
        for (name, text) in sources(member) {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{name} has {lines} lines: which second thing lives there?");
        }
    }
}

#[test]
fn the_two_servers_use_the_same_file_names() {
    for file in ["main.rs", "lib.rs", "server.rs", "config.rs"] {
        for member in ["coordinator", "node"] {
            assert!(root().join(member).join("src").join(file).exists(), "{member}/src/{file} is missing");
        }
    }
}

#[test]
fn file_io_stays_in_the_rooms_that_are_made_for_it() {
    let rooms = ["node/src/storage/", "coordinator/src/raft/", "/main.rs", "/config.rs", "tests"];
    for member in ["common/src", "coordinator/src", "node/src"] {
        for (name, text) in sources(member) {
            if rooms.iter().any(|room| name.contains(room)) {
                continue;
            }
            let code = text.split("#[cfg(test)]").next().unwrap();
            for word in ["std::fs", "tokio::fs", "File::open", "File::create"] {
                assert!(!code.contains(word), "{name} uses {word}: file I/O belongs into the storage modules");
            }
        }
    }
}

#[test]
fn the_state_machine_reads_no_clock_and_no_randomness() {
    for (name, text) in sources("coordinator/src/catalog") {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in ["now_ms()", "Instant::now", "rand::", "::random()"] {
            assert!(
                !code.contains(word) || name.contains("test"),
                "{name} uses {word}: time and ids come in the command"
            );
        }
    }
}

#[test]
fn the_tree_has_one_of_each_that_must_agree() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    for one in
        ["arrow", "arrow-flight", "arrow-ipc", "parquet", "tonic", "prost", "hyper", "h2", "tokio", "openraft", "redb"]
    {
        let count = names.iter().filter(|name| name.trim_matches('"') == one).count();
        assert_eq!(count, 1, "Cargo.lock has {count} versions of {one}");
    }
    let rustls = names.iter().filter(|name| **name == "\"rustls\"").count();
    assert!(rustls <= 1, "Cargo.lock has {rustls} versions of rustls");
}
