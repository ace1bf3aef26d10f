//! The spans that have ended and wait to be exported: a bounded queue. A span that finds no place is dropped and counted, so that a
//! collector which is away or hangs takes no memory and no time of calls.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;

/// Spans that wait: some megabytes.
const QUEUED_SPANS: usize = 4096;

/// What became of spans, the label `result` of `volley_trace_spans_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanResult {
    /// The collector has them.
    Exported,
    /// They found no place in the queue.
    Dropped,
    /// The collector was away, hung or refused them.
    Failed,
}

impl SpanResult {
    /// Counts so many spans.
    pub fn count(self, spans: u64) {
        let result = match self {
            SpanResult::Exported => "exported",
            SpanResult::Dropped => "dropped",
            SpanResult::Failed => "failed",
        };
        metrics::counter!("volley_trace_spans_total", "result" => result).increment(spans);
    }
}

/// The end of the queue where spans arrive.
#[derive(Debug)]
pub struct SpanQueue(mpsc::Sender<SpanData>);

impl SpanQueue {
    /// The queue, and the end where they are taken.
    pub fn channel() -> (SpanQueue, mpsc::Receiver<SpanData>) {
        SpanQueue::with_room_for(QUEUED_SPANS)
    }

    /// The same, for so many spans.
    pub(super) fn with_room_for(spans: usize) -> (SpanQueue, mpsc::Receiver<SpanData>) {
        let (sender, receiver) = mpsc::channel(spans);
        (SpanQueue(sender), receiver)
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            SpanResult::Dropped.count(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}
