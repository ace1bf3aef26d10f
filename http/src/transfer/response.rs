//! Rows as the body of a response.

use std::collections::VecDeque;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, stream};
use metrics::counter;
use volley_common::ipc::stream_format::{END_OF_STREAM, message_prefix};
use volley_common::{Error, Result};
use volley_formats::{Format, OutputOptions};

use super::conversion;
use super::flight_rows::FlightRows;
use crate::negotiation::{ContentCoding, Representation};
use crate::problem::Problem;

/// Encoded bytes at which a row group of Parquet ends.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Memory of a read until its caller is known, bytes.
pub(crate) const OPENING_MEMORY: u64 = 1 << 20;

/// Memory that a response takes besides large messages, bytes.
pub(crate) fn memory_of(representation: &Representation) -> u64 {
    match (representation.format, representation.coding) {
        // A row group, and what the encoders of its columns hold.
        (Format::Parquet, _) => 64 << 20,
        (Format::Arrow | Format::Arrows, ContentCoding::Identity) => 4 << 20,
        (Format::Arrow | Format::Arrows, _) => 8 << 20,
        (Format::Csv | Format::Tsv | Format::Jsonl, _) => 16 << 20,
    }
}

/// The rows of a read as a response. If the read fails later, the response ends without its end. `null`: the text for a null in CSV.
///
/// # Errors
/// Those of the read that are known before its first rows. INVALID_ARGUMENT: the format does not have a column's type.
pub(crate) async fn rows_response(
    mut source: FlightRows,
    representation: &Representation,
    null: Option<String>,
) -> Result<Response, Problem> {
    check_null(representation.format, null.as_deref())?;
    let schema = source.open().await?;
    let is_plain = matches!((representation.format, representation.coding), (Format::Arrows, ContentCoding::Identity));
    let body = match is_plain {
        true => Body::from_stream(counted(arrow_chunks(source, &schema))),
        false => {
            let options = OutputOptions { null, row_group_bytes: Some(ROW_GROUP_BYTES), ..OutputOptions::default() };
            options.check(representation.format)?;
            Body::from_stream(counted(conversion::start(source, schema, *representation, options).await?))
        }
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if let Ok(media) = HeaderValue::from_str(&representation.content_type()) {
        headers.insert(CONTENT_TYPE, media);
    }
    if let Some(coding) = representation.coding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    headers.append(VARY, HeaderValue::from_static("accept, accept-encoding, authorization"));
    Ok(response)
}

/// Refuses a text for nulls where it would be ignored.
fn check_null(format: Format, null: Option<&str>) -> Result<()> {
    if null.is_some() && format != Format::Csv {
        return Err(Error::invalid("the parameter null is for CSV: the other formats have nulls of their own"));
    }
    Ok(())
}

/// The bytes of an Arrow stream: messages as they come.
fn arrow_chunks(source: FlightRows, schema: &[u8]) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    let chunks = VecDeque::from([message_prefix(schema)]);
    stream::try_unfold((Some(source), chunks), |(mut source, mut chunks)| async move {
        loop {
            if let Some(chunk) = chunks.pop_front() {
                return Ok(Some((chunk, (source, chunks))));
            }
            let Some(reading) = &mut source else { return Ok::<_, Error>(None) };
            match reading.next().await? {
                Some(message) => {
                    chunks.push_back(message_prefix(&message.data_header));
                    if !message.data_body.is_empty() {
                        chunks.push_back(message.data_body);
                    }
                }
                None => {
                    source = None;
                    chunks.push_back(Bytes::from_static(&END_OF_STREAM));
                }
            }
        }
    })
}

/// Counts what is sent, and logs why a response has no end.
fn counted(
    chunks: impl Stream<Item = Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let sent = counter!("volley_http_sent_bytes_total");
    futures::StreamExt::map(chunks, move |chunk| {
        match &chunk {
            Ok(chunk) => sent.increment(chunk.len() as u64),
            Err(error) => tracing::info!(code = ?error.code, %error, "an HTTP response is broken off"),
        }
        chunk
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_for_nulls_is_for_csv() {
        for format in [Format::Arrows, Format::Jsonl, Format::Parquet] {
            check_null(format, None).unwrap();
            assert!(check_null(format, Some("NA")).unwrap_err().message.contains("parameter null is for CSV"));
        }
        check_null(Format::Csv, Some("NA")).unwrap();
    }
}
