//! Metrics: what they are called, who records them, and their text for Prometheus (docs/adr/0018-metrics.md). Traces: the spans of
//! calls (docs/adr/0020-traces.md).
//!
//! | module | what it holds |
//! |---|---|
//! | [`definitions`] | the table of all metrics, from which docs/metrics.md is generated |
//! | [`calls`], [`methods`], `call_port` | calls by method and code, and their latencies |
//! | [`gauge_guard`] | a gauge that counts what exists |
//! | [`gauge_lines`](mod@gauge_lines) | gauges whose series come and go |
//! | [`history`] | the last hour of a few metrics, for pages |
//! | `recorder` | the recorder of the process, and its text |
//! | `process` | figures of the process and of its runtime |
//! | [`trace`] | the context and the spans of a call, and the queue of those that are exported |
//!
//! Values of labels are words of this code, or ids of members: never what a client sends.

mod call_port;
pub mod calls;
pub mod definitions;
pub mod gauge_guard;
pub mod gauge_lines;
pub mod history;
pub mod methods;
mod process;
mod recorder;
pub mod trace;

pub use gauge_guard::GaugeGuard;
pub use gauge_lines::gauge_lines;
pub use recorder::{install, render, upkeep};
