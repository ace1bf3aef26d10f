//! The rules of this repository that no compiler checks.
//!
//! | module | rule |
//! |---|---|
//! | this file | dependencies between crates, where file I/O and clocks may be used, versions, profiles, targets without tests |
//! | [`lengths`] | how long a file may be |
//! | [`features`] | tests compile no dependency a second time |
//! | [`cycles`] | no cycle between the modules of a crate |
//! | [`type_names`] | a type name means one thing in the workspace |
//! | [`vocabulary`] | banned names do not come back |
//! | [`test_style`] | where unit tests are, and how long names of tests are |
//! | [`paths`] | paths that the documentation names exist |
//! | [`unsafe_code`] | which modules may have `unsafe`, and that each block has its proof |
//! | [`source`], [`tokens`] | Rust source as the rules read it |
//!
//! Every rule has a test that a bad sample fails. An exception says why it is one, and fails when it is no longer needed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cycles;
mod features;
mod lengths;
mod paths;
mod source;
mod test_style;
mod tokens;
mod type_names;
mod unsafe_code;
mod vocabulary;

use std::fs;
use std::path::Path;

use source::root;

/// The members of the workspace, as the root manifest lists them.
fn members() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    list.split(',').map(|name| name.trim().trim_matches('"').to_string()).filter(|name| !name.is_empty()).collect()
}

/// Path and text of every Rust file below a folder.
fn sources(under: &str) -> Vec<(String, String)> {
    source::files(under, &["rs"]).into_iter().map(|file| (file.path, file.text)).collect()
}

/// The crates of this workspace that a member's manifest names.
fn depends_on(member: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let names = manifest.lines().filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()));
    names.filter(|name| name.starts_with("volley-")).map(str::to_string).collect()
}

#[test]
fn crates_depend_only_on_allowed_crates() {
    for (member, allowed) in [
        ("common", &[][..]),
        ("client", &["volley-common"][..]),
        ("formats", &["volley-common"][..]),
        ("http", &["volley-common", "volley-formats"][..]),
        ("coordinator", &["volley-common", "volley-http", "volley-linearizability"][..]),
        ("sql", &["volley-common"][..]),
        ("node", &["volley-common", "volley-http", "volley-sql"][..]),
        ("cli", &["volley-client", "volley-common", "volley-coordinator", "volley-formats", "volley-node"][..]),
        ("python", &["volley-client", "volley-common"][..]),
    ] {
        for dependency in depends_on(member) {
            assert!(allowed.contains(&dependency.as_str()), "{member} depends on {dependency}");
        }
    }
}

#[test]
fn versions_stand_in_the_workspace_manifest_only() {
    for member in members() {
        let manifest = fs::read_to_string(root().join(&member).join("Cargo.toml")).unwrap();
        let versioned = manifest.lines().find(|line| line.contains("version = \"") || line.ends_with("= \"*\""));
        assert_eq!(versioned, None, "{member}/Cargo.toml names a version: put it into [workspace.dependencies]");
    }
}

#[test]
fn members_have_the_profile_of_members() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let profiles = manifest.split("[profile.dev.package]").nth(1).unwrap().split("\n[").next().unwrap();
    for member in members() {
        let manifest = fs::read_to_string(root().join(&member).join("Cargo.toml")).unwrap();
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")).unwrap().trim_end_matches('"');
        let is_program = member == "cli" || member == "fuzz" || member == "tests" || member.starts_with("tests/");
        let level = if is_program && member != "tests/linearizability" { 0 } else { 1 };
        let expected = format!("{name} = {{ opt-level = {level}, debug = \"line-tables-only\" }}");
        assert!(profiles.lines().any(|line| line == expected), "[profile.dev.package] lacks {expected}");
    }
}

/// The first files of a manifest's targets that have no test executable.
fn untested_targets(manifest: &str) -> Vec<String> {
    let sections = manifest.split("\n[").filter(|section| section.lines().any(|line| line == "test = false"));
    let value = |section: &str, key: &str| {
        let line = section.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'));
        line.map(str::to_string)
    };
    sections
        .filter_map(|section| match value(section, "path") {
            Some(path) => Some(path),
            None if section.starts_with("lib]") => Some("src/lib.rs".into()),
            None => value(section, "name").map(|name| format!("src/bin/{name}.rs")),
        })
        .collect()
}

/// Whether a file, or a module that it declares, has tests.
fn has_tests(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap();
    if ["#[test]", "#[tokio::test", "#[cfg(test)]"].iter().any(|mark| text.contains(mark)) {
        return true;
    }
    let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") => file.parent().unwrap().to_path_buf(),
        _ => file.with_extension(""),
    };
    let names = text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    let mut files = names.flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]);
    files.any(|module| module.exists() && has_tests(&module))
}

#[test]
fn targets_without_a_test_executable_have_no_tests() {
    for member in members() {
        let folder = root().join(&member);
        for file in untested_targets(&fs::read_to_string(folder.join("Cargo.toml")).unwrap()) {
            assert!(!has_tests(&folder.join(&file)), "{member}/{file} has tests: remove `test = false` of its target");
        }
    }
    let sample = "[package]\n\n[lib]\ntest = false\n\n[[bin]]\nname = \"a\"\ntest = false\n\n[[bin]]\nname = \"b\"\n";
    assert_eq!(untested_targets(sample), ["src/lib.rs", "src/bin/a.rs"]);
    assert!(has_tests(&root().join("tests/tests/tidy/main.rs")));
}

#[test]
fn servers_have_the_same_file_names() {
    for file in ["main.rs", "lib.rs", "server.rs", "config.rs"] {
        for member in ["coordinator", "node"] {
            assert!(root().join(member).join("src").join(file).exists(), "{member}/src/{file} is missing");
        }
    }
}

#[test]
fn file_io_stays_in_the_storage_modules() {
    let allowed = [
        "node/src/storage/",
        "coordinator/src/raft/",
        "/main.rs",
        "/config.rs",
        "client/src/token_file.rs",
        "/server/audit/rotation.rs",
        "/administrator_file.rs",
        "/file_lock.rs",
        "/server/data_folder.rs",
        "/server/otlp_headers.rs",
        "/tls/pem.rs",
        "/tls/reload.rs",
        "/tls/testing.rs",
        "/identity/oidc/jwks_source.rs",
        "/local_read/machine.rs",
        "/local_read/socket_file.rs",
        "http/src/transfer/spool.rs",
        "tests",
    ];
    for member in ["common/src", "client/src", "http/src", "coordinator/src", "node/src", "python/src"] {
        for (name, text) in sources(member) {
            if allowed.iter().any(|folder| name.contains(folder)) {
                continue;
            }
            let code = text.split("#[cfg(test)]").next().unwrap();
            for word in ["std::fs", "tokio::fs", "File::open", "File::create"] {
                assert!(!code.contains(word), "{name} uses {word}: file I/O belongs in the storage modules");
            }
        }
    }
}

#[test]
fn state_machine_reads_no_clock_and_no_randomness() {
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
fn lock_file_has_one_version_of_each_wire_crate() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    for one in [
        "arrow",
        "arrow-flight",
        "arrow-ipc",
        "datafusion",
        "parquet",
        "tonic",
        "prost",
        "hyper",
        "h2",
        "tokio",
        "openraft",
        "redb",
    ] {
        let count = names.iter().filter(|name| name.trim_matches('"') == one).count();
        assert_eq!(count, 1, "Cargo.lock has {count} versions of {one}");
    }
    let rustls = names.iter().filter(|name| **name == "\"rustls\"").count();
    assert!(rustls <= 1, "Cargo.lock has {rustls} versions of rustls");
}
