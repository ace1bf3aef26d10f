//! A cluster of real processes under faults, and a checker of what its clients saw.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cluster`] | the cluster: processes behind proxies, one node on a small disk |
//! | [`links`], [`proxy`], [`owner`] | faults on links between chosen members, without privileges |
//! | [`rows`] | rows that can be checked without other data |
//! | [`table_query`] | queries by SQL, and what their rows say about the writes |
//! | [`clients`], [`outcomes`] | the workload: puts, drops and reads while the faults last; what their answers mean |
//! | [`faults`], [`nemesis`] | choosing faults (pure, seeded), and injecting them |
//! | [`copies`] | which copies of which parts are on the nodes' disks |
//! | [`history`] | every operation and fault, as JSON lines |
//! | [`check`] | the checker: finds violations in a history |
//! | [`memory`] | the servers' memory during a run, and its bound |
//! | [`run`], [`report`] | a whole run, and its report |
//! | [`quantile`] | quantiles of measured times |
//! | [`figures`] | how long recovery takes |
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "this program is a test: where it cannot continue, it has failed"
)]

pub mod check;
pub mod clients;
pub mod cluster;
pub mod copies;
pub mod faults;
pub mod figures;
pub mod history;
pub mod links;
pub mod memory;
pub mod nemesis;
pub mod outcomes;
pub mod owner;
pub mod proxy;
pub mod quantile;
pub mod report;
pub mod rows;
pub mod run;
pub mod table_query;
