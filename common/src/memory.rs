//! Giving memory back: messages of many megabytes come and go with every put.

/// Allocations from this size on are mappings of their own, which go back to the system when they are freed.
///
/// glibc raises its threshold (up to 32 MiB) when such a block is freed, and then cuts the blocks from arenas
/// that fragment: a put of 16 MiB messages kept 275 MiB of anonymous memory that way, and 76 MiB so.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: libc::c_int = 4 << 20;

/// Freed memory that an arena keeps at its end. With glibc's 128 KiB every buffer that HTTP/2 reads into went back to the
/// system and came anew, with a page fault every 4 KiB. A few of these buffers are enough: there may be eight arenas for each
/// processor.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 4 << 20;

/// Keeps freed messages from staying in the heap; to be called first thing in `main`.
pub fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers, and no other thread runs yet. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
