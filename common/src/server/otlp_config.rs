//! The settings of traces that both servers have: where spans are sent by OTLP, and which.

use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize};

use super::config::finite_number;
use crate::{Error, Result};

/// The path to which spans are posted, unless the endpoint has one.
const TRACES_PATH: &str = "/v1/traces";

/// The transport of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// gRPC; collectors listen on port 4317.
    #[default]
    Grpc,
    /// Protobuf by HTTP; collectors listen on port 4318.
    Http,
}

/// The settings of traces of both servers; flattened into the configuration of each.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct OtlpConfig {
    /// Where spans are sent, `http://HOST:PORT` or `https://HOST:PORT`; none: no call is traced.
    pub otlp_endpoint: Option<String>,
    /// How they are sent.
    pub otlp_protocol: OtlpProtocol,
    /// The share of traces that are exported of those that begin here, 0 to 1.
    pub otlp_sampling_ratio: f64,
    /// A file with headers of each export, `name: value` a line.
    pub otlp_headers_file: Option<PathBuf>,
    /// The CAs that the collector's certificate is verified by, a PEM file; those of the system if there is none.
    pub otlp_ca: Option<PathBuf>,
    /// The name of the service in its spans; that of the program if there is none.
    pub otlp_service_name: Option<String>,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        OtlpConfig {
            otlp_endpoint: None,
            otlp_protocol: OtlpProtocol::Grpc,
            otlp_sampling_ratio: 1.0,
            otlp_headers_file: None,
            otlp_ca: None,
            otlp_service_name: None,
        }
    }
}

/// The flags of these settings; flattened into the command line of both servers.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct OtlpArgs {
    /// The OTLP collector to which spans of calls are sent: http://HOST:PORT or https://HOST:PORT; with none, no call is traced.
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// How spans are sent to --otlp-endpoint.
    #[arg(long, value_enum)]
    pub otlp_protocol: Option<OtlpProtocol>,
    /// The share of traces that are exported, 0 to 1, of those that begin at this server; a client's traceparent decides for its own.
    #[arg(long, value_parser = finite_number)]
    pub otlp_sampling_ratio: Option<f64>,
    /// A file with headers that are sent to --otlp-endpoint, such as a token: "name: value", one a line.
    #[arg(long, value_name = "FILE")]
    pub otlp_headers_file: Option<PathBuf>,
    /// The CAs of the certificate of --otlp-endpoint (PEM) [default: those of the system].
    #[arg(long, value_name = "FILE")]
    pub otlp_ca: Option<PathBuf>,
    /// The name of this service in its spans [default: volley-coordinator or volley-node].
    #[arg(long, value_name = "NAME")]
    pub otlp_service_name: Option<String>,
}

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpCollector {
    /// Its address, `HOST:PORT`.
    pub addr: String,
    /// Whether it is called by TLS.
    pub is_tls: bool,
    /// Whether it is on this machine.
    pub is_local: bool,
    /// Where spans are posted by HTTP.
    pub url: String,
}

impl OtlpConfig {
    /// Checks the values and their combinations. Reads no file.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    pub fn check(&self, insecure: bool) -> Result<()> {
        if !(0.0..=1.0).contains(&self.otlp_sampling_ratio) {
            return Err(Error::invalid(format!(
                "otlp_sampling_ratio is {} and must be from 0 to 1",
                self.otlp_sampling_ratio
            )));
        }
        if self.otlp_service_name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return Err(Error::invalid("--otlp-service-name is empty: give a name, or leave it out"));
        }
        let files = [("--otlp-headers-file", &self.otlp_headers_file), ("--otlp-ca", &self.otlp_ca)];
        let given = files.iter().find(|(_, file)| file.is_some()).map(|(flag, _)| *flag);
        let Some(collector) = self.collector()? else {
            return match given {
                Some(flag) => Err(Error::invalid(format!(
                    "{flag} is for a collector of traces, and there is none: give --otlp-endpoint too"
                ))),
                None => Ok(()),
            };
        };
        if self.otlp_ca.is_some() && !collector.is_tls {
            return Err(Error::invalid(
                "--otlp-ca is for an --otlp-endpoint with https://: change the one or leave out the other",
            ));
        }
        if self.otlp_headers_file.is_some() && !(collector.is_tls || collector.is_local || insecure) {
            return Err(Error::invalid(format!(
                "--otlp-headers-file would be sent to {} without TLS, where tokens can be read on the way: give --otlp-endpoint with https://, or --insecure",
                collector.addr
            )));
        }
        Ok(())
    }

    /// The collector; `None`: calls are not traced.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `otlp_endpoint` is no URL of a collector.
    pub fn collector(&self) -> Result<Option<OtlpCollector>> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(None) };
        let bad = |why: &str| Error::invalid(format!("--otlp-endpoint {endpoint}: {why}"));
        let example = "give its scheme, host and port, as in http://127.0.0.1:4317";
        let uri: Uri = endpoint.parse().map_err(|_| bad(example))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad(example)),
        };
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(bad(example)) };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad("it has a user or password: put what the collector wants into --otlp-headers-file"));
        }
        let path = uri.path().trim_end_matches('/');
        if self.otlp_protocol == OtlpProtocol::Grpc && !path.is_empty() {
            return Err(bad("it has a path, which gRPC does not: leave it out, or give --otlp-protocol http"));
        }
        if uri.query().is_some() {
            return Err(bad("it has a query: leave it out"));
        }
        let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let path = if path.is_empty() { TRACES_PATH } else { path };
        let scheme = if is_tls { "https" } else { "http" };
        let addr = format!("{host}:{port}");
        Ok(Some(OtlpCollector { url: format!("{scheme}://{addr}{path}"), addr, is_tls, is_local }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(endpoint: &str) -> OtlpConfig {
        OtlpConfig { otlp_endpoint: Some(endpoint.into()), ..OtlpConfig::default() }
    }

    fn refusal(config: &OtlpConfig) -> String {
        config.check(false).unwrap_err().message
    }

    #[test]
    fn nothing_is_traced_by_default() {
        let config = OtlpConfig::default();
        config.check(false).unwrap();
        assert_eq!(config.collector(), Ok(None));
    }

    #[test]
    fn endpoint_names_scheme_host_and_port() {
        let collector = with("https://[::1]:4317/").collector().unwrap().unwrap();
        assert_eq!((collector.addr.as_str(), collector.is_tls, collector.is_local), ("[::1]:4317", true, true));
        let http = OtlpConfig { otlp_protocol: OtlpProtocol::Http, ..with("http://c.example:4318") };
        assert_eq!(http.collector().unwrap().unwrap().url, "http://c.example:4318/v1/traces");
        let with_path = OtlpConfig { otlp_protocol: OtlpProtocol::Http, ..with("https://c.example:443/otlp/t") };
        assert_eq!(with_path.collector().unwrap().unwrap().url, "https://c.example:443/otlp/t");
        for bad in ["c.example:4317", "http://c.example", "grpc://c.example:4317", "/v1", "", "http://a b:1"] {
            let text = refusal(&with(bad));
            assert!(
                text.starts_with(&format!("--otlp-endpoint {bad}: ")) && text.contains("http://127.0.0.1:4317"),
                "{text}"
            );
        }
        assert!(refusal(&with("http://c.example:4317/v1/traces")).contains("--otlp-protocol http"));
        assert!(refusal(&with("http://u:p@c.example:4317")).contains("--otlp-headers-file"));
        assert!(refusal(&with("http://c.example:4317/?a=b")).contains("query"));
    }

    #[test]
    fn wrong_values_and_combinations_are_refused() {
        let file = || Some(PathBuf::from("f"));
        for ratio in [-0.1, 1.1, f64::NAN] {
            assert!(
                refusal(&OtlpConfig { otlp_sampling_ratio: ratio, ..OtlpConfig::default() }).contains("from 0 to 1")
            );
        }
        let unnamed = OtlpConfig { otlp_service_name: Some(" ".into()), ..OtlpConfig::default() };
        assert!(refusal(&unnamed).contains("--otlp-service-name"));
        assert!(refusal(&OtlpConfig { otlp_ca: file(), ..OtlpConfig::default() }).contains("give --otlp-endpoint too"));
        assert!(refusal(&OtlpConfig { otlp_ca: file(), ..with("http://127.0.0.1:1") }).contains("with https://"));
        let plain = OtlpConfig { otlp_headers_file: file(), ..with("http://c.example:4317") };
        assert!(refusal(&plain).contains("without TLS"));
        plain.check(true).unwrap();
        for safe in ["http://localhost:4317", "https://c.example:4317"] {
            OtlpConfig { otlp_headers_file: file(), ..with(safe) }.check(false).unwrap();
        }
    }
}
