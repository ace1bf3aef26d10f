//! Short forms of commands, and a catalog to apply them to.

use bytes::Bytes;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{
    BeginWrite, Command, CommitWrite, DropTable, EndTransaction, Expire, FormCluster, Node, Part, RegisterNode,
    ShardPlacement, StageParts, Table, TableSpec, Transaction, Write, WriteMode, WriteOutcome,
};
use volley_common::{Code, PartId, TransactionId};

use crate::catalog::Catalog;

pub const RETENTION: u64 = 1000;
pub const LEASE: u64 = 500;

pub fn name(text: &str) -> Vec<String> {
    text.split('/').map(str::to_string).collect()
}

pub fn spec() -> TableSpec {
    TableSpec { shards: 4, replicas: 2, min_copies: 1, retention_ms: RETENTION, ..TableSpec::default() }
}

pub fn schema() -> Bytes {
    Bytes::from_static(b"schema a")
}

pub fn part(id: u128) -> Part {
    Part {
        id: Some(PartId(id).into()),
        shard: (id % 4) as u32,
        rows: 10,
        bytes: 100,
        crc32c: 7,
        holders: vec![1, 2],
        // Some as nodes of an earlier version report them.
        statistics: if id.is_multiple_of(3) { Bytes::new() } else { format!("bounds of {id}").into() },
        ..Part::default()
    }
}

pub fn begin(id: &str, table: &str, mode: WriteMode) -> BeginWrite {
    BeginWrite {
        id: id.into(),
        table: name(table),
        mode: mode as i32,
        spec: Some(spec()),
        schema: schema(),
        placement: vec![ShardPlacement { nodes: vec![1, 2] }; 4],
        writer: 1,
        writer_boot: 11,
        attempt: 1,
        lease_ms: LEASE,
        ..BeginWrite::default()
    }
}

pub fn staged(id: &str, table: &str) -> BeginWrite {
    BeginWrite {
        staged: true,
        schema: Bytes::new(),
        writer: 0,
        writer_boot: 0,
        attempt: 0,
        ..begin(id, table, WriteMode::Replace)
    }
}

pub fn commit(id: &str, parts: &[u128]) -> CommitWrite {
    let parts = parts.iter().enumerate().map(|(seq, id)| Part { seq: seq as u64, ..part(*id) });
    CommitWrite { write: id.into(), parts: parts.collect(), attempt: 1 }
}

pub fn stage(id: &str, stream: u64, parts: &[u128]) -> StageParts {
    StageParts {
        write: id.into(),
        stream,
        parts: parts.iter().map(|id| part(*id)).collect(),
        lease_ms: LEASE,
        schema: schema(),
        ..StageParts::default()
    }
}

/// The id of the transaction of this number, which began at this time.
pub fn transaction(number: u32, began_ms: u64) -> String {
    format!("tx{began_ms:012x}{number:032x}")
}

/// The command that begins a transaction's write to a table.
pub fn begin_in(transaction: &str, table: &str, mode: WriteMode) -> BeginWrite {
    let id = transaction.parse::<TransactionId>().unwrap().write_id(&name(table));
    let (transaction, principal) = (transaction.into(), "ann".into());
    BeginWrite { transaction, principal, mode: mode as i32, schema: schema(), ..staged(&id, table) }
}

/// The command that stages a stream into a transaction's write to a table.
pub fn stage_in(transaction: &str, table: &str, stream: u64, parts: &[u128]) -> StageParts {
    let id = transaction.parse::<TransactionId>().unwrap().write_id(&name(table));
    stage(&id, stream, parts)
}

/// The command that ends the transaction of `ann`.
pub fn end(transaction: &str, commit: bool) -> Op {
    Op::EndTransaction(EndTransaction {
        id: transaction.into(),
        principal: "ann".into(),
        commit,
        ..EndTransaction::default()
    })
}

/// The command that begins a compaction of these parts on node 1.
pub fn compact(id: &str, table: &Table, sources: &[u128]) -> BeginWrite {
    let sources = sources.iter().map(|id| PartId(*id).into()).collect();
    BeginWrite { table_id: table.id, sources, ..begin(id, &table.name.join("/"), WriteMode::Compact) }
}

/// The commit of a compaction: the id of each part, and how many original parts it combines.
pub fn compacted(id: &str, parts: &[(u128, u64)], shard: u32) -> CommitWrite {
    let part = |(seq, (id, puts)): (usize, &(u128, u64))| Part {
        seq: seq as u64,
        shard,
        rows: 10 * puts,
        bytes: 60 * puts,
        ..part(*id)
    };
    CommitWrite { write: id.into(), parts: parts.iter().enumerate().map(part).collect(), attempt: 1 }
}

/// Keeps finished writes for this long, milliseconds.
pub fn keep(write_id_retention_ms: u64) -> Expire {
    Expire { write_id_retention_ms, ..Expire::default() }
}

pub fn node(id: u64, boot: u64) -> Op {
    let node =
        Node { id, boot, flight_uri: format!("grpc+tcp://n{id}:1"), peer_addr: format!("n{id}:2"), ..Node::default() };
    Op::RegisterNode(RegisterNode { node: Some(node) })
}

/// A catalog and its clock.
pub struct CatalogFixture {
    pub catalog: Catalog,
    pub now: u64,
}

impl CatalogFixture {
    /// A formed cluster of nodes 1 and 2 with boots 11 and 12.
    pub fn new() -> Self {
        let mut fixture = CatalogFixture { catalog: Catalog::default(), now: 1_000_000 };
        fixture.must_apply(Op::FormCluster(FormCluster { id: "c".into(), ticket_key: Bytes::from_static(b"key") }));
        fixture.must_apply(node(1, 11));
        fixture.must_apply(node(2, 12));
        fixture
    }

    pub fn apply(&mut self, op: Op) -> Answer {
        let command = Command { now_ms: self.now, op: Some(op) };
        self.catalog.apply(&command).reply.unwrap()
    }

    pub fn must_apply(&mut self, op: Op) {
        let answer = self.apply(op);
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }

    /// Applies a command that must be rejected with `code` and change nothing; returns the message.
    pub fn must_reject(&mut self, op: Op, code: Code) -> String {
        let before: Vec<_> = self.catalog.rows().collect();
        self.catalog.take_changes();
        let Answer::Refusal(refusal) = self.apply(op) else { panic!("not rejected") };
        assert_eq!(refusal.code, code as i32, "{}", refusal.message);
        assert_eq!(self.catalog.take_changes(), []);
        assert!(before == self.catalog.rows().collect::<Vec<_>>());
        refusal.message
    }

    /// [`CatalogFixture::must_reject`] for a catalog of many rows, which are not compared.
    pub fn must_reject_in_place(&mut self, op: Op, code: Code) -> String {
        self.catalog.take_changes();
        let Answer::Refusal(refusal) = self.apply(op) else { panic!("not rejected") };
        assert_eq!(refusal.code, code as i32, "{}", refusal.message);
        assert_eq!(self.catalog.take_changes(), []);
        refusal.message
    }

    pub fn begin(&mut self, begin: BeginWrite) -> Write {
        match self.apply(Op::BeginWrite(begin)) {
            Answer::Write(write) => write,
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, commit: CommitWrite) -> WriteOutcome {
        match self.apply(Op::CommitWrite(commit)) {
            Answer::Outcome(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// A transaction as it has ended.
    pub fn end(&mut self, transaction: &str, commit: bool) -> Transaction {
        match self.apply(end(transaction, commit)) {
            Answer::Transaction(ended) => ended,
            other => panic!("{other:?}"),
        }
    }

    /// A put in a transaction, which stages these parts.
    pub fn put_in(&mut self, transaction: &str, table: &str, mode: WriteMode, parts: &[u128]) {
        self.begin(begin_in(transaction, table, mode));
        let stream = parts.iter().sum::<u128>() as u64;
        self.must_apply(Op::StageParts(stage_in(transaction, table, stream, parts)));
    }

    /// A put from begin to commit.
    pub fn put(&mut self, write: &str, table: &str, mode: WriteMode, parts: &[u128]) -> WriteOutcome {
        self.begin(begin(write, table, mode));
        self.commit(commit(write, parts))
    }

    pub fn drop_table(&mut self, table: &str) {
        self.must_apply(Op::DropTable(DropTable { table: name(table) }));
    }

    pub fn table(&self, table: &str) -> &Table {
        self.catalog.table_named(&table.parse().unwrap()).unwrap()
    }

    /// Ids of the parts of a version, in order.
    pub fn parts(&self, table: u64, version: u64) -> Vec<u128> {
        self.catalog.parts_at(table, version).iter().map(|part| part.part_id().0).collect()
    }
}
