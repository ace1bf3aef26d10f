use http::HeaderValue;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::*;

fn status(text: &'static str) -> HeaderMap {
    [("grpc-status".parse().expect("a name"), HeaderValue::from_static(text))].into_iter().collect()
}

/// Runs calls of one method with a recorder of their own.
fn record(calls: impl FnOnce(&'static MethodSeries)) -> PrometheusHandle {
    let recorder = PrometheusBuilder::new().set_buckets(&[60.0]).expect("a bucket").build_recorder();
    metrics::with_local_recorder(&recorder, || {
        calls(Box::leak(Box::new(MethodSeries::new(CallPort::Flight, "DoGet"))));
    });
    recorder.handle()
}

fn counted(text: &str, code: &str) -> bool {
    text.contains(&format!("volley_requests_total{{port=\"flight\",method=\"DoGet\",code=\"{code}\"}} 1\n"))
}

#[test]
fn call_is_counted_by_its_last_status() {
    let text = record(|series| {
        let mut ok = CallTimer::within(Context::new(), series);
        ok.note_status(&HeaderMap::new());
        ok.note_data();
        ok.note_data();
        ok.note_status(&status("0"));
        ok.note_end();
        let mut missing = CallTimer::within(Context::new(), series);
        missing.note_status(&status("5"));
        for odd in ["17", "-1", "x"] {
            let mut call = CallTimer::within(Context::new(), series);
            call.note_status(&status(odd));
        }
    })
    .render();
    assert!(counted(&text, "OK") && counted(&text, "NOT_FOUND"), "{text}");
    assert!(text.contains("code=\"UNKNOWN\"} 3\n"), "{text}");
    let labels = "port=\"flight\",method=\"DoGet\"";
    assert!(text.contains(&format!("volley_request_first_byte_seconds_count{{{labels}}} 1\n")), "{text}");
    assert!(text.contains(&format!("volley_request_duration_seconds_bucket{{{labels},le=\"60\"}} 5\n")), "{text}");
}

#[test]
fn call_without_a_status_was_cancelled_or_is_unknown() {
    let text = record(|series| {
        drop(CallTimer::within(Context::new(), series));
        CallTimer::within(Context::new(), series).note_end();
    })
    .render();
    assert!(counted(&text, "CANCELLED") && counted(&text, "UNKNOWN"), "{text}");
}

#[test]
fn codes_are_in_the_order_of_their_numbers() {
    for (number, name) in CODES.iter().enumerate() {
        let code = format!("{:?}", tonic::Code::from_i32(number as i32));
        let spelt: String = name.split('_').map(|word| word[..1].to_string() + &word[1..].to_lowercase()).collect();
        assert_eq!(code, spelt);
    }
}
