//! The allocator: its settings, as a put allocates and frees messages of many megabytes, and what it keeps after queries.
#![allow(unsafe_code, reason = "settings of the allocator")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod free_memory;

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

/// Returns free memory to the system each time the process has grown, for ever. Once for a process, on its runtime. With another
/// allocator than glibc's it does nothing.
pub async fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    free_memory::watch_growth().await;
}

/// Returns the pages to the system that are free in the arenas.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: malloc_trim takes a number and locks each arena in turn. It touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
