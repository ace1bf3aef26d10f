//! Reports to the leading coordinator.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Interval;
use volley_common::server::ServerTls;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{Heartbeat, HeldPart, HeldParts, Inventory, LostParts, NodeReport, OrderDone};
use volley_common::{Error, PartId, Result, clock};

use crate::copy::ReceivedParts;
use crate::storage::PartStore;

/// How long a report may wait for room in the queue: a leader that reads none is as good as gone.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Parts per report.
const PAGE: usize = 10_000;

/// Sends the reports of one session; clones send to the same one.
#[derive(Clone)]
pub struct ReportSender {
    store: PartStore,
    tls: Option<Arc<ServerTls>>,
    /// What the settings of this node leave open.
    exposures: Vec<String>,
    reports: mpsc::Sender<NodeReport>,
    /// [`REPORT_TIMEOUT`], unless a test does not wait for so long.
    timeout: Duration,
}

impl ReportSender {
    /// Reports on this store, and on files of TLS.
    pub fn new(store: PartStore, tls: Option<Arc<ServerTls>>, reports: mpsc::Sender<NodeReport>) -> Self {
        ReportSender { store, tls, exposures: Vec::new(), reports, timeout: REPORT_TIMEOUT }
    }

    /// Reports what the settings of this node leave open, too.
    pub fn with_exposures(self, exposures: Vec<String>) -> Self {
        ReportSender { exposures, ..self }
    }

    async fn send(&self, report: Report) -> Result<()> {
        let sent = self.reports.send_timeout(NodeReport { report: Some(report) }, self.timeout).await;
        sent.map_err(|error| match error {
            SendTimeoutError::Closed(_) => Error::unavailable("the session with the leading coordinator broke"),
            SendTimeoutError::Timeout(_) => {
                Error::unavailable(format!("the leading coordinator read no report for {:?}", self.timeout))
            }
        })
    }

    /// The inventory's digest and the state of the disk.
    pub async fn heartbeat(&self) -> Result<()> {
        let store = self.store.clone();
        let look = move || {
            store.record_seen_catalog(false);
            (store.digest(), store.status())
        };
        let ((digest, parts), status) = tokio::task::spawn_blocking(look)
            .await
            .map_err(|e| Error::internal(format!("reading the inventory: {e}")))?;
        let heartbeat = Heartbeat {
            digest,
            parts,
            bytes_free: status.space.free,
            bytes_used: status.part_bytes,
            bytes_total: status.space.total,
            read_only_reason: status.read_only_reason,
            degraded_reason: status.degraded_reason,
            damaged: status.quarantined,
            scrubbed_ms: status.last_scrub_ms,
            now_ms: clock::now_ms(),
            orphaned: status.orphans.files,
            orphaned_bytes: status.orphans.bytes,
            tls_failures: self.tls.as_ref().map(|tls| tls.reload_failures()).unwrap_or_default(),
            exposures: self.exposures.clone(),
        };
        self.send(Report::Heartbeat(heartbeat)).await
    }

    /// Does work that must end before the next order; heartbeats continue meanwhile.
    ///
    /// # Errors
    /// Those of [`ReportSender::heartbeat`]: the session has ended.
    pub async fn with_heartbeats<T>(&self, ticks: &mut Interval, work: impl Future<Output = T>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = ticks.tick() => self.heartbeat().await?,
            }
        }
    }

    /// The whole inventory, in pages.
    pub async fn inventory(&self) -> Result<()> {
        let store = self.store.clone();
        let parts: Vec<HeldPart> = tokio::task::spawn_blocking(move || store.inventory())
            .await
            .map_err(|e| Error::internal(format!("reading the inventory: {e}")))?;
        let pages = parts.len().div_ceil(PAGE).max(1);
        let mut parts = parts.into_iter();
        for page in 1..=pages {
            let parts = parts.by_ref().take(PAGE).collect();
            self.send(Report::Inventory(Inventory { parts, last: page == pages })).await?;
        }
        Ok(())
    }

    /// The parts that were copied to this node, and that it still holds.
    pub async fn received(&self, received: &ReceivedParts) -> Result<()> {
        loop {
            let mut parts = received.take(PAGE);
            if parts.is_empty() {
                return Ok(());
            }
            // The leader must not count what was removed since.
            parts.retain(|part| part.id.as_ref().is_some_and(|id| self.store.holds(PartId::from(id))));
            if !parts.is_empty() {
                self.send(Report::Held(HeldParts { parts })).await?;
            }
        }
    }

    /// The parts that were quarantined, so that the leader repairs them immediately.
    pub async fn lost(&self) -> Result<()> {
        let (parts, reason) = self.store.take_lost();
        for page in parts.chunks(PAGE) {
            let parts = page.iter().map(|id| (*id).into()).collect();
            self.send(Report::Lost(LostParts { parts, reason: reason.clone() })).await?;
        }
        Ok(())
    }

    /// The result of an order.
    pub async fn done(&self, order: u64, result: &Result<()>) -> Result<()> {
        let error = result.as_ref().err().map_or_else(String::new, |e| e.message.clone());
        self.send(Report::Done(OrderDone { order, error })).await
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use tempfile::TempDir;
    use tokio::sync::oneshot;
    use volley_common::Code;
    use volley_common::wire::catalog::Compression;

    use super::*;
    use crate::storage::PartSpec;

    #[tokio::test]
    async fn part_that_was_removed_since_is_not_reported() {
        let dir = TempDir::new().unwrap();
        let store = PartStore::open(dir.path()).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let (table, schema, compression) = ("t".parse().unwrap(), batch.schema(), Compression::None);
        let spec = PartSpec { table, shard: 0, write: "w".into(), seq: 0, schema, compression };
        let ids = [0, 1].map(|_| {
            let mut writer = store.create(spec.clone()).unwrap();
            writer.write(&batch).unwrap();
            writer.seal().unwrap().id
        });
        let received = ReceivedParts::default();
        store.held(&ids).into_iter().for_each(|part| received.add(part, true));
        let (reports, mut sent) = mpsc::channel(64);
        let reporter = ReportSender::new(store.clone(), None, reports);
        store.remove(&ids[..1]).unwrap();
        reporter.received(&received).await.unwrap();
        let Some(Report::Held(held)) = sent.recv().await.unwrap().report else { panic!("parts are reported") };
        let reported: Vec<PartId> = held.parts.iter().filter_map(|part| part.id.as_ref()).map(PartId::from).collect();
        assert_eq!(reported, [ids[1]]);
        received.add(held.parts[0].clone(), true);
        store.remove(&ids).unwrap();
        reporter.received(&received).await.unwrap();
        assert!(sent.try_recv().is_err() && received.take(1).is_empty());
    }

    #[tokio::test]
    async fn report_that_no_leader_reads_ends_the_session() {
        let dir = TempDir::new().unwrap();
        let (reports, mut sent) = mpsc::channel(1);
        let mut reporter = ReportSender::new(PartStore::open(dir.path()).unwrap(), None, reports);
        reporter.timeout = Duration::from_millis(10);
        reporter.done(1, &Ok(())).await.unwrap();
        let error = reporter.done(2, &Ok(())).await.unwrap_err();
        assert!(error.code == Code::Unavailable && error.message.contains("read no report for 10ms"), "{error}");
        assert!(sent.recv().await.is_some() && sent.try_recv().is_err(), "the second one was not sent");
    }

    #[tokio::test]
    async fn heartbeats_continue_during_long_work() {
        let dir = TempDir::new().unwrap();
        let (reports, mut sent) = mpsc::channel(64);
        let reporter = ReportSender::new(PartStore::open(dir.path()).unwrap(), None, reports);
        let (done, work) = oneshot::channel();
        let leader = async {
            for _ in 0..3 {
                assert!(matches!(sent.recv().await.unwrap().report, Some(Report::Heartbeat(_))));
            }
            done.send(7).unwrap();
        };
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let both = async { tokio::join!(reporter.with_heartbeats(&mut ticks, work), leader).0 };
        let worked = tokio::time::timeout(REPORT_TIMEOUT, both).await.expect("the leader gets heartbeats");
        assert_eq!(worked.unwrap().unwrap(), 7);
    }
}
