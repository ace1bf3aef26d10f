//! What processes use, read from outside; and the figures that samples are boiled down to.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

/// How often the memory of the servers is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// CPU time that a process has used, threads that have ended included, in seconds.
///
/// The same sum as utime and stime of `/proc/PID/stat`, which are given in steps of 10 ms.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write into what they are given, and keep nothing of it.
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

/// A highest use of memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Of the process that had most.
    pub largest: u64,
    /// Of all processes together.
    pub sum: u64,
}

impl Peak {
    /// Of the processes with these.
    pub fn of(each: impl IntoIterator<Item = u64>) -> Peak {
        each.into_iter().fold(Peak::default(), |peak, one| Peak { largest: peak.largest.max(one), sum: peak.sum + one })
    }

    fn rise(&mut self, other: Peak) {
        self.largest = self.largest.max(other.largest);
        self.sum = self.sum.max(other.sum);
    }
}

/// What some processes used between [`Watch::begin`] and [`Watch::end`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Used {
    /// CPU seconds, all together.
    pub cpu: f64,
    /// Anonymous memory, looked at every 20 ms: RssAnon.
    pub anonymous: Peak,
    /// All resident memory, with what is mapped from files: VmHWM.
    pub total: Peak,
}

/// Looks at processes while something runs.
pub struct Watch {
    pids: Vec<u32>,
    cpu: f64,
    over: Arc<AtomicBool>,
    anonymous: tokio::task::JoinHandle<Peak>,
}

impl Watch {
    /// Begins to look.
    ///
    /// # Errors
    /// One of the processes has ended.
    pub fn begin(pids: Vec<u32>) -> io::Result<Watch> {
        for pid in &pids {
            // From here on VmHWM is counted anew; where that is refused it is that of the process's life.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        let over = Arc::new(AtomicBool::new(false));
        let anonymous = tokio::task::spawn(sample(pids.clone(), over.clone()));
        Ok(Watch { cpu: all_cpu(&pids)?, pids, over, anonymous })
    }

    /// What was used since.
    ///
    /// # Errors
    /// One of the processes has ended.
    pub async fn end(self) -> io::Result<Used> {
        let cpu = all_cpu(&self.pids)? - self.cpu;
        self.over.store(true, Ordering::Relaxed);
        let anonymous = self.anonymous.await.map_err(io::Error::other)?;
        let total = Peak::of(self.pids.iter().map(|pid| status_of(*pid, "VmHWM")));
        Ok(Used { cpu, anonymous, total })
    }
}

async fn sample(pids: Vec<u32>, over: Arc<AtomicBool>) -> Peak {
    let mut peak = Peak::default();
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        peak.rise(Peak::of(pids.iter().map(|pid| status_of(*pid, "RssAnon"))));
        if over.load(Ordering::Relaxed) {
            return peak;
        }
        ticks.tick().await;
    }
}

fn all_cpu(pids: &[u32]) -> io::Result<f64> {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}

/// The middle of some values; of an even number the mean of the two in the middle. None of none.
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

/// The median of `ours[i] / theirs[i]`: what was measured next to each other is compared.
pub fn paired_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

/// The value below which `share` of the sorted values lie.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine was twice as fast in the second round: the ratio does not see it.
        assert_eq!(paired_ratio(&[3.0, 6.0, 3.0], &[2.0, 4.0, 2.0]), Some(1.5));
        assert_eq!(paired_ratio(&[1.0, 9.0, 4.0], &[1.0, 3.0, 2.0]), Some(2.0));
        assert_eq!(paired_ratio(&[], &[]), None);
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((quantile(&sorted, 0.0), quantile(&sorted, 1.0)), (Some(1.0), Some(100.0)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn memory_is_read_from_the_line_of_its_name() {
        let status =
            "Name:\tvolley-node\nVmHWM:\t   19384 kB\nRssAnon:\t       4 kB\nRssAnonymous:\t9 kB\nThreads:\t3\n";
        assert_eq!(status_bytes(status, "VmHWM"), Some(19384 << 10));
        assert_eq!(status_bytes(status, "RssAnon"), Some(4 << 10));
        assert_eq!(status_bytes(status, "Threads"), None);
        assert_eq!(status_bytes(status, "VmPeak"), None);
    }

    #[test]
    fn peaks_are_of_one_process_and_of_all() {
        let mut peak = Peak::of([3, 5, 1]);
        assert_eq!(peak, Peak { largest: 5, sum: 9 });
        peak.rise(Peak::of([4, 4, 4]));
        assert_eq!(peak, Peak { largest: 5, sum: 12 });
    }

    #[test]
    fn cpu_time_grows_while_one_works_and_is_none_of_a_process_that_is_not() {
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
