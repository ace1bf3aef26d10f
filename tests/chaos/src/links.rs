//! The links between members, and what is done to them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    /// This program.
    Client,
    /// By index, from 0.
    Coordinator(usize),
    /// By index, from 0.
    Node(usize),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Client => write!(f, "client"),
            Member::Coordinator(at) => write!(f, "coordinator{}", at + 1),
            Member::Node(at) => write!(f, "node{}", at + 1),
        }
    }
}

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Open connections are reset, new ones are too.
    Refuse,
    /// Bytes go in and do not come out; connections stay.
    Hole,
    /// Bytes come late.
    Delay(Duration),
}

/// What is done to bytes that go from one member to another.
pub type Modes = BTreeMap<(Member, Member), Mode>;

/// All links; whatever is not cut is open.
pub struct Links(watch::Sender<Modes>);

impl Default for Links {
    fn default() -> Self {
        Links(watch::Sender::new(Modes::new()))
    }
}

impl Links {
    /// Cuts the way from `from` to `to`; the way back is a link of its own.
    pub fn cut(&self, from: Member, to: Member, mode: Mode) {
        self.0.send_modify(|modes| {
            modes.insert((from, to), mode);
        });
    }

    /// Opens the way again.
    pub fn heal(&self, from: Member, to: Member) {
        self.0.send_modify(|modes| {
            modes.remove(&(from, to));
        });
    }

    /// Opens every way.
    pub fn heal_all(&self) {
        self.0.send_modify(Modes::clear);
    }

    /// Follows the changes.
    pub fn watch(&self) -> watch::Receiver<Modes> {
        self.0.subscribe()
    }
}
