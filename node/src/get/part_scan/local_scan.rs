//! The scan of a part on this node's disk: one step after the other, each on a blocking thread. While the output of one is sent,
//! the next one runs, so a scan holds the output of two steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinError, JoinHandle};
use volley_common::{Error, PartId, Result};

use super::scan_output::ScanOutput;
use super::scan_plan::ScanPlan;
use super::scan_worker::ScanWorker;
use crate::get_resources::ScanThreads;
use crate::storage::Part;

/// A part, and the position of its scan.
pub struct LocalScan<T> {
    id: PartId,
    threads: ScanThreads,
    /// `None` while a step runs, and after the last.
    worker: Option<ScanWorker<T>>,
    step: Option<JoinHandle<Result<StepResult<T>, JoinError>>>,
    /// Outputs of the last step.
    ready: VecDeque<T>,
    is_stopped: Arc<AtomicBool>,
}

/// The worker after a step, and what the step gave.
type StepResult<T> = (ScanWorker<T>, Result<Vec<T>>);

impl<T: ScanOutput> LocalScan<T> {
    /// Selects `remaining_rows` rows at most. Nothing is read before the first output is requested.
    pub fn new(part: Arc<Part>, plan: Arc<ScanPlan>, threads: ScanThreads, remaining_rows: Option<u64>) -> Self {
        let is_stopped = Arc::<AtomicBool>::default();
        let (id, stop) = (part.id(), is_stopped.clone());
        let worker = Some(ScanWorker::new(part, plan, remaining_rows, stop));
        LocalScan { id, threads, worker, step: None, ready: VecDeque::new(), is_stopped }
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.id
    }

    /// The next output, and those after it that are ready, of about `max_bytes`; empty after the last.
    ///
    /// # Errors
    /// DATA_LOSS: the file was changed or cannot be read; what was returned before is correct. Those of the filter.
    pub async fn next_outputs(&mut self, max_bytes: usize) -> Result<Vec<T>> {
        while self.ready.is_empty() {
            let Some(step) = self.step.take().or_else(|| self.start_step()) else { return Ok(Vec::new()) };
            let failed = |e: JoinError| Error::internal(format!("the scan of part {} failed: {e}", self.id));
            let (worker, outputs) = step.await.map_err(failed)?.map_err(failed)?;
            self.ready = outputs?.into();
            self.worker = Some(worker);
            self.step = self.start_step();
        }
        let (mut outputs, mut bytes) = (Vec::new(), 0);
        while let Some(output) =
            self.ready.pop_front_if(|output| outputs.is_empty() || bytes + output.size() <= max_bytes)
        {
            bytes += output.size();
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// Starts the next step, once a thread is free; `None` after the last.
    fn start_step(&mut self) -> Option<JoinHandle<Result<StepResult<T>, JoinError>>> {
        let mut worker = self.worker.take().filter(|worker| !worker.is_done())?;
        let threads = self.threads.clone();
        Some(tokio::spawn(async move {
            let permit = threads.acquire().await;
            let run = move || {
                let outputs = worker.run();
                drop(permit);
                (worker, outputs)
            };
            tokio::task::spawn_blocking(run).await
        }))
    }
}

impl<T> Drop for LocalScan<T> {
    /// A step that runs ends soon.
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}
