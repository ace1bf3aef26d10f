//! `volley sql`: runs statements; their rows become a table on the screen, or a file.
//!
//! | module | what it has |
//! |---|---|
//! | `rows_output` | where rows go |
//! | `shell` | asks for statements at a terminal; `line_reader` and `names` complete and remember them |

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use volley_client::{Client, FetchOptions};
use volley_common::escape::escape_invisible;
use volley_common::sql_script::{SqlScript, update_keyword};
use volley_common::{Error, Result};

use self::rows_output::RowsOutput;
use crate::args::sql::SqlArgs;
use crate::formats::{io_error, is_stdout};
use crate::output;

mod line_reader;
pub mod names;
mod rows_output;
pub mod shell;

/// Largest text of statements: servers allow 256 KiB for each.
const MAX_TEXT: u64 = 64 << 20;
/// Characters of a statement that a message repeats.
const SHOWN: usize = 60;

/// Whether statements are asked for.
pub fn is_interactive(sql: &SqlArgs) -> bool {
    let has_statement = sql.text.is_some() || sql.file.is_some();
    !has_statement && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Runs the statements one after the other, until one fails.
pub async fn run(sql: &SqlArgs, connect: impl AsyncFnOnce() -> Result<Client>, json: bool) -> Result<()> {
    let rows = RowsOutput::new(sql, json, std::io::stdout().is_terminal())?;
    let text = text(sql).await?;
    let statements = SqlScript::new(&text).statements;
    if statements.is_empty() {
        return Err(Error::invalid("there is no statement: give one such as \"SELECT * FROM my_table LIMIT 10\""));
    }
    if statements.len() > 1 && sql.output.is_some() {
        let count = statements.len();
        return Err(Error::invalid(format!("{count} statements cannot write one file: give one statement with -o")));
    }
    let runner = StatementRunner { client: connect().await?, rows, streams: sql.streams.into(), json };
    for statement in &statements {
        let ran = runner.run(statement).await;
        ran.map_err(|error| if statements.len() > 1 { error.at(shortened(statement)) } else { error })?;
    }
    Ok(())
}

/// The text of the statements.
async fn text(sql: &SqlArgs) -> Result<String> {
    let path = match (&sql.text, &sql.file) {
        (Some(text), _) if text != "-" => return Ok(text.clone()),
        (Some(_), _) => Path::new("-"),
        (None, Some(path)) => path.as_path(),
        (None, None) => {
            return Err(Error::invalid(
                "there is no statement: give it as an argument, with -f FILE, or - for the standard input; only a terminal is asked for statements",
            ));
        }
    };
    let path = path.to_path_buf();
    // The thread is not joined, so that an interrupt ends the command while the standard input has no end.
    let (send, read) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || send.send(read_text(&path)));
    read.await.unwrap_or_else(|_| Err(Error::internal("the thread that reads the statements panicked")))
}

/// A file as text; `-` is the standard input.
fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(MAX_TEXT + 1).read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut text)),
    };
    match read {
        Ok(length) if length as u64 > MAX_TEXT => Err(Error::invalid(format!(
            "{}: more than {MAX_TEXT} bytes are no statements: put data by volley put",
            path.display()
        ))),
        Ok(_) => Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text)),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(Error::invalid(format!("{}: the statements are not UTF-8", path.display())))
        }
        Err(e) => Err(io_error(path, &e)),
    }
}

/// The first words of a statement on one line.
fn shortened(statement: &str) -> String {
    let words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text: String = words.chars().take(SHOWN).collect();
    if text.len() < words.len() {
        text.push_str("...");
    }
    text
}

/// Runs statements and shows or writes what they give.
struct StatementRunner {
    client: Client,
    rows: RowsOutput,
    /// Endpoints fetched at the same time.
    streams: usize,
    json: bool,
}

impl StatementRunner {
    async fn run(&self, statement: &str) -> Result<()> {
        let started = Instant::now();
        match update_keyword(statement) {
            Some(keyword) => {
                let rows = self.client.execute_update(statement).await?;
                self.report_update(&keyword, rows, started)
            }
            None => {
                let options = FetchOptions { streams: self.streams, ..FetchOptions::default() };
                let fetch = self.client.query(statement, options).await?;
                match &self.rows {
                    RowsOutput::Table { max_rows } => rows_output::show(fetch, *max_rows).await,
                    RowsOutput::File { path, format, null, is_reported } => {
                        let (rows, bytes) = rows_output::write(fetch, path, *format, null.as_deref()).await?;
                        if *is_reported { self.report_file(path, rows, bytes, started) } else { Ok(()) }
                    }
                }
            }
        }
    }

    fn report_update(&self, keyword: &str, rows: Option<u64>, started: Instant) -> Result<()> {
        if self.json {
            let seconds = started.elapsed().as_secs_f64();
            return output::json(&json!({ "statement": keyword, "rows": rows, "seconds": seconds }));
        }
        let done = rows.map_or("done".into(), |rows| output::plural(i64::try_from(rows).unwrap_or(-1), "row"));
        output::line(format!("{keyword}: {done}"))
    }

    fn report_file(&self, path: &Path, rows: u64, bytes: u64, started: Instant) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        let report = if self.json {
            json!({ "file": path, "rows": rows, "bytes": bytes, "seconds": seconds }).to_string()
        } else {
            let (rows, size) = (output::plural(rows as i64, "row"), output::size(bytes as i64));
            escape_invisible(&format!("{rows} into {} ({size}), {seconds:.1} s", path.display())).into()
        };
        if is_stdout(path) {
            // The standard output has the rows, and nothing else.
            eprintln!("{report}");
            return Ok(());
        }
        output::exact_line(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_statement_is_shortened_to_one_line() {
        assert_eq!(shortened("SELECT\n  1"), "SELECT 1");
        let long = shortened(&format!("SELECT '{}'", "ä".repeat(100)));
        assert!(long.ends_with("ä...") && long.chars().count() == SHOWN + 3, "{long}");
    }

    #[test]
    fn file_of_statements_must_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sql");
        std::fs::write(&path, "\u{feff}SELECT 1;").unwrap();
        assert_eq!(read_text(&path).unwrap(), "SELECT 1;");
        std::fs::write(&path, b"\xff").unwrap();
        assert!(read_text(&path).unwrap_err().message.contains("not UTF-8"));
        let missing = read_text(&folder.path().join("b.sql")).unwrap_err();
        assert!(missing.code == volley_common::Code::NotFound && missing.message.contains("b.sql"), "{missing}");
    }
}
