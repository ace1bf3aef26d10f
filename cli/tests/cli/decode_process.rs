//! The process that decodes Parquet of strangers, as the programs start it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use rustix::process::Signal;
use volley_formats::decode_process::DecodeLimits;
use volley_formats::{Format, OutputOptions, TableEncoder};

const MIB: usize = 1 << 20;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    // Readers share its place.
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

fn parquet(rows: &RecordBatch) -> File {
    let options = OutputOptions::default();
    let mut encoder = TableEncoder::new(Vec::new(), Format::Parquet, &rows.schema(), &options).unwrap();
    encoder.write(rows).unwrap();
    file(&encoder.finish().unwrap())
}

fn numbers(count: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn start(input: File, limits: DecodeLimits) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_volley"));
    command.args(limits.arguments()).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn decode(input: File, memory_bytes: usize) -> Output {
    let limits = DecodeLimits { memory_bytes: memory_bytes as u64, cpu_seconds: 60 };
    start(input, limits).wait_with_output().unwrap()
}

#[test]
fn decoding_process_writes_rows_as_a_stream() {
    let rows = numbers(100_000);
    let output = decode(parquet(&rows), 64 * MIB);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let batches: Vec<_> = StreamReader::try_new(&output.stdout[..], None).unwrap().map(Result::unwrap).collect();
    assert_eq!(concat_batches(&rows.schema(), &batches).unwrap(), rows);
}

#[test]
fn decoding_process_names_what_is_wrong_with_a_file() {
    let output = decode(file(b"a,b\n1,2\n"), 64 * MIB);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("the body: ") && text.contains("Parquet"), "{text}");
}

#[test]
fn decoding_beyond_the_memory_ends_that_process_alone() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(32 * MIB)]));
    let rows = RecordBatch::try_from_iter([("s", text)]).unwrap();
    let output = decode(parquet(&rows), 16 * MIB);
    assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(decode(parquet(&rows), 512 * MIB).status.success());
}

#[test]
fn decoding_process_has_limits_and_ends_without_a_reader() {
    let mut child = start(parquet(&numbers(1_000_000)), DecodeLimits { memory_bytes: 64 << 20, cpu_seconds: 7 });
    // It waits for a reader of the rest.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let of = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_string).take(2).collect::<Vec<_>>()
    };
    assert_eq!(of("Max cpu time"), ["7", "8"]);
    assert!(of("Max core file size")[1].parse::<u64>().unwrap() <= 1);
    assert_eq!(of("Max file size"), ["0", "0"]);
    assert!(of("Max address space")[0].parse::<usize>().unwrap() > 64 * MIB);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}
