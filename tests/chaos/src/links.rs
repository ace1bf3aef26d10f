//! The network links between members and clients, and the faults on them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use volley_tests::cluster::MemberId;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkEnd {
    /// The clients, which this program runs.
    Clients,
    /// A member of the cluster.
    Member(MemberId),
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Clients => write!(f, "clients"),
            LinkEnd::Member(member) => write!(f, "{member}"),
        }
    }
}

impl From<MemberId> for LinkEnd {
    fn from(member: MemberId) -> LinkEnd {
        LinkEnd::Member(member)
    }
}

/// A fault of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// Open connections are reset, and so are new ones.
    Reset,
    /// Bytes are held back; connections stay open.
    Stall,
    /// Bytes arrive late by this much.
    Slow(Duration),
}

/// A direction of a link: the sender and the receiver of its bytes.
pub type LinkDirection = (LinkEnd, LinkEnd);

/// The directions that have a fault.
pub type LinkFaults = BTreeMap<LinkDirection, LinkFault>;

/// All links. A direction without a fault is open.
pub struct Links(watch::Sender<LinkFaults>);

impl Default for Links {
    fn default() -> Self {
        Links(watch::Sender::new(LinkFaults::new()))
    }
}

impl Links {
    /// Sets a fault on one direction of a link; the opposite direction stays as it is.
    pub fn set(&self, direction: LinkDirection, fault: LinkFault) {
        self.0.send_modify(|faults| {
            faults.insert(direction, fault);
        });
    }

    /// Opens a direction again.
    pub fn heal(&self, direction: LinkDirection) {
        self.0.send_modify(|faults| {
            faults.remove(&direction);
        });
    }

    /// Opens every direction.
    pub fn heal_all(&self) {
        self.0.send_modify(LinkFaults::clear);
    }

    /// Watches the changes.
    pub fn watch(&self) -> watch::Receiver<LinkFaults> {
        self.0.subscribe()
    }
}
