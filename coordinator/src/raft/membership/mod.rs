//! Who is in the Raft group, and how that changes.
//!
//! | module | what it holds |
//! |---|---|
//! | `bootstrap` | forms a new cluster, once |
//! | `membership_reconciler`, `membership_plan` | reconciles the Raft group with the catalog; decides the next step (pure) |
//! | `membership_api` | adds and removes coordinators on request |
//! | `peer_identity` | coordinators ask each other for their id, data folder and cluster |
//! | `leader_watch` | follows who leads |
//! | `decommission` | ends a removed coordinator and marks its data folder |
//! | [`unsafe_recovery`] | lets one coordinator continue alone after a majority is lost permanently |

pub(super) mod bootstrap;
pub(super) mod decommission;
pub(super) mod leader_watch;
pub(super) mod membership_api;
pub(super) mod membership_plan;
pub(super) mod membership_reconciler;
pub(super) mod peer_identity;
pub mod unsafe_recovery;
