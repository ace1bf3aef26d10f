//! A gauge that counts what exists.

use std::fmt;

use metrics::Gauge;

/// One more in a gauge, until this is dropped.
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Counts one more.
    pub fn count(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        GaugeGuard(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl fmt::Debug for GaugeGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GaugeGuard")
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn gauge_counts_what_is_not_dropped() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let text = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let first = GaugeGuard::count(metrics::gauge!("open"));
            let second = GaugeGuard::count(metrics::gauge!("open"));
            assert!(text.render().contains("\nopen 2\n"), "{}", text.render());
            drop(first);
            assert!(text.render().contains("\nopen 1\n"));
            drop(second);
        });
        assert!(text.render().contains("\nopen 0\n"));
    }
}
