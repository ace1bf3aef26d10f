//! The catalog: every command leaves it consistent, and a refused one leaves it unchanged.
//!
//! The first byte is a number of rows; the rows follow as chunks, then commands as chunks. Rows come from snapshots, so only
//! the commands after none of them must leave everything consistent.

use prost::Message;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{Command, Expire, Part, Reply, Row, row};
use volley_common::{Code, TableName};
use volley_coordinator::catalog::{Catalog, Change, RowKey};

use crate::input::FuzzInput;

mod seeds;

pub use seeds::seeds;

/// Commands of one input.
const MAX_COMMANDS: usize = 256;
/// The largest number that the rows, bytes and times of an input have. Members check what they send by the files that they
/// have; sums of larger ones would not fit, and nothing depends on them.
const MAX_NUMBER: u64 = 1 << 48;

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    for bytes in [data, data.get(1..).unwrap_or_default()] {
        if let Some(key) = RowKey::from_bytes(bytes) {
            assert_eq!(key.to_bytes(), bytes, "two encodings of one key");
        }
    }
    let mut input = FuzzInput::new(data);
    let mut replicas = Replicas::default();
    for _ in 0..input.byte() {
        let Ok(mut row) = Row::decode(input.chunk()) else { continue };
        bound_row(&mut row);
        replicas.insert(&row);
    }
    for _ in 0..MAX_COMMANDS {
        if input.is_empty() {
            break;
        }
        let Ok(mut command) = Command::decode(input.chunk()) else { continue };
        bound_command(&mut command);
        replicas.apply(&command);
    }
    replicas.finish();
}

/// The same catalog at three coordinators: two apply the commands, the third only the changes.
#[derive(Default)]
struct Replicas {
    first: Catalog,
    again: Catalog,
    follower: Catalog,
    /// Rows of an input were inserted: they may contradict each other.
    has_foreign_rows: bool,
}

impl Replicas {
    fn insert(&mut self, row: &Row) {
        self.has_foreign_rows = true;
        for catalog in [&mut self.first, &mut self.again, &mut self.follower] {
            catalog.insert_row(row.clone());
        }
    }

    fn apply(&mut self, command: &Command) {
        let before = rows(&self.first);
        let reply = self.first.apply(command);
        assert!(reply == self.again.apply(command), "two coordinators answer differently");
        let changes = self.first.take_changes();
        self.again.take_changes();
        if let Some(Answer::Refusal(refusal)) = &reply.reply {
            let code = Code::from(refusal.code);
            assert!(!matches!(code, Code::Ok | Code::Unknown), "{code:?}: {}", refusal.message);
            assert!(code != Code::Internal || self.has_foreign_rows, "{}", refusal.message);
            assert!(changes.is_empty() && before == rows(&self.first), "a refused command changed something");
            return;
        }
        check_reply(&reply);
        follow(&mut self.follower, changes);
        if !self.has_foreign_rows {
            assert!(rows(&self.first) == rows(&self.follower), "a change was not reported");
            check(&self.first);
        }
    }

    /// Everything expires, and comes back from its rows.
    fn finish(&mut self) {
        let now_ms = self.first.clock_ms() + MAX_NUMBER;
        let op = Op::Expire(Expire { write_id_retention_ms: 1, ..Expire::default() });
        self.apply(&Command { now_ms, op: Some(op) });
        if self.has_foreign_rows {
            return;
        }
        let mut loaded = Catalog::default();
        for row in self.first.rows() {
            let decoded = Row::decode(row.encode_to_vec().as_slice()).expect("an encoded row");
            assert!(decoded == row);
            loaded.insert_row(decoded);
        }
        assert!(rows(&loaded) == rows(&self.first) && rows(&loaded) == rows(&self.again), "a snapshot loses something");
        assert!(loaded.identity_snapshot() == self.first.identity_snapshot());
    }
}

fn rows(catalog: &Catalog) -> Vec<Row> {
    catalog.rows().collect()
}

fn follow(follower: &mut Catalog, changes: Vec<Change>) {
    for change in changes {
        assert_eq!(RowKey::from_bytes(&change.key.to_bytes()).as_ref(), Some(&change.key), "a key is not its bytes");
        match change.row {
            Some(row) => follower.insert_row(row),
            None => follower.remove_row(&change.key),
        }
    }
}

fn check_reply(reply: &Reply) {
    assert!(reply.reply.is_some(), "a command without a reply");
    let decoded = Reply::decode(reply.encode_to_vec().as_slice()).expect("an encoded reply");
    assert!(decoded == *reply);
}

/// Totals agree with parts, names with tables, and every part has a table.
fn check(catalog: &Catalog) {
    for table in catalog.tables() {
        let parts = catalog.parts_at(table.id, table.version);
        assert_eq!(table.rows, parts.iter().map(|part| part.rows).sum::<u64>());
        let name = TableName::from_components(&table.name).expect("the name of a table");
        assert_eq!(catalog.table_named(&name).map(|found| found.id), Some(table.id));
    }
    for part in catalog.all_parts() {
        assert!(catalog.table(part.table).is_some(), "a part of no table");
        assert!(catalog.part(part.part_id()) == Some(part));
    }
}

fn bound_command(command: &mut Command) {
    command.now_ms = command.now_ms.min(MAX_NUMBER);
    match &mut command.op {
        Some(Op::CommitWrite(commit)) => commit.parts.iter_mut().for_each(bound_part),
        Some(Op::StageParts(stage)) => stage.parts.iter_mut().for_each(bound_part),
        _ => {}
    }
}

fn bound_row(row: &mut Row) {
    match &mut row.row {
        Some(row::Row::Table(table)) => {
            table.rows = table.rows.min(MAX_NUMBER);
            table.bytes = table.bytes.min(MAX_NUMBER);
        }
        Some(row::Row::Part(part)) => bound_part(part),
        Some(row::Row::Staged(staged)) => staged.parts.iter_mut().for_each(bound_part),
        Some(row::Row::Write(write)) => write.parts.iter_mut().for_each(bound_part),
        Some(row::Row::Clock(clock)) => clock.now_ms = clock.now_ms.min(MAX_NUMBER),
        Some(row::Row::User(user)) => name_if_empty(&mut user.name),
        Some(row::Row::Token(token)) => name_if_empty(&mut token.id),
        Some(row::Row::Grant(grant)) => name_if_empty(&mut grant.to),
        Some(row::Row::SigningKey(key)) => name_if_empty(&mut key.id),
        Some(row::Row::Transaction(transaction)) => name_if_empty(&mut transaction.id),
        _ => {}
    }
}

/// No key of such a row is empty.
fn name_if_empty(id: &mut String) {
    if id.is_empty() {
        id.push('x');
    }
}

fn bound_part(part: &mut Part) {
    part.rows = part.rows.min(MAX_NUMBER);
    part.bytes = part.bytes.min(MAX_NUMBER);
}
