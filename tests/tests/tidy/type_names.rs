//! A type name means one thing in the whole workspace.

use std::collections::BTreeMap;

use crate::source::{self, SourceFile};

/// Names that may be defined more than once, and why.
const EXCEPTIONS: &[(&str, &str)] =
    &[("Result", "each crate's or program's alias of the standard library's, with its error")];

/// Top-level structs, enums, unions, traits and type aliases that more than one file defines. Items of tests count; what a
/// build script generates is not in the source.
fn duplicates(files: &[SourceFile], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for file in files {
        // `#[cfg(test)]` modules that are written out in the file may name their helpers as they like.
        let modules = source::modules(Vec::new(), &file.text);
        for name in modules.into_iter().filter(|module| module.path.is_empty()).flat_map(|module| module.types) {
            let files = places.entry(name).or_default();
            // One file may define a type for several systems.
            if files.last() != Some(&file.path.as_str()) {
                files.push(&file.path);
            }
        }
    }
    let unneeded = exceptions.iter().filter(|(name, _)| places.get(*name).is_none_or(|files| files.len() < 2));
    let mut found: Vec<String> = unneeded.map(|(name, _)| format!("{name} is unique: remove that exception")).collect();
    for (name, files) in &places {
        if files.len() > 1 && exceptions.iter().all(|(excepted, _)| excepted != name) {
            found.push(format!("{name} is defined in {}", files.join(", ")));
        }
    }
    found
}

#[test]
fn type_names_are_unique_in_the_workspace() {
    let folders =
        ["common", "client", "formats", "http", "coordinator", "sql", "node", "cli", "python", "fuzz", "tests"];
    let files: Vec<SourceFile> = folders.into_iter().flat_map(|folder| source::files(folder, &["rs"])).collect();
    let found = duplicates(&files, EXCEPTIONS);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_name_defined_twice_fails() {
        let files = [file("a.rs", "pub struct Entry;"), file("b.rs", "pub(crate) enum Entry {}")];
        assert_eq!(duplicates(&files, &[]), ["Entry is defined in a.rs, b.rs"]);
        assert_eq!(duplicates(&files, &[("Entry", "why")]), Vec::<String>::new());
    }

    #[test]
    fn associated_types_and_inline_tests_do_not_count() {
        let files = [
            file("a.rs", "impl Iterator for A { type Item = u8; } #[cfg(test)] mod tests { struct World; }"),
            file("b.rs", "pub trait B { type Item; } #[cfg(test)] mod tests { struct World; }"),
        ];
        assert_eq!(duplicates(&files, &[]), Vec::<String>::new());
    }

    #[test]
    fn an_exception_that_is_not_needed_fails() {
        assert_eq!(duplicates(&[file("a.rs", "struct A;")], &[("A", "why")]), ["A is unique: remove that exception"]);
    }
}
