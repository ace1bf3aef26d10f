//! The metrics of a task's operators, which EXPLAIN ANALYZE shows. Numbers and times only; other kinds stay on their node.
//!
//! The library waits without a limit for the metrics of all tasks, and a task of which nobody read a partition reports none: a
//! `LIMIT` can end a query before. So the head completes what tasks report.

use std::sync::Arc;
use std::time::Duration;

use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Count, Gauge, Metric, MetricValue, MetricsSet, Time};
use datafusion_distributed::{MaybeEncoded, TaskMetrics, WorkerToCoordinatorMsg};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use volley_common::wire::cluster::{MetricKind, OperatorMetric, OperatorMetrics, QueryTaskMetrics};

/// What a task sends to the head of its query.
type TaskMessages = BoxStream<'static, Result<WorkerToCoordinatorMsg>>;

/// How many operators a plan has that is not encoded.
pub(super) fn operators_of(plan: &MaybeEncoded<Arc<dyn ExecutionPlan>>) -> usize {
    match plan {
        MaybeEncoded::Decoded(plan) => count(plan),
        MaybeEncoded::Encoded(_) => 0,
    }
}

fn count(plan: &Arc<dyn ExecutionPlan>) -> usize {
    1 + plan.children().into_iter().map(count).sum::<usize>()
}

/// The messages of a task with so many operators, with metrics for each of these unless there is an error: those that it does not
/// report are empty.
pub(super) fn complete(messages: TaskMessages, operators: usize) -> TaskMessages {
    let completed = stream::unfold(Some((messages, false)), move |state| async move {
        let (mut messages, has_metrics) = state?;
        match messages.next().await {
            Some(Ok(WorkerToCoordinatorMsg::TaskMetrics(metrics))) => {
                let metrics = WorkerToCoordinatorMsg::TaskMetrics(padded(metrics, operators));
                Some((Ok(metrics), Some((messages, true))))
            }
            Some(Ok(other)) => Some((Ok(other), Some((messages, has_metrics)))),
            Some(Err(error)) => Some((Err(error), None)),
            None if has_metrics => None,
            None => {
                let none = TaskMetrics { pre_order_plan_metrics: Vec::new(), task_metrics: MetricsSet::new() };
                Some((Ok(WorkerToCoordinatorMsg::TaskMetrics(padded(none, operators))), None))
            }
        }
    });
    completed.boxed()
}

fn padded(mut metrics: TaskMetrics, operators: usize) -> TaskMetrics {
    let reported = metrics.pre_order_plan_metrics.len();
    metrics.pre_order_plan_metrics.resize_with(reported.max(operators), MetricsSet::new);
    metrics
}

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
    use datafusion::common::internal_datafusion_err;

    use super::*;

    /// How many operators each metrics are of, in the order of the messages; `None`: an error.
    async fn reported(messages: Vec<Result<WorkerToCoordinatorMsg>>, operators: usize) -> Vec<Option<usize>> {
        let messages = complete(stream::iter(messages).boxed(), operators);
        let counted = messages.filter_map(async |message| match message {
            Ok(WorkerToCoordinatorMsg::TaskMetrics(metrics)) => Some(Some(metrics.pre_order_plan_metrics.len())),
            Ok(_) => None,
            Err(_) => Some(None),
        });
        counted.collect().await
    }

    #[tokio::test]
    async fn every_task_has_metrics_of_all_its_operators() {
        let metrics = |operators: usize| {
            let pre_order_plan_metrics = (0..operators).map(|_| MetricsSet::new()).collect();
            Ok(WorkerToCoordinatorMsg::TaskMetrics(TaskMetrics {
                pre_order_plan_metrics,
                task_metrics: MetricsSet::new(),
            }))
        };
        let other = || Ok(WorkerToCoordinatorMsg::LoadInfoEos);
        assert_eq!(reported(vec![], 3).await, [Some(3)]);
        assert_eq!(reported(vec![other()], 3).await, [Some(3)]);
        assert_eq!(reported(vec![metrics(2), other()], 3).await, [Some(3)]);
        assert_eq!(reported(vec![other(), metrics(4)], 3).await, [Some(4)]);
        assert_eq!(reported(vec![other(), Err(internal_datafusion_err!("lost")), other()], 3).await, [None]);
    }

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
