//! What all pages share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use volley_common::server::serve::InProcessFlight;
use volley_common::server::{HttpConfig, ServerConfig};
use volley_common::{Error, Result};

use crate::budget::{BudgetKind, HttpBudget};
use crate::progress::ProgressWatch;

/// The state of the pages of one server. Cheap to clone.
#[derive(Clone)]
pub struct HttpState(Arc<SharedState>);

struct SharedState {
    /// Empty while the server starts.
    flight: OnceLock<InProcessFlight>,
    settings: HttpConfig,
    /// Where bodies are stored until they are complete.
    folder: PathBuf,
    memory: Arc<HttpBudget>,
    spool: Arc<HttpBudget>,
    progress: ProgressWatch,
}

impl HttpState {
    /// That of a server that starts.
    pub fn new(server: &ServerConfig) -> Self {
        let settings = server.http.clone();
        HttpState(Arc::new(SharedState {
            flight: OnceLock::new(),
            folder: server.data_dir.clone(),
            memory: HttpBudget::new(BudgetKind::Memory, settings.http_memory_bytes),
            spool: HttpBudget::new(BudgetKind::Spool, settings.http_spool_bytes),
            settings,
            progress: ProgressWatch::default(),
        }))
    }

    /// From now on pages make their Flight calls here.
    pub fn connect(&self, flight: InProcessFlight) {
        let _ = self.0.flight.set(flight);
    }

    /// The settings of the HTTP port.
    pub fn settings(&self) -> &HttpConfig {
        &self.0.settings
    }

    /// The Flight service of this member.
    ///
    /// # Errors
    /// UNAVAILABLE: the server starts.
    pub fn flight(&self) -> Result<&InProcessFlight> {
        let starting = || Error::unavailable("this member is starting: try again in a moment").retry_after(1000);
        self.0.flight.get().ok_or_else(starting)
    }

    /// What pages saw of repairs and drains.
    pub(crate) fn progress(&self) -> &ProgressWatch {
        &self.0.progress
    }

    /// Memory of all requests.
    pub(crate) fn memory(&self) -> &Arc<HttpBudget> {
        &self.0.memory
    }

    /// Disk of the bodies of all requests.
    pub(crate) fn spool(&self) -> &Arc<HttpBudget> {
        &self.0.spool
    }

    /// Where bodies are stored.
    pub(crate) fn folder(&self) -> &Path {
        &self.0.folder
    }
}
