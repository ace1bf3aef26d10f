//! The span of a step of a call.

use std::fmt;

use opentelemetry::trace::{FutureExt, SpanBuilder, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, Value};

use super::TRACER;
use crate::Result;

/// A step of a call that is traced and sampled; of any other call nothing. It ends when this is dropped.
#[must_use = "the step ends when this is dropped"]
pub struct CallSpan(Option<Context>);

impl CallSpan {
    /// Begins a step of the current call.
    pub fn begin(name: &'static str) -> Self {
        let Some(tracer) = TRACER.get() else { return CallSpan(None) };
        let current = Context::current();
        if !current.span().span_context().is_sampled() {
            return CallSpan(None);
        }
        let span = SpanBuilder::from_name(name).start_with_context(tracer, &current);
        CallSpan(Some(current.with_span(span)))
    }

    /// Adds an attribute.
    pub fn with<V: Into<Value>>(self, key: &'static str, value: impl FnOnce() -> V) -> Self {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value()));
        }
        self
    }

    /// Does the step: what it does, and calls, belongs to it. The code of an error is the span's status.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(context) = &self.0 else { return work.await };
        let outcome = work.with_context(context.clone()).await;
        if let Err(error) = &outcome {
            // The log has its text, which may name what a collector must not know.
            context.span().set_status(Status::error(format!("{:?}", error.code)));
        }
        outcome
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        // A task may keep the context for longer.
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

impl fmt::Debug for CallSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallSpan").field(&self.0).finish()
    }
}
