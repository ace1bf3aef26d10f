//! Histories written by hand: every kind of violation is found, and a legal history has none.

use std::collections::BTreeSet;

use super::*;
use crate::rows::TableContent;
use crate::table_query::TableQuery;

/// Builds the history of one table, operation by operation.
#[derive(Default)]
struct HistoryBuilder(ClientHistory);

impl HistoryBuilder {
    fn add(mut self, time: (u64, u64), request: OpRequest, outcome: OpOutcome) -> HistoryBuilder {
        let id = self.0.operations.len() as u64 + 1;
        let operation = ClientOperation { id, table: "t".into(), request, begin: time.0, end: time.1, outcome };
        self.0.operations.insert(id, operation);
        self
    }

    fn put(self, time: (u64, u64), mode: PutMode, write: &str, outcome: OpOutcome) -> HistoryBuilder {
        self.add(time, OpRequest::Put { mode, write: write.into(), rows: 1 }, outcome)
    }

    fn append(self, time: (u64, u64), write: &str, version: u64) -> HistoryBuilder {
        self.put(time, PutMode::Append, write, OpOutcome::Done { version })
    }

    fn replace(self, time: (u64, u64), write: &str, version: u64) -> HistoryBuilder {
        self.put(time, PutMode::Replace, write, OpOutcome::Done { version })
    }

    fn read(self, time: (u64, u64), version: u64, writes: &[&str]) -> HistoryBuilder {
        self.add(time, OpRequest::Read { endpoints: true }, content(version, writes))
    }

    fn kinds(&self) -> BTreeSet<ViolationKind> {
        check(&self.0).iter().map(|violation| violation.kind).collect()
    }

    fn has_no_violation(&self) {
        assert_eq!(check(&self.0), []);
    }

    fn finds(&self, kind: ViolationKind) {
        assert!(self.kinds().contains(&kind), "{:?} is not among {:?}", kind, check(&self.0));
    }
}

fn content(version: u64, writes: &[&str]) -> OpOutcome {
    let content = TableContent { writes: writes.iter().map(|write| write.to_string()).collect(), flaws: Vec::new() };
    OpOutcome::Content { version: Some(version), ordered: true, content }
}

fn unknown() -> OpOutcome {
    OpOutcome::Unknown { code: "Unavailable".into(), message: String::new() }
}

fn refused(code: &str) -> OpOutcome {
    OpOutcome::Refused { code: code.into(), message: String::new() }
}

fn start() -> HistoryBuilder {
    HistoryBuilder::default().replace((0, 1), "a", 1)
}

#[test]
fn sequential_operations_have_no_violation() {
    start()
        .append((2, 3), "b", 2)
        .read((4, 5), 2, &["a", "b"])
        .replace((6, 7), "c", 3)
        .read((8, 9), 3, &["c"])
        .add((10, 11), OpRequest::Drop, OpOutcome::Done { version: 0 })
        .add((12, 13), OpRequest::Read { endpoints: true }, OpOutcome::Absent)
        .put((14, 15), PutMode::Create, "d", OpOutcome::Done { version: 1 })
        .put((16, 17), PutMode::Create, "e", OpOutcome::Present)
        .read((18, 19), 1, &["d"])
        .has_no_violation();
}

#[test]
fn concurrent_operations_may_take_any_order() {
    start()
        .append((2, 10), "b", 3)
        .append((2, 10), "c", 2)
        .read((3, 9), 1, &["a"])
        .read((3, 9), 3, &["a", "c", "b"])
        .has_no_violation();
}

#[test]
fn version_made_by_the_cluster_is_no_violation() {
    start().read((2, 3), 2, &["a"]).append((4, 5), "b", 4).read((6, 7), 4, &["a", "b"]).has_no_violation();
}

#[test]
fn unknown_outcome_may_take_effect_late_or_never() {
    for writes in [&["a"][..], &["a", "b"]] {
        let version = writes.len() as u64;
        start().put((2, 3), PutMode::Append, "b", unknown()).read((4, 5), version, writes).has_no_violation();
    }
    start()
        .add((2, 3), OpRequest::Drop, unknown())
        .add((4, 5), OpRequest::Read { endpoints: true }, OpOutcome::Absent)
        .has_no_violation();
    let late = start().put((2, 3), PutMode::Append, "b", unknown()).read((4, 5), 1, &["a"]);
    late.read((6, 7), 2, &["a", "b"]).has_no_violation();
}

#[test]
fn observed_unknown_outcome_cannot_be_undone() {
    let history = start().put((2, 3), PutMode::Append, "b", unknown()).read((4, 5), 2, &["a", "b"]);
    history.read((6, 7), 2, &["a"]).finds(ViolationKind::NotLinearizable);
}

#[test]
fn lost_write_is_found() {
    let history = start().append((2, 3), "b", 2).append((4, 5), "c", 3).read((6, 7), 3, &["a", "c"]);
    history.finds(ViolationKind::Lost);
    history.finds(ViolationKind::NotLinearizable);
    start().add((2, 3), OpRequest::Read { endpoints: true }, OpOutcome::Absent).finds(ViolationKind::NotLinearizable);
}

#[test]
fn stale_read_is_found() {
    let history = start().append((2, 3), "b", 2).read((4, 5), 1, &["a"]);
    history.finds(ViolationKind::Stale);
    history.finds(ViolationKind::NotLinearizable);
    // Two successive reads during one write, of which the second shows an older state.
    start()
        .append((2, 9), "b", 2)
        .read((3, 4), 2, &["a", "b"])
        .read((5, 6), 1, &["a"])
        .finds(ViolationKind::NotLinearizable);
}

#[test]
fn phantom_write_is_found() {
    start().read((2, 3), 2, &["a", "b"]).finds(ViolationKind::Phantom);
    start()
        .put((2, 3), PutMode::Append, "b", refused("Aborted"))
        .read((4, 5), 2, &["a", "b"])
        .finds(ViolationKind::Phantom);
    start().read((2, 3), 2, &["a", "b"]).append((4, 5), "b", 2).finds(ViolationKind::Phantom);
}

#[test]
fn torn_and_corrupt_rows_are_found() {
    for (flaw, kind) in [
        ("torn: 1 of 2", ViolationKind::Torn),
        ("corrupt: x", ViolationKind::Corrupt),
        ("double: x", ViolationKind::Corrupt),
    ] {
        let content = TableContent { writes: vec!["a".into()], flaws: vec![flaw.into()] };
        let outcome = OpOutcome::Content { version: Some(1), ordered: true, content };
        start().add((2, 3), OpRequest::Read { endpoints: true }, outcome).finds(kind);
    }
}

#[test]
fn changed_rows_of_one_flight_info_are_found() {
    let was = TableContent { writes: vec!["a".into()], flaws: Vec::new() };
    let pinned = OpRequest::ReadPinned { was };
    let history = || start().replace((2, 3), "b", 2);
    history().add((4, 5), pinned.clone(), content(1, &["a"])).has_no_violation();
    history().add((4, 5), pinned.clone(), content(1, &["b"])).finds(ViolationKind::Mixed);
    history().add((4, 5), pinned, OpOutcome::Absent).finds(ViolationKind::Unexpected);
    history()
        .add((4, 5), OpRequest::ReadVersion { version: 1 }, content(1, &["a"]))
        .read((6, 7), 2, &["b"])
        .has_no_violation();
    let two = start().append((2, 3), "b", 2).read((4, 5), 2, &["a", "b"]);
    two.add((6, 7), OpRequest::ReadVersion { version: 2 }, content(2, &["b", "a"])).finds(ViolationKind::Mixed);
}

#[test]
fn unexpected_error_codes_are_found() {
    start().put((2, 3), PutMode::Append, "b", refused("Internal")).finds(ViolationKind::Unexpected);
    start().put((2, 3), PutMode::Append, "b", refused("Unavailable")).has_no_violation();
    let again = start().put((2, 3), PutMode::Create, "b", OpOutcome::Done { version: 2 });
    again.finds(ViolationKind::NotLinearizable);
}

#[test]
fn two_writes_with_one_version_are_found() {
    let history = start().append((2, 3), "b", 2).append((2, 3), "c", 2);
    assert_eq!(history.kinds(), BTreeSet::from([ViolationKind::NotLinearizable]));
}

#[test]
fn many_concurrent_unknown_outcomes_are_checked_in_time() {
    let mut history = start();
    for k in 0..40u64 {
        history = history.put((2, 3), PutMode::Append, &format!("unknown{k}"), unknown());
        history = history.put((2, 3), PutMode::Replace, &format!("unseen{k}"), unknown());
    }
    for k in 0..60u64 {
        history = history.append((2, 1000), &format!("b{k}"), k + 2);
    }
    let all: Vec<String> = (0..60).map(|k| format!("b{k}")).collect();
    let writes: Vec<&str> = ["a"].into_iter().chain(all.iter().map(String::as_str)).collect();
    history.read((1001, 1002), 61, &writes).has_no_violation();
}

#[test]
fn read_pinned_before_a_drop_does_not_concern_the_next_table() {
    let was = TableContent { writes: vec!["a".into(), "b".into()], flaws: Vec::new() };
    start()
        .append((2, 3), "b", 2)
        .add((4, 5), OpRequest::Drop, OpOutcome::Done { version: 0 })
        .replace((6, 7), "c", 1)
        .add((8, 9), OpRequest::ReadPinned { was }, content(2, &["a", "b"]))
        .has_no_violation();
}

/// The answer of a query whose groups are in any order.
fn groups(version: u64, writes: &[&str]) -> OpOutcome {
    match content(version, writes) {
        OpOutcome::Content { version, content, .. } => OpOutcome::Content { version, ordered: false, content },
        other => other,
    }
}

#[test]
fn query_shows_what_a_read_must_show() {
    let sums = || OpRequest::Query { query: TableQuery::Sums { factor: 1 } };
    let history = || start().append((2, 3), "b", 2).read((4, 5), 2, &["a", "b"]);
    history().add((6, 7), sums(), groups(2, &["b", "a"])).read((8, 9), 2, &["a", "b"]).has_no_violation();
    history().add((6, 7), sums(), groups(2, &["b"])).finds(ViolationKind::Lost);
    history().add((6, 7), sums(), groups(1, &["a"])).finds(ViolationKind::Stale);
    history().add((6, 7), sums(), groups(2, &["a", "b", "c"])).finds(ViolationKind::Phantom);
    history().add((6, 7), sums(), OpOutcome::Absent).finds(ViolationKind::NotLinearizable);
    history().add((6, 7), sums(), refused("Unavailable")).has_no_violation();
    history().add((6, 7), sums(), refused("Internal")).finds(ViolationKind::Unexpected);
    // The order of groups means nothing, that of reads after it does.
    let read = start().append((2, 3), "b", 2).add((4, 5), sums(), groups(2, &["b", "a"])).read((6, 7), 2, &["a", "b"]);
    read.has_no_violation();
    let again = OpRequest::ReadVersion { version: 2 };
    read.add((8, 9), again, content(2, &["b", "a"])).finds(ViolationKind::Mixed);
}

#[test]
fn pinned_query_reads_the_dropped_table() {
    let was = TableContent { writes: vec!["a".into()], flaws: Vec::new() };
    let pinned = OpRequest::ReadPinned { was };
    let dropped = || start().add((2, 3), OpRequest::Drop, OpOutcome::Done { version: 0 }).replace((4, 5), "b", 1);
    dropped().add((6, 7), pinned.clone(), groups(1, &["a"])).has_no_violation();
    dropped().add((6, 7), pinned.clone(), groups(1, &["b"])).finds(ViolationKind::Mixed);
    dropped().add((6, 7), pinned, OpOutcome::Absent).finds(ViolationKind::Unexpected);
}
