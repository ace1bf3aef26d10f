//! Figures of the process and of its runtime, read at each scrape.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;

/// Reads them. Blocks: they are files of the system. On a thread of a runtime, or of its blocking work, that runtime counts.
pub fn update() {
    update_process();
    if let Some(files) = getrlimit(Resource::Nofile).current {
        metrics::gauge!("process_max_fds").set(files as f64);
    }
    let Ok(runtime) = Handle::try_current() else { return };
    let runtime = runtime.metrics();
    let workers = runtime.num_workers();
    let busy: Duration = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
    metrics::gauge!("volley_runtime_workers").set(workers as f64);
    metrics::gauge!("volley_runtime_tasks").set(runtime.num_alive_tasks() as f64);
    metrics::gauge!("volley_runtime_queued_tasks").set(runtime.global_queue_depth() as f64);
    metrics::counter!("volley_runtime_busy_milliseconds_total").absolute(busy.as_millis() as u64);
}

/// The names are those that all clients of Prometheus use. What the system does not tell is left out.
#[cfg(target_os = "linux")]
fn update_process() {
    use procfs::process::Process;

    let Ok(process) = Process::myself() else { return };
    if let Ok(files) = process.fd_count() {
        metrics::gauge!("process_open_fds").set(files as f64);
    }
    let Ok(stat) = process.stat() else { return };
    let ticks = procfs::ticks_per_second().max(1);
    metrics::counter!("process_cpu_seconds_total").absolute((stat.utime + stat.stime) / ticks);
    metrics::gauge!("process_threads").set(stat.num_threads as f64);
    metrics::gauge!("process_virtual_memory_bytes").set(stat.vsize as f64);
    metrics::gauge!("process_resident_memory_bytes").set((stat.rss * procfs::page_size()) as f64);
    if let Ok(boot) = procfs::boot_time_secs() {
        metrics::gauge!("process_start_time_seconds").set((boot + stat.starttime / ticks) as f64);
    }
}

#[cfg(not(target_os = "linux"))]
fn update_process() {}
