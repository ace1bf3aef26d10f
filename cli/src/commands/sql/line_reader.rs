//! Reads statements from a terminal: editing, completion, and a history that is kept between runs.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::sync::oneshot;
use volley_common::sql_script::SqlScript;
use volley_common::{Error, Result};

use super::names::CompletionNames;

/// Texts that the history has at most.
const MAX_HISTORY: usize = 1_000;
const PROMPT: &str = "volley> ";

/// What was typed.
#[derive(Debug, PartialEq)]
pub enum TypedLine {
    /// Statements, or a command of the prompt; it may have several lines.
    Text(String),
    /// Ctrl-C: what was typed is dropped.
    Dropped,
    /// Ctrl-D.
    End,
}

/// The editor of a terminal.
pub struct LineReader {
    /// Missing while a thread reads.
    editor: Option<Editor<StatementHelper, DefaultHistory>>,
    /// None: the history ends with the process.
    history: Option<PathBuf>,
}

impl LineReader {
    /// An editor with the history of earlier runs. A history that cannot be kept is reported on standard error.
    ///
    /// # Errors
    /// UNAVAILABLE: the terminal cannot be used.
    pub fn new(names: CompletionNames) -> Result<Self> {
        let config = Config::builder().completion_type(CompletionType::List).max_history_size(MAX_HISTORY);
        let mut editor = Editor::<StatementHelper, DefaultHistory>::with_config(config.map_err(unusable)?.build())
            .map_err(unusable)?;
        editor.set_helper(Some(StatementHelper { names }));
        let history = history_file(|name| std::env::var_os(name).map(PathBuf::from));
        let history = history.and_then(|path| match make_folder(&path) {
            Ok(()) => Some(path),
            Err(error) => {
                eprintln!("the history is not kept: {}: {error}", path.display());
                None
            }
        });
        if let Some(path) = &history {
            // There is none at first.
            let _ = editor.load_history(path);
        }
        Ok(LineReader { editor: Some(editor), history })
    }

    /// Waits for the next text.
    ///
    /// # Errors
    /// UNAVAILABLE: the terminal cannot be read.
    pub async fn next(&mut self) -> Result<TypedLine> {
        let Some(mut editor) = self.editor.take() else {
            return Err(Error::internal("the terminal is read already"));
        };
        let (send, typed) = oneshot::channel();
        // It is not joined, so that a signal ends the command.
        std::thread::spawn(move || {
            let line = editor.readline(PROMPT);
            let _ = send.send((editor, line));
        });
        let typed = typed.await.map_err(|_| Error::internal("the thread that reads the terminal panicked"));
        let (mut editor, line) = typed?;
        let line = match line {
            Ok(text) => {
                self.remember(&mut editor, &text);
                Ok(TypedLine::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(TypedLine::Dropped),
            Err(ReadlineError::Eof) => Ok(TypedLine::End),
            Err(error) => Err(unusable(error)),
        };
        self.editor = Some(editor);
        line
    }

    fn remember(&mut self, editor: &mut Editor<StatementHelper, DefaultHistory>, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        let added = editor.add_history_entry(text).map(|_| ());
        let Some(path) = &self.history else { return };
        if let Err(error) = added.and_then(|()| editor.append_history(path)) {
            eprintln!("the history is not kept: {}: {error}", path.display());
            self.history = None;
        }
    }
}

fn unusable(error: ReadlineError) -> Error {
    Error::unavailable(format!("the terminal cannot be used: {error}"))
}

/// The file of the history, in the user's folder for states, by the variables of the environment.
fn history_file(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let states = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(states.join("volley/sql_history"))
}

/// Makes the folder of the history, which only its user can read.
fn make_folder(history: &Path) -> io::Result<()> {
    match history.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// Completes names, and lets a statement have several lines.
struct StatementHelper {
    names: CompletionNames,
}

impl Completer for StatementHelper {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.names.complete(&line[..pos]))
    }
}

impl Validator for StatementHelper {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_whole(typed.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for StatementHelper {
    type Hint = String;
}

impl Highlighter for StatementHelper {}

impl Helper for StatementHelper {}

/// Whether a text is carried out when Enter is typed: a command of the prompt, or statements that end with semicolons.
fn is_whole(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('\\') || matches!(text, "quit" | "exit" | "help") || SqlScript::new(text).is_complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statement_goes_on_until_its_semicolon() {
        for text in ["", "SELECT 1;", "\\d", "exit", "SELECT\n1; -- end"] {
            assert!(is_whole(text), "{text}");
        }
        for text in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "quit now"] {
            assert!(!is_whole(text), "{text}");
        }
    }

    #[test]
    fn history_is_in_the_folder_for_states() {
        let of = |states: Option<&str>, home: Option<&str>| {
            history_file(|name| if name == "HOME" { home } else { states }.map(PathBuf::from))
        };
        assert_eq!(of(Some("/s"), Some("/h")), Some("/s/volley/sql_history".into()));
        assert_eq!(of(None, Some("/h")), Some("/h/.local/state/volley/sql_history".into()));
        assert_eq!(of(Some("relative"), Some("/h")), Some("/h/.local/state/volley/sql_history".into()));
        assert_eq!(of(None, None), None);
    }
}
