//! The settings and flags of the HTTP port that both servers have.

use serde::{Deserialize, Serialize};

use super::config::one_or_many;
use crate::{Error, Result};

/// The least `http_memory_bytes`: some requests at once.
const MIN_HTTP_MEMORY: u64 = 16 << 20;

/// The least `http_parquet_memory_bytes`: a batch of rows, and what it is made of.
const MIN_PARQUET_MEMORY: u64 = 64 << 20;

/// The settings of what the HTTP port serves; flattened into the configuration of each server.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct HttpConfig {
    /// The origins of pages whose scripts may call the HTTP port: `https://HOST[:PORT]`, or `*` for all.
    #[serde(deserialize_with = "one_or_many")]
    pub http_cors_origins: Vec<String>,
    /// Memory for all requests and responses of the HTTP port, bytes.
    pub http_memory_bytes: u64,
    /// Memory of each process that decodes a body in Parquet, bytes.
    pub http_parquet_memory_bytes: u64,
    /// Disk for the bodies of all requests that are stored until they are complete, bytes.
    pub http_spool_bytes: u64,
    /// The largest body of a request, bytes.
    pub max_http_body_bytes: u64,
    /// Whether there is no Arrow over HTTP at `/api`.
    pub no_http_api: bool,
    /// Whether bodies in Parquet are refused.
    pub no_http_parquet: bool,
    /// Whether there is no page for browsers at `/ui`.
    pub no_web_page: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            http_cors_origins: Vec::new(),
            http_memory_bytes: 512 << 20,
            http_parquet_memory_bytes: 512 << 20,
            http_spool_bytes: 4 << 30,
            max_http_body_bytes: 1 << 30,
            no_http_api: false,
            no_http_parquet: false,
            no_web_page: false,
        }
    }
}

impl HttpConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: one sentence that names the wrong value.
    pub fn check(&self) -> Result<()> {
        for (name, value, least) in [
            ("http_memory_bytes", self.http_memory_bytes, MIN_HTTP_MEMORY),
            ("http_parquet_memory_bytes", self.http_parquet_memory_bytes, MIN_PARQUET_MEMORY),
            ("max_http_body_bytes", self.max_http_body_bytes, 1),
        ] {
            if value < least {
                return Err(Error::invalid(format!("{name} is {value} and must be at least {least}")));
            }
        }
        for origin in &self.http_cors_origins {
            check_origin(origin)?;
        }
        Ok(())
    }
}

/// Checks an origin as browsers send it: scheme, host and port, and nothing after them.
fn check_origin(origin: &str) -> Result<()> {
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_host = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\,".contains(&byte))
    };
    if origin == "*" || authority.is_some_and(is_host) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "http_cors_origins has {origin:?}, which is no origin: give https://HOST or https://HOST:PORT, without a path, or *"
    )))
}

/// The flags of these settings; flattened into the command line of both servers.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct HttpArgs {
    /// An origin of pages whose scripts may call the HTTP port, as https://HOST:PORT, or * for all; repeat it for several.
    #[arg(long, value_name = "ORIGIN")]
    pub http_cors_origins: Vec<String>,
    /// Memory for all requests and responses of the HTTP port, bytes; requests beyond it are refused.
    #[arg(long)]
    pub http_memory_bytes: Option<u64>,
    /// Memory of each process that decodes a body in Parquet, bytes; it counts with a quarter of it, at least 64 MiB, in
    /// --http-memory-bytes.
    #[arg(long)]
    pub http_parquet_memory_bytes: Option<u64>,
    /// Disk for all bodies of requests that are stored until they are complete (CSV, JSON lines, Parquet), bytes; requests beyond it are
    /// refused.
    #[arg(long)]
    pub http_spool_bytes: Option<u64>,
    /// The largest body of a request to the HTTP port, bytes.
    #[arg(long)]
    pub max_http_body_bytes: Option<u64>,
    /// Serve no tables by HTTP, at /api of the HTTP port; health, metrics and the page for browsers stay.
    #[arg(long)]
    pub no_http_api: bool,
    /// Refuse Parquet in bodies of requests to the HTTP port, so that no process is started to decode it.
    #[arg(long)]
    pub no_http_parquet: bool,
    /// Serve no page for browsers at /ui of the HTTP port; health, metrics and Arrow over HTTP stay.
    #[arg(long)]
    pub no_web_page: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        let config = |origin: &str| HttpConfig { http_cors_origins: vec![origin.into()], ..HttpConfig::default() };
        HttpConfig::default().check().unwrap();
        for origin in ["*", "https://h", "http://h:80", "https://[::1]:8"] {
            config(origin).check().unwrap();
        }
        for origin in ["", "h", "https://", "https://h/", "https://h/p", "https://u@h", "https://a,https://b", "null"] {
            let text = config(origin).check().unwrap_err().message;
            assert!(text.contains("which is no origin"), "{text}");
        }
    }

    #[test]
    fn limits_that_serve_nobody_are_refused() {
        let config = HttpConfig { http_memory_bytes: 1, ..HttpConfig::default() };
        assert_eq!(config.check().unwrap_err().message, "http_memory_bytes is 1 and must be at least 16777216");
        let config = HttpConfig { http_parquet_memory_bytes: 1 << 20, ..HttpConfig::default() };
        let text = config.check().unwrap_err().message;
        assert_eq!(text, "http_parquet_memory_bytes is 1048576 and must be at least 67108864");
        let config = HttpConfig { max_http_body_bytes: 0, ..HttpConfig::default() };
        assert!(config.check().unwrap_err().message.starts_with("max_http_body_bytes is 0"));
    }
}
