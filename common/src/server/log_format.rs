//! The lines of the log, with the call that they belong to.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::trace::LoggedCall;

/// The name of a client's call in the log.
const REQUEST_ID: &str = "request_id";
/// Its trace.
const TRACE_ID: &str = "trace_id";

/// A format of lines, to which it adds `request_id` and `trace_id` of the current call, unless the event has them itself.
#[derive(Clone, Copy, Debug)]
pub struct WithCall<E> {
    format: E,
    is_json: bool,
}

impl<E> WithCall<E> {
    /// Of lines of text.
    pub fn text(format: E) -> Self {
        WithCall { format, is_json: false }
    }

    /// Of JSON objects.
    pub fn json(format: E) -> Self {
        WithCall { format, is_json: true }
    }

    fn write(&self, mut writer: Writer<'_>, line: &str, fields: &[(&str, &str)]) -> fmt::Result {
        let end = if self.is_json { "}\n" } else { "\n" };
        let Some(rest) = line.strip_suffix(end) else { return writer.write_str(line) };
        writer.write_str(rest)?;
        // Both values are visible ASCII, in quotation marks as other texts are.
        for (name, value) in fields {
            match self.is_json {
                true => write!(writer, ",{name:?}:{value:?}")?,
                false => write!(writer, " {name}={value:?}")?,
            }
        }
        writer.write_str(end)
    }
}

impl<S, N, E> FormatEvent<S, N> for WithCall<E>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(call) = LoggedCall::current() else { return self.format.format_event(context, writer, event) };
        let lacks = |name: &str| event.metadata().fields().field(name).is_none();
        let mut fields = Vec::with_capacity(2);
        fields.extend(call.request_id.as_deref().filter(|_| lacks(REQUEST_ID)).map(|id| (REQUEST_ID, id)));
        fields.extend(call.trace_id.as_deref().filter(|_| lacks(TRACE_ID)).map(|id| (TRACE_ID, id)));
        if fields.is_empty() {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        self.write(writer, &line, &fields)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use http::{HeaderMap, HeaderValue};
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;
    use crate::server::log::EscapedFields;
    use crate::telemetry::calls::CallPort;
    use crate::telemetry::trace::{REQUEST_ID_HEADER, begin_call};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn taken(&self) -> Vec<String> {
            String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap().lines().map(String::from).collect()
        }
    }

    /// Logs with no call, in a call that is named `a"b`, and in it an event that has a name of its own.
    fn log_three() {
        tracing::info!(rows = 7, "outside");
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID_HEADER, HeaderValue::from_static("a\"b"));
        let _entered = begin_call(CallPort::Peer, "/x", &headers).attach();
        tracing::info!(rows = 7, "inside");
        tracing::info!(request_id = "own", "named");
    }

    #[test]
    fn line_of_a_call_ends_with_its_name() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let log = log.fmt_fields(EscapedFields).map_event_format(WithCall::text);
        tracing::subscriber::with_default(log.finish(), log_three);
        let written = lines.taken();
        assert_eq!(written.len(), 3, "{written:?}");
        assert!(written[0].ends_with(": outside rows=7"), "{written:?}");
        assert!(written[1].ends_with(": inside rows=7 request_id=\"a\\\"b\""), "{written:?}");
        assert!(written[2].ends_with(": named request_id=\"own\""), "{written:?}");
    }

    #[test]
    fn object_of_a_call_has_its_name() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.json().map_event_format(WithCall::json).finish(), log_three);
        let written = lines.taken();
        let objects: Vec<Value> = written.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 3, "{written:?}");
        assert_eq!((&objects[0]["request_id"], &objects[1]["request_id"]), (&Value::Null, &"a\"b".into()));
        assert_eq!((&objects[1]["fields"]["rows"], &objects[2]["fields"]["request_id"]), (&7.into(), &"own".into()));
        assert_eq!(objects[2]["request_id"], Value::Null);
    }
}
