//! The table of all metrics: what each is called, counts and means, and when to worry. docs/metrics.md is made of it, and the text
//! that is scraped has its sentences.
//!
//! Counters are called `_total`, names end in their unit (`_seconds`, `_bytes`, before `_total`), and those of Volley begin with `volley_`.

mod catalog;
mod data;
mod members;
mod storage;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, from zero at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution of durations, in buckets from 100 µs, each twice as wide as the one before.
    Histogram,
}

/// Which members have a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricOwner {
    /// Coordinators and nodes.
    Members,
    /// Coordinators only.
    Coordinators,
    /// Nodes only.
    Nodes,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricDefinition {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Who has it.
    pub owner: MetricOwner,
    /// What it counts: `seconds`, `bytes`, or a plural as `calls`.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// When to worry; empty: never by itself.
    pub worry: &'static str,
}

impl MetricKind {
    /// The word that Prometheus has for it.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

impl MetricDefinition {
    const fn new(
        kind: MetricKind,
        owner: MetricOwner,
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        MetricDefinition { name, kind, owner, unit, labels, meaning, worry: "" }
    }

    const fn worry(self, worry: &'static str) -> Self {
        MetricDefinition { worry, ..self }
    }
}

/// A section of the table: its title and its metrics.
pub type MetricSection = (&'static str, &'static [MetricDefinition]);

/// The whole table.
pub const SECTIONS: [MetricSection; 13] = [
    ("Calls and connections", members::CALLS),
    ("HTTP", members::HTTP),
    ("Other members", members::PEERS),
    ("Identity", members::IDENTITY),
    ("Process", members::PROCESS),
    ("Gets", data::GETS),
    ("Puts", data::PUTS),
    ("Queries", data::QUERIES),
    ("Parts and disk of a node", storage::PARTS),
    ("Copies, scrub and compaction of a node", storage::WORK),
    ("Catalog", catalog::TABLES),
    ("Replication and repair", catalog::REPAIR),
    ("Raft", catalog::RAFT),
];

/// All metrics.
pub fn all() -> impl Iterator<Item = &'static MetricDefinition> {
    SECTIONS.iter().flat_map(|(_, metrics)| metrics.iter())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The name without what its kind adds: two metrics must not share it, as OpenMetrics says.
    fn family(metric: &MetricDefinition) -> &'static str {
        metric.name.strip_suffix("_total").unwrap_or(metric.name)
    }

    #[test]
    fn every_metric_has_a_family_of_its_own() {
        let mut families = BTreeSet::new();
        assert!(all().count() > 100);
        for metric in all() {
            assert!(families.insert(family(metric)), "{} is there twice", family(metric));
        }
    }

    #[test]
    fn names_tell_kind_and_unit() {
        for metric in all() {
            let MetricDefinition { name, kind, unit, meaning, .. } = *metric;
            assert!(name.starts_with("volley_") || name.starts_with("process_"), "{name}");
            assert_eq!(kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
            assert!(kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name}");
            for in_name in ["seconds", "milliseconds", "bytes", "ratio"] {
                let has_unit = family(metric).ends_with(&format!("_{in_name}"));
                assert_eq!(has_unit, unit == in_name, "{name} counts {unit}");
            }
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(meaning.ends_with('.') && !meaning.contains(['\n', '\\', '|']), "{name}: {meaning}");
        }
    }

    #[test]
    fn labels_are_few_and_none_is_a_name_of_a_client() {
        let known = [
            "port",
            "listener",
            "method",
            "code",
            "scope",
            "file_kind",
            "result",
            "kind",
            "state",
            "mark",
            "member",
            "role",
            "coordinator",
            "version",
            "table",
            "operation",
            "status",
            "limit",
        ];
        for metric in all() {
            assert!(metric.labels.iter().all(|label| known.contains(label)), "{}: {:?}", metric.name, metric.labels);
            assert!(
                !metric.labels.contains(&"table") || metric.meaning.contains("`metrics_tables`"),
                "{}",
                metric.name
            );
        }
    }
}
