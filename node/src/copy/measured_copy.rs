//! What metrics tell of copies to this node.

use std::time::Instant;

use volley_common::telemetry::GaugeGuard;

/// One copy, from its order to its end.
pub struct MeasuredCopy {
    kind: &'static str,
    began: Instant,
    _running: GaugeGuard,
}

/// The kind of a copy, as metrics name it.
pub fn kind_of(background: bool) -> &'static str {
    if background { "background" } else { "put" }
}

impl MeasuredCopy {
    /// A copy begins. `background`: it is one of repair or rebalancing.
    pub fn begin(background: bool) -> Self {
        let kind = kind_of(background);
        let running = GaugeGuard::count(metrics::gauge!("volley_part_copies", "kind" => kind));
        MeasuredCopy { kind, began: Instant::now(), _running: running }
    }

    /// It has ended.
    pub fn end(self, copied: bool) {
        let result = if copied { "ok" } else { "failed" };
        metrics::counter!("volley_part_copies_ended_total", "kind" => self.kind, "result" => result).increment(1);
        if copied {
            metrics::histogram!("volley_part_copy_duration_seconds", "kind" => self.kind).record(self.began.elapsed());
        }
    }
}
