//! The recorder of the process, and the text that Prometheus scrapes.
//!
//! There is one for the whole process: of several servers in it, as with `volley dev`, counters are sums, and a gauge that is read at
//! a scrape is that of the server which is scraped.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::definitions::{self, MetricKind};
use super::process;

/// The least bound of the histograms, seconds; each further one is twice the one before.
const FIRST_BUCKET: f64 = 0.0001;
/// Their number: the last bound is 52.4288 s.
const BUCKETS: i32 = 20;
/// How often what histograms have collected is summed up: they keep each value until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Makes the recorder of the process, if there is none yet. Metrics that are recorded before are lost.
pub fn install() {
    recorder();
}

fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER.get_or_init(start).as_ref()
}

fn start() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new().set_buckets(&buckets()).ok()?;
    let handle = builder.install_recorder().ok()?;
    for metric in definitions::all() {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.meaning),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.meaning),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.meaning),
        }
    }
    metrics::gauge!("volley_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Some(handle)
}

/// The upper bounds of the buckets of all histograms, seconds.
fn buckets() -> Vec<f64> {
    (0..BUCKETS).map(|step| FIRST_BUCKET * f64::from(2).powi(step)).collect()
}

/// All metrics as text; `None`: the process has the recorder of another library. Blocks: it reads files of the system.
pub fn render() -> Option<String> {
    let recorder = recorder()?;
    process::update();
    recorder.run_upkeep();
    Some(recorder.render())
}

/// Sums up what histograms collect, for ever: their memory must not depend on whether anybody scrapes.
pub async fn upkeep() {
    let Some(recorder) = recorder() else { return };
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_from_a_tenth_of_a_millisecond() {
        let buckets = buckets();
        assert_eq!((buckets[0], buckets[1], buckets.len()), (0.0001, 0.0002, 20));
        assert!(buckets.last().is_some_and(|last| (52.0..53.0).contains(last)), "{buckets:?}");
    }

    #[tokio::test]
    async fn text_has_help_build_and_process() {
        let text =
            tokio::task::spawn_blocking(render).await.expect("no panic").expect("this process has no other recorder");
        assert!(
            text.contains("# HELP volley_build_info ") && text.contains("# TYPE volley_build_info gauge\n"),
            "{text}"
        );
        assert!(
            text.contains(&format!("volley_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))),
            "{text}"
        );
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "volley_runtime_workers "] {
            assert!(text.contains(&format!("\n{name}")), "{name}: {text}");
        }
    }
}
