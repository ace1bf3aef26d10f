//! The pages of a member's HTTP port beside health and metrics, for clients that do not speak Flight: browsers, spreadsheets, curl.
//!
//! Both servers merge [`router()`] into their HTTP port. A page makes Flight calls at its own member, in process and as its caller
//! ([`HttpCaller::flight`]): identity, rights, limits, the audit log and metrics are those of Flight.
//!
//! | module | what it holds |
//! |---|---|
//! | `router` | all routes, and what each request passes |
//! | [`state`] | what all pages share; `budget` is its memory and disk, `progress` what pages saw of repairs |
//! | [`caller`] | who calls |
//! | [`flight_calls`] | the Flight calls of one request |
//! | [`problem`] | errors as problem documents (RFC 9457) |
//! | `layers` | request ids, headers of security, problem documents |
//! | `origin` | which pages of other sites may call (CORS), and which calls a browser must not make |
//! | `api` | Arrow over HTTP |
//! | `web` | the web page |
//! | `transfer` | rows from Flight to responses, and from requests to Flight |
//! | `negotiation`, `query`, `row_range`, [`table_path`] | what a request says |
#![forbid(unsafe_code)]

mod api;
mod budget;
pub mod caller;
pub mod flight_calls;
mod layers;
mod negotiation;
mod origin;
pub mod problem;
mod progress;
mod query;
mod router;
mod row_range;
pub mod state;
pub mod table_path;
mod transfer;
mod web;

pub use caller::HttpCaller;
pub use flight_calls::FlightCalls;
pub use problem::Problem;
pub use router::router;
pub use state::HttpState;
pub use volley_formats::decode_process::run_if_requested;
