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
    /// kill -9, the folder emptied, a start.
    Wipe(Member),
    /// Links, healed afterwards.
    Cut(Cut, Mode),
    /// The small disk is full, and is not afterwards.
    FillDisk,
    /// kill -9, a part's file harmed, a start.
    Harm(Member, Harm),
    /// The node is told to hand over its parts, and then that it may stay.
    Drain(Member),
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
            Act::Wipe(member) => of(&Who::Member(*member), "", "wipe-coordinator", "wipe-node"),
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
        }
    }

    /// Whether copies are gone after it: then it must be the only fault, and the next such waits for the repair.
    pub fn destroys(&self) -> bool {
        matches!(self, Act::Wipe(_) | Act::Harm(..) | Act::Drain(_))
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Kill(who) | Act::Restart(who) | Act::Pause(who) => write!(f, "{who}"),
            Act::KillCoordinators => write!(f, "all coordinators"),
            Act::KillAll => write!(f, "all"),
            Act::Wipe(member) | Act::Harm(member, _) | Act::Drain(member) => write!(f, "{member}"),
            Act::Cut(cut, mode) => write!(f, "{cut:?} {mode:?}"),
            Act::FillDisk => write!(f, "the small disk"),
        }
    }
}

/// How often each kind comes.
const WEIGHTS: [(u32, fn(&mut Chooser) -> Act); 17] = [
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
    (5, |c| Act::Wipe(c.one_node())),
    (3, |c| Act::Wipe(c.coordinator())),
    (3, |_| Act::FillDisk),
    (6, |c| Act::Harm(c.one_node(), c.harm())),
];

/// Draws faults.
pub struct Chooser {
    rng: StdRng,
    coordinators: usize,
    nodes: usize,
    drains: bool,
}

impl Chooser {
    /// Draws for a cluster of this size. `drains`: whether nodes can be told to hand over their parts.
    pub fn new(rng: StdRng, coordinators: usize, nodes: usize, drains: bool) -> Chooser {
        Chooser { rng, coordinators, nodes, drains }
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
        Duration::from_millis(self.rng.random_range(100..1500))
    }

    /// A number below `end`.
    pub fn index(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn one(&mut self, only: &[String]) -> Fault {
        loop {
            let act = self.act();
            if only.is_empty() || only.iter().any(|kind| kind == act.kind()) {
                return Fault { act, hold: Duration::from_millis(self.rng.random_range(200..4500)) };
            }
        }
    }

    fn act(&mut self) -> Act {
        if self.drains && self.rng.random_bool(0.05) {
            return Act::Drain(self.one_node());
        }
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
    Chooser::new(rand::SeedableRng::seed_from_u64(seed), 3, 5, true)
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
