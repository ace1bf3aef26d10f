#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;

use volley_formats::Format;

use super::*;

const LIMITS: BodyLimits = BodyLimits { process: DecodeLimits { memory_bytes: 1 << 20, cpu_seconds: 7 }, rows: 1000 };

/// A process in place of the decoder's.
async fn process(script: &str) -> ParquetDecoder {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ParquetDecoder::spawn(command, LIMITS).await.unwrap()
}

async fn output(script: &str) -> Result<Vec<u8>, Problem> {
    let (mut decoder, mut all) = (process(script).await, Vec::new());
    while let Some(chunk) = decoder.next_chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn output_of_a_process_that_ends_well_is_complete() {
    assert_eq!(output("printf ab; printf cd").await.unwrap(), b"abcd");
}

#[tokio::test]
async fn error_has_code_and_words_of_http() {
    let problem = output("printf ab; printf 'x: give --format arrows' >&2; exit 2").await.unwrap_err();
    assert_eq!((problem.status(), problem.error().code), (StatusCode::BAD_REQUEST, Code::InvalidArgument));
    assert_eq!(problem.error().message, "x: send it with the content-type application/vnd.apache.arrow.stream");
    let problem = output("printf 'much\\033' >&2; exit 3").await.unwrap_err();
    assert_eq!((problem.status(), problem.error().code), (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted));
    assert_eq!(problem.error().message, "much\\u{1b}");
}

#[tokio::test]
async fn long_error_is_cut() {
    let script = "head -c 5000 /dev/zero | tr '\\0' x >&2; exit 2";
    assert_eq!(output(script).await.unwrap_err().error().message.len(), MAX_ERROR_BYTES);
}

#[tokio::test]
async fn process_that_exceeds_a_limit_is_a_refusal_with_its_setting() {
    for (signal, words) in [
        ("ABRT", "more than 1048576 bytes of memory (`http_parquet_memory_bytes`)"),
        ("XCPU", "more than 7 seconds of a processor"),
        ("KILL", "ended by signal 9"),
    ] {
        let problem = output(&format!("ulimit -c 0; printf ab; kill -{signal} $$")).await.unwrap_err();
        let expected = (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted);
        assert_eq!((problem.status(), problem.error().code), expected);
        let text = &problem.error().message;
        assert!(text.contains(words) && text.contains("Arrow stream"), "{text}");
    }
}

#[tokio::test]
async fn unknown_end_says_nothing_of_the_inside() {
    for script in ["echo 'panicked at x.rs' >&2; exit 101", "exit 2"] {
        let problem = output(script).await.unwrap_err();
        assert_eq!(problem.error().code, Code::InvalidArgument);
        assert!(problem.error().message.starts_with("the body cannot be decoded"), "{:?}", problem.error());
    }
}

#[tokio::test]
async fn rows_beyond_their_limit_are_refused() {
    assert_eq!(output("head -c 1000 /dev/zero").await.unwrap().len(), 1000);
    let problem = output("head -c 1001 /dev/zero").await.unwrap_err();
    assert_eq!(problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(problem.error().message.contains("more than 1000 bytes"), "{:?}", problem.error());
}

#[tokio::test]
async fn dropped_decoder_ends_its_process() {
    let mut decoder = process("printf ab; exec sleep 1000").await;
    decoder.next_chunk().await.unwrap();
    let folder = format!("/proc/{}", decoder.child.id().unwrap());
    assert!(Path::new(&folder).exists());
    drop(decoder);
    let ended = async {
        while Path::new(&folder).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), ended).await.unwrap();
}

#[tokio::test]
async fn program_without_entry_decodes_nothing() {
    let input = InputFile::of_copy(Path::new("the body"), Format::Parquet, 0, tempfile::tempfile().unwrap()).unwrap();
    let problem = ParquetDecoder::start(&input, &HttpConfig::default()).await.map(drop).unwrap_err();
    assert_eq!(problem.error().code, Code::Unimplemented);
}

#[test]
fn limits_follow_settings_and_size() {
    let settings = HttpConfig { http_parquet_memory_bytes: 100 << 20, ..HttpConfig::default() };
    let limits = BodyLimits::of(&settings, 10 << 20);
    assert_eq!(limits.process, DecodeLimits { memory_bytes: 100 << 20, cpu_seconds: 70 });
    assert_eq!(limits.rows, 10_000 << 20);
    assert_eq!(BodyLimits::of(&settings, 0).rows, 1 << 30);
    assert_eq!((counted_memory(&settings), counted_memory(&HttpConfig::default())), (64 << 20, 128 << 20));
    assert_eq!(max_message(&settings), 100 << 20);
}
