//! The settings and flags of both servers that limit what clients may take: connections, streams, headers, calls.
//!
//! docs/limits.md has them in one table with all other limits.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::serve::connection_limit::of_clients;
use super::serve::preface::OPENING_TIMEOUT;
use super::serve::{MAX_STREAMS, ServerLimits};
use crate::fairness::CallLimit;
use crate::http2::settings::HEADER_LIST;
use crate::{Error, Result};

/// The least `max_header_bytes`: a token of an OIDC issuer and the headers of proxies must fit.
const MIN_HEADER_BYTES: u64 = 8 << 10;
/// The largest `max_header_bytes`: each connection may take four times as much.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// The least `handshake_timeout_ms`.
const MIN_HANDSHAKE_MS: u64 = 100;

/// What clients of a server may take; flattened into the configuration of each.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct LimitsConfig {
    /// The largest number of connections of all Flight listeners together; 0: half of the files that the process may open, at
    /// most 10,000.
    pub max_connections: usize,
    /// The largest number of connections of one address to a Flight listener; 0: half of the listener's.
    pub max_connections_per_address: usize,
    /// The largest number of streams on one connection.
    pub max_streams_per_connection: u32,
    /// The largest headers of a request, bytes.
    pub max_header_bytes: u32,
    /// How long a connection may take to begin, milliseconds.
    pub handshake_timeout_ms: u64,
    /// The largest number of calls in progress.
    pub max_calls: usize,
    /// The largest number of calls of one principal in progress; 0: half of `max_calls`.
    pub max_calls_per_principal: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            max_connections: 0,
            max_connections_per_address: 0,
            max_streams_per_connection: MAX_STREAMS,
            max_header_bytes: HEADER_LIST,
            handshake_timeout_ms: OPENING_TIMEOUT.as_millis() as u64,
            max_calls: 16_384,
            max_calls_per_principal: 0,
        }
    }
}

impl LimitsConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: one sentence that names the wrong value.
    pub fn check(&self) -> Result<()> {
        for (name, value, range) in [
            ("max_streams_per_connection", self.max_streams_per_connection.into(), 1..=u64::MAX),
            ("max_header_bytes", self.max_header_bytes.into(), MIN_HEADER_BYTES..=MAX_HEADER_BYTES),
            ("handshake_timeout_ms", self.handshake_timeout_ms, MIN_HANDSHAKE_MS..=u64::MAX),
            ("max_calls", self.max_calls as u64, 1..=u64::MAX),
        ] {
            if value < *range.start() {
                return Err(Error::invalid(format!("{name} is {value} and must be at least {}", range.start())));
            }
            if value > *range.end() {
                return Err(Error::invalid(format!("{name} is {value} and must be at most {}", range.end())));
            }
        }
        Ok(())
    }

    /// The limits of each of `listeners` Flight listeners.
    pub fn of_listener(&self, listeners: usize, drain: Duration) -> ServerLimits {
        ServerLimits {
            streams: self.max_streams_per_connection,
            header_bytes: self.max_header_bytes,
            opening: Duration::from_millis(self.handshake_timeout_ms),
            drain,
            names_calls: true,
            ..ServerLimits::default()
        }
        .with_connections(of_clients(self.max_connections) / listeners.max(1), self.max_connections_per_address)
    }

    /// Counts the calls of clients. One per process: its listeners share it.
    pub fn call_limit(&self) -> Arc<CallLimit> {
        let own = if self.max_calls_per_principal == 0 { self.max_calls / 2 } else { self.max_calls_per_principal };
        CallLimit::new(self.max_calls, own.max(1))
    }
}

/// The flags of these settings; flattened into the command line of both servers.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct LimitsArgs {
    /// The largest number of connections of all Flight listeners together, at most half of the files that the process may open
    /// [default: half of the files, at most 10000].
    #[arg(long)]
    pub max_connections: Option<usize>,
    /// The largest number of connections of one IPv4 address or IPv6 /64 network to a Flight listener [default: half of the
    /// listener's connections].
    #[arg(long)]
    pub max_connections_per_address: Option<usize>,
    /// The largest number of streams on one connection.
    #[arg(long)]
    pub max_streams_per_connection: Option<u32>,
    /// The largest headers of a request, bytes.
    #[arg(long)]
    pub max_header_bytes: Option<u32>,
    /// How many milliseconds a connection may take to begin, its TLS handshake included.
    #[arg(long)]
    pub handshake_timeout_ms: Option<u64>,
    /// The largest number of calls of clients in progress; a stream that is not read to its end is in progress.
    #[arg(long)]
    pub max_calls: Option<usize>,
    /// The largest number of calls of one principal in progress; of one IPv4 address or IPv6 /64 network, where callers have no
    /// identity [default: half of max_calls].
    #[arg(long)]
    pub max_calls_per_principal: Option<usize>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::identity::Access;

    #[test]
    fn nobody_can_take_all_connections_or_calls_by_default() {
        let config = LimitsConfig::default();
        config.check().unwrap();
        let limits = config.of_listener(1, Duration::from_secs(1));
        assert!(limits.connections_per_address <= limits.connections.div_ceil(2));
        assert_eq!((limits.streams, limits.header_bytes, limits.opening), (4096, 65_536, Duration::from_secs(10)));
        let of_two = LimitsConfig { max_connections: 20, ..config.clone() }.of_listener(2, Duration::ZERO);
        assert_eq!((of_two.connections, of_two.connections_per_address), (10, 5));
    }

    #[test]
    fn settings_become_limits() {
        let config = LimitsConfig {
            max_connections: 8,
            max_connections_per_address: 3,
            max_streams_per_connection: 7,
            max_header_bytes: 10_000,
            handshake_timeout_ms: 250,
            max_calls: 2,
            max_calls_per_principal: 0,
        };
        config.check().unwrap();
        let limits = config.of_listener(1, Duration::from_secs(9));
        assert_eq!((limits.connections, limits.connections_per_address, limits.streams), (8, 3, 7));
        assert_eq!((limits.header_bytes, limits.opening), (10_000, Duration::from_millis(250)));
        assert_eq!(limits.drain, Duration::from_secs(9));
        let calls = config.call_limit();
        let held: Vec<_> = (0..5).map_while(|_| calls.admit(&Access::open()).ok()).collect();
        assert_eq!(held.len(), 2);
    }

    #[test]
    fn values_that_lock_everybody_out_are_refused() {
        let refused = |config: LimitsConfig, name: &str| {
            let text = config.check().unwrap_err().message;
            assert!(text.starts_with(name), "{text}");
        };
        refused(
            LimitsConfig { max_streams_per_connection: 0, ..LimitsConfig::default() },
            "max_streams_per_connection",
        );
        refused(LimitsConfig { max_header_bytes: 8_191, ..LimitsConfig::default() }, "max_header_bytes");
        refused(LimitsConfig { max_header_bytes: 2 << 20, ..LimitsConfig::default() }, "max_header_bytes");
        refused(LimitsConfig { handshake_timeout_ms: 0, ..LimitsConfig::default() }, "handshake_timeout_ms");
        refused(LimitsConfig { max_calls: 0, ..LimitsConfig::default() }, "max_calls");
    }
}
