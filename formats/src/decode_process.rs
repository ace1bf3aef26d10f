//! A process of its own that decodes Parquet of strangers: a hostile file can take any memory and time, and ends only that process.
//!
//! It is the running program, started again with [`DecodeLimits::arguments`]; each `main` that serves HTTP begins with
//! [`run_if_requested`]. It limits itself, reads the file from its standard input, and writes an Arrow stream to its standard output.
//! An error is a short text on its standard error, and one of [`EXIT_CODES`].

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::encode::encode_messages;
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::ipc::stream_format::{END_OF_STREAM, message_prefix};
use volley_common::memory::return_large_blocks;
use volley_common::{Code, Error, Result};

use super::text::TextOptions;
use super::{Format, InputFile, ReadProgress, file_error, open, schema};

/// The first argument of the process.
const ARGUMENT: &str = "decode-parquet-of-standard-input";
/// Its name in lists of processes.
const NAME: &str = "volley-decode-parquet";
/// The running program, also if its file has been replaced since its start, as by an upgrade.
const PROGRAM: &str = "/proc/self/exe";
/// The name of the file in errors.
const FILE_NAME: &str = "the body";
/// The longest text of an error, bytes.
pub const MAX_ERROR_BYTES: usize = 2048;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;
/// By how much it gives way to its parent, which serves others, see nice(2).
const NICENESS: i32 = 5;

/// The exit codes of errors. A panic has 101, and what exceeds a limit ends by a signal.
pub const EXIT_CODES: [(u8, Code); 4] = [
    (2, Code::InvalidArgument),
    (3, Code::ResourceExhausted),
    (4, Code::Unavailable),
    // Of all other codes.
    (5, Code::Internal),
];

/// Whether this program has the entry of the process.
static HAS_ENTRY: AtomicBool = AtomicBool::new(false);

/// What the process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Address space besides what the program has at its start, bytes.
    pub memory_bytes: u64,
    /// Time of a processor, seconds.
    pub cpu_seconds: u64,
}

/// Decodes, and returns the exit code, if this process was started for it. Call it first in `main`: before other threads start, and
/// before arguments and configuration are read.
pub fn run_if_requested() -> Option<ExitCode> {
    HAS_ENTRY.store(true, Ordering::Relaxed);
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return None;
    }
    let mut number = || arguments.next()?.to_str()?.parse::<u64>().ok();
    let limits = number().zip(number());
    let limits = limits.map(|(memory_bytes, cpu_seconds)| DecodeLimits { memory_bytes, cpu_seconds });
    Some(run(limits))
}

/// Whether this program has called [`run_if_requested`], so that it can be started again as the process.
pub fn has_entry() -> bool {
    HAS_ENTRY.load(Ordering::Relaxed)
}

impl DecodeLimits {
    /// The arguments of the process.
    pub fn arguments(self) -> [String; 3] {
        [ARGUMENT.into(), self.memory_bytes.to_string(), self.cpu_seconds.to_string()]
    }

    /// The process that decodes this file. It has no environment, in which secrets of this process may be; the output and the errors
    /// are pipes.
    pub fn command(self, file: File) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg0(NAME).args(self.arguments()).env_clear();
        command.stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Limits this process.
    fn apply(self) -> Result<()> {
        // If memory runs short, the system should end this process and not its parent. Raising the score is always permitted; where
        // it is not possible, the limits below hold all the same.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        // A priority that stays as it was is no fault.
        let _ = nice(NICENESS);
        // An image of the memory would have the rows of a client, and fill a disk. By the limit 0 a program that receives images by a
        // pipe would still get them. Files are not written.
        limit(Resource::Core, 1, 1)?;
        limit(Resource::Fsize, 0, 0)?;
        // SIGXCPU at the first, which tells the reason; SIGKILL at the second.
        limit(Resource::Cpu, self.cpu_seconds, self.cpu_seconds.saturating_add(1))?;
        // The address space, because it is what the system refuses by an error that allocators know.
        let bytes = program_bytes()?.saturating_add(self.memory_bytes);
        limit(Resource::As, bytes, bytes)
    }
}

/// Lowers a limit: this process was perhaps started with a lower one.
fn limit(resource: Resource, current: u64, maximum: u64) -> Result<()> {
    let inherited = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(current.min(inherited)), maximum: Some(maximum.min(inherited)) };
    let failed =
        |e: Errno| Error::unavailable(format!("the limit {resource:?} of the decoding process cannot be set: {e}"));
    setrlimit(resource, limit).map_err(failed)
}

/// The address space that this process has, most of which are the mapped program and its libraries.
fn program_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = |line: &str| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    let kib = status.lines().find_map(size);
    kib.map(|kib| kib << 10)
        .ok_or_else(|| Error::unavailable("/proc/self/status does not say how large the process is"))
}

fn run(limits: Option<DecodeLimits>) -> ExitCode {
    // The parent logs a panic, and gives its client another text.
    std::panic::set_hook(Box::new(|panic| report(&panic.to_string())));
    return_large_blocks();
    let limits = limits.ok_or_else(|| Error::internal("the decoding process needs its limits as arguments"));
    match limits.and_then(|limits| limits.apply()).and_then(|()| decode_input()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error.message);
            ExitCode::from(exit_code(error.code))
        }
    }
}

fn exit_code(code: Code) -> u8 {
    let last = EXIT_CODES[EXIT_CODES.len() - 1].0;
    EXIT_CODES.iter().find(|(_, known)| *known == code).map_or(last, |(exit, _)| *exit)
}

/// Writes the text of an error. If its reader is gone, so is who wants to know it.
fn report(text: &str) {
    let end = (0..=MAX_ERROR_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let _ = io::stderr().write_all(&text.as_bytes()[..end]);
}

/// Decodes the standard input to the standard output.
fn decode_input() -> Result<()> {
    // When the thread ends that started this process, and with it the parent. Otherwise its pipe is closed then.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let failed = |e: io::Error| Error::unavailable(format!("the decoding process cannot use its pipes: {e}"));
    let file = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let bytes = file.metadata().map_err(failed)?.len();
    // Not the buffer of the standard library, which looks for line ends.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    let input = InputFile::of_copy(Path::new(FILE_NAME), Format::Parquet, bytes, file)?;
    write_stream(&input, BufWriter::with_capacity(WRITE_BYTES, output))
}

/// Writes the rows of a file that has a schema as an Arrow stream, in messages of about [`MESSAGE_BYTES`].
fn write_stream(input: &InputFile, mut output: impl Write) -> Result<()> {
    let mut write = |bytes: &[u8]| {
        let written = output.write_all(bytes);
        written.map_err(|e| Error::cancelled(format!("nobody reads the rows: {e}")))
    };
    let schema = schema(input)?;
    write(&message_prefix(&flight_header(&schema_message(&schema)?)))?;
    for batch in open(input, schema, &TextOptions::default(), ReadProgress::default())? {
        let batch = batch.map_err(|e| file_error(&input.path, e))?;
        for message in encode_messages(&batch, MESSAGE_BYTES)? {
            write(&message_prefix(&message.header))?;
            write(&message.body)?;
        }
    }
    write(&END_OF_STREAM)?;
    output.flush().map_err(|e| Error::cancelled(format!("nobody reads the rows: {e}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::ipc::reader::StreamReader;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn input(bytes: &[u8]) -> InputFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        InputFile::of_copy(Path::new(FILE_NAME), Format::Parquet, bytes.len() as u64, file).unwrap()
    }

    #[test]
    fn file_becomes_a_stream_of_its_rows() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
        let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        let mut stream = Vec::new();
        write_stream(&input(&writer.into_inner().unwrap()), &mut stream).unwrap();
        assert!(stream.ends_with(&END_OF_STREAM));
        let batches: Vec<RecordBatch> = StreamReader::try_new(&stream[..], None).unwrap().map(Result::unwrap).collect();
        assert_eq!(arrow::compute::concat_batches(&rows.schema(), &batches).unwrap(), rows);
    }

    #[test]
    fn file_of_another_format_is_an_error_with_its_name() {
        let error = write_stream(&input(b"a,b\n1,2\n"), io::sink()).unwrap_err();
        assert!(error.message.starts_with("the body: ") && exit_code(error.code) == 2, "{error}");
    }

    #[test]
    fn other_codes_are_internal() {
        assert_eq!([Code::ResourceExhausted, Code::Internal, Code::NotFound].map(exit_code), [3, 5, 5]);
    }

    #[test]
    fn test_program_has_no_entry_and_a_size() {
        assert!(!has_entry());
        assert!(program_bytes().unwrap() > 1 << 20);
    }
}
