//! Returns what is free in the arenas of glibc to the system when the process has grown.
//!
//! Each arena keeps the pages that are free between blocks in use, however many: a node whose queries may have 64 MiB kept 388 MiB
//! after some of them, which were planned and run on different threads. Nothing tells a process that it grows, so it looks.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::trim;

/// How often a process looks at its memory.
const INTERVAL: Duration = Duration::from_secs(1);
/// By how much it grows until it returns what is free, bytes.
const GROWTH: u64 = 32 << 20;

/// Looks at the memory for ever, on a blocking thread: it reads a file of the system, and the allocator may take a while.
pub(super) async fn watch_growth() {
    let mut growth = MemoryGrowth::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::task::spawn_blocking(move || growth.look()).await {
            Ok(Some(looked)) => growth = looked,
            // Without /proc nothing is known, and nothing returned.
            Ok(None) | Err(_) => return,
        }
    }
}

/// How far a process has grown since it had the least memory.
#[derive(Clone, Copy, Default)]
struct MemoryGrowth {
    /// Bytes; `None` before they were looked at.
    least: Option<u64>,
}

impl MemoryGrowth {
    /// Returns what is free if the process has grown. `None`: the system does not say how much memory it has.
    fn look(mut self) -> Option<Self> {
        if self.is_reached(anonymous_bytes()?) {
            trim();
            self.least = Some(anonymous_bytes()?);
        }
        Some(self)
    }

    fn is_reached(&mut self, bytes: u64) -> bool {
        let least = self.least.unwrap_or(bytes).min(bytes);
        self.least = Some(least);
        bytes - least >= GROWTH
    }
}

/// The anonymous memory of this process; `None` if the system does not say.
fn anonymous_bytes() -> Option<u64> {
    let status = procfs::process::Process::myself().and_then(|process| process.status()).ok()?;
    status.rssanon.map(|kib| kib << 10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_from_the_least() {
        let mut growth = MemoryGrowth::default();
        assert!(!growth.is_reached(5 * GROWTH));
        assert!(!growth.is_reached(6 * GROWTH - 1));
        assert!(growth.is_reached(6 * GROWTH));
        assert!(!growth.is_reached(GROWTH) && growth.is_reached(2 * GROWTH));
    }

    #[test]
    fn free_pages_between_blocks_in_use_return_to_the_system() {
        const BLOCK: usize = 64 << 10;
        let mut blocks: Vec<Option<Vec<u8>>> = (0..4096).map(|_| Some(vec![1; BLOCK])).collect();
        // The rest pins the heaps of the arena.
        blocks.iter_mut().enumerate().filter(|(at, _)| at % 16 != 0).for_each(|(_, block)| *block = None);
        let before = anonymous_bytes().unwrap();
        trim();
        let after = anonymous_bytes().unwrap();
        // 240 MiB are free; other tests may allocate meanwhile.
        assert!(after + (128 << 20) < before, "{before} before, {after} after, {} blocks", blocks.len());
    }
}
