//! Which faults there are, and which comes next: decided by the seed alone.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::links::{Member, Mode};

/// Whom a fault hits; the leader is found when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The coordinator that leads then.
    Leader,
    /// This one.
    Member(Member),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Leader => write!(f, "the leader"),
            Who::Member(member) => write!(f, "{member}"),
        }
    }
}

/// What is done to a part's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// One bit is another.
    Flip,
    /// The second half is gone.
    Truncate,
    /// A stretch of it is zeros.
    Zero,
}

/// Who is cut off from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A member from everybody, clients too.
    All(Who),
    /// A member from all other members; clients reach it.
    Peers(Who),
    /// Two members from each other.
    Pair(Who, Member),
    /// The way from one to the other only.
    OneWay(Who, Member),
    /// The clients from a member.
    Clients(Member),
}

/// A fault. Its undoing comes after `hold`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// kill -9, and a start afterwards.
    Kill(Who),
    /// SIGTERM, and a start afterwards.
    Restart(Who),
    /// SIGSTOP, and SIGCONT afterwards.
    Pause(Who),
    /// kill -9 of all coordinators.
    KillCoordinators,
    /// kill -9 of every process.
    KillAll,
    /// kill -9, the folder emptied, a start: of this node.
    WipeNode(usize),
    /// The same of a coordinator.
    WipeCoordinator(usize),
    /// Links, healed afterwards.
    Cut(Cut, Mode),
    /// The small disk is full, and is not afterwards.
    FillDisk,
    /// kill -9 of this node, a part's file harmed, a start.
    Harm(usize, Harm),
    /// The node is told to hand over its parts, and then that it may stay.
    Drain(usize),
    /// The node is drained and removed, and an empty one takes its place.
    Replace(usize),
    /// Nodes that came back under another id are removed.
    Forget,
}

/// A fault and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is done.
    pub act: Act,
    /// For how long.
    pub hold: Duration,
}

impl Act {
    /// The name of its kind, for `--only` and the report.
    pub fn kind(&self) -> &'static str {
        let of = |who: &Who, leader, coordinator, node| match who {
            Who::Leader => leader,
            Who::Member(Member::Node(_)) => node,
            Who::Member(_) => coordinator,
        };
        match self {
            Act::Kill(who) => of(who, "kill-leader", "kill-coordinator", "kill-node"),
            Act::Restart(who) => of(who, "restart-leader", "restart-coordinator", "restart-node"),
            Act::Pause(who) => of(who, "pause-leader", "pause-coordinator", "pause-node"),
            Act::KillCoordinators => "kill-coordinators",
            Act::KillAll => "kill-all",
            Act::WipeNode(_) => "wipe-node",
            Act::WipeCoordinator(_) => "wipe-coordinator",
            Act::Cut(_, Mode::Delay(_)) => "slow-links",
            Act::Cut(Cut::All(_) | Cut::Peers(_), _) => "isolate",
            Act::Cut(Cut::Pair(..), _) => "cut-pair",
            Act::Cut(Cut::OneWay(..), _) => "cut-one-way",
            Act::Cut(Cut::Clients(_), _) => "cut-clients",
            Act::FillDisk => "fill-disk",
            Act::Harm(_, Harm::Flip) => "harm-flip",
            Act::Harm(_, Harm::Truncate) => "harm-truncate",
            Act::Harm(_, Harm::Zero) => "harm-zero",
            Act::Drain(_) => "drain-node",
            Act::Replace(_) => "replace-node",
            Act::Forget => "forget-nodes",
        }
    }

    /// Whether copies are gone after it: then it must be the only fault, and the next such waits for the repair.
    pub fn destroys(&self) -> bool {
        matches!(self, Act::WipeNode(_) | Act::WipeCoordinator(_) | Act::Harm(..) | Act::Replace(_))
    }
}

type Draw = fn(&mut Chooser) -> Act;

/// How often each kind comes.
const WEIGHTS: [(u32, Draw); 20] = [
    (10, |c| Act::Kill(c.who())),
    (12, |c| Act::Kill(c.node())),
    (5, |c| Act::Restart(c.any())),
    (8, |c| Act::Pause(c.who())),
    (6, |c| Act::Pause(c.node())),
    (2, |_| Act::KillCoordinators),
    (1, |_| Act::KillAll),
    (5, |c| Act::Cut(Cut::All(c.any()), c.dead())),
    (6, |c| Act::Cut(Cut::Peers(c.any()), c.dead())),
    (6, |c| Act::Cut(Cut::Pair(c.any(), c.member()), c.dead())),
    (5, |c| Act::Cut(Cut::OneWay(c.any(), c.member()), c.dead())),
    (3, |c| Act::Cut(Cut::Clients(c.member()), c.dead())),
    (4, |c| Act::Cut(Cut::Peers(c.any()), c.slow())),
    (5, |c| Act::WipeNode(c.index(c.nodes))),
    (3, |c| Act::WipeCoordinator(c.index(c.coordinators))),
    (3, |_| Act::FillDisk),
    (6, |c| Act::Harm(c.index(c.nodes), c.harm())),
    (4, |c| Act::Drain(c.index(c.nodes))),
    (4, |c| Act::Replace(c.index(c.nodes))),
    (2, |_| Act::Forget),
];

/// Draws faults.
pub struct Chooser {
    rng: StdRng,
    coordinators: usize,
    nodes: usize,
}

impl Chooser {
    /// Draws for a cluster of this size.
    pub fn new(rng: StdRng, coordinators: usize, nodes: usize) -> Chooser {
        Chooser { rng, coordinators, nodes }
    }

    /// The next faults: mostly one, now and then two at the same time.
    pub fn next(&mut self, only: &[String]) -> Vec<Fault> {
        let mut drawn = vec![self.one(only)];
        if self.rng.random_bool(0.25) {
            drawn.push(self.one(only));
        }
        if drawn.iter().any(|fault| fault.act.destroys()) {
            drawn.truncate(1);
        }
        drawn
    }

    /// How long to let things be.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(100..1000))
    }

    /// A number below `end`.
    pub fn index(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn one(&mut self, only: &[String]) -> Fault {
        loop {
            let act = self.act();
            if only.is_empty() || only.iter().any(|kind| kind == act.kind()) {
                return Fault { act, hold: Duration::from_millis(self.rng.random_range(200..3500)) };
            }
        }
    }

    fn act(&mut self) -> Act {
        let all: u32 = WEIGHTS.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.rng.random_range(0..all);
        for (weight, make) in WEIGHTS {
            match drawn.checked_sub(weight) {
                None => return make(self),
                Some(rest) => drawn = rest,
            }
        }
        Act::KillAll
    }

    fn coordinator(&mut self) -> Member {
        Member::Coordinator(self.index(self.coordinators))
    }

    fn one_node(&mut self) -> Member {
        Member::Node(self.index(self.nodes))
    }

    fn node(&mut self) -> Who {
        Who::Member(self.one_node())
    }

    fn member(&mut self) -> Member {
        if self.rng.random_bool(0.5) { self.coordinator() } else { self.one_node() }
    }

    /// The leader, or some coordinator.
    fn who(&mut self) -> Who {
        if self.rng.random_bool(0.6) { Who::Leader } else { Who::Member(self.coordinator()) }
    }

    fn any(&mut self) -> Who {
        if self.rng.random_bool(0.5) { self.who() } else { self.node() }
    }

    fn dead(&mut self) -> Mode {
        if self.rng.random_bool(0.5) { Mode::Refuse } else { Mode::Hole }
    }

    fn slow(&mut self) -> Mode {
        Mode::Delay(Duration::from_millis(self.rng.random_range(20..400)))
    }

    fn harm(&mut self) -> Harm {
        [Harm::Flip, Harm::Truncate, Harm::Zero][self.index(3)]
    }
}

/// All kinds that can be drawn.
pub fn kinds() -> std::collections::BTreeSet<&'static str> {
    let mut chooser = chooser(0);
    (0..5000).map(|_| chooser.act().kind()).collect()
}

fn chooser(seed: u64) -> Chooser {
    Chooser::new(rand::SeedableRng::seed_from_u64(seed), 3, 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults_and_another_draws_others() {
        let draw = |seed| (0..50).scan(chooser(seed), |c, _| Some(c.next(&[]))).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_fault_that_destroys_copies_comes_alone_and_only_what_was_asked_for_comes() {
        let mut chooser = chooser(3);
        for _ in 0..2000 {
            let drawn = chooser.next(&[]);
            assert!(drawn.len() == 1 || drawn.iter().all(|fault| !fault.act.destroys()));
        }
        let only = ["wipe-node".to_string()];
        assert!((0..20).all(|_| chooser.next(&only).iter().all(|fault| fault.act.kind() == "wipe-node")));
        assert!(kinds().len() >= 20, "{:?}", kinds());
    }
}
