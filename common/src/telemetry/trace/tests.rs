use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::span_queue::SpanQueue;
use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn named(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(REQUEST_ID_HEADER, HeaderValue::from_str(name).expect("a value"));
    headers
}

#[test]
fn name_of_a_call_is_visible_and_short() {
    assert_eq!(request_name(&named("job-7")), Some("job-7"));
    for odd in ["", "a b", "x".repeat(129).as_str()] {
        assert_eq!(request_name(&named(odd)), None, "{odd:?}");
    }
    assert_eq!(request_name(&HeaderMap::new()), None);
}

#[test]
fn traceparent_is_checked_as_w3c_has_it() {
    assert!(is_traceparent(PARENT));
    let zeros = format!("00-{}-{}-01", "0".repeat(32), "0".repeat(16));
    for bad in
        ["", "00", "00-0-0-01", "job-7", "xx-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", zeros.as_str()]
    {
        assert!(!is_traceparent(bad), "{bad}");
    }
}

#[test]
fn span_without_a_place_is_dropped() {
    let (queue, mut spans) = SpanQueue::with_room_for(1);
    let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
    let tracer = provider.tracer("test");
    for name in ["first", "second"] {
        drop(SpanBuilder::from_name(name).start_with_context(&tracer, &Context::new()));
    }
    assert_eq!(spans.try_recv().map(|span| span.name.into_owned()), Ok("first".to_string()));
    assert!(spans.try_recv().is_err());
}

#[test]
fn call_without_a_tracer_passes_only_its_name_on() {
    let context = begin_call(CallPort::Flight, "/arrow.flight.protocol.FlightService/DoPut", &named("job-7"));
    let _entered = context.attach();
    let mut sent = HeaderMap::new();
    inject(&mut sent);
    assert!(sent.len() == 1 && sent[REQUEST_ID_HEADER] == "job-7", "{sent:?}");
    assert!(format!("{:?}", CallSpan::begin("put.commit")).contains("None"));
    let logged = LoggedCall::current();
    assert_eq!(logged, Some(LoggedCall { request_id: Some("job-7".into()), trace_id: None }));
}
