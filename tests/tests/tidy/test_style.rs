//! Tests have one style: unit tests of a long file in `foo/tests.rs`, and short names.

use crate::source::{self, SourceFile};

/// Characters of a test's name. `subject_condition_result` fits into about 60.
const MAX_NAME: usize = 65;

/// Files that may use `#[path]`, and why.
const SHARED_MODULES: &[(&str, &str)] = &[
    ("coordinator/tests/raft/main.rs", "it shares raft_support with the simulation, which is no crate of its own"),
    ("coordinator/tests/simulation/main.rs", "the same module"),
    ("node/src/lib.rs", "the random batches of volley-common's own tests; a library must not export them"),
    ("formats/src/exact/tests.rs", "the same batches"),
    ("fuzz/src/lib.rs", "the same batches, as seeds of the fuzz targets"),
];

/// Test files in other places, `#[path]` attributes, and tests with long names.
fn violations(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    if file.path.contains("/src/") && file.path.ends_with("_tests.rs") {
        found.push(format!("{}: unit tests belong in `tests.rs` of the module's folder", file.path));
    }
    let mut lines = file.text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[path") && SHARED_MODULES.iter().all(|(path, _)| *path != file.path) {
            found.push(format!("{}: a module's file follows from its name, without {line}", file.path));
        }
        if !line.starts_with("#[test]") && !line.starts_with("#[tokio::test") {
            continue;
        }
        let name = lines.find_map(|line| line.split_once("fn ").map(|(_, rest)| rest.split('(').next().unwrap()));
        if let Some(name) = name.filter(|name| name.len() > MAX_NAME) {
            found.push(format!("{}: the name of {name} is longer than {MAX_NAME} characters", file.path));
        }
    }
    found
}

#[test]
fn tests_have_one_style() {
    let folders =
        ["common", "client", "formats", "http", "coordinator", "sql", "node", "cli", "python", "fuzz", "tests"];
    let files = folders.into_iter().flat_map(|folder| source::files(folder, &["rs"]));
    // The samples below have every violation.
    let files = files.filter(|file| !file.path.ends_with("tidy/test_style.rs"));
    let found: Vec<String> = files.flat_map(|file| violations(&file)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        violations(&SourceFile { path: path.into(), text: text.into() }).len()
    }

    #[test]
    fn other_places_and_long_names_fail() {
        let long = format!("#[test]\nfn {}() {{}}", "x".repeat(MAX_NAME + 1));
        assert_eq!(found("node/src/a/tests.rs", &long), 1);
        assert_eq!(found("node/src/a.rs", "#[cfg(test)]\n#[path = \"b.rs\"]\nmod tests;"), 1);
        assert_eq!(found("node/src/a_tests.rs", ""), 1);
    }

    #[test]
    fn short_names_in_the_right_place_pass() {
        let text = "#[tokio::test(flavor = \"multi_thread\")]\n#[ignore]\nasync fn put_of_nothing_is_refused() {}";
        assert_eq!(found("node/src/a/tests.rs", text), 0);
        assert_eq!(found("coordinator/tests/raft_tests.rs", ""), 0);
    }
}
