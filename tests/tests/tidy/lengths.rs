//! Files stay short, because a long file usually has two purposes.

use crate::source::{self, SourceFile};

/// Lines that a source file may have.
const MAX_LINES: usize = 400;
/// Lines that a file may have if there is a reason.
const MAX_LINES_WITH_REASON: usize = 600;

/// Files that may have more than 400 lines, and why.
const LONG_FILES: &[(&str, &str)] = &[];

fn too_long(files: &[SourceFile], reasons: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        let has_reason = reasons.iter().any(|(path, _)| *path == file.path);
        let limit = if has_reason { MAX_LINES_WITH_REASON } else { MAX_LINES };
        if lines > limit {
            found.push(format!("{} has {lines} lines, more than {limit}: split it by purpose", file.path));
        }
        if has_reason && lines <= MAX_LINES {
            found.push(format!("{} has {lines} lines and needs no reason: remove it from the list", file.path));
        }
    }
    let missing = reasons.iter().filter(|(path, _)| files.iter().all(|file| file.path != *path));
    found.extend(missing.map(|(path, _)| format!("{path} does not exist: remove it from the list")));
    found
}

#[test]
fn files_stay_under_400_lines() {
    let folders =
        ["common", "client", "formats", "http", "coordinator", "sql", "node", "cli", "python", "fuzz", "tests"];
    let files: Vec<SourceFile> = folders.into_iter().flat_map(|folder| source::files(folder, &["rs", "py"])).collect();
    let found = too_long(&files, LONG_FILES);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: usize, reasons: &[(&str, &str)]) -> usize {
        too_long(&[SourceFile { path: "a.rs".into(), text: "\n".repeat(lines) }], reasons).len()
    }

    #[test]
    fn a_long_file_fails_without_a_reason() {
        assert_eq!((found(400, &[]), found(401, &[])), (0, 1));
        assert_eq!((found(600, &[("a.rs", "why")]), found(601, &[("a.rs", "why")])), (0, 1));
    }

    #[test]
    fn a_reason_that_is_not_needed_fails() {
        assert_eq!((found(400, &[("a.rs", "why")]), found(1, &[("gone.rs", "why")])), (1, 1));
    }
}
