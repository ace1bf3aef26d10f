//! The readable versions of a table: their sizes, times of creation and ends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use volley_common::wire::catalog::Table;

use crate::catalog::{Catalog, PartRow};

/// Maximum number of versions that one reply lists, the newest.
const MAX_LISTED: usize = 1000;

/// Rows, bytes and parts of a version.
type VersionSize = (i64, i64, i64);

/// The readable versions of a table as JSON, the newest first.
pub fn versions_json(catalog: &Catalog, table: &Table, now_ms: u64) -> Value {
    let readable = |version: &u64| catalog.is_readable(table, *version, now_ms);
    let oldest = table.oldest.max(1);
    let mut all = (oldest..=table.version).rev().filter(readable);
    let listed: BTreeSet<u64> = all.by_ref().take(MAX_LISTED).collect();
    let (sizes, writes) = (sizes(catalog, table, &listed), writes(catalog, table));
    let times = times(catalog, table, &writes, &listed);
    let one = |version: &u64| {
        let (rows, bytes, parts) = sizes.get(version).copied().unwrap_or_default();
        let (until_ms, pinned) = kept_until(table, *version, now_ms);
        json!({
            "version": version,
            "made_ms": times.get(version),
            "rows": rows,
            "bytes": bytes,
            "parts": parts,
            "until_ms": until_ms,
            "pinned": pinned,
            "replaced_by": replaced_by_json(table, &writes, *version),
        })
    };
    json!({
        "table": table.name.join("/"),
        "newest": table.version,
        "versions": listed.iter().rev().map(one).collect::<Vec<_>>(),
        "more": all.count(),
    })
}

/// What replaced a version, if anything did: the version that has not all of its parts any more, or a later one if the
/// table is replaced very often.
fn replaced_by_json(table: &Table, writes: &BTreeMap<u64, &str>, version: u64) -> Option<Value> {
    let end = table.replaced.iter().find(|end| end.version > version)?;
    let kind = match end {
        end if end.compaction => "compaction",
        end if end.restored != 0 => "restore",
        end if table.dropped_ms != 0 && end.version > table.version => "drop",
        _ => "replace",
    };
    Some(json!({
        "version": end.version,
        "kind": kind,
        "restored": Some(end.restored).filter(|version| *version != 0),
        "write": writes.get(&end.version),
        "at_ms": Some(end.at_ms).filter(|at| *at != 0),
    }))
}

/// Until when a version is kept (`None` while none of its parts is replaced), and whether a pin keeps it.
fn kept_until(table: &Table, version: u64, now_ms: u64) -> (Option<u64>, bool) {
    let pins = table.pins.iter().filter(|pin| pin.version == version && pin.until_ms >= now_ms);
    let pin = pins.map(|pin| pin.until_ms).max();
    let end = table.replaced.iter().find(|replaced| replaced.version > version);
    (end.map(|end| end.until_ms.max(pin.unwrap_or(0))), pin.is_some())
}

/// The sizes of some versions, summed up from the parts that each version added and removed.
fn sizes(catalog: &Catalog, table: &Table, versions: &BTreeSet<u64>) -> BTreeMap<u64, VersionSize> {
    let mut changes: BTreeMap<u64, VersionSize> = BTreeMap::new();
    let mut change = |version: u64, sign: i64, part: &PartRow| {
        let sum = changes.entry(version).or_default();
        *sum = (sum.0 + sign * part.rows as i64, sum.1 + sign * part.bytes as i64, sum.2 + sign);
    };
    for part in catalog.all_parts_of(table.id) {
        change(part.added, 1, part);
        if part.removed != 0 {
            change(part.removed, -1, part);
        }
        for absence in part.absences() {
            change(absence.from, -1, part);
            change(absence.until, 1, part);
        }
    }
    let mut changes = changes.into_iter().peekable();
    let mut sum = VersionSize::default();
    let size_at = |version: &u64| {
        while let Some((_, change)) = changes.next_if(|(changed, _)| changed <= version) {
            sum = (sum.0 + change.0, sum.1 + change.1, sum.2 + change.2);
        }
        (*version, sum)
    };
    versions.iter().map(size_at).collect()
}

/// The write that made each version, as far as its parts are kept.
fn writes<'a>(catalog: &'a Catalog, table: &Table) -> BTreeMap<u64, &'a str> {
    let parts = catalog.all_parts_of(table.id).filter(|part| !part.write.is_empty());
    parts.map(|part| (part.added, &*part.write)).collect()
}

/// When versions were created, as far as the writes that made them are remembered, or what they replaced is.
fn times(
    catalog: &Catalog,
    table: &Table,
    writes: &BTreeMap<u64, &str>,
    versions: &BTreeSet<u64>,
) -> BTreeMap<u64, u64> {
    let ended = |id: &str| catalog.write(id).map(|write| write.ended_ms).filter(|ended| *ended > 0);
    let made = writes.iter().filter(|(version, _)| versions.contains(version));
    let mut times: BTreeMap<u64, u64> = made.filter_map(|(version, id)| Some((*version, ended(id)?))).collect();
    for end in table.replaced.iter().filter(|end| end.at_ms != 0) {
        times.entry(end.version).or_insert(end.at_ms);
    }
    times.entry(table.version).or_insert(table.changed_ms);
    times
}
