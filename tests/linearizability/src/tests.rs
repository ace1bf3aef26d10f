//! Histories of a register that holds a number, and of a counter.

use super::*;

#[derive(Clone, Debug)]
enum RegisterOperation {
    Write(u64),
    /// Adds, and answers nothing.
    Add(u64),
    Read(u64),
}

use RegisterOperation::{Add, Read, Write};

impl Operation for RegisterOperation {
    type State = u64;

    fn apply(&self, state: &u64) -> Option<u64> {
        match self {
            Write(value) => Some(*value),
            Add(by) => Some(state + by),
            Read(value) => (value == state).then_some(*state),
        }
    }
}

fn timed(invoked: u64, returned: u64, operation: RegisterOperation) -> TimedOperation<RegisterOperation> {
    TimedOperation { invoked, returned: Some(returned), operation }
}

fn unknown(invoked: u64, operation: RegisterOperation) -> TimedOperation<RegisterOperation> {
    TimedOperation { invoked, returned: None, operation }
}

fn is_ok(history: &[TimedOperation<RegisterOperation>]) -> bool {
    match check(history, 1_000_000) {
        CheckResult::Ok => true,
        CheckResult::Illegal(_) => false,
        CheckResult::Unknown => panic!("the search was stopped"),
    }
}

#[test]
fn empty_history_is_ok() {
    assert!(is_ok(&[]));
}

#[test]
fn read_after_write_sees_it_and_nothing_older() {
    assert!(is_ok(&[timed(0, 1, Write(7)), timed(2, 3, Read(7))]));
    assert!(!is_ok(&[timed(0, 1, Write(7)), timed(2, 3, Read(0))]));
    assert!(!is_ok(&[timed(0, 1, Write(7)), timed(2, 3, Read(8))]));
}

#[test]
fn concurrent_read_sees_either_value() {
    for value in [0, 7] {
        assert!(is_ok(&[timed(0, 9, Write(7)), timed(2, 3, Read(value))]));
    }
    assert!(!is_ok(&[timed(0, 9, Write(7)), timed(2, 3, Read(8))]));
}

#[test]
fn two_reads_during_a_write_do_not_go_back() {
    assert!(is_ok(&[timed(0, 9, Write(7)), timed(2, 3, Read(0)), timed(4, 5, Read(7))]));
    assert!(!is_ok(&[timed(0, 9, Write(7)), timed(2, 3, Read(7)), timed(4, 5, Read(0))]));
}

#[test]
fn operations_that_touch_in_time_are_concurrent() {
    assert!(is_ok(&[timed(0, 1, Write(7)), timed(1, 2, Read(0))]));
    assert!(!is_ok(&[timed(0, 1, Write(7)), timed(2, 3, Read(0))]));
}

#[test]
fn concurrent_writes_take_any_order_but_one() {
    let writes = || vec![timed(0, 9, Write(1)), timed(0, 9, Write(2))];
    let with =
        |reads: [u64; 2]| [writes(), vec![timed(10, 11, Read(reads[0])), timed(12, 13, Read(reads[1]))]].concat();
    assert!(is_ok(&with([1, 1])));
    assert!(is_ok(&with([2, 2])));
    assert!(!is_ok(&with([1, 2])));
}

#[test]
fn operation_takes_effect_once() {
    assert!(is_ok(&[timed(0, 1, Add(5)), timed(2, 3, Read(5))]));
    assert!(!is_ok(&[timed(0, 1, Add(5)), timed(2, 3, Read(10))]));
}

#[test]
fn unknown_outcome_may_take_effect_late_or_never() {
    assert!(is_ok(&[unknown(0, Write(7)), timed(2, 3, Read(0)), timed(4, 5, Read(0))]));
    assert!(is_ok(&[unknown(0, Write(7)), timed(2, 3, Read(0)), timed(4, 5, Read(7))]));
    assert!(!is_ok(&[timed(2, 3, Read(7)), unknown(4, Write(7))]), "not before it is invoked");
}

#[test]
fn unknown_outcome_that_took_effect_is_not_undone() {
    assert!(is_ok(&[unknown(0, Write(7)), timed(2, 3, Read(7)), timed(4, 5, Read(7))]));
    assert!(!is_ok(&[unknown(0, Write(7)), timed(2, 3, Read(7)), timed(4, 5, Read(0))]));
}

#[test]
fn operations_come_in_any_order_of_time() {
    assert!(is_ok(&[timed(4, 5, Read(7)), timed(0, 1, Write(6)), timed(2, 3, Write(7))]));
    assert!(!is_ok(&[timed(4, 5, Read(6)), timed(0, 1, Write(6)), timed(2, 3, Write(7))]));
}

#[test]
fn illegal_result_names_the_operation_that_fits_nowhere() {
    let history = [timed(0, 1, Write(7)), timed(2, 3, Read(7)), timed(4, 5, Read(8)), unknown(4, Add(2))];
    assert_eq!(check(&history, 1_000_000), CheckResult::Illegal(vec![2]));
}

#[test]
fn more_than_64_operations_are_told_apart() {
    let mut history: Vec<_> = (0..200).map(|at| timed(2 * at, 2 * at + 1, Add(1))).collect();
    history.push(timed(400, 401, Read(200)));
    assert!(is_ok(&history));
    history.push(timed(402, 403, Read(199)));
    assert!(!is_ok(&history));
}

#[test]
fn search_over_too_many_states_is_unknown() {
    let mut history: Vec<_> = (0..20).map(|at| timed(0, 9, Add(1 << at))).collect();
    history.push(timed(10, 11, Read(0)));
    assert_eq!(check(&history, 1000), CheckResult::Unknown);
    history.truncate(3);
    assert_eq!(check(&history, 1000), CheckResult::Ok);
}
