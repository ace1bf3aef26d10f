//! `unsafe` is only in the modules that need it, each block has its proof, and every other crate forbids it.
//!
//! The compiler denies it elsewhere (`unsafe_code` in the workspace's lints). This list shows at one place what a reviewer must
//! read, and fails when a module is added without being listed.

use crate::source::{self, SourceFile};
use crate::tokens::{SourceToken, tokens};

/// The modules with `unsafe`. Each begins with `#![allow(unsafe_code, reason = "...")]`.
const MODULES: &[&str] = &[
    "common/src/http2/congestion.rs",
    "common/src/ipc/buffer_pool.rs",
    "common/src/ipc/copy_shared.rs",
    "common/src/ipc/mapped_part.rs",
    "common/src/ipc/spool.rs",
    "common/src/memory.rs",
    "node/src/storage/fs_ops.rs",
    "node/src/storage/mapping.rs",
    "node/src/storage/sigbus.rs",
    "node/src/storage/spool.rs",
    "python/src/capsule.rs",
    "tests/bench/src/measure.rs",
    "tests/src/process.rs",
];
/// The roots of their crates, which cannot forbid it.
const ROOTS: &[&str] =
    &["common/src/lib.rs", "node/src/lib.rs", "python/src/lib.rs", "tests/bench/src/main.rs", "tests/src/lib.rs"];
const FORBIDDEN: &str = "#![forbid(unsafe_code)]";
const ALLOWED: &str = "#![allow(unsafe_code, reason = ";
const PROOF: &str = "// SAFETY: ";

fn has_unsafe(text: &str) -> bool {
    tokens(text).contains(&SourceToken::Word("unsafe"))
}

/// The lines, from 1, whose `unsafe` block has no proof directly above it.
fn unproven(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_proven = |at: usize| {
        let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with("//"));
        above.any(|line| line.starts_with(PROOF))
    };
    let blocks = (0..lines.len()).filter(|&at| has_unsafe(lines[at]));
    blocks.filter(|&at| !is_proven(at)).map(|at| at + 1).collect()
}

fn violations(files: &[SourceFile], modules: &[&str], roots: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for SourceFile { path, text } in files {
        let is_listed = modules.contains(&path.as_str());
        match (is_listed, has_unsafe(text)) {
            (false, true) => found.push(format!("{path} has `unsafe`, and is not listed")),
            (true, false) => found.push(format!("{path} has no `unsafe`: remove it from the list")),
            (true, true) | (false, false) => {}
        }
        if is_listed != text.contains(ALLOWED) {
            found.push(format!("{path}: exactly the listed modules begin with {ALLOWED}\"...\")]"));
        }
        found.extend(unproven(text).iter().map(|line| format!("{path}:{line}: no comment above begins with {PROOF}")));
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        if is_root && roots.contains(&path.as_str()) == text.contains(FORBIDDEN) {
            found.push(format!("{path}: exactly the crates without `unsafe` have {FORBIDDEN}"));
        }
    }
    let missing = modules.iter().chain(roots).filter(|listed| files.iter().all(|file| file.path != **listed));
    found.extend(missing.map(|path| format!("{path} does not exist: remove it from the list")));
    found
}

#[test]
fn unsafe_is_in_listed_modules_with_a_proof() {
    let folders =
        ["common", "client", "formats", "http", "coordinator", "sql", "node", "cli", "python", "fuzz", "tests"];
    let files = folders.into_iter().flat_map(|folder| source::files(folder, &["rs"]));
    // This file has the words as text.
    let files: Vec<SourceFile> = files.filter(|file| file.path != "tests/tests/tidy/unsafe_code.rs").collect();
    let found = violations(&files, MODULES, ROOTS);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str, modules: &[&str]) -> usize {
        violations(&[SourceFile { path: path.into(), text: text.into() }], modules, &[]).len()
    }

    #[test]
    fn listed_module_needs_its_reason_and_proofs() {
        let allowed = format!("{ALLOWED}\"why\")]\n");
        let proven = format!("{allowed}// SAFETY: nothing\n// happens.\nlet a = unsafe {{ b() }};");
        assert_eq!(found("a.rs", &proven, &["a.rs"]), 0);
        assert_eq!(found("a.rs", &proven.replace("SAFETY", "Note"), &["a.rs"]), 1);
        assert_eq!(found("a.rs", &proven.replace(&allowed, ""), &["a.rs"]), 1);
        assert_eq!(found("a.rs", &allowed, &["a.rs"]), 1, "it is not needed");
        assert_eq!(found("b.rs", "", &["a.rs"]), 1, "it does not exist");
    }

    #[test]
    fn other_code_has_no_unsafe() {
        assert_eq!(found("a.rs", "// SAFETY: x\nlet a = unsafe { b() };", &[]), 1);
        assert_eq!(found("a.rs", "// unsafe\nlet a = \"unsafe\"; let unsafe_recovery = 1;", &[]), 0);
        assert_eq!((found("src/lib.rs", "", &[]), found("src/lib.rs", FORBIDDEN, &[])), (1, 0));
    }
}
