//! How long calls take while exactly one member hangs: the others must stay fast.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChaosViolation, ViolationKind};
use crate::history::{ClientHistory, FaultEvent, MemberCall};
use crate::quantile::quantile;

/// Maximum number of seconds that 99 of 100 calls may take through members that do not hang.
const MAX_P99: f64 = 1.5;
/// The fewest calls from which a quantile is judged.
const MIN_CALLS: usize = 100;
/// Microseconds after a fault for which its effects may last.
const AFTERMATH: u64 = 5_000_000;

/// Seconds of the calls that were made while one member hung and nothing else was wrong; without calls to that
/// member, and without the slowest call of each client to each member during each fault.
pub fn calls_beside_a_hung_member(history: &ClientHistory) -> Vec<f64> {
    let mut seconds = Vec::new();
    for fault in &history.faults {
        let Some(hung) = &fault.hung else { continue };
        let others: Vec<&FaultEvent> = history.faults.iter().filter(|other| overlaps(other, fault)).collect();
        let alone = |call: &MemberCall| {
            others.iter().all(|other| call.end <= other.begin || call.begin >= other.end + AFTERMATH)
        };
        let judged = |call: &&MemberCall| began_during(call, fault) && call.member != *hung && alone(call);
        let mut by_pair: BTreeMap<(u64, &str), Vec<f64>> = BTreeMap::new();
        for call in history.calls.iter().filter(judged) {
            let taken = (call.end - call.begin) as f64 / 1e6;
            by_pair.entry((call.client, &call.member)).or_default().push(taken);
        }
        for mut calls in by_pair.into_values() {
            calls.sort_by(f64::total_cmp);
            calls.pop();
            seconds.append(&mut calls);
        }
    }
    seconds
}

/// The violation of a whole run, if the calls beside a hung member were slow.
pub fn check(history: &ClientHistory) -> Option<ChaosViolation> {
    let seconds = calls_beside_a_hung_member(history);
    let p99 = quantile(&seconds, 0.99).filter(|_| seconds.len() >= MIN_CALLS)?;
    (p99 > MAX_P99).then(|| {
        let hung: BTreeSet<&str> = history.faults.iter().filter_map(|fault| fault.hung.as_deref()).collect();
        let what = format!(
            "while one of {hung:?} hung, one in a hundred of {} calls through others took over {p99:.2} s (limit {MAX_P99} s)",
            seconds.len()
        );
        ChaosViolation { kind: ViolationKind::Slow, what, operations: Vec::new() }
    })
}

fn began_during(call: &MemberCall, fault: &FaultEvent) -> bool {
    (fault.begin..fault.end).contains(&call.begin)
}

/// Whether another fault, or its aftermath, overlaps with this one.
fn overlaps(other: &FaultEvent, fault: &FaultEvent) -> bool {
    other != fault && other.begin < fault.end && fault.begin < other.end + AFTERMATH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(begin: u64, end: u64) -> FaultEvent {
        FaultEvent { kind: "pause-node".into(), what: "node1".into(), begin, end, hung: Some("node1".into()) }
    }

    /// 200 calls of one second's distance to two members; those to `node2` take `slow` microseconds.
    fn history(slow: u64) -> ClientHistory {
        let mut history = ClientHistory { faults: vec![fault(0, 200_000_000)], ..ClientHistory::default() };
        for at in 0..200 {
            for (member, taken) in [("node1", 9_000_000), ("node2", slow)] {
                let begin = at * 1_000_000;
                let call = MemberCall { client: 1, member: member.into(), begin, end: begin + taken };
                history.calls.push(call);
            }
        }
        history
    }

    #[test]
    fn slow_calls_through_other_members_are_a_violation() {
        assert_eq!(check(&history(2_000_000)).map(|found| found.kind), Some(ViolationKind::Slow));
        assert_eq!(check(&history(1_000_000)), None);
    }

    #[test]
    fn one_slow_call_per_client_and_member_is_allowed() {
        let mut history = history(1_000);
        history.calls[1].end += 9_000_000;
        assert_eq!(calls_beside_a_hung_member(&history).len(), 199);
        assert!(calls_beside_a_hung_member(&history).iter().all(|seconds| *seconds < 0.1));
    }

    #[test]
    fn calls_beside_two_faults_are_not_judged() {
        let mut history = history(4_000_000);
        history.faults.push(FaultEvent { hung: None, ..fault(100_000_000, 101_000_000) });
        // Of 200 calls, the 9 that began from 97 s to 105 s, and the slowest.
        assert_eq!(calls_beside_a_hung_member(&history).len(), 190);
    }
}
