//! SIGBUS: an access to a mapped page that is gone, because the file was truncated or the disk cannot read it
//! (docs/adr/0006-sigbus.md). The process logs the part and terminates, so that no client receives wrong bytes.
//!
//! A signal handler must not lock or allocate. This one finds the part in a static table and writes one line.
#![allow(unsafe_code, reason = "a signal handler")]

use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use volley_common::PartId;

/// Mappings that the table can hold; further parts are mapped, but not named by the handler.
const SLOTS: usize = 4096;

/// One mapped part: from `start` (0: a free slot, 1: being filled) to `end`.
struct MappingSlot {
    start: AtomicUsize,
    end: AtomicUsize,
    part: [AtomicU64; 2],
}

static TABLE: [MappingSlot; SLOTS] = [const {
    MappingSlot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), part: [AtomicU64::new(0), AtomicU64::new(0)] }
}; SLOTS];

/// A mapping's slot in the table; freed on drop.
pub struct RegisteredMapping(Option<usize>);

/// Adds a part's mapping to the table.
pub fn register(bytes: &[u8], id: PartId) -> RegisteredMapping {
    let free = |slot: &MappingSlot| slot.start.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let slot = TABLE.iter().position(free);
    if let Some(slot) = slot.map(|at| &TABLE[at]) {
        let start = bytes.as_ptr() as usize;
        slot.end.store(start + bytes.len(), Ordering::Relaxed);
        slot.part[0].store((id.0 >> 64) as u64, Ordering::Relaxed);
        slot.part[1].store(id.0 as u64, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
    }
    RegisteredMapping(slot)
}

impl Drop for RegisteredMapping {
    fn drop(&mut self) {
        if let Some(at) = self.0 {
            TABLE[at].start.store(0, Ordering::Release);
        }
    }
}

/// The part that is mapped at an address.
fn part_at(address: usize) -> Option<PartId> {
    let slot = TABLE.iter().find(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        // The last page of a mapping extends past the end of the file.
        start > 1 && start <= address && address < slot.end.load(Ordering::Relaxed).next_multiple_of(4096)
    })?;
    let [high, low] = &slot.part;
    Some(PartId(u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed))))
}

/// Installs the handler, once. The process is still terminated by the signal itself, as supervisors expect.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the struct is plain data and all of it is set; the handler is async-signal-safe, as it only reads atomics
        // and calls write(2).
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            // The handler is reset on entry: when it returns, the access is retried and kills the process.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
        };
        if result != 0 {
            tracing::warn!("the SIGBUS handler cannot be installed: a SIGBUS will not name its part");
        }
    });
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid siginfo, which is plain data. The address of a signal that another
    // process sent has no meaning: it is compared only.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = LineBuffer { bytes: [0; 256], used: 0 };
    line.push(b"volley-node: SIGBUS: ");
    match part_at(address) {
        Some(id) => {
            line.push(b"the file of part ");
            line.push_hex(id.0);
        }
        None => line.push(b"a mapped file"),
    }
    line.push(b" was truncated, or its disk cannot be read; the node stops, so that no client receives wrong bytes: ");
    line.push(b"restart it; the part is then quarantined and repaired\n");
    // SAFETY: the buffer is valid for its length; write(2) is async-signal-safe.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.used) };
}

/// Text of bounded length, without an allocator.
struct LineBuffer {
    bytes: [u8; 256],
    used: usize,
}

impl LineBuffer {
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
    fn addresses_name_their_part_until_it_is_unmapped() {
        let (one, two) = (vec![0_u8; 10_000], vec![0_u8; 10_000]);
        let (first, second) = (PartId::random(), PartId::random());
        let (registered, _other) = (register(&one, first), register(&two, second));
        assert_eq!(part_at(one.as_ptr() as usize), Some(first));
        assert_eq!(part_at(two.as_ptr() as usize + 9_999), Some(second));
        drop(registered);
        assert_eq!(part_at(one.as_ptr() as usize), None);
    }

    /// Runs itself as a child process, which truncates a file that it has mapped.
    #[test]
    fn truncated_file_kills_the_process_and_names_the_part() {
        const CHILD: &str = "VOLLEY_TEST_SIGBUS";
        let id = PartId(0xabc);
        if std::env::var_os(CHILD).is_some() {
            install();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[1; 20_000]).unwrap();
            // SAFETY: the mapping's promise is broken on purpose: the process ends at its first access to the truncated file.
            let map = unsafe { Mmap::map(&file) }.unwrap();
            let _registered = register(&map, id);
            file.set_len(0).unwrap();
            let sum: u64 = map.iter().map(|byte| u64::from(*byte)).sum();
            panic!("read {sum} from a truncated file");
        }
        let me = std::env::current_exe().unwrap();
        let own_name = "storage::sigbus::tests::truncated_file_kills_the_process_and_names_the_part";
        let out = Command::new(me).args(["--exact", own_name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.signal(), Some(libc::SIGBUS), "{stderr}");
        assert!(stderr.contains("SIGBUS") && stderr.contains(&id.to_string()), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
