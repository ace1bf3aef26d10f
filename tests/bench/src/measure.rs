//! CPU and memory of processes, read from outside; medians, quantiles and ratios of samples.
#![allow(unsafe_code, reason = "clocks of other processes")]

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

/// How often the memory of the servers is sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// CPU time that a process has used, threads that have ended included, in seconds.
///
/// The same sum as utime and stime of `/proc/PID/stat`, which are given in steps of 10 ms.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write into their arguments and keep no reference to them.
    let failed = unsafe {
        let failed = libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock);
        if failed == 0 { libc::clock_gettime(clock, &mut time) } else { failed }
    };
    if failed != 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")));
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// The value of a line `KEY:   N kB` of `/proc/PID/status`, in bytes.
pub fn status_bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn status_of(pid: u32, key: &str) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|text| status_bytes(&text, key)).unwrap_or(0)
}

/// Peak memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeakMemory {
    /// Of the process with the highest peak.
    pub largest: u64,
    /// Of all processes together.
    pub sum: u64,
}

impl PeakMemory {
    /// The peak of processes with these values.
    pub fn of(each: impl IntoIterator<Item = u64>) -> PeakMemory {
        each.into_iter()
            .fold(PeakMemory::default(), |peak, one| PeakMemory { largest: peak.largest.max(one), sum: peak.sum + one })
    }

    fn rise(&mut self, other: PeakMemory) {
        self.largest = self.largest.max(other.largest);
        self.sum = self.sum.max(other.sum);
    }
}

/// CPU and memory of some processes between [`ResourceWatch::begin`] and [`ResourceWatch::end`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ResourceUse {
    /// CPU seconds, all together.
    pub cpu: f64,
    /// Anonymous memory (RssAnon), sampled every 20 ms.
    pub anonymous: PeakMemory,
    /// All resident memory, mapped files included (VmHWM).
    pub total: PeakMemory,
}

/// Measures processes while a job runs.
pub struct ResourceWatch {
    pids: Vec<u32>,
    cpu: f64,
    over: Arc<AtomicBool>,
    anonymous: tokio::task::JoinHandle<PeakMemory>,
}

impl ResourceWatch {
    /// Begins to measure.
    ///
    /// # Errors
    /// One of the processes has ended.
    pub fn begin(pids: Vec<u32>) -> io::Result<ResourceWatch> {
        for pid in &pids {
            // This resets VmHWM. Where that is not permitted, VmHWM is the peak since the process started.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        let over = Arc::new(AtomicBool::new(false));
        let anonymous = tokio::task::spawn(sample(pids.clone(), over.clone()));
        Ok(ResourceWatch { cpu: all_cpu(&pids)?, pids, over, anonymous })
    }

    /// What the processes used since.
    ///
    /// # Errors
    /// One of the processes has ended.
    pub async fn end(self) -> io::Result<ResourceUse> {
        let cpu = all_cpu(&self.pids)? - self.cpu;
        self.over.store(true, Ordering::Relaxed);
        let anonymous = self.anonymous.await.map_err(io::Error::other)?;
        let total = PeakMemory::of(self.pids.iter().map(|pid| status_of(*pid, "VmHWM")));
        Ok(ResourceUse { cpu, anonymous, total })
    }
}

async fn sample(pids: Vec<u32>, over: Arc<AtomicBool>) -> PeakMemory {
    let mut peak = PeakMemory::default();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        peak.rise(PeakMemory::of(pids.iter().map(|pid| status_of(*pid, "RssAnon"))));
        if over.load(Ordering::Relaxed) {
            return peak;
        }
        ticks.tick().await;
    }
}

fn all_cpu(pids: &[u32]) -> io::Result<f64> {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}

/// The median; of an even number of values the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even % 2 == 0 => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}

/// The median of `ours[i] / theirs[i]`: it compares measurements of the same round.
pub fn paired_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

/// The quantile of this share of the sorted values (nearest rank).
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_does_not_depend_on_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was twice as fast in the second round: that does not change the ratio.
        assert_eq!(paired_ratio(&[3.0, 6.0, 3.0], &[2.0, 4.0, 2.0]), Some(1.5));
        assert_eq!(paired_ratio(&[1.0, 9.0, 4.0], &[1.0, 3.0, 2.0]), Some(2.0));
        assert_eq!(paired_ratio(&[], &[]), None);
    }

    #[test]
    fn quantiles_are_measured_values() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((quantile(&sorted, 0.0), quantile(&sorted, 1.0)), (Some(1.0), Some(100.0)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn status_line_is_found_by_its_key() {
        let status =
            "Name:\tvolley-node\nVmHWM:\t   19384 kB\nRssAnon:\t       4 kB\nRssAnonymous:\t9 kB\nThreads:\t3\n";
        assert_eq!(status_bytes(status, "VmHWM"), Some(19384 << 10));
        assert_eq!(status_bytes(status, "RssAnon"), Some(4 << 10));
        assert_eq!(status_bytes(status, "Threads"), None);
        assert_eq!(status_bytes(status, "VmPeak"), None);
    }

    #[test]
    fn peaks_are_per_process_and_in_total() {
        let mut peak = PeakMemory::of([3, 5, 1]);
        assert_eq!(peak, PeakMemory { largest: 5, sum: 9 });
        peak.rise(PeakMemory::of([4, 4, 4]));
        assert_eq!(peak, PeakMemory { largest: 5, sum: 12 });
    }

    #[test]
    fn cpu_time_grows_with_work_and_fails_after_exit() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let mut work = 0u64;
        while cpu_seconds(std::process::id()).unwrap() < before + 0.01 {
            work = std::hint::black_box(work + 1);
        }
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        assert!(cpu_seconds(ended.id()).is_err());
    }
}
