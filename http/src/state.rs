//! What all pages share.

use std::sync::{Arc, OnceLock};

use volley_common::server::HttpConfig;
use volley_common::server::serve::InProcessFlight;
use volley_common::{Error, Result};

/// The state of the pages of one server. Cheap to clone.
#[derive(Clone)]
pub struct HttpState(Arc<SharedState>);

struct SharedState {
    /// Empty while the server starts.
    flight: OnceLock<InProcessFlight>,
    settings: HttpConfig,
}

impl HttpState {
    /// That of a server that starts.
    pub fn new(settings: &HttpConfig) -> Self {
        HttpState(Arc::new(SharedState { flight: OnceLock::new(), settings: settings.clone() }))
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
        self.0
            .flight
            .get()
            .ok_or_else(|| Error::unavailable("this member is starting: try again in a moment").retry_after(1000))
    }
}
