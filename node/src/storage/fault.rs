//! SIGBUS: what happens when a mapped page cannot be had, because the file was cut or the disk does not give it
//! (docs/adr/0006-sigbus.md). The process says which part it was, and dies: it never goes on with made-up bytes.
//!
//! The signal's handler may do next to nothing: no locks, no memory from the allocator. It finds the part in a fixed
//! table and writes one line.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use volley_common::PartId;

/// Mappings that the table can name; a part mapped beyond them is only not named.
const SLOTS: usize = 4096;

/// One mapped part: from `start` (0: a free slot, 1: being filled) to `end`.
struct Mapping {
    start: AtomicUsize,
    end: AtomicUsize,
    part: [AtomicU64; 2],
}

static TABLE: [Mapping; SLOTS] = [const {
    Mapping { start: AtomicUsize::new(0), end: AtomicUsize::new(0), part: [AtomicU64::new(0), AtomicU64::new(0)] }
}; SLOTS];

/// A mapping's place in the table, until it is dropped.
pub struct Named(Option<usize>);

/// Notes whose bytes these are.
pub fn name(bytes: &[u8], id: PartId) -> Named {
    let free = |slot: &Mapping| slot.start.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let slot = TABLE.iter().position(free);
    if let Some(slot) = slot.map(|at| &TABLE[at]) {
        let start = bytes.as_ptr() as usize;
        slot.end.store(start + bytes.len(), Ordering::Relaxed);
        slot.part[0].store((id.0 >> 64) as u64, Ordering::Relaxed);
        slot.part[1].store(id.0 as u64, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
    }
    Named(slot)
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Some(at) = self.0 {
            TABLE[at].start.store(0, Ordering::Release);
        }
    }
}

/// Whose page lies at an address.
fn part_at(address: usize) -> Option<PartId> {
    let slot = TABLE.iter().find(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        // The last page of a mapping goes on behind the file's end.
        start > 1 && start <= address && address < slot.end.load(Ordering::Relaxed).next_multiple_of(4096)
    })?;
    let [high, low] = &slot.part;
    Some(PartId(u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed))))
}

/// Has SIGBUS tell what it is about before it ends the process. The process dies by the signal itself, as the
/// supervisor is used to. Does something at the first call only.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the struct is plain data, all of which is set; the handler is one that signals may interrupt
        // anything with, as it only reads atomics and calls write(2).
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            // The handler is taken out as it is entered: when it returns, the access is tried again, and kills.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
        };
        if result != 0 {
            tracing::warn!("a SIGBUS will not say which part it is about");
        }
    });
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid siginfo.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = Line { bytes: [0; 256], used: 0 };
    line.push(b"volley-node: SIGBUS: ");
    match part_at(address) {
        Some(id) => {
            line.push(b"the file of part ");
            line.push_hex(id.0);
        }
        None => line.push(b"a mapped file"),
    }
    line.push(b" was cut, or its disk cannot be read; the node ends here, so that nobody gets wrong bytes: ");
    line.push(b"start it again, and the part is put aside and repaired\n");
    // SAFETY: the buffer is valid for its length; write(2) is async-signal-safe.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.used) };
}

/// Text without an allocator.
struct Line {
    bytes: [u8; 256],
    used: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = *byte;
                self.used += 1;
            }
        }
    }

    fn push_hex(&mut self, number: u128) {
        for at in (0..32).rev() {
            self.push(&[b"0123456789abcdef"[(number >> (4 * at) & 15) as usize]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use memmap2::Mmap;

    use super::*;

    #[test]
    fn mappings_are_found_by_their_addresses_until_they_are_dropped() {
        let (one, two) = (vec![0_u8; 10_000], vec![0_u8; 10_000]);
        let (first, second) = (PartId::random(), PartId::random());
        let (named, _other) = (name(&one, first), name(&two, second));
        assert_eq!(part_at(one.as_ptr() as usize), Some(first));
        assert_eq!(part_at(two.as_ptr() as usize + 9_999), Some(second));
        drop(named);
        assert_eq!(part_at(one.as_ptr() as usize), None);
    }

    /// This test is two processes: the one that is started by the other cuts a file that it has mapped.
    #[test]
    fn a_cut_file_ends_the_process_loudly() {
        const CHILD: &str = "VOLLEY_TEST_SIGBUS";
        let id = PartId(0xabc);
        if std::env::var_os(CHILD).is_some() {
            install();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[1; 20_000]).unwrap();
            // SAFETY: none; that the file is cut is what is tested.
            let map = unsafe { Mmap::map(&file) }.unwrap();
            let _named = name(&map, id);
            file.set_len(0).unwrap();
            let sum: u64 = map.iter().map(|byte| u64::from(*byte)).sum();
            panic!("read {sum} from what is not there");
        }
        let me = std::env::current_exe().unwrap();
        let own_name = "storage::fault::tests::a_cut_file_ends_the_process_loudly";
        let out = Command::new(me).args(["--exact", own_name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.signal(), Some(libc::SIGBUS), "{said}");
        assert!(said.contains("SIGBUS") && said.contains(&id.to_string()), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
