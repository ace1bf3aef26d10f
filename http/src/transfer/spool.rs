//! Bodies of requests that must be complete before they are read: CSV and JSON lines, whose types are known when all rows are, and
//! Parquet, which begins with its end. They are files without a name in the data folder, so that none outlives the process.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use volley_common::{Error, Result};
use volley_formats::{FileCompression, Format, InputFile};

use super::http_words::in_http_words;
use super::upload::UploadBody;
use crate::budget::RequestShare;
use crate::caller::HttpCaller;
use crate::problem::Problem;

/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;
/// The first bytes, which tell a compression.
const START_BYTES: usize = 16;
/// The name of a body in errors.
const NAME: &str = "the body";

/// A body that is stored. Its disk is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct StoredBody {
    /// What is stored.
    pub input: InputFile,
    _share: RequestShare,
}

/// Stores a body.
///
/// # Errors
/// Those of the body. RESOURCE_EXHAUSTED: there is no disk for it. UNAVAILABLE: the disk fails.
pub(crate) async fn store(caller: &HttpCaller, mut body: UploadBody, format: Format) -> Result<StoredBody, Problem> {
    let share = caller.take_spool(body.known_length().unwrap_or(0))?;
    let folder = caller.state().folder().to_path_buf();
    let mut file = blocking(move || tempfile::tempfile_in(folder)).await?;
    let (mut stored, mut start) = (0, Vec::new());
    loop {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < WRITE_BYTES
            && let Some(chunk) = body.next_chunk().await?
        {
            bytes += chunk.len();
            chunks.push(chunk);
        }
        if chunks.is_empty() {
            break;
        }
        if stored == 0 {
            start = chunks.concat();
            start.truncate(START_BYTES);
        }
        // What it decompresses to would have no limit.
        if FileCompression::of_content(&start).is_some() {
            return Err(Error::invalid("the body is compressed as a whole: send it as it is, or as Parquet").into());
        }
        stored += bytes as u64;
        share.raise_to(stored)?;
        file = blocking(move || append(file, &chunks)).await?;
    }
    let input = blocking_result(move || InputFile::of_copy(Path::new(NAME), format, stored, file)).await?;
    Ok(StoredBody { input, _share: share })
}

fn append(mut file: File, chunks: &[Bytes]) -> std::io::Result<File> {
    for chunk in chunks {
        file.write_all(chunk)?;
    }
    Ok(file)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    blocking_result(move || {
        work().map_err(|e| Error::unavailable(format!("the body cannot be stored in the data folder: {e}")))
    })
    .await
}

/// Runs what blocks. Its errors are in the words of HTTP.
pub(crate) async fn blocking_result<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("reading the body failed: {e}")))).map_err(in_http_words)
}
