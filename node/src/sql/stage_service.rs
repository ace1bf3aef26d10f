//! Tasks that this node runs for queries of other nodes, which call its peer port.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Status, Streaming};
use volley_common::telemetry::GaugeGuard;
use volley_common::telemetry::trace::note;
use volley_common::wire::cluster::{
    DescribeWorkerReply, QueryTaskKey, QueryTaskOrder, QueryTaskReport, QueryTaskRows, ReadQueryTaskRequest,
};
use volley_common::{Error, Result};
use volley_sql::engine::QueryWorker;

use crate::context::SqlContext;
use crate::sql_resources::QueryRuntime;

/// What a call replies, one after the other.
pub type Replies<T> = BoxStream<'static, Result<T, Status>>;

/// What this node says of itself to the head of a query.
///
/// # Errors
/// Those of [`crate::sql_resources::SqlResources::runtime`].
pub async fn describe(context: &Arc<SqlContext>) -> Result<DescribeWorkerReply> {
    let context = context.clone();
    // The engine starts also if the head stops waiting for it: otherwise a slow start would begin anew with each query.
    let described = tokio::spawn(async move { Ok::<_, Error>(worker(&context).await?.1.describe()) }).await;
    described.unwrap_or_else(|e| Err(Error::internal(format!("the worker could not be described: {e}"))))
}

/// Runs a task until the caller's side of the call ends.
///
/// # Errors
/// INVALID_ARGUMENT: the first order starts no task. Those of [`QueryWorker::run_task`].
pub async fn run_task(context: &SqlContext, mut orders: Streaming<QueryTaskOrder>) -> Result<Replies<QueryTaskReport>> {
    let start = orders.message().await?.and_then(|order| order.start);
    let start = start.ok_or_else(|| Error::invalid("the first order does not start a task"))?;
    note_task(start.key.as_ref());
    // Other orders are of a later version. An error is the end, too: the head is lost.
    let ended = Box::pin(async move { while let Ok(Some(_)) = orders.message().await {} });
    let (runtime, worker) = worker(context).await?;
    let reports = runtime.spawn(async move { worker.run_task(start, ended).await }).await?;
    let counted = GaugeGuard::count(metrics::gauge!("volley_query_tasks"));
    // The stream ends with the task.
    let counting = move |report: Result<QueryTaskReport>| {
        let _ = &counted;
        report.map_err(Status::from)
    };
    Ok(reports.map(counting).boxed())
}

/// The rows of a task that runs here.
///
/// # Errors
/// Those of [`QueryWorker::read_task`].
pub async fn read_task(context: &SqlContext, request: ReadQueryTaskRequest) -> Result<Replies<QueryTaskRows>> {
    note_task(request.key.as_ref());
    let (runtime, worker) = worker(context).await?;
    let rows = runtime.spawn(async move { worker.read_task(request).await }).await?;
    Ok(rows.map(|rows| rows.map_err(Status::from)).boxed())
}

/// Adds to the span of the call of which task it is.
fn note_task(key: Option<&QueryTaskKey>) {
    let Some(key) = key else { return };
    note("volley.query_id", || key.query.clone());
    note("volley.stage", || key.stage as i64);
    note("volley.task", || key.task as i64);
}

async fn worker(context: &SqlContext) -> Result<(Arc<QueryRuntime>, Arc<QueryWorker>)> {
    let runtime = context.resources.runtime().await?;
    let missing = || Error::unimplemented("this node runs no tasks of other nodes' queries");
    let worker = runtime.engine.worker().ok_or_else(missing)?;
    Ok((runtime, worker))
}
