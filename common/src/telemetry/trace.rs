//! Traces of calls (docs/adr/0020-traces.md): the span of a call that a member serves, those of its steps, and what is passed on to
//! other members: W3C `traceparent`, and the id of the request.
//!
//! | module | what it holds |
//! |---|---|
//! | [`span_queue`] | the spans that wait to be exported, and how many were lost |
//! | `call_span` | the span of a step of a call |
//!
//! The context of a call is OpenTelemetry's [`Context`], which is current while the call's futures are polled: in [`begin_call`] it
//! begins, [`inject`] sends it to another member, and [`carry`] takes it into a task. Each is used in one place for all calls: the
//! HTTP/2 server, the connections to members. Without a tracer the context has only the request id, and a step costs a look
//! at a static variable.

mod call_span;
pub mod span_queue;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{FutureExt, SpanBuilder, SpanKind, Status, TraceContextExt, WithContext};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

pub use self::call_span::CallSpan;
use super::call_port::CallPort;
use super::methods::{index_of, label_of};
use crate::grpc::FLIGHT_SERVICE;

/// The header of W3C's trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";
/// The header of W3C's trace context with values of vendors.
pub const TRACESTATE_HEADER: &str = "tracestate";
/// The header by which a client names its call.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// What begins the paths of calls that only members make. Health checks, which calls wait for, are no step of a call.
const MEMBER_SERVICES: &str = "/volley.";
/// A longer name of a call is in no span and no error.
const MAX_REQUEST_ID: usize = 128;

/// Begins spans; none unless traces are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What a client calls its call, or what a member called it if the client did not.
#[derive(Clone)]
struct RequestName(Arc<str>);

/// Lets spans begin from now on. A second tracer is ignored.
pub fn install_tracer(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// The name of a call in its headers, if it is one that a log line and an error can end with: visible ASCII, not too long.
pub fn request_name(headers: &HeaderMap) -> Option<&str> {
    let name = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let is_visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    (is_visible && !name.is_empty() && name.len() <= MAX_REQUEST_ID).then_some(name)
}

/// The context of a call with these headers, and of all that it does. A call of Flight begins a trace unless it belongs to one;
/// calls of members only continue one.
pub fn begin_call(port: CallPort, path: &str, headers: &HeaderMap) -> Context {
    let mut context = Context::new();
    let name = request_name(headers);
    if let Some(name) = name {
        context = context.with_value(RequestName(name.into()));
    }
    let Some(tracer) = TRACER.get() else { return context };
    let parent = TraceContextPropagator::new().extract_with_context(&context, &HeaderExtractor(headers));
    let is_flight = path.starts_with(FLIGHT_SERVICE);
    let may_begin = port == CallPort::Flight && is_flight;
    let is_step = parent.span().span_context().is_valid() && (is_flight || path.starts_with(MEMBER_SERVICES));
    if !may_begin && !is_step {
        return context;
    }
    let mut attributes = vec![
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.method", label_of(index_of(path))),
        KeyValue::new("volley.port", port.label()),
    ];
    attributes.extend(name.map(|name| KeyValue::new("volley.request_id", name.to_string())));
    let builder = SpanBuilder::from_name(label_of(index_of(path)));
    let builder = builder.with_kind(SpanKind::Server).with_attributes(attributes);
    // Also of a trace that is not sampled: the other members must not decide again.
    context.with_span(builder.start_with_context(tracer, &parent))
}

/// The end of a call, with the name of its gRPC code.
pub fn end_call(context: &Context, code: &'static str) {
    let span = context.span();
    if !span.span_context().is_sampled() {
        return;
    }
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", code));
    if code != "OK" {
        span.set_status(Status::error(code));
    }
    span.end();
}

/// Adds the current context to the headers of a call to another member: its trace, and the name of the client's call.
pub fn inject(headers: &mut HeaderMap) {
    Context::map_current(|context| {
        if let Some(RequestName(name)) = context.get::<RequestName>()
            && !headers.contains_key(REQUEST_ID_HEADER)
            && let Ok(value) = HeaderValue::from_str(name)
        {
            headers.insert(REQUEST_ID_HEADER, value);
        }
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return;
        }
        let parent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags());
        if let Ok(value) = HeaderValue::from_str(&parent) {
            headers.insert(TRACEPARENT_HEADER, value);
        }
        let state = span.trace_state().header();
        if !state.is_empty()
            && let Ok(value) = HeaderValue::from_str(&state)
        {
            headers.insert(TRACESTATE_HEADER, value);
        }
    });
}

/// The same future, in the context that is current now: for a task that does something for a call.
pub fn carry<F: Future>(future: F) -> WithContext<F> {
    future.with_current_context()
}

/// The context of a call, kept for what is done for it later, where another one or none is current.
#[derive(Clone, Debug, Default)]
pub struct KeptContext(Context);

impl KeptContext {
    /// The current one.
    pub fn current() -> Self {
        KeptContext(Context::current())
    }

    /// The same future, in this context.
    pub fn carry<F: Future>(&self, future: F) -> WithContext<F> {
        future.with_context(self.0.clone())
    }
}

/// Adds an attribute to the current span, if it is sampled.
pub fn note<V: Into<Value>>(key: &'static str, value: impl FnOnce() -> V) {
    Context::map_current(|context| {
        let span = context.span();
        if span.span_context().is_sampled() {
            span.set_attribute(KeyValue::new(key, value()));
        }
    });
}

/// What a log line says of the call that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedCall {
    /// The name of the client's call.
    pub request_id: Option<Arc<str>>,
    /// Its trace, as hexadecimal digits, if it is sampled.
    pub trace_id: Option<String>,
}

impl LoggedCall {
    /// Of the current context; `None`: it belongs to no call.
    pub fn current() -> Option<LoggedCall> {
        Context::map_current(|context| {
            let request_id = context.get::<RequestName>().map(|RequestName(name)| name.clone());
            let span = context.span();
            let span = span.span_context();
            let trace_id = span.is_sampled().then(|| span.trace_id().to_string());
            (request_id.is_some() || trace_id.is_some()).then_some(LoggedCall { request_id, trace_id })
        })
    }
}

/// Whether a text is a `traceparent` as W3C has it, with ids that are not zero.
pub fn is_traceparent(text: &str) -> bool {
    let mut headers = HeaderMap::new();
    let Ok(value) = HeaderValue::from_str(text) else { return false };
    headers.insert(TRACEPARENT_HEADER, value);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(&headers));
    context.span().span_context().is_valid()
}
