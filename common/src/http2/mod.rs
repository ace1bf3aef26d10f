//! HTTP/2 and gRPC below tonic, for servers and clients.
//!
//! | module | what it holds |
//! |---|---|
//! | [`settings`] | windows, frames, buffers and pings of every connection |
//! | [`status`] | gRPC trailers; an error and its causes in one line |
//! | [`reply_body`] | response bodies, and gRPC responses built from them |
//! | [`proxied_body`] | the response body of another member |
//! | [`relay_budget`] | one budget of memory for all replies that are passed on |
//! | `silence_watch` | waiting for the silence of a member beside one of its replies |
//! | [`request_body`] | the body of a forwarded request |
//! | [`complete_body`] | a request body whose reset is an error |
//! | [`advancing_body`] | a request body whose messages must advance |
//! | [`unidentified_body`] | the request body of a caller without identity |
//! | [`gzip_body`] | a request body of messages that gzip may have compressed |
//! | `served_call` | what every call passes: status messages, panics, what is not gRPC |
//! | [`held_by_reply`] | what is held until a response has ended |
//! | `drain_body` | a response body that a stopping server ends |
//! | [`congestion`] | TCP congestion control within one machine |

pub mod advancing_body;
pub mod complete_body;
pub mod congestion;
pub(crate) mod drain_body;
pub mod gzip_body;
pub mod held_by_reply;
pub mod proxied_body;
pub mod relay_budget;
pub mod reply_body;
pub mod request_body;
pub(crate) mod served_call;
pub mod settings;
mod silence_watch;
pub mod status;
pub mod unidentified_body;

pub use advancing_body::AdvancingBody;
pub use complete_body::CompleteBody;
pub use congestion::disable_local_pacing;
pub use gzip_body::{DecompressedBody, decompressed};
pub use held_by_reply::hold_until_end;
pub use proxied_body::{ProxiedBody, StreamPermit};
pub use reply_body::{ReplyBody, grpc_error, grpc_frames, grpc_message};
pub use request_body::ProxyRequestBody;
pub use served_call::PortKind;
pub use silence_watch::SilenceWatch;
pub use unidentified_body::{MAX_UNIDENTIFIED, UNIDENTIFIED_TIMEOUT, UnidentifiedBody};
