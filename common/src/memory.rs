//! The allocator: its settings, as a put allocates and frees messages of many megabytes, and what it keeps after queries.
#![allow(unsafe_code, reason = "settings of the allocator")]

use std::thread;
use std::time::Duration;

/// `M_MMAP_THRESHOLD`: allocations of this size or more are mappings of their own, which return to the system when they are
/// freed.
///
/// glibc raises its own threshold (up to 32 MiB) when such a block is freed, and then takes the blocks from arenas, which
/// fragment: a put of 16 MiB messages kept 275 MiB of anonymous memory; with a fixed threshold it keeps 76 MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MMAP_THRESHOLD: libc::c_int = 4 << 20;

/// `M_TRIM_THRESHOLD`: free memory that an arena keeps at its end. With glibc's 128 KiB every read buffer of HTTP/2 was
/// returned to the system and allocated again, with a page fault every 4 KiB. A few of these buffers are enough: there
/// may be eight arenas per processor.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_THRESHOLD: libc::c_int = 4 << 20;

/// How often a server looks at its memory.
const INTERVAL: Duration = Duration::from_secs(1);
/// By how much a process grows until it returns what is free, bytes.
const GROWTH: u64 = 32 << 20;

/// Makes the allocator return large blocks to the system. Call it first in `main`, before other threads start.
pub fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and locks the allocator's state. Other threads that allocate meanwhile, of which there
    // are none at the begin of `main`, would use the former settings or the new ones. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// Returns free memory to the system from now on, each time the process has grown: on a thread that lasts as long as the
/// process. Where there is no such allocator, it does nothing.
///
/// Each arena of glibc keeps the pages that were free between blocks in use, however many: a node whose queries may have 64
/// MiB kept 388 MiB after some of them, which were planned and run on different threads.
pub fn return_free_memory() {
    if let Err(error) = thread::Builder::new().name("memory".into()).spawn(watch_growth) {
        tracing::warn!(%error, "no thread for the memory of the allocator: what is free stays with the process");
    }
}

#[allow(clippy::disallowed_methods, reason = "the system tells nobody when a process grows")]
fn watch_growth() {
    let mut growth = MemoryGrowth::default();
    loop {
        thread::sleep(INTERVAL);
        // Without /proc nothing is known, and nothing returned.
        let Some(bytes) = anonymous_bytes() else { return };
        if growth.is_reached(bytes) {
            trim();
            growth.least = anonymous_bytes();
        }
    }
}

/// How far a process has grown since it had the least memory.
#[derive(Default)]
struct MemoryGrowth {
    /// Bytes; `None` before they were looked at.
    least: Option<u64>,
}

impl MemoryGrowth {
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

/// Returns the pages to the system that are free in the arenas.
fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a number and locks each arena in turn. It touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
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

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn free_pages_between_blocks_in_use_return_to_the_system() {
        const BLOCK: usize = 64 << 10;
        let mut blocks: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; BLOCK]).collect();
        // The rest pins the heaps of the arena.
        let mut at = 0;
        blocks.retain(|_| {
            at += 1;
            at % 16 == 0
        });
        let before = anonymous_bytes().unwrap();
        trim();
        let after = anonymous_bytes().unwrap();
        // 240 MiB are free; other tests may allocate meanwhile.
        assert!(after + (128 << 20) < before, "{before} before, {after} after, {} blocks", blocks.len());
    }
}
