//! The body of a request, with its limits: it may not be larger than `max_http_body_bytes`, and must advance.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body::Body as _;
use metrics::{Counter, counter};
use volley_common::Error;
use volley_common::ipc::stall_timer::StallTimer;

use crate::problem::Problem;

/// A body must advance within this time.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// If what follows is asked for so long after a piece, it was not the client who waited.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// The body of a request.
pub(crate) struct UploadBody {
    body: Body,
    /// The limit, and how much of it is left.
    limit: u64,
    left: u64,
    length: Option<u64>,
    stall: StallTimer,
    /// When the last piece was taken.
    taken: Option<Instant>,
    received: Counter,
}

impl UploadBody {
    /// The body of a request with these headers.
    ///
    /// # Errors
    /// 413: it says that it is larger than `limit`. 415: it is compressed as a whole.
    pub fn new(body: Body, headers: &HeaderMap, limit: u64) -> Result<Self, Problem> {
        if let Some(coding) =
            headers.get(CONTENT_ENCODING).filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            let text = format!(
                "the body has the content-encoding {coding:?}, which is not supported: send it as it is, or as Parquet"
            );
            return Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Error::invalid(text)));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let received = counter!("volley_http_received_bytes_total");
        Ok(UploadBody {
            body,
            limit,
            left: limit,
            length,
            stall: StallTimer::new(STALL_TIMEOUT),
            taken: None,
            received,
        })
    }

    /// How long it says that it is.
    pub fn known_length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes, which must come; none at the end.
    ///
    /// # Errors
    /// 413: it is too large. 400: it is broken off. DEADLINE_EXCEEDED: it does not advance.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        std::future::poll_fn(|cx| self.poll_chunk(cx, true)).await
    }

    /// The same, for which the client may take any time.
    ///
    /// # Errors
    /// As [`UploadBody::next_chunk`].
    pub async fn next_chunk_at_leisure(&mut self) -> Result<Option<Bytes>, Problem> {
        std::future::poll_fn(|cx| self.poll_chunk(cx, false)).await
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, must_advance: bool) -> Poll<Result<Option<Bytes>, Problem>> {
        if self.taken.take().is_some_and(|taken| taken.elapsed() > OWN_PAUSE) {
            self.stall.stop();
        }
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending if must_advance => {
                    let stalled = ready!(self.stall.poll_stalled(cx));
                    let text = format!("the body does not advance: {}", stalled.message);
                    return Poll::Ready(Err(Problem::with_status(StatusCode::REQUEST_TIMEOUT, Error::deadline(text))));
                }
                Poll::Pending => {
                    self.stall.stop();
                    return Poll::Pending;
                }
            };
            let data = match frame {
                None => return Poll::Ready(Ok(None)),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(broken_off(&error))),
            };
            if data.is_empty() {
                continue;
            }
            self.stall.advance(data.len());
            self.received.increment(data.len() as u64);
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                return Poll::Ready(Err(too_large(self.limit)));
            };
            self.left = left;
            self.taken = Some(Instant::now());
            return Poll::Ready(Ok(Some(data)));
        }
    }

    /// All of it, which is small.
    ///
    /// # Errors
    /// As [`UploadBody::next_chunk`].
    pub async fn collect(mut self) -> Result<Vec<u8>, Problem> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next_chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

fn broken_off(error: &axum::Error) -> Problem {
    Error::invalid(format!("the body is broken off, and nothing of it is stored: {error}")).into()
}

fn too_large(limit: u64) -> Problem {
    let text = format!(
        "the body is larger than {limit} bytes: send it in parts by POST, use Flight, or let `max_http_body_bytes` be raised"
    );
    Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, Error::exhausted(text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::stream;

    use super::*;

    fn upload(pieces: &[&'static [u8]], limit: u64) -> UploadBody {
        let pieces: Vec<_> = pieces.iter().map(|&piece| Ok::<_, Error>(Bytes::from_static(piece))).collect();
        UploadBody::new(Body::from_stream(stream::iter(pieces)), &HeaderMap::new(), limit).unwrap()
    }

    #[tokio::test]
    async fn body_over_its_limit_is_refused() {
        assert_eq!(upload(&[b"abc", b"", b"de"], 5).collect().await.unwrap(), b"abcde");
        let error = upload(&[b"abc", b"def"], 5).collect().await.unwrap_err();
        assert!(error.error().message.contains("larger than 5 bytes"), "{error:?}");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 6_u64.into());
        assert!(UploadBody::new(Body::empty(), &headers, 5).is_err());
    }

    #[tokio::test]
    async fn broken_body_is_an_error() {
        let pieces = [Ok(Bytes::from_static(b"a")), Err(Error::cancelled("gone"))];
        let body = Body::from_stream(stream::iter(pieces));
        let mut upload = UploadBody::new(body, &HeaderMap::new(), 5).unwrap();
        assert_eq!(upload.next_chunk().await.unwrap().unwrap(), "a");
        assert!(upload.next_chunk_at_leisure().await.unwrap_err().error().message.contains("broken off"));
    }

    #[test]
    fn compressed_body_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(UploadBody::new(Body::empty(), &headers, 5).is_err());
        headers.insert(CONTENT_ENCODING, "identity".parse().unwrap());
        UploadBody::new(Body::empty(), &headers, 5).map(drop).unwrap();
    }
}
