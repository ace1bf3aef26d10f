//! Pure: whether the disk accepts new parts, and whether it is degraded, from its free space, fsync times and errors.

use std::collections::VecDeque;

use super::disk_space::{DiskSpace, Watermarks};

/// The number of fsyncs that are considered, the newest.
const FSYNC_SAMPLES: usize = 8;
/// With fewer fsyncs than this the disk is never slow.
const MIN_FSYNC_SAMPLES: usize = 4;
/// An fsync is slow if it takes longer than this ...
const SLOW_FSYNC_MS: u64 = 2_000;
/// ... and a millisecond more for this many bytes: 5 MB/s, less than any disk in service writes.
const SLOW_BYTES_PER_MS: u64 = 5_000;
/// Older fsyncs and read errors do not count.
const WINDOW_MS: u64 = 600_000;
/// Read errors that are kept.
const MAX_READ_ERRORS: usize = 100;

/// The state of the disk.
#[derive(Debug, Default)]
pub struct DiskHealth {
    /// See [`Watermarks`].
    pub watermarks: Watermarks,
    /// The file system is too full for new parts.
    pub full: bool,
    /// Why a write failed. After that the node writes nothing until it is restarted.
    pub write_failure: Option<String>,
    fsyncs: VecDeque<FsyncSample>,
    /// When parts were found damaged or unreadable, milliseconds since 1970.
    read_errors_ms: VecDeque<u64>,
    last_read_error: String,
}

#[derive(Clone, Copy, Debug)]
struct FsyncSample {
    at_ms: u64,
    took_ms: u64,
    bytes: u64,
}

impl FsyncSample {
    fn is_slow(&self) -> bool {
        self.took_ms > SLOW_FSYNC_MS + self.bytes / SLOW_BYTES_PER_MS
    }
}

impl DiskHealth {
    /// A healthy disk with these watermarks.
    pub fn new(watermarks: Watermarks) -> Self {
        DiskHealth { watermarks, ..DiskHealth::default() }
    }

    /// Applies the watermarks to the current space; true if `full` changed.
    pub fn update_space(&mut self, space: DiskSpace) -> bool {
        let was = self.full;
        self.full = self.watermarks.is_full(was, space);
        self.full != was
    }

    /// Records an fsync of a file with this many new bytes.
    pub fn record_fsync(&mut self, at_ms: u64, took_ms: u64, bytes: u64) {
        if self.fsyncs.len() >= FSYNC_SAMPLES {
            self.fsyncs.pop_front();
        }
        self.fsyncs.push_back(FsyncSample { at_ms, took_ms, bytes });
    }

    /// Records a part that was damaged or unreadable.
    pub fn record_read_error(&mut self, at_ms: u64, error: &str) {
        if self.read_errors_ms.len() >= MAX_READ_ERRORS {
            self.read_errors_ms.pop_front();
        }
        self.read_errors_ms.push_back(at_ms);
        self.last_read_error = error.into();
    }

    /// Why the node accepts no new parts; empty: it accepts them.
    pub fn read_only_reason(&self, space: DiskSpace) -> String {
        match &self.write_failure {
            Some(why) => why.clone(),
            None if self.full => self.full_reason(space),
            None => String::new(),
        }
    }

    /// Why the node does not accept a part of this many bytes, though it may accept a smaller one; empty: it accepts
    /// the part.
    pub fn read_only_reason_for(&self, space: DiskSpace, bytes: u64) -> String {
        let read_only_reason = self.read_only_reason(space);
        if read_only_reason.is_empty() && self.watermarks.is_full(false, space.after(bytes)) {
            return format!("with {bytes} more bytes {}", self.full_reason(space.after(bytes)));
        }
        read_only_reason
    }

    fn full_reason(&self, space: DiskSpace) -> String {
        let Watermarks { high, low } = self.watermarks;
        format!("its disk is {space}, above the high watermark of {high} %; it accepts parts again below {low} %")
    }

    /// Why the disk is degraded; empty: it is not.
    pub fn degraded_reason(&self, now_ms: u64) -> String {
        let reasons = [self.slowness(now_ms), self.read_errors(now_ms)];
        reasons.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    fn slowness(&self, now_ms: u64) -> Option<String> {
        let recent: Vec<&FsyncSample> = self.fsyncs.iter().filter(|fsync| is_recent(fsync.at_ms, now_ms)).collect();
        let slow: Vec<&FsyncSample> = recent.iter().copied().filter(|fsync| fsync.is_slow()).collect();
        if recent.len() < MIN_FSYNC_SAMPLES || slow.len() * 2 <= recent.len() {
            return None;
        }
        let worst = slow.iter().max_by_key(|fsync| fsync.took_ms)?;
        Some(format!(
            "slow: {} of the last {} fsyncs took too long, the worst {:.1} s for {} bytes",
            slow.len(),
            recent.len(),
            worst.took_ms as f64 / 1000.0,
            worst.bytes
        ))
    }

    fn read_errors(&self, now_ms: u64) -> Option<String> {
        let count = self.read_errors_ms.iter().filter(|at| is_recent(**at, now_ms)).count();
        (count > 0).then(|| {
            format!("read errors: {count} in the last {} minutes; {}", WINDOW_MS / 60_000, self.last_read_error)
        })
    }
}

fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) < WINDOW_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_fsyncs_degrade_until_half_are_fast() {
        let mut health = DiskHealth::default();
        for at in 0..3 {
            health.record_fsync(at, 5_000, 1000);
            assert_eq!(health.degraded_reason(at), "", "too few samples");
        }
        health.record_fsync(3, 9_400, 1000);
        let reason = health.degraded_reason(3);
        assert!(reason.starts_with("slow: 4 of the last 4 fsyncs") && reason.contains("9.4 s"), "{reason}");
        for at in 4..8 {
            health.record_fsync(at, 10, 1000);
        }
        assert_eq!(health.degraded_reason(8), "", "half of them are fast");
    }

    #[test]
    fn slowness_depends_on_bytes_and_age() {
        let mut health = DiskHealth::default();
        for at in 0..8 {
            health.record_fsync(at, 50_000, 256 << 20);
        }
        assert_eq!(health.degraded_reason(8), "");
        for at in 0..8 {
            health.record_fsync(at, 60_000, 256 << 20);
        }
        assert_ne!(health.degraded_reason(8), "");
        assert_eq!(health.degraded_reason(8 + WINDOW_MS), "");
    }

    #[test]
    fn read_errors_degrade_for_the_window() {
        let mut health = DiskHealth::default();
        health.record_read_error(1_000, "part 1 cannot be read");
        health.record_read_error(2_000, "part 2 is damaged");
        let reason = health.degraded_reason(3_000);
        assert!(reason.starts_with("read errors: 2 ") && reason.contains("part 2 is damaged"), "{reason}");
        assert_eq!(health.degraded_reason(3_000 + WINDOW_MS), "");
    }

    #[test]
    fn write_failure_precedes_full_disk() {
        let space = DiskSpace { total: 100, free: 1 };
        let mut health = DiskHealth::default();
        assert_eq!(health.read_only_reason(space), "");
        assert!(health.update_space(space) && !health.update_space(space));
        let reason = health.read_only_reason(space);
        assert!(reason.contains("99.0 % used (1 B free of 100 B)") && reason.contains("95 %"), "{reason}");
        assert_eq!(health.read_only_reason_for(space, 1), reason);
        let roomy = DiskSpace { total: 100, free: 50 };
        assert!(health.update_space(roomy));
        assert_eq!(health.read_only_reason_for(roomy, 45), "");
        assert!(health.read_only_reason_for(roomy, 46).contains("96.0 %"));
        health.write_failure = Some("a write failed".into());
        assert_eq!(health.read_only_reason(space), "a write failed");
    }
}
