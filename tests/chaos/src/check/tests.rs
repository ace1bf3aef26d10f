//! Hand-made histories: every kind of violation is found, and what is allowed is not taken for one.

use std::collections::BTreeSet;

use super::*;
use crate::rows::Content;

/// A history of one table, written down line by line.
#[derive(Default)]
struct Tale(History);

impl Tale {
    fn add(mut self, time: (u64, u64), ask: Ask, outcome: Outcome) -> Tale {
        let id = self.0.events.len() as u64 + 1;
        let event = Event { id, table: "t".into(), ask, begin: time.0, end: time.1, outcome };
        self.0.events.insert(id, event);
        self
    }

    fn put(self, time: (u64, u64), mode: PutMode, write: &str, outcome: Outcome) -> Tale {
        self.add(time, Ask::Put { mode, write: write.into(), rows: 1 }, outcome)
    }

    fn append(self, time: (u64, u64), write: &str, version: u64) -> Tale {
        self.put(time, PutMode::Append, write, Outcome::Done { version })
    }

    fn replace(self, time: (u64, u64), write: &str, version: u64) -> Tale {
        self.put(time, PutMode::Replace, write, Outcome::Done { version })
    }

    fn read(self, time: (u64, u64), version: u64, writes: &[&str]) -> Tale {
        self.add(time, Ask::Read { endpoints: true }, content(version, writes))
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        judge(&self.0).iter().map(|violation| violation.kind).collect()
    }

    fn is_good(&self) {
        assert_eq!(judge(&self.0), []);
    }

    fn finds(&self, kind: Kind) {
        assert!(self.kinds().contains(&kind), "{:?} is not among {:?}", kind, judge(&self.0));
    }
}

fn content(version: u64, writes: &[&str]) -> Outcome {
    let content = Content { writes: writes.iter().map(|write| write.to_string()).collect(), flaws: Vec::new() };
    Outcome::Content { version: Some(version), ordered: true, content }
}

fn unknown() -> Outcome {
    Outcome::Unknown { code: "Unavailable".into(), message: String::new() }
}

fn refused(code: &str) -> Outcome {
    Outcome::Refused { code: code.into(), message: String::new() }
}

fn start() -> Tale {
    Tale::default().replace((0, 1), "a", 1)
}

#[test]
fn what_happens_one_after_the_other_is_good() {
    start()
        .append((2, 3), "b", 2)
        .read((4, 5), 2, &["a", "b"])
        .replace((6, 7), "c", 3)
        .read((8, 9), 3, &["c"])
        .add((10, 11), Ask::Drop, Outcome::Done { version: 0 })
        .add((12, 13), Ask::Read { endpoints: true }, Outcome::Absent)
        .put((14, 15), PutMode::Create, "d", Outcome::Done { version: 1 })
        .put((16, 17), PutMode::Create, "e", Outcome::Present)
        .read((18, 19), 1, &["d"])
        .is_good();
}

#[test]
fn operations_at_once_may_take_any_turn() {
    start()
        .append((2, 10), "b", 3)
        .append((2, 10), "c", 2)
        .read((3, 9), 1, &["a"])
        .read((3, 9), 3, &["a", "c", "b"])
        .is_good();
}

#[test]
fn a_version_that_the_cluster_made_itself_is_good() {
    start().read((2, 3), 2, &["a"]).append((4, 5), "b", 4).read((6, 7), 4, &["a", "b"]).is_good();
}

#[test]
fn an_unknown_outcome_may_come_true_late_or_never() {
    for writes in [&["a"][..], &["a", "b"]] {
        let version = writes.len() as u64;
        start().put((2, 3), PutMode::Append, "b", unknown()).read((4, 5), version, writes).is_good();
    }
    start().add((2, 3), Ask::Drop, unknown()).add((4, 5), Ask::Read { endpoints: true }, Outcome::Absent).is_good();
    let late = start().put((2, 3), PutMode::Append, "b", unknown()).read((4, 5), 1, &["a"]);
    late.read((6, 7), 2, &["a", "b"]).is_good();
}

#[test]
fn an_unknown_outcome_that_came_true_cannot_be_undone() {
    let tale = start().put((2, 3), PutMode::Append, "b", unknown()).read((4, 5), 2, &["a", "b"]);
    tale.read((6, 7), 2, &["a"]).finds(Kind::NotLinear);
}

#[test]
fn a_lost_write_is_found() {
    let tale = start().append((2, 3), "b", 2).append((4, 5), "c", 3).read((6, 7), 3, &["a", "c"]);
    tale.finds(Kind::Lost);
    tale.finds(Kind::NotLinear);
    start().add((2, 3), Ask::Read { endpoints: true }, Outcome::Absent).finds(Kind::NotLinear);
}

#[test]
fn a_stale_read_is_found() {
    let tale = start().append((2, 3), "b", 2).read((4, 5), 1, &["a"]);
    tale.finds(Kind::Stale);
    tale.finds(Kind::NotLinear);
    // Two reads one after the other that go back, during one write.
    start().append((2, 9), "b", 2).read((3, 4), 2, &["a", "b"]).read((5, 6), 1, &["a"]).finds(Kind::NotLinear);
}

#[test]
fn a_phantom_is_found() {
    start().read((2, 3), 2, &["a", "b"]).finds(Kind::Phantom);
    start().put((2, 3), PutMode::Append, "b", refused("Aborted")).read((4, 5), 2, &["a", "b"]).finds(Kind::Phantom);
    start().read((2, 3), 2, &["a", "b"]).append((4, 5), "b", 2).finds(Kind::Phantom);
}

#[test]
fn torn_and_corrupt_rows_are_found() {
    for (flaw, kind) in [("torn: 1 of 2", Kind::Torn), ("corrupt: x", Kind::Corrupt), ("double: x", Kind::Corrupt)] {
        let content = Content { writes: vec!["a".into()], flaws: vec![flaw.into()] };
        let outcome = Outcome::Content { version: Some(1), ordered: true, content };
        start().add((2, 3), Ask::Read { endpoints: true }, outcome).finds(kind);
    }
}

#[test]
fn a_flight_info_that_changes_its_mind_is_found() {
    let was = Content { writes: vec!["a".into()], flaws: Vec::new() };
    let tale = || start().replace((2, 3), "b", 2);
    tale().add((4, 5), Ask::Pinned { was: was.clone() }, content(1, &["a"])).is_good();
    tale().add((4, 5), Ask::Pinned { was: was.clone() }, content(1, &["b"])).finds(Kind::Mixed);
    tale().add((4, 5), Ask::Pinned { was }, Outcome::Absent).finds(Kind::Unexpected);
    tale().add((4, 5), Ask::Version { version: 1 }, content(1, &["a"])).read((6, 7), 2, &["b"]).is_good();
    let two = start().append((2, 3), "b", 2).read((4, 5), 2, &["a", "b"]);
    two.add((6, 7), Ask::Version { version: 2 }, content(2, &["b", "a"])).finds(Kind::Mixed);
}

#[test]
fn answers_that_no_fault_explains_are_found() {
    start().put((2, 3), PutMode::Append, "b", refused("Internal")).finds(Kind::Unexpected);
    start().put((2, 3), PutMode::Append, "b", refused("Unavailable")).is_good();
    let again = start().put((2, 3), PutMode::Create, "b", Outcome::Done { version: 2 });
    again.finds(Kind::NotLinear);
}

#[test]
fn two_writes_that_were_both_first_are_found() {
    let tale = start().append((2, 3), "b", 2).append((2, 3), "c", 2);
    assert_eq!(tale.kinds(), BTreeSet::from([Kind::NotLinear]));
}

#[test]
fn many_operations_at_once_with_unknown_outcomes_are_judged_in_time() {
    let mut tale = start();
    for k in 0..40u64 {
        tale = tale.put((2, 3), PutMode::Append, &format!("unknown{k}"), unknown());
        tale = tale.put((2, 3), PutMode::Replace, &format!("unseen{k}"), unknown());
    }
    for k in 0..60u64 {
        tale = tale.append((2, 1000), &format!("b{k}"), k + 2);
    }
    let all: Vec<String> = (0..60).map(|k| format!("b{k}")).collect();
    let writes: Vec<&str> = ["a"].into_iter().chain(all.iter().map(String::as_str)).collect();
    tale.read((1001, 1002), 61, &writes).is_good();
}

#[test]
fn what_was_pinned_before_a_drop_says_nothing_of_the_table_made_afterwards() {
    let was = Content { writes: vec!["a".into(), "b".into()], flaws: Vec::new() };
    start()
        .append((2, 3), "b", 2)
        .add((4, 5), Ask::Drop, Outcome::Done { version: 0 })
        .replace((6, 7), "c", 1)
        .add((8, 9), Ask::Pinned { was }, content(2, &["a", "b"]))
        .is_good();
}
