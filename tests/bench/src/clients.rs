//! The client processes: one in Python, which forks for every job, and one in Rust for each job.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::jobs::{ClientJob, JobOutcome};

/// The argument with which this program runs as a client.
pub const CLIENT: &str = "client";
/// Frees the tables that the Python client has made for puts.
const FORGET: &str = r#"{"do": "forget"}"#;
/// Starts the measured part of a prepared job.
const GO: &str = "go";

/// Runs jobs. The Python process ends when it is dropped.
pub struct ClientProcesses {
    python: ClientPipe,
}

/// A job whose tables are made and whose connections are open.
pub struct PreparedJob<'a> {
    pipe: ClientHandle<'a>,
}

enum ClientHandle<'a> {
    Shared(&'a mut ClientPipe),
    Alone(Box<ClientPipe>),
}

/// A process with which this one exchanges lines. It ends when this is dropped.
pub struct ClientPipe {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl ClientProcesses {
    /// Starts Python with the program of the client. `packages`: the folder of the Python package `volley`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(python: &Path, program: &Path, packages: &Path) -> Result<ClientProcesses, String> {
        let mut command = Command::new(python);
        command.arg(program).env("PYTHONPATH", packages);
        Ok(ClientProcesses { python: ClientPipe::start(command)? })
    }

    /// Sends a job; returns when the client is ready to begin.
    ///
    /// # Errors
    /// The error of the client.
    pub async fn prepare(&mut self, job: &ClientJob) -> Result<PreparedJob<'_>, String> {
        let mut pipe = match job {
            ClientJob::Put(_)
            | ClientJob::Get(_)
            | ClientJob::Drain(_)
            | ClientJob::PackagePut(_)
            | ClientJob::PackageGet(_)
            | ClientJob::Train(_)
            | ClientJob::Download(_)
            | ClientJob::Quack(_) => ClientHandle::Shared(&mut self.python),
            ClientJob::RustPut(_)
            | ClientJob::RustGet(_)
            | ClientJob::Small(_)
            | ClientJob::Infos(_)
            | ClientJob::Mixed(_) => {
                let program = std::env::current_exe().map_err(|e| format!("cannot find this program's path: {e}"))?;
                let mut command = Command::new(program);
                command.arg(CLIENT);
                ClientHandle::Alone(Box::new(ClientPipe::start(command)?))
            }
        };
        let job = serde_json::to_string(job).map_err(|e| format!("a job as JSON: {e}"))?;
        let answer = pipe.get().ask(&job).await?;
        if answer["at"] != "begin" {
            return Err(format!("the client did not begin: {answer}"));
        }
        Ok(PreparedJob { pipe })
    }

    /// Frees the tables that were made for puts.
    ///
    /// # Errors
    /// The client has exited.
    pub async fn forget(&mut self) -> Result<(), String> {
        self.python.ask(FORGET).await.map(|_| ())
    }
}

impl PreparedJob<'_> {
    /// Lets the client begin, and waits for its outcome.
    ///
    /// # Errors
    /// The error of the client.
    pub async fn go(mut self) -> Result<JobOutcome, String> {
        let answer = self.pipe.get().ask(GO).await?;
        serde_json::from_value(answer).map_err(|e| format!("the client's outcome: {e}"))
    }
}

impl ClientHandle<'_> {
    fn get(&mut self) -> &mut ClientPipe {
        match self {
            ClientHandle::Shared(pipe) => pipe,
            ClientHandle::Alone(pipe) => pipe,
        }
    }
}

impl ClientPipe {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command) -> Result<ClientPipe, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let shown = format!("{:?}", command.as_std().get_program());
        let mut child = command.spawn().map_err(|e| format!("the client {shown} cannot be started: {e}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("the client {shown} has no pipes"));
        };
        Ok(ClientPipe { _child: child, input, output: BufReader::new(output).lines() })
    }

    /// Sends a line and receives one.
    ///
    /// # Errors
    /// The error in the answer, or the process has exited.
    pub async fn ask(&mut self, line: &str) -> Result<Value, String> {
        let gone = |e: std::io::Error| format!("the client has exited: {e}");
        self.input.write_all(format!("{line}\n").as_bytes()).await.map_err(gone)?;
        let answer = self.output.next_line().await.map_err(gone)?.ok_or("the client ended in the middle of a job")?;
        let answer: Value =
            serde_json::from_str(&answer).map_err(|e| format!("the client's answer {answer:?}: {e}"))?;
        answer["error"].as_str().map_or(Ok(answer.clone()), |error| Err(format!("the client failed: {error}")))
    }
}
