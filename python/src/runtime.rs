//! The threads that calls run on: one runtime in each process. After a fork the child has none of its parent's threads, so it makes
//! its own.

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use volley_common::{Error, Result};

/// The runtime, and the id of the process that it was made in.
static CURRENT: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);
/// Threads of the runtime at most: they decode rows, which the network limits.
const MAX_THREADS: usize = 8;

/// The runtime of this process. It lasts as long as the process.
///
/// # Errors
/// UNAVAILABLE: the system gives no threads.
pub fn runtime() -> Result<&'static Runtime> {
    let mut current = CURRENT.lock();
    let process = std::process::id();
    if let Some((_, runtime)) = current.filter(|(of, _)| *of == process) {
        return Ok(runtime);
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_THREADS);
    let made = Builder::new_multi_thread().worker_threads(threads).thread_name("volley").enable_all().build();
    let made = made.map_err(|e| Error::unavailable(format!("the threads of the client cannot be started: {e}")))?;
    // Threads of Python may wait for it when the interpreter ends.
    let runtime: &'static Runtime = Box::leak(Box::new(made));
    *current = Some((process, runtime));
    Ok(runtime)
}
