//! The client processes: one of Python, which forks for every job, and one of Rust for each job.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::jobs::{Job, Outcome};

/// The word by which this program is told to be a client.
pub const CLIENT: &str = "client";
/// Frees the tables that Python's client has made to put them.
const FORGET: &str = r#"{"do": "forget"}"#;
/// Tells a client that is prepared to begin.
const GO: &str = "go";

/// Runs jobs; its process ends when it is dropped.
pub struct Clients {
    python: Talk,
}

/// A job for which all is prepared: tables are made, connections are there.
pub struct Prepared<'a> {
    talk: Own<'a>,
}

enum Own<'a> {
    Shared(&'a mut Talk),
    Alone(Box<Talk>),
}

/// A process that is spoken with in lines.
struct Talk {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    /// Starts Python with the client's program.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(python: &Path, program: &Path) -> Result<Clients, String> {
        let mut command = Command::new(python);
        command.arg(program);
        Ok(Clients { python: Talk::start(command)? })
    }

    /// Gives out a job; returns when the client waits to begin.
    ///
    /// # Errors
    /// What the client says.
    pub async fn prepare(&mut self, job: &Job) -> Result<Prepared<'_>, String> {
        let mut talk = match job {
            Job::Put(_) | Job::Get(_) | Job::Drain(_) => Own::Shared(&mut self.python),
            Job::RustPut(_) | Job::RustGet(_) | Job::Small(_) | Job::Infos(_) => {
                let program = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
                let mut command = Command::new(program);
                command.arg(CLIENT);
                Own::Alone(Box::new(Talk::start(command)?))
            }
        };
        let job = serde_json::to_string(job).map_err(|e| format!("a job as JSON: {e}"))?;
        let answer = talk.get().ask(&job).await?;
        if answer["at"] != "begin" {
            return Err(format!("the client did not begin: {answer}"));
        }
        Ok(Prepared { talk })
    }

    /// Frees the tables that were made to be put.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn forget(&mut self) -> Result<(), String> {
        self.python.ask(FORGET).await.map(|_| ())
    }
}

impl Prepared<'_> {
    /// Lets the client begin, and waits for what it did.
    ///
    /// # Errors
    /// What the client says.
    pub async fn go(mut self) -> Result<Outcome, String> {
        let answer = self.talk.get().ask(GO).await?;
        serde_json::from_value(answer).map_err(|e| format!("the client's outcome: {e}"))
    }
}

impl Own<'_> {
    fn get(&mut self) -> &mut Talk {
        match self {
            Own::Shared(talk) => talk,
            Own::Alone(talk) => talk,
        }
    }
}

impl Talk {
    fn start(mut command: Command) -> Result<Talk, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let shown = format!("{:?}", command.as_std().get_program());
        let mut child = command.spawn().map_err(|e| format!("the client {shown} cannot be started: {e}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("the client {shown} has no pipes"));
        };
        Ok(Talk { _child: child, input, output: BufReader::new(output).lines() })
    }

    /// Says a line and hears one.
    async fn ask(&mut self, line: &str) -> Result<Value, String> {
        let gone = |e: std::io::Error| format!("the client is gone: {e}");
        self.input.write_all(format!("{line}\n").as_bytes()).await.map_err(gone)?;
        let answer = self.output.next_line().await.map_err(gone)?.ok_or("the client ended in the middle of a job")?;
        let answer: Value =
            serde_json::from_str(&answer).map_err(|e| format!("the client's answer {answer:?}: {e}"))?;
        answer["error"].as_str().map_or(Ok(answer.clone()), |error| Err(format!("the client failed: {error}")))
    }
}
