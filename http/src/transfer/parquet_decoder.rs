//! A body in Parquet as an Arrow stream: a process of its own decodes it ([`volley_formats::decode_process`]), because a hostile
//! file can take any memory and time. What the process writes is read as if it came from a client.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use volley_common::escape::escape_invisible;
use volley_common::server::HttpConfig;
use volley_common::{Code, Error};
use volley_formats::InputFile;
use volley_formats::decode_process::{DecodeLimits, EXIT_CODES, MAX_ERROR_BYTES, has_entry};

use super::QUEUE_LEN;
use super::http_words::in_http_words;
use crate::problem::Problem;

/// The least that the process of a body counts in `http_memory_bytes`.
const MIN_COUNTED_BYTES: u64 = 64 << 20;
/// It counts with this part of what it may have: few files need more, and all processes of a member together have at most this
/// multiple of `http_memory_bytes`.
const COUNTED_PART: u64 = 4;
/// The time of a processor that every body may take, and the bytes that may take another second.
const CPU_SECONDS: u64 = 60;
const BYTES_PER_CPU_SECOND: u64 = 1 << 20;
/// A process that writes nothing for this multiple of its time hangs: others may have the processors meanwhile.
const WAIT_FACTOR: u32 = 4;
/// How long it may take to end after its output.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Rows may have this many times the bytes of the file, or those of the largest body if these are more.
const MAX_EXPANSION: u64 = 1000;
/// Bytes that are read at once: those of a pipe.
const READ_BYTES: usize = 64 << 10;

/// A process that decodes a stored body. Dropping it ends the process.
pub(crate) struct ParquetDecoder {
    child: Child,
    output: ChildStdout,
    errors: ChildStderr,
    limits: BodyLimits,
    /// Bytes of rows that may still come.
    left: u64,
}

/// What the decoding of one body may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BodyLimits {
    process: DecodeLimits,
    /// Bytes of its rows.
    rows: u64,
}

impl BodyLimits {
    fn of(settings: &HttpConfig, body_bytes: u64) -> Self {
        let cpu_seconds = CPU_SECONDS + body_bytes / BYTES_PER_CPU_SECOND;
        let process = DecodeLimits { memory_bytes: settings.http_parquet_memory_bytes, cpu_seconds };
        BodyLimits { process, rows: settings.max_http_body_bytes.max(body_bytes.saturating_mul(MAX_EXPANSION)) }
    }

    /// How long the process may write nothing.
    fn patience(self) -> Duration {
        Duration::from_secs(self.process.cpu_seconds).saturating_mul(WAIT_FACTOR)
    }
}

/// What the put of a body in Parquet takes of `http_memory_bytes`.
pub(crate) fn counted_memory(settings: &HttpConfig) -> u64 {
    (settings.http_parquet_memory_bytes / COUNTED_PART).max(MIN_COUNTED_BYTES)
}

/// The largest message: a row may be large, but not larger than the memory in which it is decoded. What waits for the rest of one
/// counts in `http_memory_bytes`.
pub(crate) fn max_message(settings: &HttpConfig) -> usize {
    usize::try_from(settings.http_parquet_memory_bytes).unwrap_or(usize::MAX).min(i32::MAX as usize)
}

impl ParquetDecoder {
    /// Starts the process.
    ///
    /// # Errors
    /// UNAVAILABLE: it cannot be started. UNIMPLEMENTED: this program has no entry for it.
    pub async fn start(body: &InputFile, settings: &HttpConfig) -> Result<Self, Problem> {
        if !has_entry() {
            let text = "this program decodes no Parquet, because it has no entry for the process that does: send an Arrow stream, CSV or JSON lines";
            return Err(Error::unimplemented(text).into());
        }
        let limits = BodyLimits::of(settings, body.bytes);
        ParquetDecoder::spawn(limits.process.command(body.open()?).into(), limits).await
    }

    async fn spawn(mut command: Command, limits: BodyLimits) -> Result<Self, Problem> {
        command.kill_on_drop(true);
        let mut child = spawn_by_thread(command).await.map_err(not_started)?;
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (output, errors) = pipes.ok_or_else(|| Error::internal("the process that decodes Parquet has no pipes"))?;
        Ok(ParquetDecoder { child, output, errors, limits, left: limits.rows })
    }

    /// The next bytes of the Arrow stream; none at its end.
    ///
    /// # Errors
    /// Those of the file. 413: it takes too much memory or time, or has too many rows. UNAVAILABLE: the process hangs.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        let mut chunk = BytesMut::with_capacity(READ_BYTES);
        let Ok(read) = timeout(self.limits.patience(), self.output.read_buf(&mut chunk)).await else {
            return Err(hangs());
        };
        match read.map_err(|e| Error::unavailable(format!("the process that decodes the body cannot be read: {e}")))? {
            0 => self.end().await.map(|()| None),
            bytes => match self.left.checked_sub(bytes as u64) {
                Some(left) => {
                    self.left = left;
                    Ok(Some(chunk.freeze()))
                }
                None => Err(expands(self.limits.rows)),
            },
        }
    }

    /// Waits until the process has ended.
    async fn end(&mut self) -> Result<(), Problem> {
        let mut text = Vec::new();
        let ended = async {
            (&mut self.errors).take(MAX_ERROR_BYTES as u64).read_to_end(&mut text).await?;
            self.child.wait().await
        };
        let status = timeout(END_TIMEOUT, ended).await.map_err(|_| hangs())?;
        let status =
            status.map_err(|e| Error::unavailable(format!("the end of the decoding process is unknown: {e}")))?;
        match status.success() {
            true => Ok(()),
            false => Err(failure(status, &String::from_utf8_lossy(&text), self.limits.process)),
        }
    }
}

/// Why a process has failed that ended so, and wrote this text.
fn failure(status: ExitStatus, text: &str, limits: DecodeLimits) -> Problem {
    let known = EXIT_CODES.iter().find(|(exit, _)| status.code() == Some(i32::from(*exit)));
    if let Some((_, code)) = known.filter(|_| !text.is_empty()) {
        let error = Error { code: *code, ..Error::internal(escape_invisible(text)) };
        return match code {
            Code::ResourceExhausted => too_large(in_http_words(error).message),
            _ => in_http_words(error).into(),
        };
    }
    match status.signal() {
        Some(signal) if signal == Signal::ABORT.as_raw() => too_large(format!(
            "decoding the body takes more than {} bytes of memory (`http_parquet_memory_bytes`): write smaller row groups, or send an Arrow stream",
            limits.memory_bytes
        )),
        Some(signal) if signal == Signal::XCPU.as_raw() => too_large(format!(
            "decoding the body takes more than {} seconds of a processor: send it in parts by POST, or as an Arrow stream",
            limits.cpu_seconds
        )),
        Some(signal) => too_large(format!(
            "the process that decodes the body was ended by signal {signal}, as by a system that is short of memory: write smaller row groups, or send an Arrow stream"
        )),
        None => {
            tracing::warn!(%status, text, "decoding a body in Parquet failed by a bug");
            let text =
                "the body cannot be decoded, and may be damaged: write it by another program, or send an Arrow stream";
            Error::invalid(text).into()
        }
    }
}

fn expands(limit: u64) -> Problem {
    too_large(format!(
        "the rows of the body have more than {limit} bytes, as many as `max_http_body_bytes` and {MAX_EXPANSION} times its own: send it in parts by POST, or as an Arrow stream"
    ))
}

fn too_large(text: String) -> Problem {
    Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, Error::exhausted(text))
}

fn hangs() -> Problem {
    Error::unavailable("the process that decodes the body hangs: try again, or send an Arrow stream").into()
}

fn not_started(error: io::Error) -> Error {
    let text =
        format!("the process that decodes the body cannot be started ({error}): try again, or send an Arrow stream");
    Error::unavailable(text)
}

/// A process to be started in a runtime.
struct SpawnOrder {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts a process by a thread that lives as long as this process: the system ends a process that wants so when the thread ends that
/// started it, and threads of a runtime may end.
async fn spawn_by_thread(command: Command) -> io::Result<Child> {
    let (reply, child) = oneshot::channel();
    let order = SpawnOrder { command, runtime: Handle::current(), reply };
    let gone = || io::Error::other("the thread that starts processes has ended");
    spawner()?.send(order).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

/// The orders of the thread, which is started with the first.
fn spawner() -> io::Result<mpsc::Sender<SpawnOrder>> {
    static SPAWNER: Mutex<Option<mpsc::Sender<SpawnOrder>>> = Mutex::new(None);
    let mut spawner = SPAWNER.lock();
    if let Some(orders) = spawner.as_ref().filter(|orders| !orders.is_closed()) {
        return Ok(orders.clone());
    }
    let (orders, mut received) = mpsc::channel::<SpawnOrder>(QUEUE_LEN);
    thread::Builder::new().name("spawner".into()).spawn(move || {
        while let Some(order) = received.blocking_recv() {
            let SpawnOrder { mut command, runtime, reply } = order;
            let _entered = runtime.enter();
            // If nobody waits any more, the process is killed because it is dropped.
            drop(reply.send(command.spawn()));
        }
    })?;
    Ok(spawner.insert(orders).clone())
}

#[cfg(test)]
mod tests;
