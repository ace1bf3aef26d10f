//! One member of a cluster: a process with a log, that can be killed, stopped, paused and started again.

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
use volley_common::client::Client;

use crate::wait_for;

/// How long a member may take to say that it is ready, or to end on SIGTERM.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a log that are shown when a test fails.
const SHOWN: usize = 40;

/// A member of a cluster.
pub struct Process {
    /// `coordinator1`, `node3`, …
    pub name: String,
    /// Where Flight clients reach it: HOST:PORT.
    pub address: String,
    /// Its data folder.
    pub folder: PathBuf,
    program: PathBuf,
    /// Another program with its arguments, that runs this one.
    runner: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// Gets the first line of standard output.
    ready: Option<oneshot::Receiver<String>>,
}

impl Process {
    /// A member that does not run yet: `program` is a binary of this workspace, or the path of another. Its log lies
    /// beside its folder.
    pub fn new(program: &str, name: String, address: String, folder: PathBuf, arguments: Vec<String>) -> Process {
        let log = folder.with_extension("log");
        let (program, runner) = (binary(program), Vec::new());
        Process { name, address, folder, program, runner, arguments, log, child: None, ready: None }
    }

    /// Starts it, without waiting.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut words = self.runner.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.open_log());
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("VOLLEY_")) {
            command.env_remove(key);
        }
        let mut child = spawn(command).unwrap_or_else(|e| panic!("{} cannot be started: {e}", self.program.display()));
        let (told, ready) = oneshot::channel();
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || read_output(stdout, told));
        (self.child, self.ready) = (Some(child), Some(ready));
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).unwrap()
    }

    /// Waits for the line `ready grpc://…`.
    pub async fn ready(&mut self) {
        let Some(ready) = self.ready.take() else { return };
        let line = tokio::time::timeout(PATIENCE, ready).await;
        let line =
            line.unwrap_or_else(|_| panic!("{} is not ready within {PATIENCE:?}", self.name)).unwrap_or_default();
        assert_eq!(line, format!("ready grpc://{}", self.address), "{} did not start:\n{}", self.name, self.log_tail());
    }

    /// As [`Process::ready`], but says what went wrong. Asked again after an error it has nothing to wait for.
    pub async fn try_ready(&mut self, limit: Duration) -> Result<(), String> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        match tokio::time::timeout(limit, ready).await {
            Err(_) => Err(format!("{} is not ready within {limit:?}", self.name)),
            Ok(line) if line.as_deref() == Ok(&format!("ready grpc://{}", self.address)) => Ok(()),
            Ok(_) => Err(format!("{} ended before it was ready", self.name)),
        }
    }

    /// [`Process::start`] and [`Process::ready`].
    pub async fn restart(&mut self) {
        self.start();
        self.ready().await;
    }

    /// Gives it another value for one of its flags, from the next start on.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        let at = self.arguments.iter().position(|argument| argument == flag);
        let at = at.unwrap_or_else(|| panic!("{} has no flag {flag}", self.name));
        self.arguments[at + 1] = value.to_string();
    }

    /// Has another program run it from the next start on, as `valgrind --tool=callgrind` would be; none if empty.
    pub fn set_runner(&mut self, runner: Vec<String>) {
        self.runner = runner;
    }

    /// Starts it, which must fail: what it says last. A log may have more lines, the reason is one.
    pub async fn refuses(&mut self) -> String {
        let before = self.log_len();
        self.start();
        let child = self.child.as_mut().unwrap();
        let status = wait_for(PATIENCE, "it gives up", async || child.try_wait().unwrap()).await;
        self.child = None;
        assert!(!status.success(), "{} ended as if all were well", self.name);
        let log = fs::read(&self.log).unwrap();
        let text = String::from_utf8_lossy(&log[before..]);
        let reason = text.lines().last().unwrap_or_default().to_string();
        assert!(reason.starts_with("volley-"), "{} gave no reason:\n{text}", self.name);
        reason
    }

    /// Waits until it ends by itself, as a failure: the last line of its log.
    pub async fn gives_up(&mut self) -> String {
        let child = self.child.as_mut().unwrap();
        let status = wait_for(PATIENCE, "it gives up", async || child.try_wait().unwrap()).await;
        self.child = None;
        assert!(!status.success(), "{} ended as if all were well", self.name);
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
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Whether it was started, and ended without having been told to.
    pub fn ended_by_itself(&mut self) -> bool {
        self.child.is_some() && !self.is_alive()
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9, and waits until it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.ended().await
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended, after [`Process::terminate`].
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let mut child = self.child.take().unwrap();
        wait_for(PATIENCE, &format!("{name} ends"), async || child.try_wait().unwrap()).await
    }

    /// What it answers to `GET path` on its HTTP port, 20 above the one of Flight: the status code and the body. None: nobody
    /// answers there.
    pub async fn http(&self, path: &str) -> Option<(u16, String)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let mut stream = TcpStream::connect((host, port.parse::<u16>().ok()? + 20)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
    }

    /// As [`Process::stop`], but kills it after `limit`: none then.
    pub async fn try_stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let end = std::time::Instant::now() + limit;
        while self.is_alive() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
        self.kill9();
        ended
    }

    /// SIGSTOP: it runs no more, its connections stay.
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
        format!("grpc+tcp://{}", self.address)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Hands over the first line, then reads on so that the pipe never fills.
fn read_output(stdout: ChildStdout, told: oneshot::Sender<String>) {
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    // Nobody may be waiting any more.
    let _ = told.send(lines.next().unwrap_or_default());
    lines.for_each(drop);
}

/// Runs one of the servers' binaries to its end.
pub fn run(program: &str, arguments: &[&str]) -> std::process::Output {
    Command::new(binary(program)).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A server's binary: in the folder that `VOLLEY_BIN_DIR` names, else beside this executable, or a test's folder. A path
/// of its own stays what it is.
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

type Order = (Command, SyncSender<std::io::Result<Child>>);

/// Starts a child that dies with this process, even if this process is killed.
///
/// The kernel sends the signal when the *thread* that made the child ends: so one thread that lives as
/// long as the process makes them all.
fn spawn(mut command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<Order>> = OnceLock::new();
    // SAFETY: the closure runs between fork and exec and makes one system call; it neither allocates nor locks.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = sync_channel::<Order>(0);
        thread::spawn(move || {
            for (mut command, reply) in orders {
                // The one who asked waits for it.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = sync_channel(1);
    spawner.send((command, reply)).unwrap();
    child.recv().unwrap()
}
