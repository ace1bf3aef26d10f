//! What the leader knows about nodes besides the catalog: their heartbeats, and the copies that it ordered.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use volley_common::wire::cluster::Heartbeat;
use volley_common::{NodeId, PartId};

use super::clock_skew::ClockSkews;

/// Written by the leader's tasks and read for status reports. On other coordinators the content is not valid.
#[derive(Default)]
pub struct NodeReports {
    /// The last heartbeat of every node in session.
    pub heartbeats: Mutex<BTreeMap<NodeId, Heartbeat>>,
    /// Parts that are being copied, and to which node.
    pub copying: Mutex<BTreeMap<PartId, NodeId>>,
    /// How far the clocks of other members are from this coordinator's.
    pub skews: ClockSkews,
}
