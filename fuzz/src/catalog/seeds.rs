//! Sequences of commands, and rows, to begin with.

use bytes::Bytes;
use prost::Message;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, AddCoordinator, AddSigningKey, BeginWrite, CancelFlight, Command, CommitWrite, CoordinatorPeer,
    CreateTable, CreateToken, DrainNode, DropTable, EndTransaction, Expire, FormCluster, Grant, HolderChange,
    NameCoordinators, Node, Part, PinVersion, PlaceTables, PutGrant, PutUser, PutUserMode, Quota, RegisterNode,
    RemoveCoordinator, RemoveGrant, RemoveNode, RemoveUser, RenewWrite, ResetAdministrator, RestoreVersion,
    RetireStore, RevokeToken, Role, RotateTicketKey, Row, ServiceToken, SetNodeHealth, SetNodeState, SetQuota,
    ShardPlacement, SigningKey, StageParts, TablePlacement, TableSpec, UpdateHolders, User, WriteMode, row,
};
use volley_common::{PartId, TransactionId};
use volley_coordinator::catalog::Catalog;

use crate::input::chunk;

fn name(text: &str) -> Vec<String> {
    text.split('/').map(str::to_string).collect()
}

fn spec() -> TableSpec {
    TableSpec { shards: 2, replicas: 2, min_copies: 1, retention_ms: 1000, ..TableSpec::default() }
}

fn placement() -> Vec<ShardPlacement> {
    vec![ShardPlacement { nodes: vec![1, 2] }; 2]
}

fn part(id: u128) -> Part {
    Part {
        id: Some(PartId(id).into()),
        shard: (id % 2) as u32,
        seq: id as u64,
        rows: 10,
        bytes: 100,
        holders: vec![1, 2],
        ..Part::default()
    }
}

fn node(id: u64) -> Op {
    let node =
        Node { id, boot: 10 + id, flight_uri: "grpc+tcp://n:1".into(), peer_addr: "n:2".into(), ..Node::default() };
    Op::RegisterNode(RegisterNode { node: Some(node) })
}

fn begin(id: &str, table: &str, mode: WriteMode) -> BeginWrite {
    BeginWrite {
        id: id.into(),
        table: name(table),
        mode: mode.into(),
        spec: Some(spec()),
        schema: Bytes::from_static(b"schema"),
        placement: placement(),
        writer: 1,
        writer_boot: 11,
        attempt: 1,
        lease_ms: 500,
        ..BeginWrite::default()
    }
}

fn commit(id: &str, parts: &[u128]) -> Op {
    Op::CommitWrite(CommitWrite { write: id.into(), parts: parts.iter().map(|id| part(*id)).collect(), attempt: 1 })
}

fn put(id: &str, table: &str, mode: WriteMode, parts: &[u128]) -> [Op; 2] {
    [Op::BeginWrite(begin(id, table, mode)), commit(id, parts)]
}

/// A cluster of two nodes.
fn formed() -> Vec<Op> {
    let form = FormCluster { id: "c".into(), ticket_key: Bytes::from_static(b"key") };
    vec![Op::FormCluster(form), node(1), node(2)]
}

fn tables() -> Vec<Op> {
    let mut ops = formed();
    ops.extend(put("w1", "a", WriteMode::Create, &[1, 2]));
    ops.extend(put("w2", "a", WriteMode::Append, &[3, 4]));
    ops.extend(put("w3", "b/c", WriteMode::Replace, &[5]));
    ops
}

fn writes() -> Vec<Op> {
    let mut ops = tables();
    let sources = [1, 3].map(|id| PartId(id).into()).to_vec();
    ops.extend([
        Op::BeginWrite(BeginWrite { table_id: 1, sources, ..begin("m1", "a", WriteMode::Compact) }),
        Op::CommitWrite(CommitWrite { write: "m1".into(), parts: vec![Part { rows: 20, ..part(9) }], attempt: 1 }),
        Op::BeginWrite(BeginWrite {
            staged: true,
            fenced: true,
            schema: Bytes::new(),
            writer: 0,
            writer_boot: 0,
            ..begin("s1", "d", WriteMode::Replace)
        }),
        Op::StageParts(StageParts {
            write: "s1".into(),
            stream: 1,
            parts: vec![part(20), part(21)],
            lease_ms: 500,
            schema: Bytes::from_static(b"schema"),
            begun: 1,
            ..StageParts::default()
        }),
        Op::RenewWrite(RenewWrite { write: "s1".into(), lease_ms: 900 }),
        Op::CommitWrite(CommitWrite { write: "s1".into(), ..CommitWrite::default() }),
        Op::BeginWrite(begin("w9", "e", WriteMode::Replace)),
        Op::AbortWrite(AbortWrite { write: "w9".into(), reason: "no".into(), attempt: 1 }),
    ]);
    ops
}

fn transactions() -> Vec<Op> {
    let mut ops = tables();
    for (number, commit) in [(1, true), (2, false), (3, true)] {
        let id = format!("tx{:012x}{number:032x}", 1_000_000);
        for (at, (table, mode)) in [("a", WriteMode::Append), ("d", WriteMode::Create)].into_iter().enumerate() {
            let write = id.parse::<TransactionId>().expect("an id").write_id(&name(table));
            let (stream, parts) = (at as u64, vec![part(40 + 2 * number + at as u128)]);
            let schema = Bytes::from_static(b"schema");
            ops.extend([
                Op::BeginWrite(BeginWrite { staged: true, transaction: id.clone(), ..begin(&write, table, mode) }),
                Op::StageParts(StageParts {
                    write,
                    stream,
                    parts,
                    lease_ms: 500,
                    schema,
                    attempt: 1,
                    only_first: at == 1,
                    begun: 1,
                }),
            ]);
        }
        ops.push(Op::EndTransaction(EndTransaction { id, commit, ..EndTransaction::default() }));
    }
    ops.push(Op::Expire(Expire { write_id_retention_ms: 1, ..Expire::default() }));
    ops
}

fn versions() -> Vec<Op> {
    let mut ops = tables();
    ops.push(Op::PinVersion(PinVersion { table: 1, version: 1, until_ms: 9_000_000 }));
    ops.extend(put("w4", "a", WriteMode::Replace, &[6]));
    let restore = RestoreVersion { table: name("a"), version: 2, table_id: 1, base_version: 3, placement: vec![] };
    ops.extend([
        Op::RestoreVersion(restore),
        Op::DropTable(DropTable { table: name("b/c") }),
        Op::RestoreVersion(RestoreVersion { table: name("b/c"), table_id: 2, base_version: 1, ..Default::default() }),
        Op::CancelFlight(CancelFlight { flight: 5, until_ms: 1_005_000 }),
        Op::Expire(Expire { write_id_retention_ms: 10, max_finished_writes: 1, max_finished_bytes: 10 }),
    ]);
    ops
}

fn nodes() -> Vec<Op> {
    let mut ops = tables();
    let change = |id: u128, node, held| HolderChange { part: Some(PartId(id).into()), node, held };
    let placed = TablePlacement { table: 1, placement: vec![ShardPlacement { nodes: vec![2] }; 2] };
    let health = SetNodeHealth { node: 2, boot: 12, read_only_reason: "full".into(), degraded_reason: "slow".into() };
    ops.extend([
        node(3),
        Op::SetNodeState(SetNodeState { node: 1, state: 2, boot: 11 }),
        Op::SetNodeHealth(health),
        Op::UpdateHolders(UpdateHolders { changes: vec![change(1, 3, true), change(1, 1, false)] }),
        Op::DrainNode(DrainNode { node: 1, draining: true }),
        Op::PlaceTables(PlaceTables { tables: vec![placed] }),
        Op::RemoveNode(RemoveNode { node: 1 }),
        Op::CreateTable(CreateTable {
            table: name("f"),
            spec: Some(spec()),
            schema: Bytes::from_static(b"schema"),
            placement: placement(),
            ..CreateTable::default()
        }),
    ]);
    ops
}

fn coordinators() -> Vec<Op> {
    let peer = |id| CoordinatorPeer { id, peer: format!("h{id}:1") };
    let mut ops = formed();
    ops.extend([
        Op::NameCoordinators(NameCoordinators { coordinators: vec![peer(1), peer(2)] }),
        Op::AddCoordinator(AddCoordinator { id: 3, peer: "h3:1".into() }),
        Op::RemoveCoordinator(RemoveCoordinator { id: 2 }),
        Op::RetireStore(RetireStore { store: 77 }),
    ]);
    ops
}

fn identities() -> Vec<Op> {
    let named = |name: &str| {
        let hash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
        let groups = vec!["g".to_string()];
        User { name: name.into(), password_hash: hash.into(), groups, generation: 7, ..User::default() }
    };
    let user = |name: &str, mode: PutUserMode| Op::PutUser(PutUser { user: Some(named(name)), mode: mode.into() });
    let grant = Grant { to: "group:g".into(), role: Role::Reader.into(), prefix: name("a"), ..Grant::default() };
    let token = ServiceToken {
        id: "0123456789abcdef".into(),
        user: "bob".into(),
        secret_sha256: Bytes::from_static(&[7; 32]),
        expires_ms: 2_000_000,
        ..ServiceToken::default()
    };
    let key = SigningKey {
        id: "k1".into(),
        private_key: Bytes::from_static(&[1; 48]),
        public_key: Bytes::from_static(&[2; 32]),
        ..SigningKey::default()
    };
    let mut ops = tables();
    ops.extend([
        user("ann", PutUserMode::Bootstrap),
        user("bob", PutUserMode::Create),
        user("bob", PutUserMode::Password),
        user("bob", PutUserMode::Groups),
        Op::PutGrant(PutGrant { grant: Some(grant.clone()) }),
        Op::CreateToken(CreateToken { token: Some(token.clone()) }),
        Op::AddSigningKey(AddSigningKey { key: Some(key), older_than_ms: 0, revoke_others: true }),
        Op::ResetAdministrator(ResetAdministrator { user: Some(named("eve")), after: 0 }),
        Op::RotateTicketKey(RotateTicketKey {
            key: Bytes::from_static(&[9; 32]),
            sign_after_ms: 1,
            keep_former_ms: 9_000,
            revoke_former: true,
        }),
        Op::Expire(Expire { write_id_retention_ms: 10, ..Expire::default() }),
        Op::SetQuota(SetQuota { quota: Some(Quota { prefix: name("a"), bytes: 150, tables: 1 }) }),
    ]);
    ops.extend(put("w7", "a", WriteMode::Append, &[30, 31]));
    ops.extend([
        Op::RemoveGrant(RemoveGrant { to: grant.to, role: grant.role, prefix: grant.prefix }),
        Op::RevokeToken(RevokeToken { id: token.id }),
        Op::RemoveUser(RemoveUser { name: "bob".into() }),
    ]);
    ops
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let commands = |ops: Vec<Op>| {
        let chunks = ops
            .into_iter()
            .enumerate()
            .map(|(at, op)| chunk(&Command { now_ms: 1_000_000 + at as u64, op: Some(op) }.encode_to_vec()));
        [vec![0]].into_iter().chain(chunks).collect::<Vec<_>>().concat()
    };
    let all = [formed(), tables(), writes(), transactions(), versions(), nodes(), coordinators(), identities()];
    // The rows of a catalog, as in a snapshot.
    let mut catalog = Catalog::default();
    for (at, op) in identities().into_iter().enumerate() {
        catalog.apply(&Command { now_ms: 1_000_000 + at as u64, op: Some(op) });
    }
    let rows: Vec<Row> = catalog.rows().collect();
    assert!(rows.iter().any(|row| matches!(row.row, Some(row::Row::Grant(_)))), "the seeds are outdated");
    let drop = Command { now_ms: 1_001_000, op: Some(Op::DropTable(DropTable { table: name("a") })) };
    let chunks = rows.iter().map(|row| chunk(&row.encode_to_vec())).chain([chunk(&drop.encode_to_vec())]);
    let snapshot = [vec![rows.len() as u8]].into_iter().chain(chunks).collect::<Vec<_>>().concat();
    all.map(commands).into_iter().chain([snapshot]).collect()
}
