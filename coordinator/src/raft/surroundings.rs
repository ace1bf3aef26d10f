//! What a coordinator's Raft has around it: a process's folder, network and clock, or a simulation's.

use std::path::Path;
use std::sync::Arc;

use volley_common::clock;

use super::files::{Disk, Folder};
use super::machine::Witness;
use super::network::{Dial, dial};
use super::store::{Drive, OnFailure, writer_thread};

/// Everything that Raft reaches beyond its own memory.
#[derive(Clone)]
pub struct Surroundings {
    /// Where the data folder is.
    pub disk: Arc<dyn Disk>,
    /// How other coordinators are reached.
    pub dial: Dial,
    /// Milliseconds since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told when the catalog cannot be written.
    pub on_failure: OnFailure,
    /// What drives the writer.
    pub drive: Drive,
    /// Sees what the state machine does.
    pub witness: Option<Arc<dyn Witness>>,
}

impl Surroundings {
    /// A process's: a folder of this machine, connections over TCP, its clock.
    pub fn real(dir: &Path, on_failure: OnFailure) -> Self {
        Surroundings {
            disk: Arc::new(Folder(dir.to_path_buf())),
            dial: Arc::new(dial),
            clock: Arc::new(clock::now_ms),
            on_failure,
            drive: writer_thread(),
            witness: None,
        }
    }
}
