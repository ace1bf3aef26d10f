//! The reply to a get as frames: its schema, then its messages.

use bytes::Bytes;
use futures::{Stream, stream};
use metrics::Counter;
use volley_common::ipc::flight_encoder::{FlightFrame, encode_flight_data};
use volley_common::telemetry::GaugeGuard;
use volley_common::{Error, Result};

use super::message::EncodedMessage;

/// Reads what a get sends. Nothing is read before it is requested.
pub trait FrameReader: Send + 'static {
    /// The bare flatbuffer of the schema.
    ///
    /// # Errors
    /// Those of the ticket, and of its first part if the ticket has no schema.
    fn schema_header(&mut self) -> impl Future<Output = Result<Bytes>> + Send;

    /// The next message after the schema, or several that are ready and together have at most `max_bytes`; `None` after the last.
    ///
    /// # Errors
    /// Those of the ticket and its parts.
    fn next_frame(&mut self, max_bytes: usize) -> impl Future<Output = Result<Option<FlightFrame>>> + Send;
}

/// The schema, then all messages. A frame has one message, or several that are ready and together have at most `max_bytes`.
pub fn frames<R: FrameReader>(reader: R, max_bytes: usize) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
    let get = OpenGet {
        reader,
        is_schema_sent: false,
        sent_bytes: metrics::counter!("volley_get_bytes_total"),
        _open: GaugeGuard::count(metrics::gauge!("volley_gets")),
    };
    stream::try_unfold(get, move |mut get| async move {
        let frame = match get.is_schema_sent {
            true => get.reader.next_frame(max_bytes).await?,
            false => {
                let header = get.reader.schema_header().await?;
                Some(encode_flight_data(&header, None, std::iter::empty()))
            }
        };
        get.is_schema_sent = true;
        Ok::<_, Error>(frame.map(|frame| {
            get.sent_bytes.increment(frame.len() as u64);
            (frame, get)
        }))
    })
}

/// A get in progress.
struct OpenGet<R> {
    reader: R,
    is_schema_sent: bool,
    sent_bytes: Counter,
    _open: GaugeGuard,
}

/// The messages as one frame; `None` if there are none.
pub fn join_frames(messages: Vec<EncodedMessage>) -> Option<FlightFrame> {
    messages.into_iter().map(EncodedMessage::into_frame).reduce(|mut frame, next| {
        frame.append(next);
        frame
    })
}
