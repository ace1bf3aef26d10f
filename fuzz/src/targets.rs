//! The list of all targets.

use crate::{
    actions, catalog, certificates, config, descriptors, framing, messages, parts, put, raft, schemas, tickets, tokens,
};

/// A fuzz target.
pub struct FuzzTarget {
    /// Its name: that of its module, its program and its folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// Feeds it one input. Panics if a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with, most of them valid.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub static TARGETS: [FuzzTarget; 13] = [
    FuzzTarget { name: "tickets", run: tickets::run, seeds: tickets::seeds },
    FuzzTarget { name: "tokens", run: tokens::run, seeds: tokens::seeds },
    FuzzTarget { name: "descriptors", run: descriptors::run, seeds: descriptors::seeds },
    FuzzTarget { name: "actions", run: actions::run, seeds: actions::seeds },
    FuzzTarget { name: "schemas", run: schemas::run, seeds: schemas::seeds },
    FuzzTarget { name: "messages", run: messages::run, seeds: messages::seeds },
    FuzzTarget { name: "put", run: put::run, seeds: put::seeds },
    FuzzTarget { name: "parts", run: parts::run, seeds: parts::seeds },
    FuzzTarget { name: "catalog", run: catalog::run, seeds: catalog::seeds },
    FuzzTarget { name: "raft", run: raft::run, seeds: raft::seeds },
    FuzzTarget { name: "framing", run: framing::run, seeds: framing::seeds },
    FuzzTarget { name: "config", run: config::run, seeds: config::seeds },
    FuzzTarget { name: "certificates", run: certificates::run, seeds: certificates::seeds },
];

/// A target by name.
pub fn target(name: &str) -> Option<&'static FuzzTarget> {
    TARGETS.iter().find(|target| target.name == name)
}
