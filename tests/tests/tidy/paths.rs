//! Paths that the documentation names exist.

use std::path::Path;

use crate::source::{self, SourceFile};

/// Words that look like paths of the repository but are not: the document, the word, the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Folders with documentation, and single documents.
const DOCUMENTS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs", "tests/README.md", "tests/recorded/README.md"];

/// A word of a `code` span is a path of the repository if it begins with one of these.
const FOLDERS: [&str; 15] = [
    "common/",
    "client/",
    "formats/",
    "http/",
    "coordinator/",
    "sql/",
    "node/",
    "cli/",
    "python/",
    "fuzz/",
    "tests/",
    "docs/",
    "deploy/",
    ".cargo/",
    ".ci/",
];

/// Links and code spans of a document that name paths which do not exist. `exists` gets a path from the repository's root.
fn missing_paths(document: &SourceFile, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = Path::new(&document.path).parent().unwrap().display().to_string();
    let mut found = Vec::new();
    for line in outside_of_fences(&document.text) {
        for target in links(line) {
            let target = target.split('#').next().unwrap();
            if !target.is_empty() && !target.contains(':') && !exists(&joined(&folder, target)) {
                found.push(format!("{} links to {target}", document.path));
            }
        }
        for word in code_spans(line).flat_map(str::split_whitespace).filter(|word| is_path(word)) {
            if !alternatives(word).iter().all(|path| exists(path)) {
                found.push(format!("{} names {word}", document.path));
            }
        }
    }
    found
}

/// The lines that are prose, not a block of code.
fn outside_of_fences(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// The targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_path(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-{},*:".contains(c);
    FOLDERS.iter().any(|folder| word.starts_with(folder)) && word.chars().all(is_plain)
}

/// `a/{b,c}.rs:12` → `a/b.rs`, `a/c.rs`.
fn alternatives(word: &str) -> Vec<String> {
    let word = word.split(':').next().unwrap_or_default().trim_end_matches(['.', ',']);
    match (word.find('{'), word.find('}')) {
        (Some(open), Some(close)) if open < close => {
            let inner = word[open + 1..close].split(',');
            inner.flat_map(|one| alternatives(&format!("{}{one}{}", &word[..open], &word[close + 1..]))).collect()
        }
        _ => vec![word.to_string()],
    }
}

/// A path relative to a folder, without `.` and `..`.
fn joined(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a path of the repository exists; a `*` matches anything within one name.
fn exists(path: &str) -> bool {
    let mut found = vec![source::root()];
    for part in path.split('/').filter(|part| !part.is_empty()) {
        found = match part.split_once('*') {
            None => found.into_iter().map(|folder| folder.join(part)).filter(|path| path.exists()).collect(),
            Some((before, after)) => {
                let entries = found.iter().flat_map(|folder| folder.read_dir().into_iter().flatten().flatten());
                let fits = |name: &str| name.starts_with(before) && name.ends_with(after);
                entries
                    .map(|entry| entry.path())
                    .filter(|path| fits(&path.file_name().unwrap().to_string_lossy()))
                    .collect()
            }
        };
    }
    !found.is_empty()
}

#[test]
fn paths_that_the_documentation_names_exist() {
    let mut found = Vec::new();
    for name in DOCUMENTS {
        let documents = match source::root().join(name) {
            path if path.is_dir() => source::files(name, &["md"]),
            path => vec![SourceFile { path: name.into(), text: std::fs::read_to_string(path).unwrap() }],
        };
        found.extend(documents.iter().flat_map(|document| missing_paths(document, &exists)));
    }
    let is_excepted =
        |line: &String| EXCEPTIONS.iter().any(|(document, word, _)| *line == format!("{document} names {word}"));
    found.retain(|line| !is_excepted(line));
    assert!(found.is_empty(), "these do not exist:\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(path: &str, text: &str) -> Vec<String> {
        let there = ["docs/a.md", "node/src/get", "node/src/get/local.rs", "README.md"];
        let document = SourceFile { path: path.into(), text: text.into() };
        missing_paths(&document, &|path| there.contains(&path.trim_end_matches('/')))
    }

    #[test]
    fn a_link_to_nothing_fails() {
        let text = "[a](a.md#part) [up](../README.md) [web](https://x.y/z) [here](#part) [gone](gone.md)";
        assert_eq!(missing("docs/b.md", text), ["docs/b.md links to gone.md"]);
    }

    #[test]
    fn a_code_span_that_names_no_file_fails() {
        let text = "`node/src/get/` `node/src/get/{local,gone}.rs` `cargo run node/src/get/local.rs:12` `node/src/x y`";
        let names = ["README.md names node/src/get/{local,gone}.rs", "README.md names node/src/x"];
        assert_eq!(missing("README.md", text), names);
    }

    #[test]
    fn other_words_and_blocks_of_code_are_free() {
        assert_eq!(missing("README.md", "`get/local.rs` `/var/lib` `node/NAME=x`\n```\n`node/gone`\n```\n"), [""; 0]);
    }

    #[test]
    fn a_star_stands_for_a_name() {
        assert!(exists("tests/tests/tidy/*.rs") && exists("*/src/server.rs"));
        assert!(!exists("tests/tests/tidy/*.py") && !exists("tests/tests/tidy/nothing.rs"));
    }
}
