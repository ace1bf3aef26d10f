//! Random commands: replaying the log, or only its row changes, gives the same rows.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CancelFlight, Clear, Command, CommitWrite, CreateTable, DropTable, FormCluster,
    HolderChange, PinVersion, RenewWrite, RestoreVersion, Row, StageParts, TableSpec, UpdateHolders, Write, WriteMode,
    row,
};
use volley_common::{NodeId, PartId, TableName};

use super::helpers::*;
use super::identity::{check_identity, random_identity_op};
use crate::catalog::rows::sort_key_of;
use crate::catalog::{Catalog, Change, RowKey, SortKey, TableUsage};

fn random_op(random: &mut StdRng) -> Op {
    let table = ["a", "b", "c/d"][random.random_range(0..3)];
    let write = format!("w{}", random.random_range(0..12));
    let mode = [WriteMode::Replace, WriteMode::Create, WriteMode::Append][random.random_range(0..3)];
    let parts: Vec<u128> = (0..random.random_range(0..4)).map(|_| random.random_range(1..1 << 40)).collect();
    let attempt = random.random_range(1..3);
    match random.random_range(0..24) {
        0..=4 => {
            let query_result = mode == WriteMode::Create && attempt == 2 && parts.len() == 3;
            Op::BeginWrite(BeginWrite { attempt, query_result, ..begin(&write, table, mode) })
        }
        5 => Op::BeginWrite(BeginWrite { fenced: write == "w0", ..staged(&write, table) }),
        6..=9 => Op::StageParts(stage(&write, random.random_range(0..9), &parts)),
        10..=14 => Op::CommitWrite(CommitWrite { attempt, ..commit(&write, &parts) }),
        15 => Op::AbortWrite(AbortWrite { write, attempt: 0, ..AbortWrite::default() }),
        16 => Op::CreateTable(CreateTable {
            table: name(table),
            // Some expire.
            spec: Some(TableSpec { ttl_ms: if attempt == 2 { 300 } else { 0 }, ..spec() }),
            schema: schema(),
            ..CreateTable::default()
        }),
        17 => Op::DropTable(DropTable { table: name(table) }),
        18 => Op::PinVersion(PinVersion {
            table: random.random_range(1..9),
            version: random.random_range(1..5),
            until_ms: 1_009_000,
        }),
        19 => Op::Expire(keep(800)),
        20 => node(random.random_range(1..3), random.random_range(11..13)),
        21 => Op::RenewWrite(RenewWrite { write, lease_ms: LEASE }),
        22 if random.random_bool(0.1) => Op::Clear(Clear {}),
        22 => Op::CancelFlight(CancelFlight { flight: random.random_range(0..5), until_ms: 1_005_000 }),
        _ => Op::FormCluster(FormCluster { id: "c".into(), ..FormCluster::default() }),
    }
}

/// A command of one of a few transactions.
fn random_transaction_op(catalog: &Catalog, random: &mut StdRng, now_ms: u64) -> Op {
    let id = transaction(random.random_range(0..6), now_ms / 1000 * 1000);
    let table = ["a", "b", "c/d"][random.random_range(0..3)];
    let mode = [WriteMode::Replace, WriteMode::Create, WriteMode::Append][random.random_range(0..3)];
    match random.random_range(0..8) {
        0..3 => Op::BeginWrite(BeginWrite { attempt: random.random_range(0..2), ..begin_in(&id, table, mode) }),
        3..6 => {
            let parts: Vec<u128> = (0..random.random_range(0..3)).map(|_| random.random_range(1..1 << 40)).collect();
            let stage = stage_in(&id, table, random.random_range(0..9), &parts);
            let attempt = catalog.write(&stage.write).map_or(0, |write| write.attempt);
            Op::StageParts(StageParts { attempt, only_first: random.random_bool(0.3), ..stage })
        }
        _ => end(&id, random.random_bool(0.8)),
    }
}

/// The commit of an open write, by its latest attempt. Few are of a transaction's writes, because those are refused.
fn random_commit(catalog: &Catalog, random: &mut StdRng) -> Op {
    let of_any = random.random_bool(0.1);
    let open: Vec<&Write> = catalog.open_writes().filter(|write| of_any || write.transaction.is_empty()).collect();
    let Some(write) = open.get(random.random_range(0..12)) else { return random_op(random) };
    if write.mode() == WriteMode::Compact {
        let sources: Vec<_> = write.sources.iter().filter_map(|id| catalog.part(id.into())).collect();
        let (shard, rows) =
            (sources.first().map_or(0, |part| part.shard), sources.iter().map(|part| part.rows).sum::<u64>());
        return Op::CommitWrite(compacted(&write.id, &[(random.random_range(1..1 << 40), rows / 10)], shard));
    }
    let parts: Vec<u128> = (0..random.random_range(0..4)).map(|_| random.random_range(1..1 << 40)).collect();
    Op::CommitWrite(CommitWrite { attempt: write.attempt, ..commit(&write.id, &parts) })
}

/// A compaction of some parts, adjacent or not.
fn random_compaction(catalog: &Catalog, random: &mut StdRng) -> Op {
    let tables: Vec<_> = catalog.tables().collect();
    let Some(table) = tables.get(random.random_range(0..3)) else { return random_op(random) };
    let mut parts: Vec<u128> = catalog.part_rows_at(table.id, table.version).map(|part| part.part_id().0).collect();
    parts.retain(|_| random.random_bool(0.9));
    parts.truncate(random.random_range(2..6));
    let write = format!("m{}", random.random_range(0..9));
    let boot = catalog.node(NodeId(1)).map_or(0, |node| node.boot);
    Op::BeginWrite(BeginWrite { writer_boot: boot, ..compact(&write, table, &parts) })
}

/// A restoration of some version, of a table that exists or was dropped.
fn random_restoration(catalog: &Catalog, random: &mut StdRng, now_ms: u64) -> Op {
    let name = name(["a", "b", "c/d"][random.random_range(0..3)]);
    let found = catalog.tables().find(|table| table.name == name).or_else(|| catalog.dropped_table(&name, now_ms));
    let (table_id, base_version) = found.map_or((0, 0), |table| (table.id, table.version));
    let version = base_version.saturating_sub(random.random_range(0..4));
    Op::RestoreVersion(RestoreVersion { table: name, version, table_id, base_version, placement: Vec::new() })
}

/// Holder changes of existing parts.
fn random_holders(catalog: &Catalog, random: &mut StdRng) -> Op {
    let some =
        catalog.all_parts().filter(|_| random.random_bool(0.3)).map(|part| part.part_id()).collect::<Vec<PartId>>();
    let change = |part: PartId| HolderChange {
        part: Some(part.into()),
        node: random.random_range(1..4),
        held: random.random_bool(0.5),
    };
    Op::UpdateHolders(UpdateHolders { changes: some.into_iter().map(change).collect() })
}

fn follow(follower: &mut Catalog, changes: Vec<Change>) {
    for change in changes {
        let key = RowKey::from_bytes(&change.key.to_bytes()).unwrap();
        assert_eq!(key, change.key);
        match change.row {
            Some(row) => follower.insert_row(row),
            None => follower.remove_row(&key),
        }
    }
}

fn rows(catalog: &Catalog) -> Vec<Row> {
    catalog.rows().collect()
}

/// Checks that totals agree with parts, names with tables, and the remaining parts with the readable versions.
fn check(catalog: &Catalog, now: u64) {
    check_identity(catalog);
    for table in catalog.tables() {
        let parts = catalog.parts_at(table.id, table.version);
        assert_eq!(table.rows, parts.iter().map(|part| part.rows).sum::<u64>());
        assert!(parts.iter().map(sort_key_of).is_sorted());
        let name = TableName::from_components(&table.name).unwrap();
        assert_eq!(catalog.table_named(&name).map(|t| t.id), Some(table.id));
    }
    let mut placed = BTreeMap::<NodeId, u64>::new();
    for node in catalog.tables().flat_map(|table| &table.placement).flat_map(|shard| &shard.nodes) {
        *placed.entry(NodeId(*node)).or_default() += 1;
    }
    assert_eq!(catalog.placed_replicas(), &placed);
    let mut usage = TableUsage::default();
    catalog.all_tables().for_each(|table| usage += TableUsage::of_table(table));
    usage.schema_bytes += catalog.layouts.values().map(|layout| layout.schema.len() as u64).sum::<u64>();
    assert_eq!(catalog.table_usage(), usage);
    for part in catalog.all_parts() {
        assert!(catalog.table(part.table).is_some(), "part {} of no table", part.part_id());
        assert!(catalog.part(part.part_id()) == Some(part));
    }
    for write in catalog.open_writes().filter(|write| !write.transaction.is_empty()) {
        let open = catalog.transactions.get(&write.transaction).unwrap();
        assert!(open.writes.contains(&write.id), "{open:?}");
    }
    for open in catalog.transactions.values() {
        assert_eq!(catalog.writes_of(open).count(), open.writes.len(), "{open:?}");
    }
    for table in catalog.all_tables() {
        for version in (1..=table.version).filter(|v| catalog.readable_version(table, Some(*v), now).is_ok()) {
            assert!(catalog.parts_at(table.id, version).iter().all(|part| part.removed == 0 || part.removed > version));
        }
        let layouts = table.replaced.iter().map(|end| end.layout).filter(|id| *id != 0);
        assert!(layouts.into_iter().all(|id| catalog.layouts.contains_key(&(table.id, id))));
    }
}

#[test]
fn replayed_commands_and_changes_give_the_same_rows() {
    let (mut answers, mut refusals, mut compactions, mut restorations, mut epochs) = (0, 0, 0, 0, 0);
    let (mut transactions, mut expirations) = (0, 0);
    for seed in 0..75 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut of_identities = StdRng::seed_from_u64(1000 + seed);
        let mut of_transactions = StdRng::seed_from_u64(2000 + seed);
        let (mut first, mut again, mut follower) = (Catalog::default(), Catalog::default(), Catalog::default());
        let mut now_ms = 1_000_000;
        for step in 0..300 {
            now_ms += random.random_range(0..60);
            let op = match step {
                0 => Op::FormCluster(FormCluster { id: "c".into(), ..FormCluster::default() }),
                _ if step % 7 == 0 => random_holders(&first, &mut random),
                _ if step % 13 == 0 => random_restoration(&first, &mut random, now_ms),
                _ if step % 11 == 0 => random_compaction(&first, &mut random),
                _ if step % 3 == 0 => random_commit(&first, &mut random),
                _ => random_op(&mut random),
            };
            let expires = matches!(op, Op::Expire(_)) && !first.needs_expiry(now_ms, &keep(800));
            let command = Command { now_ms, op: Some(op) };
            let before = expires.then(|| rows(&first));
            let reply = first.apply(&command);
            assert_eq!(reply, again.apply(&command));
            answers += usize::from(matches!(reply.reply, Some(Answer::Outcome(_))));
            restorations += usize::from(matches!(reply.reply, Some(Answer::Restored(_))));
            expirations += usize::from(matches!(reply.reply, Some(Answer::Expired(_))));
            compactions += first.all_parts().filter(|part| part.sort_key().generation > 0).count();
            refusals += usize::from(matches!(reply.reply, Some(Answer::Refusal(_))));
            if let Some(before) = before {
                let timeless = |rows: Vec<Row>| {
                    let is_clock = |row: &Row| matches!(row.row, Some(row::Row::Clock(_)));
                    rows.into_iter().filter(|row| !is_clock(row)).collect::<Vec<_>>()
                };
                assert!(
                    timeless(before) == timeless(rows(&first)),
                    "seed {seed}, step {step}: unneeded expiry changed something"
                );
            }
            if step > 0 {
                let command = Command { now_ms, op: Some(random_identity_op(&mut of_identities, now_ms)) };
                let epoch = first.identity_epoch();
                assert_eq!(first.apply(&command), again.apply(&command));
                assert!((epoch..=epoch + 1).contains(&first.identity_epoch()), "one step for each change");
                epochs += first.identity_epoch() - epoch;
            }
            if step > 0 && step % 2 == 0 {
                let op = random_transaction_op(&first, &mut of_transactions, now_ms);
                let command = Command { now_ms, op: Some(op) };
                let reply = first.apply(&command);
                assert_eq!(reply, again.apply(&command));
                transactions += usize::from(matches!(reply.reply, Some(Answer::Transaction(_))));
            }
            follow(&mut follower, first.take_changes());
            check(&first, now_ms);
        }
        assert!(first.identity_snapshot() == follower.identity_snapshot(), "seed {seed}");
        assert!(rows(&first) == rows(&again) && rows(&first) == rows(&follower), "seed {seed}");
        let mut loaded = Catalog::default();
        rows(&first).into_iter().for_each(|row| loaded.insert_row(row));
        assert!(rows(&first) == rows(&loaded), "seed {seed}");
        assert!(loaded.take_changes().is_empty());
        let later = now_ms + 100_000;
        let end = Command { now_ms: later, op: Some(Op::Expire(keep(800))) };
        for catalog in [&mut first, &mut follower, &mut loaded] {
            catalog.apply(&end);
            assert!(!catalog.needs_expiry(later, &keep(800)), "seed {seed}");
        }
        assert!(rows(&first) == rows(&follower) && rows(&first) == rows(&loaded), "seed {seed}");
    }
    // The mix of commands exercises every kind often enough.
    assert!(
        answers > 1000 && refusals > 1000 && compactions > 1000 && restorations > 100,
        "{answers} commits, {refusals} refusals, {compactions} compactions, {restorations} restorations"
    );
    assert!(epochs > 1000, "{epochs} changes of identities");
    assert!(transactions > 200, "{transactions} ends of transactions");
    assert!(expirations > 0, "no table expired");
}

#[test]
fn row_keys_sort_as_their_bytes_and_reject_garbage() {
    let compacted =
        |table, added, seq, generation| RowKey::Part { table, sort_key: SortKey { added, seq, generation } };
    let part = |table, added, seq| compacted(table, added, seq, 0);
    let staged = |write: &str, index| RowKey::StagedStream { write: write.into(), index };
    let prefix = |prefix: &[&str]| prefix.iter().map(ToString::to_string).collect::<Vec<_>>();
    let grant = |to: &str, role, on: &[&str]| RowKey::Grant { to: to.into(), role, prefix: prefix(on) };
    let quota = |on: &[&str]| RowKey::Quota(prefix(on));
    let keys = [
        RowKey::Cluster,
        RowKey::Node(1),
        RowKey::Node(256),
        RowKey::Table(2),
        part(1, 2, 3),
        compacted(1, 2, 3, 1),
        compacted(1, 2, 3, 256),
        part(1, 2, 4),
        part(1, 2, 300),
        part(1, 256, 0),
        part(2, 0, 0),
        RowKey::Write("a".into()),
        RowKey::Write("ab".into()),
        RowKey::Write("b".into()),
        RowKey::Cancelled(u64::MAX),
        staged("a", 1),
        staged("a", 256),
        staged("ab", 0),
        RowKey::Layout { table: 1, id: u64::MAX },
        RowKey::Layout { table: 2, id: 0 },
        RowKey::Clock,
        RowKey::User("a".into()),
        RowKey::User("ab".into()),
        RowKey::Token("0123456789abcdef".into()),
        grant("group:a", 1, &[]),
        grant("group:a", 1, &["b"]),
        grant("group:a", 1, &["b", "c"]),
        grant("group:a", 1, &["bc"]),
        grant("group:a", 256, &[]),
        grant("group:ab", 0, &["b"]),
        grant("user:a", 5, &[]),
        RowKey::SigningKey("k".into()),
        quota(&[]),
        quota(&["a"]),
        quota(&["a", "b"]),
        quota(&["a b"]),
        quota(&["ab"]),
        RowKey::Identity,
        RowKey::Transaction("tx1".into()),
        RowKey::Transaction("tx12".into()),
    ];
    assert!(keys.is_sorted());
    assert!(keys.iter().map(RowKey::to_bytes).collect::<Vec<_>>().is_sorted());
    for key in &keys {
        assert_eq!(RowKey::from_bytes(&key.to_bytes()).as_ref(), Some(key));
    }
    for garbage in [
        &b""[..],
        b"\x09",
        b"\x06a12345678",
        b"\x08x",
        b"\x00x",
        b"\x01short",
        b"\x03123456789",
        &[3; 27],
        &[&[3; 25][..], &[0; 4]].concat(),
        b"\x04\xff",
        b"\x0a",
        b"\x0buser:a",
        b"\x0buser:a\0\0\0\0",
        b"\x0buser:a\0\0\0\0\x01no end",
        b"\x0b\xff\0\0\0\0\x01",
        b"\x0c",
        b"\x0dno end",
        b"\x0d\xff\0",
        b"\x0ex",
        b"\x0f",
        b"\x0f\xff",
        b"\x10",
    ] {
        assert_eq!(RowKey::from_bytes(garbage), None);
    }
}
