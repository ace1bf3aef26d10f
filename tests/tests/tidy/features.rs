//! Tests add no feature to a dependency that the build of the programs lacks: `cargo test` would compile that dependency, and all
//! that depend on it, a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::source::root;

/// Each dependency with the sets of features in which it is compiled.
type FeatureSets = BTreeMap<String, BTreeSet<String>>;

/// As cargo resolves them along edges of these kinds.
fn resolved(edges: &str) -> FeatureSets {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["tree", "--locked", "--workspace", "--prefix", "none", "--format", "{p} [{f}]", "--edges", edges]);
    let done = cargo.current_dir(root()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    parse(&String::from_utf8(done.stdout).unwrap())
}

/// Lines as "bytes v1.12.1 [default,std]", some with a mark that the line was there before.
fn parse(tree: &str) -> FeatureSets {
    let mut found = FeatureSets::new();
    for line in tree.lines() {
        if let Some((name, features)) = line.trim_end_matches(" (*)").split_once(" [") {
            found.entry(name.to_string()).or_default().insert(features.trim_end_matches(']').to_string());
        }
    }
    found
}

/// The dependencies of programs that have other features with tests.
fn changed<'a>(programs: &'a FeatureSets, tests: &FeatureSets) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (name, features) in programs {
        if tests.get(name) != Some(features) {
            found.push(name.as_str());
        }
    }
    found
}

#[test]
fn tests_add_no_feature_to_dependencies_of_programs() {
    let (programs, tests) = (resolved("normal,build"), resolved("normal,build,dev"));
    assert!(programs.len() > 100, "the dependencies are listed: {programs:?}");
    let other = changed(&programs, &tests);
    assert!(
        other.is_empty(),
        "other features with dev-dependencies: {other:?}; tests/chaos/Cargo.toml has to name them, too"
    );
}

#[test]
fn feature_of_tests_is_found() {
    let programs = parse("bytes v1 [std]\ntokio v1 [net,time]\nregex v1 [a]\nregex v1 [b] (*)\n");
    let tests = parse("bytes v1 [std]\nproptest v1 [std]\ntokio v1 [net,test-util,time]\nregex v1 [b]\n");
    assert_eq!(changed(&programs, &programs), Vec::<&str>::new());
    assert_eq!(changed(&programs, &tests), ["regex v1", "tokio v1"]);
}
