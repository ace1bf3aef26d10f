//! The pages of a member's HTTP port beside health and metrics, for clients that do not speak Flight: browsers, spreadsheets, curl.
//!
//! Both servers merge [`router`] into their HTTP port. A page makes Flight calls at its own member, in process and as its caller
//! ([`HttpCaller::connect`]): identity, rights, limits, the audit log and metrics are those of Flight.
//!
//! | module | what it holds |
//! |---|---|
//! | `router` | all routes, and what each request passes |
//! | [`state`] | what all pages share |
//! | [`caller`] | who calls, and its Flight calls |
//! | [`problem`] | errors as problem documents (RFC 9457) |
//! | `layers` | request ids, headers of security, problem documents |
//! | `origin` | which pages of other sites may call (CORS), and which calls a browser must not make |
#![forbid(unsafe_code)]

pub mod caller;
mod layers;
mod origin;
pub mod problem;
mod router;
pub mod state;

pub use caller::HttpCaller;
pub use problem::Problem;
pub use router::router;
pub use state::HttpState;
