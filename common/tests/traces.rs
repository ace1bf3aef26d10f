//! The spans of a call, in a process of its own: a process has one tracer.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, Status, TracerProvider};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use volley_common::telemetry::calls::CallPort;
use volley_common::telemetry::trace::span_queue::SpanQueue;
use volley_common::telemetry::trace::{self, CallSpan, LoggedCall};
use volley_common::{Code, Error, Result};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

/// What a call to another member has in this context.
fn sent_in(context: &Context) -> HeaderMap {
    let _entered = context.clone().attach();
    let mut sent = HeaderMap::new();
    trace::inject(&mut sent);
    sent
}

fn has(span: &SpanData, key: &str, value: &str) -> bool {
    span.attributes.iter().any(|kv| kv.key.as_str() == key && kv.value.as_str() == value)
}

/// A step of a put that calls another member in a task of its own, and fails.
async fn commit(parent: &str) -> Result<()> {
    let sent = tokio::spawn(trace::carry(async {
        let mut sent = HeaderMap::new();
        trace::inject(&mut sent);
        sent
    }));
    let sent = sent.await.unwrap();
    let passed_on = sent["traceparent"].to_str().unwrap();
    assert!(passed_on.starts_with(&format!("00-{TRACE}-")) && passed_on != parent, "{passed_on}");
    assert_eq!(sent["x-request-id"], "job-7");
    Err(Error::unavailable("no leader"))
}

#[tokio::test]
async fn spans_of_a_call_form_a_tree_and_reach_other_members() {
    let (queue, mut spans) = SpanQueue::channel();
    let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
    trace::install_tracer(provider.tracer("test"));

    let parent = format!("00-{TRACE}-{SPAN}-01");
    let given = headers(&[("traceparent", parent.as_str()), ("x-request-id", "job-7")]);
    let call = trace::begin_call(CallPort::Flight, DO_PUT, &given);
    let work = async {
        trace::note("volley.write_id", || "w1");
        let failed = CallSpan::begin("put.commit").with("volley.parts", || 3_i64).run(commit(&parent)).await;
        assert_eq!(failed.map_err(|error| error.code), Err(Code::Unavailable));
        LoggedCall::current()
    };
    let logged = work.with_context(call.clone()).await.unwrap();
    assert_eq!((logged.request_id.as_deref(), logged.trace_id.as_deref()), (Some("job-7"), Some(TRACE)));
    assert_eq!(LoggedCall::current(), None, "no call is current here");
    trace::end_call(&call, "UNAVAILABLE");

    let (step, call) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
    assert_eq!((&*step.name, &*call.name), ("put.commit", "DoPut"));
    assert_eq!(step.parent_span_id, call.span_context.span_id());
    assert_eq!(call.parent_span_id.to_string(), SPAN);
    assert_eq!(call.span_context.trace_id().to_string(), TRACE);
    for (key, value) in
        [("volley.request_id", "job-7"), ("volley.write_id", "w1"), ("rpc.grpc.status_code", "UNAVAILABLE")]
    {
        assert!(has(&call, key, value), "{key}: {:?}", call.attributes);
    }
    assert!(matches!(&step.status, Status::Error { description } if description == "Unavailable"), "{step:?}");

    // A trace that is not sampled stays so at the other members, and has no spans.
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let call = trace::begin_call(CallPort::Flight, DO_PUT, &headers(&[("traceparent", unsampled.as_str())]));
    let step = async { drop(CallSpan::begin("put.commit")) };
    step.with_context(call.clone()).await;
    trace::end_call(&call, "OK");
    assert!(sent_in(&call)["traceparent"].to_str().unwrap().ends_with("-00"));

    // Only calls of Flight begin a trace.
    for (port, path) in [(CallPort::Flight, HEALTH), (CallPort::Peer, DO_PUT)] {
        assert!(sent_in(&trace::begin_call(port, path, &HeaderMap::new())).is_empty(), "{path}");
    }
    let root = trace::begin_call(CallPort::Flight, DO_PUT, &HeaderMap::new());
    assert!(sent_in(&root).contains_key("traceparent"));
    trace::end_call(&root, "OK");
    assert_eq!(spans.try_recv().unwrap().name, "DoPut");
    assert!(spans.try_recv().is_err());
}
