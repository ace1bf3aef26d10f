//! Single things that no order of operations can excuse.

use std::collections::BTreeMap;

use super::{Kind, Violation};
use crate::history::{Ask, Event, Outcome, PutMode};
use crate::rows::Content;

/// Codes that say: try again, or somebody was first. Any other is no answer to a fault.
const HONEST: [&str; 6] =
    ["Unavailable", "DeadlineExceeded", "Aborted", "ResourceExhausted", "TimedOut", "FailedPrecondition"];

/// A put, with what is known of it.
struct Put<'a> {
    event: &'a Event,
    mode: PutMode,
    write: &'a str,
    /// The version that was acknowledged.
    version: Option<u64>,
    /// It may yet have taken effect.
    unknown: bool,
}

/// What a read gave.
struct Read<'a> {
    event: &'a Event,
    content: &'a Content,
    version: Option<u64>,
    ordered: bool,
    /// Of the newest version, not of one that was asked for.
    newest: bool,
}

/// Judges one table's events.
pub fn judge(events: &[&Event]) -> Vec<Violation> {
    let puts: Vec<Put> = events.iter().filter_map(|event| put(event)).collect();
    let reads: Vec<Read> = events.iter().filter_map(|event| read(event)).collect();
    let drops: Vec<(u64, u64)> = events.iter().filter_map(|event| drop_time(event)).collect();
    let mut found: Vec<Violation> = events.iter().filter_map(|event| unexpected(event)).collect();
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

fn put(event: &Event) -> Option<Put<'_>> {
    let Ask::Put { mode, write, .. } = &event.ask else { return None };
    let version = match event.outcome {
        Outcome::Done { version } => Some(version),
        _ => None,
    };
    let unknown = matches!(event.outcome, Outcome::Unknown { .. });
    Some(Put { event, mode: *mode, write, version, unknown })
}

fn read(event: &Event) -> Option<Read<'_>> {
    let Outcome::Content { version, ordered, content } = &event.outcome else { return None };
    let newest = matches!(event.ask, Ask::Read { .. });
    Some(Read { event, content, version: *version, ordered: *ordered, newest })
}

/// From when to when a drop may have taken effect.
fn drop_time(event: &Event) -> Option<(u64, u64)> {
    match (&event.ask, &event.outcome) {
        (Ask::Drop, Outcome::Done { .. }) => Some((event.begin, event.end)),
        (Ask::Drop, Outcome::Unknown { .. }) => Some((event.begin, u64::MAX)),
        _ => None,
    }
}

fn violation(kind: Kind, event: &Event, others: &[&Event], what: &str) -> Violation {
    let events = std::iter::once(event.id).chain(others.iter().map(|other| other.id)).collect();
    Violation { kind, what: format!("table {}: {what}", event.table), events }
}

fn unexpected(event: &Event) -> Option<Violation> {
    let odd = match &event.outcome {
        Outcome::Refused { code, message } | Outcome::Unknown { code, message } if !HONEST.contains(&&**code) => {
            format!("{code}: {message}")
        }
        Outcome::Absent if matches!(event.ask, Ask::Pinned { .. }) => "a FlightInfo expired before its time".into(),
        _ => return None,
    };
    Some(violation(Kind::Unexpected, event, &[], &odd))
}

fn flaws<'a>(read: &'a Read) -> impl Iterator<Item = Violation> + 'a {
    read.content.flaws.iter().map(|flaw| {
        let kind = if flaw.starts_with("torn") { Kind::Torn } else { Kind::Corrupt };
        violation(kind, read.event, &[], flaw)
    })
}

fn phantoms<'a>(read: &'a Read, puts: &'a [Put]) -> impl Iterator<Item = Violation> + 'a {
    read.content.writes.iter().filter_map(|write| {
        let what = match puts.iter().find(|put| put.write == write) {
            None => "was never asked for".to_string(),
            Some(put) if put.event.begin > read.event.end => "is visible before it was asked for".to_string(),
            Some(put) if put.version.is_none() && !put.unknown => format!("was refused: {:?}", put.event.outcome),
            Some(_) => return None,
        };
        Some(violation(Kind::Phantom, read.event, &[], &format!("write {write} {what}")))
    })
}

fn pinned(read: &Read) -> Option<Violation> {
    let Ask::Pinned { was } = &read.event.ask else { return None };
    (!alike(was, read.content, read.ordered)).then(|| {
        let what = format!("a FlightInfo gave {:?}, and later {:?}", was.writes, read.content.writes);
        violation(Kind::Mixed, read.event, &[], &what)
    })
}

fn alike(one: &Content, other: &Content, ordered: bool) -> bool {
    if ordered {
        return one.writes == other.writes;
    }
    let sorted = |content: &Content| {
        let mut writes = content.writes.clone();
        writes.sort();
        writes
    };
    sorted(one) == sorted(other)
}

/// Whether a drop may have come between two times.
fn dropped(drops: &[(u64, u64)], from: u64, to: u64) -> bool {
    drops.iter().any(|(begin, end)| *begin <= to && *end >= from)
}

fn stale(read: &Read, puts: &[Put], drops: &[(u64, u64)]) -> Option<Violation> {
    let version = read.version.filter(|_| read.newest)?;
    let newer = puts.iter().find(|put| {
        put.event.end < read.event.begin
            && put.version.is_some_and(|made| made > version)
            && !dropped(drops, put.event.begin, read.event.end)
    })?;
    let what = format!("a read gives version {version} after {:?} was acknowledged", newer.version);
    Some(violation(Kind::Stale, read.event, &[newer.event], &what))
}

/// Acknowledged writes that a read should show, and does not.
fn lost<'a>(read: &'a Read, puts: &'a [Put], drops: &'a [(u64, u64)]) -> impl Iterator<Item = Violation> + 'a {
    // What was pinned before a drop says nothing of the table that was made afterwards.
    let current = read.newest || drops.is_empty();
    let due = move |put: &&Put| match (put.version, read.version) {
        (Some(made), Some(version)) => current && made <= version,
        (Some(_), None) => read.newest && put.event.end < read.event.begin,
        (None, _) => false,
    };
    let replaced = move |lost: &Put| {
        puts.iter().filter(|put| put.mode != PutMode::Append && put.write != lost.write).any(|put| match put.version {
            Some(version) => Some(version) > lost.version && read.version.is_none_or(|seen| version <= seen),
            None => put.unknown && put.event.begin < read.event.end,
        })
    };
    puts.iter().filter(due).filter_map(move |put| {
        let excused = read.content.writes.iter().any(|write| write == put.write)
            || replaced(put)
            || dropped(drops, put.event.begin.min(read.event.begin), read.event.end.max(put.event.end));
        let what = format!("write {}, acknowledged as version {:?}, is gone", put.write, put.version);
        (!excused).then(|| violation(Kind::Lost, read.event, &[put.event], &what))
    })
}

/// One version, always the same rows. Only for a table that was never dropped: its versions begin anew.
fn mixed(reads: &[Read]) -> Vec<Violation> {
    let mut first: BTreeMap<u64, &Read> = BTreeMap::new();
    let mut found = Vec::new();
    for read in reads {
        let Some(version) = read.version else { continue };
        let before = first.entry(version).or_insert(read);
        if !alike(before.content, read.content, read.ordered) {
            let what = format!("version {version} gave {:?} and {:?}", before.content.writes, read.content.writes);
            found.push(violation(Kind::Mixed, read.event, &[before.event], &what));
        }
    }
    found
}
