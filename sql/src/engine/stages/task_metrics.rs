//! The metrics of a task's operators, which EXPLAIN ANALYZE shows. Numbers and times only; other kinds stay on their node.

use std::sync::Arc;
use std::time::Duration;

use datafusion::physical_plan::metrics::{Count, Gauge, Metric, MetricValue, MetricsSet, Time};
use datafusion_distributed::TaskMetrics;
use volley_common::wire::cluster::{MetricKind, OperatorMetric, OperatorMetrics, QueryTaskMetrics};

pub(super) fn encode(metrics: &TaskMetrics) -> QueryTaskMetrics {
    let operator =
        |set: &MetricsSet| OperatorMetrics { metrics: set.iter().filter_map(|m| encode_metric(m)).collect() };
    QueryTaskMetrics { operators: metrics.pre_order_plan_metrics.iter().map(operator).collect() }
}

pub(super) fn decode(metrics: &QueryTaskMetrics) -> TaskMetrics {
    let operator = |operator: &OperatorMetrics| {
        let mut set = MetricsSet::new();
        for metric in operator.metrics.iter().filter_map(decode_metric) {
            set.push(Arc::new(metric));
        }
        set
    };
    TaskMetrics {
        pre_order_plan_metrics: metrics.operators.iter().map(operator).collect(),
        task_metrics: MetricsSet::new(),
    }
}

fn encode_metric(metric: &Metric) -> Option<OperatorMetric> {
    let (kind, name, value) = match metric.value() {
        MetricValue::Count { name, count } => (MetricKind::Count, name.as_ref(), count.value()),
        MetricValue::Gauge { name, gauge } => (MetricKind::Gauge, name.as_ref(), gauge.value()),
        MetricValue::Time { name, time } => (MetricKind::Time, name.as_ref(), time.value()),
        MetricValue::OutputRows(count) => (MetricKind::OutputRows, "", count.value()),
        MetricValue::OutputBytes(count) => (MetricKind::OutputBytes, "", count.value()),
        MetricValue::OutputBatches(count) => (MetricKind::OutputBatches, "", count.value()),
        MetricValue::ElapsedCompute(time) => (MetricKind::ElapsedCompute, "", time.value()),
        MetricValue::SpillCount(count) => (MetricKind::SpillCount, "", count.value()),
        MetricValue::SpilledBytes(count) => (MetricKind::SpilledBytes, "", count.value()),
        MetricValue::SpilledRows(count) => (MetricKind::SpilledRows, "", count.value()),
        _ => return None,
    };
    let partition = metric.partition().map(|partition| partition as u64);
    Some(OperatorMetric { kind: kind.into(), name: name.into(), value: value as u64, partition })
}

fn decode_metric(metric: &OperatorMetric) -> Option<Metric> {
    let number = usize::try_from(metric.value).unwrap_or(usize::MAX);
    let count = || {
        let count = Count::new();
        count.add(number);
        count
    };
    let time = || {
        let time = Time::new();
        if metric.value > 0 {
            time.add_duration(Duration::from_nanos(metric.value));
        }
        time
    };
    let name = metric.name.clone().into();
    let value = match metric.kind() {
        // Of a later version.
        MetricKind::Unspecified => return None,
        MetricKind::Count => MetricValue::Count { name, count: count() },
        MetricKind::Gauge => {
            let gauge = Gauge::new();
            gauge.set(number);
            MetricValue::Gauge { name, gauge }
        }
        MetricKind::Time => MetricValue::Time { name, time: time() },
        MetricKind::OutputRows => MetricValue::OutputRows(count()),
        MetricKind::OutputBytes => MetricValue::OutputBytes(count()),
        MetricKind::OutputBatches => MetricValue::OutputBatches(count()),
        MetricKind::ElapsedCompute => MetricValue::ElapsedCompute(time()),
        MetricKind::SpillCount => MetricValue::SpillCount(count()),
        MetricKind::SpilledBytes => MetricValue::SpilledBytes(count()),
        MetricKind::SpilledRows => MetricValue::SpilledRows(count()),
    };
    let partition = metric.partition.and_then(|partition| usize::try_from(partition).ok());
    Some(Metric::new(value, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_survive() {
        let kinds = 1..=10;
        let sent: Vec<OperatorMetric> = kinds
            .map(|kind| {
                let has_name = kind <= MetricKind::Time as i32;
                let name = if has_name { format!("metric {kind}") } else { String::new() };
                OperatorMetric { kind, name, value: 7, partition: (kind % 2 == 0).then_some(kind as u64) }
            })
            .collect();
        let sent = QueryTaskMetrics { operators: vec![OperatorMetrics { metrics: sent }, OperatorMetrics::default()] };
        assert_eq!(encode(&decode(&sent)), sent);
    }
}
