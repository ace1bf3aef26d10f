//! Calls by method and code, and their latencies: one [`CallTimer`] for each call of a Flight or a peer port.
//!
//! Handles are made once for each method and code, so that a call takes no lock and allocates nothing.

#[cfg(test)]
mod tests;

use std::sync::OnceLock;
use std::time::Instant;

use http::HeaderMap;
use metrics::{Counter, Histogram};
use opentelemetry::Context;

pub use super::call_port::CallPort;
use super::methods::{METHODS, index_of, label_of};
use super::recorder::install;
use super::trace::end_call;

/// The gRPC codes, by their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// A call whose reply was dropped before its end: its client is gone.
const CANCELLED: usize = 1;
/// A reply without a status, or with one that is no number.
const UNKNOWN: usize = 2;

/// What is recorded of the calls of one method at one kind of port.
struct MethodSeries {
    port: CallPort,
    method: &'static str,
    duration: Histogram,
    first_byte: Histogram,
    /// By code.
    ended: [OnceLock<Counter>; CODES.len()],
}

/// Those of all methods, of each kind of port.
static SERIES: [[OnceLock<MethodSeries>; METHODS.len() + 1]; 2] =
    [const { [const { OnceLock::new() }; METHODS.len() + 1] }; 2];

impl MethodSeries {
    fn new(port: CallPort, method: &'static str) -> Self {
        let (at, ended) = (port.label(), [const { OnceLock::new() }; CODES.len()]);
        MethodSeries {
            port,
            method,
            duration: metrics::histogram!("volley_request_duration_seconds", "port" => at, "method" => method),
            first_byte: metrics::histogram!("volley_request_first_byte_seconds", "port" => at, "method" => method),
            ended,
        }
    }

    fn of(port: CallPort, path: &str) -> &'static MethodSeries {
        let method = index_of(path);
        SERIES[port as usize][method].get_or_init(|| {
            // Handles that are made before the recorder record nothing, for ever.
            install();
            MethodSeries::new(port, label_of(method))
        })
    }

    fn count(&self, code: usize) {
        let counter = self.ended[code].get_or_init(|| {
            metrics::counter!(
                "volley_requests_total",
                "port" => self.port.label(), "method" => self.method, "code" => CODES[code]
            )
        });
        counter.increment(1);
    }
}

/// Measures one call, from its headers to the end of its reply, when this is dropped. Then its span ends, too.
pub struct CallTimer {
    series: &'static MethodSeries,
    /// The context of the call.
    context: Context,
    began: Instant,
    has_first_byte: bool,
    code: usize,
}

impl CallTimer {
    /// A call of the method with this gRPC path begins, in this context.
    pub fn start(port: CallPort, path: &str, context: Context) -> Self {
        CallTimer::within(context, MethodSeries::of(port, path))
    }

    fn within(context: Context, series: &'static MethodSeries) -> Self {
        CallTimer { series, context, began: Instant::now(), has_first_byte: false, code: CANCELLED }
    }

    /// Data of the reply is passed on.
    pub fn note_data(&mut self) {
        if !self.has_first_byte {
            self.has_first_byte = true;
            self.series.first_byte.record(self.began.elapsed());
        }
    }

    /// The status of the call, if these headers or trailers have it.
    pub fn note_status(&mut self, map: &HeaderMap) {
        if let Some(status) = map.get("grpc-status") {
            let code = status.to_str().ok().and_then(|text| text.parse().ok());
            self.code = code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN);
        }
    }

    /// The reply ends without a status, unless there was one.
    pub fn note_end(&mut self) {
        if self.code == CANCELLED {
            self.code = UNKNOWN;
        }
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        self.series.duration.record(self.began.elapsed());
        self.series.count(self.code);
        end_call(&self.context, CODES[self.code]);
    }
}
