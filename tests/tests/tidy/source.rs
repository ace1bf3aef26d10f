//! Files of the workspace, and the items and paths of a module, read without a compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tokens::SourceToken::{self, Literal, Mark, PathSeparator, Word};
use crate::tokens::tokens;

/// A module's path inside its crate, as `["raft", "log"]`; empty for the crate root.
pub type ModulePath = Vec<String>;

/// A source file: its path from the repository's root, and its text.
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All files below a folder of the repository with one of these extensions, in the order of their paths. Build output and
/// folders whose name begins with a dot are left out.
pub fn files(under: &str, extensions: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    let mut open = vec![root().join(under)];
    while let Some(path) = open.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && name != "__pycache__" && !name.starts_with('.') || path == root() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if path.extension().is_some_and(|e| extensions.iter().any(|one| e == *one)) {
            let relative = path.strip_prefix(root()).unwrap().display().to_string();
            found.push(SourceFile { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
    assert!(!found.is_empty(), "{under} has no source");
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// A module of a crate, as far as the rules need to know it.
#[derive(Debug, Default)]
pub struct SourceModule {
    pub path: ModulePath,
    /// Names of the items that it defines.
    pub defines: BTreeSet<String>,
    /// Names of its types, traits and type aliases, in their order.
    pub types: Vec<String>,
    /// Names of all its functions, those of `impl` blocks included.
    pub functions: Vec<String>,
    /// Paths that it imports, each with the name that it gets; `*` for a glob.
    pub imports: Vec<(String, Vec<String>)>,
    /// All paths that it names, the imported ones included.
    pub paths: Vec<Vec<String>>,
    /// Child modules that only tests have.
    pub test_children: Vec<String>,
}

/// The module path of a file, from its path below `src`.
pub fn module_of(below_src: &str) -> ModulePath {
    let mut parts: Vec<String> = below_src.trim_end_matches(".rs").split('/').map(String::from).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] || parts == ["main"] {
        parts.pop();
    }
    parts
}

/// The modules of a file: its own, and those that are written out in it. What has `#[cfg(test)]` is left out.
pub fn modules(path: ModulePath, text: &str) -> Vec<SourceModule> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    ItemReader { tokens: &tokens, at: 0 }.module(path, &mut found);
    found
}

struct ItemReader<'a> {
    tokens: &'a [SourceToken<'a>],
    at: usize,
}

impl<'a> ItemReader<'a> {
    fn peek(&self) -> Option<SourceToken<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn word(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Reads items up to the end of the module.
    fn module(&mut self, path: ModulePath, found: &mut Vec<SourceModule>) {
        let mut module = SourceModule { path, ..SourceModule::default() };
        let mut of_tests = false;
        while let Some(token) = self.peek() {
            match token {
                Mark('}') => break,
                Mark('#') => of_tests |= self.attribute(),
                _ => {
                    self.item(&mut module, found, of_tests);
                    of_tests = false;
                }
            }
        }
        self.at += 1;
        found.push(module);
    }

    /// Reads `#[…]`; whether it says that the item is for tests only.
    fn attribute(&mut self) -> bool {
        let begin = self.at;
        self.at += if self.tokens.get(self.at + 1) == Some(&Mark('!')) { 2 } else { 1 };
        self.skip_group();
        let has = |word| self.tokens[begin..self.at].contains(&Word(word));
        has("cfg") && has("test") && !has("not")
    }

    /// Reads a group in brackets to its end.
    fn skip_group(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.peek() {
            self.at += 1;
            match token {
                Mark('(' | '[' | '{') => depth += 1,
                Mark(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn item(&mut self, module: &mut SourceModule, found: &mut Vec<SourceModule>, of_tests: bool) {
        if self.word() == Some("pub") {
            self.at += 1;
            if self.peek() == Some(Mark('(')) {
                self.skip_group();
            }
        }
        if let (Some("mod"), Some(Word(name))) = (self.word(), self.tokens.get(self.at + 1).copied()) {
            self.at += 2;
            if of_tests {
                module.test_children.push(name.to_string());
            }
            match self.peek() {
                Some(Mark('{')) if of_tests => self.skip_group(),
                Some(Mark('{')) => {
                    self.at += 1;
                    let path = module.path.iter().cloned().chain([name.to_string()]).collect();
                    self.module(path, found);
                }
                _ => self.at += 1,
            }
            return;
        }
        let (begin, end) = (self.at, self.item_end());
        let item = &self.tokens[begin..end];
        self.at = end;
        if of_tests {
            return;
        }
        if let Some((keyword, name)) = defined(item) {
            module.defines.insert(name.to_string());
            if matches!(keyword, "struct" | "enum" | "union" | "trait" | "type") {
                module.types.push(name.to_string());
            }
        }
        for pair in item.windows(2) {
            if let [Word("fn"), Word(name)] = pair {
                module.functions.push(name.to_string());
            }
        }
        let is_import = item.first() == Some(&Word("use"));
        for (name, path) in named_paths(item) {
            if is_import {
                module.imports.push((name, path.clone()));
            }
            module.paths.push(path);
        }
    }

    /// The index after the item: after its `;`, or after the block that ends it.
    fn item_end(&self) -> usize {
        let is_import = self.word() == Some("use");
        let mut depth = 0;
        for at in self.at..self.tokens.len() {
            match self.tokens[at] {
                Mark('(' | '[' | '{') => depth += 1,
                Mark(')' | ']') => depth -= 1,
                Mark('}') if depth == 1 && !is_import => return at + 1,
                Mark('}') => depth -= 1,
                Mark(';') if depth == 0 => return at + 1,
                _ => {}
            }
        }
        self.tokens.len()
    }
}

/// The keyword and the name of an item, if it has a name.
fn defined<'a>(item: &[SourceToken<'a>]) -> Option<(&'a str, &'a str)> {
    const KEYWORDS: [&str; 9] = ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "macro_rules"];
    let limit = item.iter().position(|token| matches!(token, Mark('{' | '(' | '=' | ';'))).unwrap_or(item.len());
    if matches!(item.first(), Some(Word("impl" | "use"))) {
        return None;
    }
    let head = &item[..limit];
    let at = head.iter().position(|token| matches!(token, Word(word) if KEYWORDS.contains(word)))?;
    let Word(keyword) = head[at] else { return None };
    // `const fn`, and `macro_rules! name`.
    let name = head[at + 1..].iter().find_map(|token| match token {
        Word("fn" | "mut" | "unsafe" | "async" | "extern") | Mark('!') | Literal => None,
        Word(name) => Some(*name),
        _ => None,
    })?;
    let keyword = if head[at + 1..].first() == Some(&Word("fn")) { "fn" } else { keyword };
    Some((keyword, name))
}

/// All paths in some tokens, those of nested `use` included: each with the name that its last part gets.
fn named_paths(tokens: &[SourceToken<'_>]) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let follows_path = at > 0 && matches!(tokens[at - 1], PathSeparator | Mark('.'));
        match (tokens[at], tokens.get(at + 1)) {
            // `use<'a>` belongs to a type.
            (Word("use"), Some(Word(_) | PathSeparator | Mark('{'))) => {
                at = use_tree(tokens, at + 1, &[], &mut found);
            }
            (Word(first), Some(PathSeparator)) if !follows_path => {
                let mut path = vec![first.to_string()];
                at += 1;
                while let (Some(PathSeparator), Some(Word(next))) = (tokens.get(at), tokens.get(at + 1)) {
                    path.push(next.to_string());
                    at += 2;
                }
                found.push((path.last().cloned().unwrap_or_default(), path));
            }
            _ => at += 1,
        }
    }
    found
}

/// Reads one tree of a `use`; the index after it.
fn use_tree(
    tokens: &[SourceToken<'_>],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<(String, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(Word("as")) => {
                let name = match tokens.get(at + 1) {
                    Some(Word(name)) => name.to_string(),
                    _ => "_".into(),
                };
                found.push((name, path));
                return at + 2;
            }
            Some(Word("self")) if !prefix.is_empty() && path.len() == prefix.len() => at += 1,
            Some(Word(word)) => {
                path.push(word.to_string());
                at += 1;
            }
            Some(PathSeparator) => at += 1,
            Some(Mark('*')) => {
                found.push(("*".into(), path));
                return at + 1;
            }
            Some(Mark('{')) => {
                at += 1;
                while !matches!(tokens.get(at), None | Some(Mark('}'))) {
                    at = use_tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at) == Some(&Mark(',')));
                }
                return at + 1;
            }
            _ => {
                if !path.is_empty() {
                    found.push((path.last().cloned().unwrap_or_default(), path));
                }
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> SourceModule {
        modules(vec!["m".into()], text).pop().unwrap()
    }

    fn joined(module: &SourceModule) -> Vec<String> {
        module.paths.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn comments_and_strings_hold_no_paths() {
        let text = r##"
            // crate::comment::X
            /* crate::block /* nested */ ::Y */
            fn f<'a>(c: &'a str) -> char { let _ = r#"crate::raw::Z" "#; let _ = "crate::text \" ::W"; '"' }
            fn g() { crate::real::call('\'', b'x', 1..2) }
        "##;
        assert_eq!(joined(&only(text)), ["crate::real::call"]);
    }

    #[test]
    fn imports_are_flattened() {
        let text = "pub(crate) use super::{a::{self, B as C}, d::*}; fn f() { use crate::e::F; self::g::h::<u8>() }";
        let module = only(text);
        assert_eq!(joined(&module), ["super::a", "super::a::B", "super::d", "crate::e::F", "self::g::h"]);
        let names: Vec<&str> = module.imports.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "C", "*"]);
    }

    #[test]
    fn items_are_named_and_tests_are_left_out() {
        let text = "
            #[derive(Debug)] pub struct Tuple(u8); pub(super) enum E { A { x: u8 } } type T = [u8; 3];
            impl Tuple { type Hidden = u8; const fn inside() {} } static S: [u8; 1] = [0]; const fn c() {}
            #[cfg(test)] fn helper() { crate::only::tests() } #[cfg(test)] mod tests { struct Test; }
            mod inline { trait Inner { type Item; } } macro_rules! m { () => {} }";
        let found = modules(vec![], text);
        let (inline, module) = (&found[0], &found[1]);
        assert_eq!((inline.path.join("::").as_str(), &inline.types[..]), ("inline", &["Inner".to_string()][..]));
        assert_eq!(module.types, ["Tuple", "E", "T"]);
        assert_eq!(module.functions, ["inside", "c"]);
        assert_eq!(Vec::from_iter(&module.defines), ["E", "S", "T", "Tuple", "c", "m"]);
        assert_eq!((joined(module).len(), &module.test_children[..]), (0, &["tests".to_string()][..]));
    }
}
