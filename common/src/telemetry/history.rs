//! The last hour of the process: samples of a few metrics, every 15 seconds, for the pages of the HTTP port. Prometheus keeps more, and
//! of all members.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::recorder::render;
use crate::clock;

/// How often a sample is taken.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// How many are kept: those of an hour, and the one before.
const KEPT: usize = 241;

static SAMPLES: Mutex<VecDeque<Arc<MetricsSample>>> = Mutex::new(VecDeque::new());

/// A few metrics at one time. Counters are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsSample {
    /// When it was taken, milliseconds since 1970.
    pub at_ms: u64,
    /// Bytes that gets sent, and that were passed on from other members.
    pub sent_bytes: f64,
    /// Bytes that puts received.
    pub received_bytes: f64,
    /// Flight calls that have ended.
    pub calls: f64,
    /// Those with another code than OK and CANCELLED.
    pub failed: f64,
    /// Flight calls without streams of rows by duration: upper bound in seconds, and how many were not slower.
    pub durations: Vec<(f64, f64)>,
    /// Free bytes of the data folder's file system.
    pub disk_free_bytes: Option<f64>,
    /// All bytes of it.
    pub disk_total_bytes: Option<f64>,
    /// Gets in progress.
    pub gets: f64,
    /// Puts in progress.
    pub puts: f64,
    /// Queries in progress.
    pub queries: f64,
    /// Flight calls that failed, by method and code.
    pub failures: BTreeMap<(String, String), f64>,
}

/// The samples of the last hour, the oldest first.
pub fn samples() -> Vec<Arc<MetricsSample>> {
    SAMPLES.lock().iter().cloned().collect()
}

/// Whether the next sample is due: of several servers in the process one takes it.
pub fn is_due() -> bool {
    let last = SAMPLES.lock().back().map(|last| last.at_ms);
    let least = INTERVAL.as_millis() as u64 * 9 / 10;
    last.is_none_or(|last| clock::now_ms().saturating_sub(last) >= least)
}

/// Takes a sample. Blocks, as [`render`] does.
pub fn take_sample() {
    let Some(text) = render() else { return };
    let sample = Arc::new(MetricsSample::of(&text, clock::now_ms()));
    let mut samples = SAMPLES.lock();
    while samples.len() >= KEPT {
        samples.pop_front();
    }
    samples.push_back(sample);
}

impl MetricsSample {
    /// What the text for Prometheus says.
    fn of(text: &str, at_ms: u64) -> Self {
        let mut sample = MetricsSample { at_ms, ..MetricsSample::default() };
        let mut durations: BTreeMap<u64, f64> = BTreeMap::new();
        for (series, value) in
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '))
        {
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "volley_get_bytes_total" | "volley_relayed_bytes_total" => sample.sent_bytes += value,
                "volley_put_bytes_total" => sample.received_bytes += value,
                "volley_disk_free_bytes" => sample.disk_free_bytes = Some(value),
                "volley_disk_total_bytes" => sample.disk_total_bytes = Some(value),
                "volley_gets" => sample.gets = value,
                "volley_puts" => sample.puts = value,
                "volley_queries" => sample.queries = value,
                "volley_requests_total" if label(labels, "port") == Some("flight") => sample.add_calls(labels, value),
                "volley_request_duration_seconds_bucket" if is_short_call(labels) => {
                    let bound = label(labels, "le").and_then(|bound| bound.parse::<f64>().ok());
                    if let Some(bound) = bound.filter(|bound| *bound >= 0.0) {
                        // Of numbers that are not negative the bits are in their order.
                        *durations.entry(bound.to_bits()).or_default() += value;
                    }
                }
                _ => {}
            }
        }
        sample.durations = durations.into_iter().map(|(bits, count)| (f64::from_bits(bits), count)).collect();
        sample
    }

    fn add_calls(&mut self, labels: &str, value: f64) {
        self.calls += value;
        let (method, code) = (label(labels, "method").unwrap_or_default(), label(labels, "code").unwrap_or_default());
        if !matches!(code, "OK" | "CANCELLED") {
            self.failed += value;
            *self.failures.entry((method.to_string(), code.to_string())).or_default() += value;
        }
    }

    /// The duration in seconds that a share of the calls since an earlier sample did not exceed, by the bounds of the histogram;
    /// none if there were no calls.
    pub fn quantile_since(&self, earlier: &MetricsSample, share: f64) -> Option<f64> {
        let before = |bound: f64| earlier.durations.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, n)| *n);
        let counts = || self.durations.iter().map(|(bound, count)| (*bound, count - before(*bound)));
        let all = counts().next_back().map(|(_, count)| count).filter(|all| *all > 0.0)?;
        let found = counts().find(|(_, count)| *count >= all * share).map(|(bound, _)| bound)?;
        // The last bound is infinite.
        let largest = counts().rfind(|(bound, _)| bound.is_finite()).map(|(bound, _)| bound)?;
        Some(found.min(largest))
    }
}

/// Whether a call is none that lasts as long as its client reads or writes rows.
fn is_short_call(labels: &str) -> bool {
    label(labels, "port") == Some("flight")
        && !matches!(label(labels, "method"), Some("DoGet" | "DoPut" | "DoExchange"))
}

/// The value of a label. Those that are read here have no quotes in them.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.trim_end_matches('}').split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE volley_get_bytes_total counter
volley_get_bytes_total 1000
volley_relayed_bytes_total 24
volley_put_bytes_total 7
volley_disk_free_bytes 5e9
volley_gets 2
volley_requests_total{port="flight",method="DoGet",code="OK"} 5
volley_requests_total{port="flight",method="DoGet",code="NOT_FOUND"} 2
volley_requests_total{port="flight",method="DoPut",code="CANCELLED"} 1
volley_requests_total{port="peer",method="Append",code="UNAVAILABLE"} 9
volley_request_duration_seconds_bucket{port="flight",method="DoAction",le="0.1"} 8
volley_request_duration_seconds_bucket{port="flight",method="ListFlights",le="0.1"} 1
volley_request_duration_seconds_bucket{port="flight",method="DoAction",le="10"} 9
volley_request_duration_seconds_bucket{port="flight",method="ListFlights",le="10"} 1
volley_request_duration_seconds_bucket{port="flight",method="DoAction",le="+Inf"} 9
volley_request_duration_seconds_bucket{port="flight",method="ListFlights",le="+Inf"} 1
volley_request_duration_seconds_bucket{port="flight",method="DoGet",le="+Inf"} 100
"#;

    #[test]
    fn sample_has_sums_of_its_series() {
        let sample = MetricsSample::of(TEXT, 3);
        assert_eq!((sample.at_ms, sample.sent_bytes, sample.received_bytes, sample.gets), (3, 1024.0, 7.0, 2.0));
        assert_eq!((sample.calls, sample.failed, sample.disk_free_bytes), (8.0, 2.0, Some(5e9)));
        assert_eq!(sample.failures, [(("DoGet".to_string(), "NOT_FOUND".to_string()), 2.0)].into());
        assert_eq!(sample.durations, [(0.1, 9.0), (10.0, 10.0), (f64::INFINITY, 10.0)]);
    }

    #[test]
    fn quantile_is_of_the_calls_between() {
        let (none, later) = (MetricsSample::default(), MetricsSample::of(TEXT, 3));
        assert_eq!(later.quantile_since(&none, 0.5), Some(0.1));
        assert_eq!(later.quantile_since(&none, 0.99), Some(10.0));
        assert_eq!(later.quantile_since(&later, 0.5), None);
        let slow = MetricsSample { durations: vec![(0.1, 0.0), (f64::INFINITY, 4.0)], ..MetricsSample::default() };
        assert_eq!(slow.quantile_since(&none, 0.5), Some(0.1), "no more than the largest bound is known");
    }
}
