//! A cluster of real processes under faults, and a judge of what its clients saw.
//!
//! | module | what it holds |
//! |---|---|
//! | [`site`] | the cluster: processes behind proxies, their folders, what can be done to them |
//! | [`links`], [`proxy`], [`owner`] | links between chosen members, cut without privileges |
//! | [`rows`] | rows that can be judged by themselves |
//! | [`clients`] | what is asked of the cluster meanwhile |
//! | [`faults`], [`nemesis`] | which faults (pure, seeded), and doing them |
//! | [`copies`] | which copies of which parts lie on the nodes' disks |
//! | [`history`] | every operation and fault, as JSON lines |
//! | [`check`] | the judge: a history → violations |
//! | [`run`], [`report`] | a whole run, and what is told of it |
//! | [`figures`] | how long things take |
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "this program is a test: where it cannot go on, it has failed"
)]

pub mod check;
pub mod clients;
pub mod copies;
pub mod faults;
pub mod figures;
pub mod history;
pub mod links;
pub mod nemesis;
pub mod owner;
pub mod proxy;
pub mod report;
pub mod rows;
pub mod run;
pub mod site;
