//! gRPC status trailers, the limit of their messages, and errors with their causes in one line.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

/// The longest message of a status, bytes. Percent-encoding can triple it; gRPC's own clients refuse headers of more than
/// 8 KiB, and the others of more than 16 KiB.
pub(crate) const MAX_MESSAGE: usize = 2 << 10;

/// The text, or its first bytes and how many were left out: at most [`MAX_MESSAGE`] bytes together.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    /// Room for the note.
    const NOTE: usize = 64;
    if text.len() <= MAX_MESSAGE {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(MAX_MESSAGE - NOTE);
    Cow::Owned(format!("{}… ({} more bytes are left out)", &text[..end], text.len() - end))
}

/// The trailers of a gRPC response that ends with `status`; its message is percent-encoded.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(3);
    if status.add_header(&mut map).is_err() {
        map.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    map
}

/// An error and its causes, outermost first, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_message_is_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"x".repeat(MAX_MESSAGE)), "x".repeat(MAX_MESSAGE));
        for text in ["ä".repeat(5_000_000), format!("x{}", "ä".repeat(MAX_MESSAGE))] {
            let short = shorten(&text);
            assert!(short.len() <= MAX_MESSAGE && text.as_bytes().starts_with(&short.as_bytes()[..1_000]), "{short}");
            let (kept, note) = short.split_once('…').unwrap();
            assert_eq!(note, format!(" ({} more bytes are left out)", text.len() - kept.len()));
        }
    }
}
