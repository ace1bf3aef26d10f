//! The prompt of `volley sql`: statements that end with semicolons, and commands that begin with a backslash. Ctrl-C cancels
//! the statement that runs.

use std::time::Instant;

use futures::FutureExt;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use volley_client::Client;
use volley_common::escape::escape_invisible;
use volley_common::sql_script::{SqlScript, update_keyword};
use volley_common::{Error, Result, TableName};

use super::super::ls;
use super::line_reader::{LineReader, TypedLine};
use super::names::{CompletionNames, sql_name};
use super::rows_output::RowsOutput;
use super::{StatementRunner, shortened};
use crate::args::sql::SqlArgs;
use crate::colours::Tone;
use crate::output;

const HELP: &str = "statements end with ; and may have several lines
\\d        list the tables
\\d NAME   list the columns of a table
\\timing   show how long statements take, or stop it
\\?        show this
\\q        end, as Ctrl-D does
Tab completes names, the arrow keys show earlier statements, Ctrl-C cancels.";

/// A command of the prompt, or statements.
#[derive(Debug, PartialEq)]
enum ShellCommand<'a> {
    Statements(&'a str),
    Tables,
    Columns(&'a str),
    Timing,
    Help,
    Quit,
}

impl<'a> ShellCommand<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let text = text.trim();
        let Some(command) = text.strip_prefix('\\') else {
            // Who ends statements with a semicolon does it here, too.
            return Ok(match text.trim_end_matches(';').trim_end() {
                "quit" | "exit" => ShellCommand::Quit,
                "help" => ShellCommand::Help,
                _ => ShellCommand::Statements(text),
            });
        };
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let argument = argument.trim().trim_end_matches(';').trim_end();
        match (name.trim_end_matches(';'), argument) {
            ("d", "") => Ok(ShellCommand::Tables),
            ("d", table) => Ok(ShellCommand::Columns(table)),
            ("timing", "") => Ok(ShellCommand::Timing),
            ("?" | "h" | "help", "") => Ok(ShellCommand::Help),
            ("q" | "quit", "") => Ok(ShellCommand::Quit),
            _ => Err(Error::invalid(format!("there is no command \\{command}: \\? lists the commands"))),
        }
    }
}

/// Asks for statements until the user ends it.
///
/// # Errors
/// Those of the connection and of the terminal; an error of a statement is shown. CANCELLED: the process is to end.
pub async fn run(sql: &SqlArgs, connect: impl AsyncFnOnce() -> Result<Client>, json: bool) -> Result<()> {
    if let Some(path) = &sql.output {
        let path = path.display();
        return Err(Error::invalid(format!("-o {path} needs a statement: give it as an argument, or with -f FILE")));
    }
    let rows = RowsOutput::new(sql, json, true)?;
    let mut signals = ShellSignals::new()?;
    let client = signals.unless_interrupted(connect()).await?;
    let mut shell = SqlShell {
        runner: StatementRunner { client, rows, streams: sql.streams.into(), json },
        names: CompletionNames::default(),
        is_timing: false,
    };
    let address = shell.runner.client.address();
    output::line(format!("connected to {address}; statements end with ;, \\? lists the commands, \\q ends"))?;
    shell.load_names();
    let mut lines = LineReader::new(shell.names.clone())?;
    loop {
        match signals.unless_terminated(lines.next()).await? {
            TypedLine::Text(text) => {
                let ended = match ShellCommand::parse(&text) {
                    Ok(ShellCommand::Quit) => return Ok(()),
                    Ok(command) => signals.unless_interrupted(shell.run(command)).await,
                    Err(error) => Err(error),
                };
                signals.check_terminated()?;
                if let Err(error) = ended {
                    eprintln!("{} {}", Tone::Bad.err("error:"), escape_invisible(&error.to_string()));
                }
            }
            TypedLine::Dropped => {}
            TypedLine::End => return Ok(()),
        }
    }
}

/// The state of the prompt.
struct SqlShell {
    runner: StatementRunner,
    names: CompletionNames,
    /// Whether the time of each statement is shown.
    is_timing: bool,
}

impl SqlShell {
    async fn run(&mut self, command: ShellCommand<'_>) -> Result<()> {
        match command {
            ShellCommand::Statements(text) => self.statements(text).await,
            ShellCommand::Tables => self.tables().await,
            ShellCommand::Columns(table) => self.runner.run(&format!("DESCRIBE {}", table_of(table))).await,
            ShellCommand::Timing => {
                self.is_timing = !self.is_timing;
                output::line(if self.is_timing { "times are shown" } else { "times are not shown" })
            }
            ShellCommand::Help => output::line(HELP),
            ShellCommand::Quit => Ok(()),
        }
    }

    async fn statements(&self, text: &str) -> Result<()> {
        let statements = SqlScript::new(text).statements;
        for statement in &statements {
            let started = Instant::now();
            let ran = self.runner.run(statement).await;
            ran.map_err(|error| if statements.len() > 1 { error.at(shortened(statement)) } else { error })?;
            if self.is_timing {
                output::line(format!("time: {:.3} s", started.elapsed().as_secs_f64()))?;
            }
            if update_keyword(statement).is_some() {
                self.load_names();
            }
        }
        Ok(())
    }

    async fn tables(&self) -> Result<()> {
        let mut table = output::table(&["table", "rows", "size"]);
        let flights = self.runner.client.list("").await?;
        if flights.is_empty() {
            return output::line("no tables");
        }
        for info in &flights {
            let name: Result<TableName> = ls::name(info).parse();
            let name = name.map_or_else(|_| ls::name(info), |name| sql_name(&name));
            let (rows, size) = (output::count(info.total_records), output::size(info.total_bytes));
            table.add_row([&*escape_invisible(&name), &rows, &size]);
        }
        output::align_right(&mut table, &[1, 2]);
        output::line(table)
    }

    /// Reads the names for completion, without waiting for them.
    fn load_names(&self) {
        let (names, client) = (self.names.clone(), self.runner.client.clone());
        tokio::spawn(async move {
            // Without them the prompt works all the same.
            let _ = names.load(&client).await;
        });
    }
}

/// A table as a statement names it. It may be typed as other commands name tables: `a/b/c`.
fn table_of(typed: &str) -> String {
    match typed.parse::<TableName>() {
        Ok(name) if typed.contains('/') && !typed.contains('"') => sql_name(&name),
        _ => typed.to_string(),
    }
}

/// The signals that the prompt handles. While it reads, the terminal sends none for Ctrl-C.
struct ShellSignals {
    interrupt: Signal,
    terminate: Signal,
    is_terminated: bool,
    /// The terminal as it was.
    terminal: Option<Termios>,
}

impl ShellSignals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::internal(format!("cannot wait for signals: {e}")));
        Ok(ShellSignals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            is_terminated: false,
            terminal: tcgetattr(std::io::stdin()).ok(),
        })
    }

    /// The result of the work, which Ctrl-C cancels.
    async fn unless_interrupted<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // One that came too late for the last statement.
        while self.interrupt.recv().now_or_never().is_some() {}
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {
                self.is_terminated = true;
                Err(terminated())
            }
            _ = self.interrupt.recv() => Err(Error::cancelled("cancelled")),
            result = work => result,
        }
    }

    /// The result of the work, unless the process is to end: then the terminal is as it was.
    async fn unless_terminated<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {
                if let Some(terminal) = &self.terminal {
                    let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, terminal);
                }
                Err(terminated())
            }
            result = work => result,
        }
    }

    fn check_terminated(&self) -> Result<()> {
        if self.is_terminated { Err(terminated()) } else { Ok(()) }
    }
}

fn terminated() -> Error {
    Error::cancelled("terminated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_backslash() {
        for (text, expected) in [
            ("\\d", ShellCommand::Tables),
            ("\\d;", ShellCommand::Tables),
            (" \\d  \"a/b\".c ;", ShellCommand::Columns("\"a/b\".c")),
            ("\\timing", ShellCommand::Timing),
            ("\\q", ShellCommand::Quit),
            ("exit", ShellCommand::Quit),
            ("quit;", ShellCommand::Quit),
            ("\\?", ShellCommand::Help),
            ("SELECT 1;", ShellCommand::Statements("SELECT 1;")),
        ] {
            assert_eq!(ShellCommand::parse(text), Ok(expected), "{text}");
        }
        let error = ShellCommand::parse("\\dt x").unwrap_err();
        assert!(error.message.contains("\\dt x") && error.message.contains("\\?"), "{error}");
    }

    #[test]
    fn table_may_be_typed_as_a_path() {
        for (typed, named) in [("a/b/c", "\"a/b\".c"), ("\"a/b\".c", "\"a/b\".c"), ("c", "c"), ("Sales.c", "Sales.c")] {
            assert_eq!(table_of(typed), named);
        }
    }
}
