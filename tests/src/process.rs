//! One server process with its log: started, killed, stopped, paused and started again.
#![allow(unsafe_code, reason = "children that end with their parent")]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use volley_client::Client;

use crate::loopback::HTTP_OFFSET;
use crate::wait_for;

/// How long a server may take to be ready, or to exit on SIGTERM.
const LIMIT: Duration = Duration::from_secs(60);
/// Lines of the log that are shown when a test fails.
const TAIL_LINES: usize = 40;

/// A server process, running or not.
pub struct ServerProcess {
    /// `coordinator1`, `node3`, …
    pub name: String,
    /// Where Flight clients reach it: HOST:PORT.
    pub address: String,
    /// Its data folder.
    pub folder: PathBuf,
    program: PathBuf,
    /// A program, such as valgrind, with its arguments, that runs this one; none if empty.
    runner: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// Receives the first line of standard output.
    ready: Option<oneshot::Receiver<String>>,
}

impl ServerProcess {
    /// A process that does not run yet. `program` is a binary of this workspace, or the path of another; the log is
    /// beside the data folder.
    pub fn new(program: &str, name: String, address: String, folder: PathBuf, arguments: Vec<String>) -> ServerProcess {
        let log = folder.with_extension("log");
        let (program, runner) = (binary(program), Vec::new());
        ServerProcess { name, address, folder, program, runner, arguments, log, child: None, ready: None }
    }

    /// Starts it, without waiting.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut words = self.runner.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.open_log());
        remove_variables(&mut command);
        let mut child = spawn(command).unwrap_or_else(|e| panic!("{} cannot be started: {e}", self.program.display()));
        let (first_line, ready) = oneshot::channel();
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || read_output(stdout, first_line));
        (self.child, self.ready) = (Some(child), Some(ready));
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).unwrap()
    }

    /// Waits for the line `ready grpc://…`.
    pub async fn ready(&mut self) {
        let Some(ready) = self.ready.take() else { return };
        let line = tokio::time::timeout(LIMIT, ready).await;
        let line = line.unwrap_or_else(|_| panic!("{} is not ready within {LIMIT:?}", self.name)).unwrap_or_default();
        assert_eq!(line, self.ready_line(), "{} did not start:\n{}", self.name, self.log_tail());
    }

    fn ready_line(&self) -> String {
        let scheme = if self.has_tls() { "grpc+tls" } else { "grpc" };
        format!("ready {scheme}://{}", self.address)
    }

    /// Whether its first listener has TLS.
    fn has_tls(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--tls-cert")
    }

    /// Like [`ServerProcess::ready`], but returns what went wrong. A call after an error returns immediately.
    pub async fn try_ready(&mut self, limit: Duration) -> Result<(), String> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        match tokio::time::timeout(limit, ready).await {
            Err(_) => Err(format!("{} is not ready within {limit:?}", self.name)),
            Ok(line) if line.as_deref() == Ok(&self.ready_line()) => Ok(()),
            Ok(_) => Err(format!("{} ended before it was ready", self.name)),
        }
    }

    /// [`ServerProcess::start`] and [`ServerProcess::ready`].
    pub async fn restart(&mut self) {
        self.start();
        self.ready().await;
    }

    /// Changes the value of one of its flags, from the next start on.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        let at = self.arguments.iter().position(|argument| argument == flag);
        let at = at.unwrap_or_else(|| panic!("{} has no flag {flag}", self.name));
        self.arguments[at + 1] = value.to_string();
    }

    /// Adds flags, from the next start on.
    pub fn add_flags(&mut self, flags: impl IntoIterator<Item = String>) {
        self.arguments.extend(flags);
    }

    /// Runs it under another program from the next start on, such as `valgrind --tool=callgrind`; under none if empty.
    pub fn run_under(&mut self, runner: Vec<String>) {
        self.runner = runner;
    }

    /// Starts it, which must fail; returns the last line of its log, which is the reason.
    pub async fn start_fails(&mut self) -> String {
        let before = self.log_len();
        self.start();
        let child = self.child.as_mut().unwrap();
        let status = wait_for(LIMIT, "it exits", async || child.try_wait().unwrap()).await;
        self.child = None;
        assert!(!status.success(), "{} exited with success", self.name);
        let log = fs::read(&self.log).unwrap();
        let text = String::from_utf8_lossy(&log[before..]);
        let reason = text.lines().last().unwrap_or_default().to_string();
        assert!(reason.starts_with("volley-"), "{} gave no reason:\n{text}", self.name);
        reason
    }

    /// Waits until it exits by itself with a failure; returns the last line of its log.
    pub async fn exits_with_failure(&mut self) -> String {
        let child = self.child.as_mut().unwrap();
        let status = wait_for(LIMIT, "it exits", async || child.try_wait().unwrap()).await;
        self.child = None;
        assert!(!status.success(), "{} exited with success", self.name);
        self.log().lines().last().unwrap_or_default().to_string()
    }

    fn log_len(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len() as usize)
    }

    /// The whole log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it runs (a paused one does).
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Whether it was started and has exited by itself.
    pub fn has_crashed(&mut self) -> bool {
        self.child.is_some() && !self.is_running()
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9; returns when the process has ended.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that the process has ended already.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; returns when it has exited.
    pub async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait_for_exit().await
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has exited, after [`ServerProcess::terminate`].
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let mut child = self.child.take().unwrap();
        wait_for(LIMIT, &format!("{name} exits"), async || child.try_wait().unwrap()).await
    }

    /// `GET path` on its HTTP port: the status code and the body, or none if nothing answers.
    pub async fn http(&self, path: &str) -> Option<(u16, String)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let mut stream = TcpStream::connect((host, port.parse::<u16>().ok()? + HTTP_OFFSET)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
    }

    /// Like [`ServerProcess::stop`], but kills it after `limit`, and returns none then.
    pub async fn try_stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let end = std::time::Instant::now() + limit;
        while self.is_running() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
        self.kill();
        ended
    }

    /// SIGSTOP: it does nothing, and its connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// A client connected to it; it must be running.
    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await.unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The address as FlightInfo has it.
    pub fn uri(&self) -> String {
        format!("{}://{}", if self.has_tls() { "grpc+tls" } else { "grpc+tcp" }, self.address)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends the first line, then reads on so that the pipe never fills.
fn read_output(stdout: ChildStdout, first_line: oneshot::Sender<String>) {
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    // An error means that nothing waits for it.
    let _ = first_line.send(lines.next().unwrap_or_default());
    lines.for_each(drop);
}

/// Runs a binary of this workspace to its end.
pub fn run(program: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(binary(program));
    remove_variables(&mut command);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Removes the variables of tests and of the user's shell, which a server would take as settings or refuse as unknown ones.
fn remove_variables(command: &mut Command) {
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("VOLLEY_")) {
        command.env_remove(key);
    }
}

/// The path of a binary: in the folder that `VOLLEY_BIN_DIR` names, else beside this executable (for a test, one folder up). An
/// absolute path stays as it is.
fn binary(name: &str) -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let folder = executable.parent().unwrap();
    let path = match std::env::var_os("VOLLEY_BIN_DIR") {
        Some(given) => PathBuf::from(given).join(name),
        None if folder.ends_with("deps") => folder.parent().unwrap().join(name),
        None => folder.join(name),
    };
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

type SpawnRequest = (Command, SyncSender<std::io::Result<Child>>);

/// Starts a child that is killed when this process ends, even if this process is killed.
///
/// The kernel sends the signal when the *thread* that started the child ends. So one thread, which lives as long as this
/// process, starts them all.
fn spawn(mut command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<SpawnRequest>> = OnceLock::new();
    // SAFETY: the closure runs between fork and exec and makes one system call; it neither allocates nor locks.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = sync_channel::<SpawnRequest>(0);
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // The caller waits for it.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = sync_channel(1);
    spawner.send((command, reply)).unwrap();
    child.recv().unwrap()
}
