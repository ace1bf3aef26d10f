//! The kinds of faults, and which fault comes next: decided by the seed alone.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use volley_tests::cluster::MemberId;

use crate::links::LinkFault;

/// The member that a fault hits. The leader is looked up when the fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// The coordinator that leads at that time.
    Leader,
    /// This member.
    Member(MemberId),
}

impl fmt::Display for FaultTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultTarget::Leader => write!(f, "the leader"),
            FaultTarget::Member(member) => write!(f, "{member}"),
        }
    }
}

/// How the file of a part is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// One bit is flipped.
    FlipBit,
    /// The second half is truncated.
    Truncate,
    /// A range of it is zeroed.
    Zero,
}

/// Which links have a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSet {
    /// All links of a member, those to clients included.
    All(FaultTarget),
    /// The links of a member to all other members; clients still reach it.
    Members(FaultTarget),
    /// The link between two members.
    Pair(FaultTarget, MemberId),
    /// One direction of the link between two members.
    OneWay(FaultTarget, MemberId),
    /// The links of the clients to a member.
    Clients(MemberId),
}

/// A fault. It is undone after the time of its [`ScheduledFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// kill -9; undone by a start.
    Crash(FaultTarget),
    /// SIGTERM; undone by a start.
    Restart(FaultTarget),
    /// SIGSTOP; undone by SIGCONT.
    Pause(FaultTarget),
    /// kill -9 of all coordinators.
    CrashCoordinators,
    /// kill -9 of every process.
    CrashAll,
    /// kill -9 of this node, and its folder is emptied; undone by a start.
    WipeNode(usize),
    /// The same for a coordinator.
    WipeCoordinator(usize),
    /// Links that are partitioned or slow; undone by healing them.
    Links(LinkSet, LinkFault),
    /// The small disk is full.
    FillDisk,
    /// kill -9 of this node, the file of one part damaged, a start.
    CorruptPart(usize, Corruption),
    /// The node is drained; undone by cancelling the drain.
    Drain(usize),
    /// The node is drained and removed, and replaced by an empty one.
    Replace(usize),
    /// The old ids of nodes that came back under another id are removed.
    RemoveReplaced,
    /// A thousand writers at once.
    Burst,
}

/// A fault and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledFault {
    /// What is done.
    pub action: FaultAction,
    /// For how long.
    pub duration: Duration,
}

impl FaultAction {
    /// The name of its kind, for `--only` and the report. The simulation of the coordinators uses the same words.
    pub fn kind(&self) -> &'static str {
        let of = |target: &FaultTarget, leader, coordinator, node| match target {
            FaultTarget::Leader => leader,
            FaultTarget::Member(MemberId::Node(_)) => node,
            FaultTarget::Member(MemberId::Coordinator(_)) => coordinator,
        };
        match self {
            FaultAction::Crash(target) => of(target, "crash-leader", "crash-coordinator", "crash-node"),
            FaultAction::Restart(target) => of(target, "restart-leader", "restart-coordinator", "restart-node"),
            FaultAction::Pause(target) => of(target, "pause-leader", "pause-coordinator", "pause-node"),
            FaultAction::CrashCoordinators => "crash-coordinators",
            FaultAction::CrashAll => "crash-all",
            FaultAction::WipeNode(_) => "wipe-node",
            FaultAction::WipeCoordinator(_) => "wipe-coordinator",
            FaultAction::Links(_, LinkFault::Slow(_)) => "slow-link",
            FaultAction::Links(LinkSet::All(_) | LinkSet::Members(_), _) => "partition-member",
            FaultAction::Links(LinkSet::Pair(..), _) => "partition-pair",
            FaultAction::Links(LinkSet::OneWay(..), _) => "one-way-loss",
            FaultAction::Links(LinkSet::Clients(_), _) => "partition-clients",
            FaultAction::FillDisk => "disk-full",
            FaultAction::CorruptPart(_, Corruption::FlipBit) => "flip-bit",
            FaultAction::CorruptPart(_, Corruption::Truncate) => "truncate-file",
            FaultAction::CorruptPart(_, Corruption::Zero) => "zero-range",
            FaultAction::Drain(_) => "drain-node",
            FaultAction::Replace(_) => "replace-node",
            FaultAction::RemoveReplaced => "remove-replaced",
            FaultAction::Burst => "burst",
        }
    }

    /// Whether it makes one member hang: connections to it stay open, and nothing comes back.
    pub fn hangs_one_member(&self) -> bool {
        matches!(self, FaultAction::Pause(_) | FaultAction::Links(LinkSet::All(_), LinkFault::Stall))
    }

    /// Whether it destroys copies of parts or of the catalog. Then it must be the only fault, and the next such fault waits for
    /// the repair.
    pub fn destroys_copies(&self) -> bool {
        matches!(
            self,
            FaultAction::WipeNode(_)
                | FaultAction::WipeCoordinator(_)
                | FaultAction::CorruptPart(..)
                | FaultAction::Replace(_)
        )
    }
}

type DrawAction = fn(&mut FaultGenerator) -> FaultAction;

/// How often each kind is drawn.
const WEIGHTS: [(u32, DrawAction); 21] = [
    (10, |c| FaultAction::Crash(c.leader_or_coordinator())),
    (12, |c| FaultAction::Crash(c.node())),
    (5, |c| FaultAction::Restart(c.any_target())),
    (8, |c| FaultAction::Pause(c.leader_or_coordinator())),
    (6, |c| FaultAction::Pause(c.node())),
    (2, |_| FaultAction::CrashCoordinators),
    (1, |_| FaultAction::CrashAll),
    (5, |c| FaultAction::Links(LinkSet::All(c.any_target()), c.partition())),
    (6, |c| FaultAction::Links(LinkSet::Members(c.any_target()), c.partition())),
    (6, |c| FaultAction::Links(LinkSet::Pair(c.any_target(), c.member()), c.partition())),
    (5, |c| FaultAction::Links(LinkSet::OneWay(c.any_target(), c.member()), c.partition())),
    (3, |c| FaultAction::Links(LinkSet::Clients(c.member()), c.partition())),
    (4, |c| FaultAction::Links(LinkSet::Members(c.any_target()), c.slow())),
    (5, |c| FaultAction::WipeNode(c.index(c.nodes))),
    (3, |c| FaultAction::WipeCoordinator(c.index(c.coordinators))),
    (3, |_| FaultAction::FillDisk),
    (6, |c| FaultAction::CorruptPart(c.index(c.nodes), c.corruption())),
    (4, |c| FaultAction::Drain(c.index(c.nodes))),
    (4, |c| FaultAction::Replace(c.index(c.nodes))),
    (2, |_| FaultAction::RemoveReplaced),
    (2, |_| FaultAction::Burst),
];

/// Draws faults from a seed.
pub struct FaultGenerator {
    rng: StdRng,
    coordinators: usize,
    nodes: usize,
    /// The longest that a member hangs.
    longest_pause: Duration,
}

impl FaultGenerator {
    /// A generator for a cluster of this size. `longest_pause`: for how long a member may hang.
    pub fn new(rng: StdRng, coordinators: usize, nodes: usize, longest_pause: Duration) -> FaultGenerator {
        FaultGenerator { rng, coordinators, nodes, longest_pause }
    }

    /// The next faults: mostly one, in one case of four two at the same time.
    pub fn next(&mut self, only: &[String]) -> Vec<ScheduledFault> {
        let mut drawn = vec![self.fault(only)];
        if self.rng.random_bool(0.25) {
            drawn.push(self.fault(only));
        }
        if drawn.iter().any(|fault| fault.action.destroys_copies()) {
            drawn.truncate(1);
        }
        drawn
    }

    /// How long the cluster runs without a fault.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(100..1000))
    }

    /// A number below `end`.
    pub fn index(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn fault(&mut self, only: &[String]) -> ScheduledFault {
        loop {
            let action = self.action();
            if only.is_empty() || only.iter().any(|kind| kind == action.kind()) {
                return ScheduledFault { action, duration: self.duration(action) };
            }
        }
    }

    /// Mostly short; one in four members that hang does so for longer, which outlasts every timeout.
    fn duration(&mut self, action: FaultAction) -> Duration {
        let short = Duration::from_millis(self.rng.random_range(200..3500));
        let longest = self.longest_pause.as_millis() as u64;
        if action.hangs_one_member() && longest > 3500 && self.rng.random_bool(0.25) {
            return Duration::from_millis(self.rng.random_range(3500..=longest));
        }
        short
    }

    fn action(&mut self) -> FaultAction {
        let all: u32 = WEIGHTS.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.rng.random_range(0..all);
        for (weight, make) in WEIGHTS {
            match drawn.checked_sub(weight) {
                None => return make(self),
                Some(rest) => drawn = rest,
            }
        }
        FaultAction::CrashAll
    }

    fn coordinator(&mut self) -> MemberId {
        MemberId::Coordinator(self.index(self.coordinators))
    }

    fn one_node(&mut self) -> MemberId {
        MemberId::Node(self.index(self.nodes))
    }

    fn node(&mut self) -> FaultTarget {
        FaultTarget::Member(self.one_node())
    }

    fn member(&mut self) -> MemberId {
        if self.rng.random_bool(0.5) { self.coordinator() } else { self.one_node() }
    }

    /// The leader, or some coordinator.
    fn leader_or_coordinator(&mut self) -> FaultTarget {
        if self.rng.random_bool(0.6) { FaultTarget::Leader } else { FaultTarget::Member(self.coordinator()) }
    }

    fn any_target(&mut self) -> FaultTarget {
        if self.rng.random_bool(0.5) { self.leader_or_coordinator() } else { self.node() }
    }

    fn partition(&mut self) -> LinkFault {
        if self.rng.random_bool(0.5) { LinkFault::Reset } else { LinkFault::Stall }
    }

    fn slow(&mut self) -> LinkFault {
        LinkFault::Slow(Duration::from_millis(self.rng.random_range(20..400)))
    }

    fn corruption(&mut self) -> Corruption {
        [Corruption::FlipBit, Corruption::Truncate, Corruption::Zero][self.index(3)]
    }
}

/// All kinds that can be drawn.
pub fn kinds() -> std::collections::BTreeSet<&'static str> {
    let mut generator = generator(0);
    (0..5000).map(|_| generator.action().kind()).collect()
}

fn generator(seed: u64) -> FaultGenerator {
    FaultGenerator::new(rand::SeedableRng::seed_from_u64(seed), 3, 5, Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_draws_the_same_faults() {
        let draw = |seed| (0..50).scan(generator(seed), |c, _| Some(c.next(&[]))).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn some_members_hang_for_long() {
        let mut generator = generator(5);
        let only = ["pause-node".to_string(), "pause-leader".to_string()];
        let drawn: Vec<Duration> = (0..200).flat_map(|_| generator.next(&only)).map(|fault| fault.duration).collect();
        let long = drawn.iter().filter(|duration| **duration > Duration::from_secs(20)).count();
        assert!(long > 20 && long * 2 < drawn.len(), "{long} of {}", drawn.len());
    }

    #[test]
    fn destructive_fault_is_drawn_alone() {
        let mut generator = generator(3);
        for _ in 0..2000 {
            let drawn = generator.next(&[]);
            assert!(drawn.len() == 1 || drawn.iter().all(|fault| !fault.action.destroys_copies()));
        }
        let only = ["wipe-node".to_string()];
        assert!((0..20).all(|_| generator.next(&only).iter().all(|fault| fault.action.kind() == "wipe-node")));
        assert!(kinds().len() >= 20, "{:?}", kinds());
    }
}
