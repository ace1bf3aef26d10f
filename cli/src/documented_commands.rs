//! Every command line of `volley` in the documentation is one that the program accepts.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::args::Args;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The languages of blocks of code that have command lines.
const SHELLS: [&str; 4] = ["", "sh", "bash", "console"];

/// The documents below a folder.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The lines of the blocks of code for a shell, fenced or indented; one that ends with a backslash continues in the next.
fn code_lines(text: &str) -> Vec<String> {
    let (mut lines, mut begun) = (Vec::new(), String::new());
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language) };
            continue;
        }
        let is_code = fence.map_or(line.starts_with("    "), |language| SHELLS.contains(&language));
        if !is_code {
            continue;
        }
        let line = line.trim_start().trim_start_matches("$ ");
        match line.strip_suffix('\\') {
            Some(beginning) => begun.push_str(beginning),
            None => lines.push(std::mem::take(&mut begun) + line),
        }
    }
    lines
}

/// The commands of a line, each as its words, without comments and redirections.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let (mut word, mut quote, mut is_target) = (None::<String>, None::<char>, false);
    for letter in line.chars().chain([' ']) {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word = Some(word.take().unwrap_or_default());
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '(' | ')' | '&' | '|' | ';' | '<' | '>') => {
                let is_number_of_file = letter == '>' && word.as_deref() == Some("2");
                if let Some(ended) = word.take().filter(|_| !is_number_of_file)
                    && !std::mem::take(&mut is_target)
                    && let Some(words) = found.last_mut()
                {
                    words.push(ended);
                }
                is_target |= matches!(letter, '<' | '>');
                if matches!(letter, '(' | ')' | '&' | '|' | ';') {
                    found.push(Vec::new());
                }
            }
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    found
}

#[test]
fn documented_command_lines_are_accepted() {
    let mut paths = vec![Path::new(ROOT).join("README.md")];
    documents(&Path::new(ROOT).join("docs"), &mut paths);
    let (mut accepted, mut refused) = (0, Vec::new());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let lines = code_lines(&text);
        let of_volley = lines.iter().flat_map(|line| commands(line));
        for words in of_volley.filter(|words| words.first().is_some_and(|word| word == "volley")) {
            match Args::try_parse_from(&words) {
                // --help and --version are errors, too, but none for the standard error.
                Err(error) if error.use_stderr() => {
                    refused.push(format!("{}: {}\n{error}", path.display(), words.join(" ")));
                }
                _ => accepted += 1,
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(accepted > 100, "only {accepted} command lines were found");
}

#[test]
fn command_lines_are_split_as_a_shell_does() {
    let words = |line: &str| commands(line).into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>();
    assert_eq!(words("volley ls   # all"), [["volley", "ls"]]);
    assert_eq!(words("(umask 077; volley ls > token)"), [["umask", "077"], ["volley", "ls"]]);
    assert_eq!(words("volley ls 2> log && volley ls"), [["volley", "ls"], ["volley", "ls"]]);
    assert_eq!(words("volley get '\"a b\",c' \"d > 1 # 2\""), [["volley", "get", "\"a b\",c", "d > 1 # 2"]]);
    let page = "text\n\n    volley a \\\n        --b\n\n```python\nvolley = 1\n```\n```sh\n$ volley c\n```\n";
    assert_eq!(code_lines(page), ["volley a --b", "volley c"]);
}
