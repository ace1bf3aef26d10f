//! Cryptography and versions of the protocol.

use std::sync::{Arc, LazyLock};

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};

/// TLS 1.2 is the least.
pub(super) const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// What gRPC speaks: a handshake without it fails.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";
/// What the HTTP port speaks as well.
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The provider of all configurations.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}
