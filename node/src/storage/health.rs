//! Pure: what a node's disk has shown of itself, and what follows: whether it takes parts, whether it is ill.

use std::collections::VecDeque;

use super::space::{Space, Watermarks};

/// Fsyncs by which the disk is judged.
const JUDGED: usize = 8;
/// With fewer it is not judged.
const FEWEST: usize = 4;
/// A disk may take this long for an fsync ...
const SLOW_MS: u64 = 2_000;
/// ... and a millisecond more for so many bytes: 5 MB/s, below what any disk in service does.
const SLOW_BYTES_PER_MS: u64 = 5_000;
/// What is longer ago says nothing of the disk as it is now.
const REMEMBERED_MS: u64 = 600_000;
/// Failed reads that are remembered.
const FAILURES: usize = 100;

/// What is known of the disk.
#[derive(Debug, Default)]
pub struct Health {
    /// See [`Watermarks`].
    pub watermarks: Watermarks,
    /// The file system is too full for more.
    pub full: bool,
    /// A write failed: nothing is written any more. Why.
    pub stopped: Option<String>,
    fsyncs: VecDeque<Fsync>,
    /// When parts were found that could not be read, or were damaged; and the last one's story.
    failed_reads: VecDeque<u64>,
    last_failure: String,
}

#[derive(Clone, Copy, Debug)]
struct Fsync {
    at_ms: u64,
    took_ms: u64,
    bytes: u64,
}

impl Fsync {
    fn is_slow(&self) -> bool {
        self.took_ms > SLOW_MS + self.bytes / SLOW_BYTES_PER_MS
    }
}

impl Health {
    /// Looks at the space; whether that changed what the node does.
    pub fn look(&mut self, space: Space) -> bool {
        let was = self.full;
        self.full = self.watermarks.is_full(was, space);
        self.full != was
    }

    /// An fsync of so many new bytes took so long.
    pub fn synced(&mut self, at_ms: u64, took_ms: u64, bytes: u64) {
        if self.fsyncs.len() >= JUDGED {
            self.fsyncs.pop_front();
        }
        self.fsyncs.push_back(Fsync { at_ms, took_ms, bytes });
    }

    /// A part could not be read, or had other bytes than it should.
    pub fn read_failed(&mut self, at_ms: u64, what: &str) {
        if self.failed_reads.len() >= FAILURES {
            self.failed_reads.pop_front();
        }
        self.failed_reads.push_back(at_ms);
        self.last_failure = what.into();
    }

    /// For a node with these watermarks.
    pub fn new(watermarks: Watermarks) -> Self {
        Health { watermarks, ..Health::default() }
    }

    /// Why no new parts are taken; empty: they are.
    pub fn read_only_reason(&self, space: Space) -> String {
        match &self.stopped {
            Some(why) => why.clone(),
            None if self.full => self.too_full(space),
            None => String::new(),
        }
    }

    /// Why so many bytes are not taken, though a smaller part may be; empty: they are.
    pub fn read_only_reason_for(&self, space: Space, bytes: u64) -> String {
        let read_only_reason = self.read_only_reason(space);
        if read_only_reason.is_empty() && self.watermarks.is_full(false, space.after(bytes)) {
            return format!("with {bytes} bytes more {}", self.too_full(space.after(bytes)));
        }
        read_only_reason
    }

    fn too_full(&self, space: Space) -> String {
        let Watermarks { high, low } = self.watermarks;
        format!("its disk is {space}, over the high watermark of {high} %; it takes parts again below {low} %")
    }

    /// What else is wrong; empty: nothing.
    pub fn degraded_reason(&self, now_ms: u64) -> String {
        let found = [self.slowness(now_ms), self.read_errors(now_ms)];
        found.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    fn slowness(&self, now_ms: u64) -> Option<String> {
        let recent: Vec<&Fsync> = self.fsyncs.iter().filter(|fsync| is_recent(fsync.at_ms, now_ms)).collect();
        let slow: Vec<&Fsync> = recent.iter().copied().filter(|fsync| fsync.is_slow()).collect();
        if recent.len() < FEWEST || slow.len() * 2 <= recent.len() {
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
        let count = self.failed_reads.iter().filter(|at| is_recent(**at, now_ms)).count();
        (count > 0).then(|| {
            format!("read errors: {count} in the last {} minutes; {}", REMEMBERED_MS / 60_000, self.last_failure)
        })
    }
}

fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) < REMEMBERED_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_is_told_and_taken_back_when_it_is_fast_again() {
        let mut health = Health::default();
        for at in 0..3 {
            health.synced(at, 5_000, 1000);
            assert_eq!(health.degraded_reason(at), "", "too few to judge");
        }
        health.synced(3, 9_400, 1000);
        let told = health.degraded_reason(3);
        assert!(told.starts_with("slow: 4 of the last 4 fsyncs") && told.contains("9.4 s"), "{told}");
        for at in 4..8 {
            health.synced(at, 10, 1000);
        }
        assert_eq!(health.degraded_reason(8), "", "half of them are fast");
    }

    #[test]
    fn large_files_may_take_longer_and_old_fsyncs_do_not_count() {
        let mut health = Health::default();
        for at in 0..8 {
            health.synced(at, 50_000, 256 << 20);
        }
        assert_eq!(health.degraded_reason(8), "");
        for at in 0..8 {
            health.synced(at, 60_000, 256 << 20);
        }
        assert_ne!(health.degraded_reason(8), "");
        assert_eq!(health.degraded_reason(8 + REMEMBERED_MS), "");
    }

    #[test]
    fn read_errors_are_told_for_a_while() {
        let mut health = Health::default();
        health.read_failed(1_000, "part 1 cannot be read");
        health.read_failed(2_000, "part 2 is damaged");
        let told = health.degraded_reason(3_000);
        assert!(told.starts_with("read errors: 2 ") && told.contains("part 2 is damaged"), "{told}");
        assert_eq!(health.degraded_reason(3_000 + REMEMBERED_MS), "");
    }

    #[test]
    fn a_failed_write_is_told_before_a_full_disk() {
        let space = Space { total: 100, free: 1 };
        let mut health = Health::default();
        assert_eq!(health.read_only_reason(space), "");
        assert!(health.look(space) && !health.look(space));
        let told = health.read_only_reason(space);
        assert!(told.contains("99.0 % used (1 B free of 100 B)") && told.contains("95 %"), "{told}");
        assert_eq!(health.read_only_reason_for(space, 1), told);
        let roomy = Space { total: 100, free: 50 };
        assert!(health.look(roomy));
        assert_eq!(health.read_only_reason_for(roomy, 45), "");
        assert!(health.read_only_reason_for(roomy, 46).contains("96.0 %"));
        health.stopped = Some("a write failed".into());
        assert_eq!(health.read_only_reason(space), "a write failed");
    }
}
