//! Metrics: what they are called, who records them, and their text for Prometheus (docs/adr/0018-metrics.md).
//!
//! | module | what it holds |
//! |---|---|
//! | [`definitions`] | the table of all metrics, from which docs/metrics.md is generated |
//! | [`calls`], [`methods`] | calls by method and code, and their latencies |
//! | [`gauge_guard`] | a gauge that counts what exists |
//! | [`gauge_lines`](mod@gauge_lines) | gauges whose series come and go |
//! | [`history`] | the last hour of a few metrics, for pages |
//! | `recorder` | the recorder of the process, and its text |
//! | `process` | figures of the process and of its runtime |
//!
//! Values of labels are words of this code, or ids of members: never what a client sends.

pub mod calls;
pub mod definitions;
pub mod gauge_guard;
pub mod gauge_lines;
pub mod history;
pub mod methods;
mod process;
mod recorder;

pub use gauge_guard::GaugeGuard;
pub use gauge_lines::gauge_lines;
pub use recorder::{install, render, upkeep};
