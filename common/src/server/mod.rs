//! What the processes of both servers share: a coordinator and a node add only what differs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`process`] | `main` of a server: flags, log, configuration, signals |
//! | [`server_config`] | the settings and flags of both servers |
//! | [`tls_config`] | their TLS settings, and what is loaded from them |
//! | [`identity_config`] | their settings of identity, rights and the audit log |
//! | [`audit`] | the audit log |
//! | [`config`] | loads any configuration: defaults < TOML file < environment < flags |
//! | [`exposure`] | what the settings leave open, for reports |
//! | [`data_folder`] | whose a data folder is, and its lock |
//! | [`sockets`] | binds the Flight listeners, the peer port and the HTTP port |
//! | [`lifecycle`] | runs the tasks of a server and stops them in two stages |
//! | [`http`] | the HTTP port: `/livez`, `/readyz`, `/metrics`, and further pages |
//! | [`health`], [`reflection`] | gRPC health and gRPC reflection |
//! | [`serve`] | the HTTP/2 server loop |
//! | [`limits_config`] | the settings of connections, streams, headers and calls |
//! | [`http_config`] | the settings of the HTTP port |
//! | [`log`], [`log_format`] | the log on standard error, and its lines |
//! | [`otlp_config`], [`otlp_headers`], [`trace_export`] | the settings of traces, and their export by OTLP |

pub mod audit;
pub mod config;
pub mod data_folder;
pub mod exposure;
pub mod health;
pub mod http;
pub mod http_config;
pub mod identity_config;
pub mod lifecycle;
pub mod limits_config;
pub mod log;
pub mod log_format;
pub mod otlp_config;
pub mod otlp_headers;
pub mod process;
pub mod reflection;
pub mod serve;
pub mod server_config;
pub mod sockets;
pub mod tls_config;
pub mod trace_export;

pub use exposure::ExposureKind;
pub use http_config::HttpConfig;
pub use identity_config::IdentityConfig;
pub use lifecycle::Lifecycle;
pub use limits_config::LimitsConfig;
pub use otlp_config::OtlpConfig;
pub use process::{RunningServer, StopSignals};
pub use server_config::{ServerArgs, ServerConfig};
pub use sockets::{BoundListener, PreboundSockets, ServerAddresses, ServerSockets};
pub use tls_config::{ServerTls, TlsConfig};
