//! The entry points for libFuzzer.
//!
//! A panic that the tested code catches is no finding: arrow's, on data of a client, becomes INVALID_ARGUMENT
//! (`volley_common::ipc`). One that leaves the target is, and so is one on another thread, where tokio would catch it.

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::abort;
use std::sync::OnceLock;

use crate::targets::{FuzzTarget, target};

/// The variable with the folder to which [`prepare`] writes the target's seeds.
const SEEDS: &str = "VOLLEY_FUZZ_SEEDS";

static TARGET: OnceLock<&'static FuzzTarget> = OnceLock::new();

thread_local! {
    /// Whether this thread feeds the target.
    static FEEDS: Cell<bool> = const { Cell::new(false) };
    /// The last panic of this thread.
    static LAST: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
}

/// Chooses the target of this process, reports its panics, and writes its seeds if `VOLLEY_FUZZ_SEEDS` names a folder.
///
/// # Panics
/// There is no such target; a seed cannot be written.
pub fn prepare(name: &str) {
    let chosen = target(name).unwrap_or_else(|| panic!("there is no target {name:?}"));
    panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if FEEDS.get() {
            // Frames get their names only when they are shown: most of these panics are caught.
            let trace = Backtrace::force_capture();
            LAST.with(|last| *last.borrow_mut() = Some((text, trace)));
        } else {
            eprintln!("{text}\n{}", Backtrace::force_capture());
            abort();
        }
    }));
    TARGET.get_or_init(|| chosen);
    if let Some(folder) = std::env::var_os(SEEDS) {
        write_seeds(chosen, Path::new(&folder));
    }
}

fn write_seeds(target: &FuzzTarget, folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder of the seeds");
    for (at, seed) in (target.seeds)().into_iter().enumerate() {
        std::fs::write(folder.join(format!("{at:03}")), seed).expect("a seed");
    }
}

/// Feeds one input to the target of [`prepare`], and aborts if it panics.
pub fn feed(data: &[u8]) {
    let Some(target) = TARGET.get() else { return };
    FEEDS.set(true);
    if panic::catch_unwind(AssertUnwindSafe(|| (target.run)(data))).is_err() {
        if let Some((text, trace)) = LAST.with(|last| last.borrow_mut().take()) {
            eprintln!("{text}\n{trace}");
        }
        abort();
    }
}
