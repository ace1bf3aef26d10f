//! No cycle between the modules of a crate, nor between its top-level modules taken as wholes.
//!
//! A module depends on the modules whose items its paths name, in `use` and elsewhere, macros included. An item that
//! another module re-exports counts for the module that defines it. A path between a module and the modules below it is
//! not a dependency. Tests may depend on anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{self, ModulePath, SourceFile, SourceModule};

/// Dependencies that may close a cycle: crate, module, the module that it depends on, why.
const EXCEPTIONS: &[(&str, &str, &str, &str)] = &[];

/// How many re-exports are followed from one name.
const MAX_REEXPORTS: usize = 8;

type Dependencies = BTreeMap<ModulePath, BTreeSet<ModulePath>>;

struct CrateModules(BTreeMap<ModulePath, SourceModule>);

impl CrateModules {
    /// The modules of the files of one crate's `src`, without tests.
    fn of(src: &str, files: &[SourceFile]) -> CrateModules {
        let mut modules = BTreeMap::new();
        for file in files {
            let below = file.path.strip_prefix(src).unwrap().trim_start_matches('/');
            // Programs in `bin` are crates of their own.
            if below.starts_with("bin/") {
                continue;
            }
            for module in source::modules(source::module_of(below), &file.text) {
                let entry: &mut SourceModule = modules.entry(module.path.clone()).or_default();
                entry.path = module.path;
                entry.defines.extend(module.defines);
                entry.imports.extend(module.imports);
                entry.paths.extend(module.paths);
                entry.test_children.extend(module.test_children);
            }
        }
        let of_tests: Vec<ModulePath> =
            modules.values().flat_map(|m| m.test_children.iter().map(|child| child_of(&m.path, child))).collect();
        modules.retain(|path: &ModulePath, _| !of_tests.iter().any(|tests| path.starts_with(tests)));
        CrateModules(modules)
    }

    /// The module that defines what `path` names, seen from `module`; none if that is another crate.
    fn resolve(&self, module: &ModulePath, path: &[String], reexports: usize) -> Option<ModulePath> {
        if reexports > MAX_REEXPORTS {
            return None;
        }
        let mut here = module.clone();
        let mut parts = path.iter().peekable();
        match parts.peek()?.as_str() {
            "crate" => {
                here.clear();
                parts.next();
            }
            "self" => drop(parts.next()),
            "super" => {
                while parts.next_if(|part| *part == "super").is_some() {
                    here.pop()?;
                }
            }
            first => {
                let known = self.0.contains_key(&child_of(&here, first)) || self.import(&here, first).is_some();
                known.then_some(())?;
            }
        }
        for part in parts {
            let child = child_of(&here, part);
            if self.0.contains_key(&child) {
                here = child;
                continue;
            }
            let Some(current) = self.0.get(&here) else { return Some(here) };
            if current.defines.contains(part) {
                return Some(here);
            }
            if let Some(import) = self.import(&here, part) {
                // `use crate::a::a`: the name that is being resolved is not its own first part.
                here = self.resolve(&here, import, reexports + 1)?;
                continue;
            }
            let globs = current.imports.iter().filter(|(name, _)| name == "*");
            let exporter = globs.filter_map(|(_, path)| self.resolve(&here, path, reexports + 1)).find(|exporter| {
                self.0.contains_key(&child_of(exporter, part))
                    || self.0.get(exporter).is_some_and(|module| module.defines.contains(part))
            });
            return Some(exporter.unwrap_or(here));
        }
        Some(here)
    }

    fn import(&self, module: &ModulePath, name: &str) -> Option<&[String]> {
        let imports = &self.0.get(module)?.imports;
        imports.iter().find(|(known, path)| known == name && path[0] != name).map(|(_, path)| path.as_slice())
    }

    fn dependencies(&self) -> Dependencies {
        let mut all = Dependencies::new();
        for (path, module) in &self.0 {
            let targets = module.paths.iter().filter_map(|named| self.resolve(path, named, 0));
            let others = targets.filter(|target| !target.starts_with(path) && !path.starts_with(target));
            all.insert(path.clone(), others.collect());
        }
        all
    }
}

fn child_of(module: &[String], name: &str) -> ModulePath {
    module.iter().cloned().chain([name.to_string()]).collect()
}

/// The dependencies between top-level modules; those of the modules below them count as theirs.
fn top_level(dependencies: &Dependencies) -> Dependencies {
    let mut all = Dependencies::new();
    for (from, targets) in dependencies.iter().filter(|(from, _)| !from.is_empty()) {
        let others = targets.iter().filter(|to| !to.is_empty() && to[0] != from[0]).map(|to| to[..1].to_vec());
        all.entry(from[..1].to_vec()).or_default().extend(others);
    }
    all
}

fn reachable(dependencies: &Dependencies, from: &ModulePath) -> BTreeSet<ModulePath> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in dependencies.get(module).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen
}

/// Every dependency that is part of a cycle, as `a::b -> c`.
fn on_cycles(dependencies: &Dependencies) -> Vec<String> {
    let reach: BTreeMap<_, _> = dependencies.keys().map(|from| (from, reachable(dependencies, from))).collect();
    let mut found = Vec::new();
    for (from, targets) in dependencies {
        for to in targets.iter().filter(|to| reach.get(to).is_some_and(|reached| reached.contains(from))) {
            found.push(format!("{} -> {}", from.join("::"), to.join("::")));
        }
    }
    found
}

/// The cycles of one crate, and the exceptions that it does not need.
fn cycles(src: &str, files: &[SourceFile], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut dependencies = CrateModules::of(src, files).dependencies();
    let mut found = Vec::new();
    for (from, to) in exceptions {
        let path = |text: &str| -> ModulePath { text.split("::").map(String::from).collect() };
        if !dependencies.get_mut(&path(from)).is_some_and(|targets| targets.remove(&path(to))) {
            found.push(format!("{from} does not depend on {to}: remove that exception"));
        }
    }
    let modules = on_cycles(&dependencies);
    let folders = on_cycles(&top_level(&dependencies));
    found.extend(modules.into_iter().map(|edge| format!("a cycle of modules: {edge}")));
    found.extend(folders.into_iter().map(|edge| format!("a cycle of top-level modules: {edge}")));
    found
}

#[test]
fn modules_of_a_crate_form_no_cycle() {
    let mut found = Vec::new();
    for member in crate::members() {
        let src = format!("{member}/src");
        let own = EXCEPTIONS.iter().filter(|(of, ..)| *of == member.as_str()).map(|(_, from, to, _)| (*from, *to));
        let cycles = cycles(&src, &source::files(&src, &["rs"]), &own.collect::<Vec<_>>());
        found.extend(cycles.into_iter().map(|line| format!("{member}: {line}")));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)], exceptions: &[(&str, &str)]) -> Vec<String> {
        let file = |(path, text): &(&str, &str)| SourceFile { path: format!("x/src/{path}"), text: text.to_string() };
        cycles("x/src", &files.iter().map(file).collect::<Vec<_>>(), exceptions)
    }

    #[test]
    fn two_modules_that_use_each_other_fail() {
        let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "fn f() { super::a::g() }")];
        let edges = ["a cycle of modules: a -> b", "a cycle of modules: b -> a"];
        assert_eq!(found(&files, &[])[..2], edges);
        assert_eq!(found(&files, &[("b", "a")]), Vec::<String>::new());
    }

    #[test]
    fn a_cycle_through_a_reexport_fails() {
        let files = [
            ("a/mod.rs", "mod one; mod two; pub use one::One;"),
            ("a/one.rs", "use super::two::Two; pub struct One;"),
            ("a/two.rs", "use super::One; pub struct Two;"),
        ];
        assert_eq!(
            found(&files, &[]),
            ["a cycle of modules: a::one -> a::two", "a cycle of modules: a::two -> a::one"]
        );
    }

    #[test]
    fn a_cycle_of_folders_fails_where_no_modules_form_one() {
        let files = [
            ("a/mod.rs", "mod x; mod y;"),
            ("a/x.rs", "use crate::b::x::B;"),
            ("a/y.rs", ""),
            ("b/mod.rs", "mod x; mod y;"),
            ("b/x.rs", "pub struct B;"),
            ("b/y.rs", "use crate::a::y;"),
        ];
        let edges = ["a cycle of top-level modules: a -> b", "a cycle of top-level modules: b -> a"];
        assert_eq!(found(&files, &[]), edges);
    }

    #[test]
    fn a_path_in_a_macro_counts() {
        let files = [("a.rs", "fn f() { assert!(crate::b::g()) }"), ("b.rs", "use crate::a;")];
        assert_eq!(found(&files, &[]).len(), 4);
    }

    #[test]
    fn parents_and_tests_may_be_used() {
        let files = [
            ("a/mod.rs", "mod child; #[cfg(test)] mod tests; use child::Child; use crate::b::B; pub struct A;"),
            ("a/child.rs", "use super::A; pub struct Child;"),
            ("a/tests.rs", "use crate::b::B;"),
            ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; }"),
        ];
        assert_eq!(found(&files, &[]), Vec::<String>::new());
    }

    #[test]
    fn an_exception_that_is_not_needed_fails() {
        assert_eq!(found(&[("a.rs", "")], &[("a", "b")]), ["a does not depend on b: remove that exception"]);
    }
}
