//! The environment of Raft: disk, network and clock, of a process or of a simulation.

use std::path::Path;
use std::sync::Arc;

use volley_common::clock;
use volley_common::net::Connector;

use super::rpc::network::{Dialer, dialer};
use super::storage::files::{DataDir, LocalDataDir};
use super::storage::state_machine::ApplyObserver;
use super::storage::store::{OnFatalError, WriterDriver, writer_thread};

/// Disk, network, clock and hooks.
#[derive(Clone)]
pub struct RaftEnvironment {
    /// The data folder.
    pub data_dir: Arc<dyn DataDir>,
    /// Connects to other coordinators.
    pub dial: Dialer,
    /// Milliseconds since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Called when the catalog cannot be written, or openraft ended by itself.
    pub on_fatal_error: OnFatalError,
    /// Runs the store's writer.
    pub writer_driver: WriterDriver,
    /// Observes the state machine.
    pub apply_observer: Option<Arc<dyn ApplyObserver>>,
}

impl RaftEnvironment {
    /// The environment of a process: a folder of this machine, TCP connections, the system clock.
    pub fn real(dir: &Path, on_fatal_error: OnFatalError) -> Self {
        RaftEnvironment {
            data_dir: Arc::new(LocalDataDir(dir.to_path_buf())),
            dial: dialer(Connector::Plaintext),
            clock: Arc::new(clock::now_ms),
            on_fatal_error,
            writer_driver: writer_thread(),
            apply_observer: None,
        }
    }

    /// The same, with other coordinators dialled in this way.
    #[must_use]
    pub fn dialling(self, connector: Connector) -> Self {
        RaftEnvironment { dial: dialer(connector), ..self }
    }
}
