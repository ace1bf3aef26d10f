//! Anomalies that a single answer reveals, independent of the order of the operations: lost, stale, torn, phantom and
//! other reads.

use std::collections::BTreeMap;

use super::{ChaosViolation, ViolationKind};
use crate::history::{ClientOperation, OpOutcome, OpRequest, PutMode};
use crate::rows::TableContent;

/// Codes that a client may see during a fault. Any other is a violation.
const EXPECTED_CODES: [&str; 6] =
    ["Unavailable", "DeadlineExceeded", "Aborted", "ResourceExhausted", "TimedOut", "FailedPrecondition"];

/// A put and what its client knows about it.
struct ObservedPut<'a> {
    operation: &'a ClientOperation,
    mode: PutMode,
    write: &'a str,
    /// The acknowledged version.
    version: Option<u64>,
    /// Whether it may have taken effect without an acknowledgement.
    unknown: bool,
}

/// What a read returned.
struct ObservedRead<'a> {
    operation: &'a ClientOperation,
    content: &'a TableContent,
    version: Option<u64>,
    ordered: bool,
    /// Whether it read the newest version, not a requested one.
    newest: bool,
}

/// Finds the anomalies in one table's operations.
pub fn find(operations: &[&ClientOperation]) -> Vec<ChaosViolation> {
    let puts: Vec<ObservedPut> = operations.iter().filter_map(|operation| put(operation)).collect();
    let reads: Vec<ObservedRead> = operations.iter().filter_map(|operation| read(operation)).collect();
    let drops: Vec<(u64, u64)> = operations.iter().filter_map(|operation| drop_time(operation)).collect();
    let mut found: Vec<ChaosViolation> = operations.iter().filter_map(|operation| unexpected(operation)).collect();
    for read in &reads {
        found.extend(flaws(read));
        found.extend(phantoms(read, &puts));
        found.extend(pinned(read));
        found.extend(stale(read, &puts, &drops));
        found.extend(lost(read, &puts, &drops));
    }
    if drops.is_empty() {
        found.extend(mixed(&reads));
    }
    found
}

fn put(operation: &ClientOperation) -> Option<ObservedPut<'_>> {
    let OpRequest::Put { mode, write, .. } = &operation.request else { return None };
    let version = match operation.outcome {
        OpOutcome::Done { version } => Some(version),
        _ => None,
    };
    let unknown = matches!(operation.outcome, OpOutcome::Unknown { .. });
    Some(ObservedPut { operation, mode: *mode, write, version, unknown })
}

fn read(operation: &ClientOperation) -> Option<ObservedRead<'_>> {
    let OpOutcome::Content { version, ordered, content } = &operation.outcome else { return None };
    let newest = matches!(operation.request, OpRequest::Read { .. } | OpRequest::Query { .. });
    Some(ObservedRead { operation, content, version: *version, ordered: *ordered, newest })
}

/// The time span in which a drop may have taken effect.
fn drop_time(operation: &ClientOperation) -> Option<(u64, u64)> {
    match (&operation.request, &operation.outcome) {
        (OpRequest::Drop, OpOutcome::Done { .. }) => Some((operation.begin, operation.end)),
        (OpRequest::Drop, OpOutcome::Unknown { .. }) => Some((operation.begin, u64::MAX)),
        _ => None,
    }
}

fn violation(
    kind: ViolationKind,
    operation: &ClientOperation,
    others: &[&ClientOperation],
    what: &str,
) -> ChaosViolation {
    let operations = std::iter::once(operation.id).chain(others.iter().map(|other| other.id)).collect();
    ChaosViolation { kind, what: format!("table {}: {what}", operation.table), operations }
}

fn unexpected(operation: &ClientOperation) -> Option<ChaosViolation> {
    let odd = match &operation.outcome {
        OpOutcome::Refused { code, message } | OpOutcome::Unknown { code, message }
            if !EXPECTED_CODES.contains(&&**code) =>
        {
            format!("{code}: {message}")
        }
        OpOutcome::Absent if matches!(operation.request, OpRequest::ReadPinned { .. }) => {
            "a FlightInfo expired too early".into()
        }
        _ => return None,
    };
    Some(violation(ViolationKind::Unexpected, operation, &[], &odd))
}

fn flaws<'a>(read: &'a ObservedRead) -> impl Iterator<Item = ChaosViolation> + 'a {
    read.content.flaws.iter().map(|flaw| {
        let kind = if flaw.starts_with("torn") { ViolationKind::Torn } else { ViolationKind::Corrupt };
        violation(kind, read.operation, &[], flaw)
    })
}

fn phantoms<'a>(read: &'a ObservedRead, puts: &'a [ObservedPut]) -> impl Iterator<Item = ChaosViolation> + 'a {
    read.content.writes.iter().filter_map(|write| {
        let what = match puts.iter().find(|put| put.write == write) {
            None => "was never sent".to_string(),
            Some(put) if put.operation.begin > read.operation.end => "is visible before it was sent".to_string(),
            Some(put) if put.version.is_none() && !put.unknown => format!("was refused: {:?}", put.operation.outcome),
            Some(_) => return None,
        };
        Some(violation(ViolationKind::Phantom, read.operation, &[], &format!("write {write} {what}")))
    })
}

fn pinned(read: &ObservedRead) -> Option<ChaosViolation> {
    let OpRequest::ReadPinned { was } = &read.operation.request else { return None };
    (!alike(was, read.content, read.ordered)).then(|| {
        let what = format!("a FlightInfo returned {:?}, and later {:?}", was.writes, read.content.writes);
        violation(ViolationKind::Mixed, read.operation, &[], &what)
    })
}

fn alike(one: &TableContent, other: &TableContent, ordered: bool) -> bool {
    if ordered {
        return one.writes == other.writes;
    }
    let sorted = |content: &TableContent| {
        let mut writes = content.writes.clone();
        writes.sort();
        writes
    };
    sorted(one) == sorted(other)
}

/// Whether a drop may have taken effect between two times.
fn dropped(drops: &[(u64, u64)], from: u64, to: u64) -> bool {
    drops.iter().any(|(begin, end)| *begin <= to && *end >= from)
}

fn stale(read: &ObservedRead, puts: &[ObservedPut], drops: &[(u64, u64)]) -> Option<ChaosViolation> {
    let version = read.version.filter(|_| read.newest)?;
    let newer = puts.iter().find(|put| {
        put.operation.end < read.operation.begin
            && put.version.is_some_and(|made| made > version)
            && !dropped(drops, put.operation.begin, read.operation.end)
    })?;
    let what = format!("a read returns version {version} after {:?} was acknowledged", newer.version);
    Some(violation(ViolationKind::Stale, read.operation, &[newer.operation], &what))
}

/// Acknowledged writes that a read must show and does not.
fn lost<'a>(
    read: &'a ObservedRead,
    puts: &'a [ObservedPut],
    drops: &'a [(u64, u64)],
) -> impl Iterator<Item = ChaosViolation> + 'a {
    // A version pinned before a drop does not belong to the table created after it.
    let current = read.newest || drops.is_empty();
    let due = move |put: &&ObservedPut| match (put.version, read.version) {
        (Some(made), Some(version)) => current && made <= version,
        (Some(_), None) => read.newest && put.operation.end < read.operation.begin,
        (None, _) => false,
    };
    let replaced = move |lost: &ObservedPut| {
        puts.iter().filter(|put| put.mode != PutMode::Append && put.write != lost.write).any(|put| match put.version {
            Some(version) => Some(version) > lost.version && read.version.is_none_or(|seen| version <= seen),
            None => put.unknown && put.operation.begin < read.operation.end,
        })
    };
    puts.iter().filter(due).filter_map(move |put| {
        let excused = read.content.writes.iter().any(|write| write == put.write)
            || replaced(put)
            || dropped(drops, put.operation.begin.min(read.operation.begin), read.operation.end.max(put.operation.end));
        let what = format!("write {}, acknowledged as version {:?}, is gone", put.write, put.version);
        (!excused).then(|| violation(ViolationKind::Lost, read.operation, &[put.operation], &what))
    })
}

/// Reads of one version that differ. Only for a table that was never dropped: a dropped table begins with version 1 again.
fn mixed(reads: &[ObservedRead]) -> Vec<ChaosViolation> {
    let mut first: BTreeMap<u64, &ObservedRead> = BTreeMap::new();
    let mut found = Vec::new();
    for read in reads {
        let Some(version) = read.version else { continue };
        let before = first.entry(version).or_insert(read);
        if !alike(before.content, read.content, before.ordered && read.ordered) {
            let what =
                format!("version {version} had the rows {:?} and {:?}", before.content.writes, read.content.writes);
            found.push(violation(ViolationKind::Mixed, read.operation, &[before.operation], &what));
        }
        // The order of later ones can be compared, too.
        if read.ordered && !before.ordered {
            *before = read;
        }
    }
    found
}
