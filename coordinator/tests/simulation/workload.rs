//! Clients: they put, append, replace, stage, drop and read tables through any coordinator, and what nodes do besides.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CancelFlight, CommitWrite, CreateTable, DrainNode, DropTable, Expire, HolderChange,
    Holders, Node, NodeState, Part, PartId, PinVersion, Refusal, RegisterNode, RenewWrite, Reply, SetNodeState,
    StageParts, TableSpec, UpdateHolders, Write, WriteMode, reply,
};
use volley_common::{Code, TableName};
use volley_coordinator::catalog::{Catalog, PartRow};
use volley_coordinator::raft::CatalogView;
use xxhash_rust::xxh3::xxh3_64;

use crate::dice::Dice;
use crate::linear::{Effect, State};
use crate::world::World;

/// Nodes that the catalog knows.
pub const NODES: u64 = 5;
const SHARDS: u32 = 2;
const REPLICAS: usize = 2;
const SCHEMA: &[u8] = b"a schema";
/// An operation whose outcome nobody knows is tried again so often.
const TRIES: usize = 4;

/// How a command ended.
#[expect(clippy::large_enum_variant, reason = "one at a time, for a moment")]
enum Answer {
    /// With a reply, or a refusal of the catalog.
    Replied(reply::Reply),
    /// Nobody knows.
    Unknown,
    /// It was not proposed, or nobody was there to ask.
    NotProposed,
}

/// A client.
pub struct Client {
    world: Arc<World>,
    number: u64,
    tables: u64,
    dice: Dice,
    made: u64,
    /// Parts of which this client took a holder away.
    thinned: Vec<volley_common::PartId>,
}

fn name_of(number: u64) -> Vec<String> {
    vec![format!("t{number}")]
}

fn write_hash(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// A table as the history has it.
fn state_of(catalog: &Catalog, name: &[String]) -> State {
    let table = catalog.table_named(&TableName::from_components(name).ok()?)?;
    let mut writes: Vec<&str> = catalog.part_rows_at(table.id, table.version).map(|part| &*part.write).collect();
    writes.sort_unstable();
    writes.dedup();
    Some((table.version, writes.into_iter().fold(0, |sum, write| sum ^ write_hash(write))))
}

/// A node that the catalog is told of.
pub fn register(id: u64, boot: u64) -> Op {
    Op::RegisterNode(RegisterNode {
        node: Some(Node {
            id,
            boot,
            zone: "z".into(),
            flight_uri: format!("grpc+tcp://n{id}:1"),
            peer_addr: format!("n{id}:2"),
            ..Node::default()
        }),
    })
}

impl Client {
    pub fn new(world: Arc<World>, number: u64, tables: u64) -> Client {
        let dice = Dice::new(world.seed, 1000 + number);
        Client { world, number, tables, dice, made: 0, thinned: Vec::new() }
    }

    /// Does one thing after another until it is time to end.
    pub async fn run(mut self, end: Instant) {
        while Instant::now() < end {
            match self.dice.random_range(0..100) {
                0..45 => self.put().await,
                45..55 => self.drop_table().await,
                55..60 => self.create().await,
                60..80 => self.read_some().await,
                _ => self.something_else().await,
            }
            let pause = self.dice.random_range(0..60);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// At the end: every table is read once more.
    pub async fn read_all(&mut self) {
        for table in 0..self.tables {
            self.read(&name_of(table)).await;
        }
    }

    fn table(&mut self) -> Vec<String> {
        name_of(self.dice.random_range(0..self.tables))
    }

    fn fresh(&mut self) -> u64 {
        self.made += 1;
        self.number << 32 | self.made
    }

    /// One command through a coordinator; whatever is answered must be so.
    async fn propose(&mut self, op: Op) -> Answer {
        let (world, checks) = (self.world.clone(), self.world.checks.clone());
        let Some(up) = world.any(&mut self.dice) else {
            sleep(Duration::from_millis(50)).await;
            return Answer::NotProposed;
        };
        let began = checks.oracle.lock().tries(&op);
        let Some(outcome) = up.over.run_until_cancelled(up.handle.propose(op.clone())).await else {
            return Answer::Unknown;
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(error) if error.code == Code::Unavailable && error.message.contains("may or may not") => {
                return Answer::Unknown;
            }
            Err(error) if error.code == Code::Unavailable => {
                checks.oracle.lock().not_proposed(&op, &error.message);
                return Answer::NotProposed;
            }
            Err(error) => reply::Reply::Refusal(Refusal { code: error.code as i32, message: error.message }),
        };
        let whole = Reply { reply: Some(reply.clone()) };
        let judged = checks.oracle.lock().acknowledged(&op, began, &whole);
        checks.judge(judged);
        Answer::Replied(reply)
    }

    /// The same, again while nobody knows; with whether an earlier try may have taken effect.
    async fn insist(&mut self, op: Op) -> (Answer, bool) {
        let mut unknown = false;
        for _ in 0..TRIES {
            match self.propose(op.clone()).await {
                Answer::Replied(reply) => return (Answer::Replied(reply), unknown),
                Answer::Unknown => unknown = true,
                Answer::NotProposed => {}
            }
        }
        (if unknown { Answer::Unknown } else { Answer::NotProposed }, unknown)
    }

    fn spec(&mut self) -> TableSpec {
        TableSpec {
            shards: SHARDS,
            replicas: REPLICAS as u32,
            min_copies: 1,
            retention_ms: self.dice.random_range(0..2000),
            ..TableSpec::default()
        }
    }

    fn placement(&mut self) -> Vec<Holders> {
        (0..SHARDS).map(|_| Holders { nodes: self.homes() }).collect()
    }

    fn homes(&mut self) -> Vec<u64> {
        let first = self.dice.random_range(0..NODES);
        let step = self.dice.random_range(1..NODES);
        vec![1 + first, 1 + (first + step) % NODES]
    }

    fn parts(&mut self, write: &str) -> Vec<Part> {
        let count = self.dice.random_range(1..4);
        let part = |client: &mut Client, seq| Part {
            id: Some(PartId { hi: 1, lo: client.fresh() }),
            shard: client.dice.random_range(0..SHARDS),
            write: write.into(),
            seq,
            rows: client.dice.random_range(1..100),
            bytes: client.dice.random_range(100..1000),
            holders: client.homes(),
            ..Part::default()
        };
        (0..count).map(|seq| part(self, seq)).collect()
    }

    fn begin(&mut self, name: &[String], mode: WriteMode, staged: bool) -> BeginWrite {
        let id = format!("w{}", self.fresh());
        BeginWrite {
            id,
            table: name.to_vec(),
            mode: mode as i32,
            spec: Some(self.spec()),
            schema: SCHEMA.into(),
            placement: self.placement(),
            staged,
            writer: self.dice.random_range(1..=NODES),
            writer_boot: 1,
            attempt: self.fresh(),
            lease_ms: self.dice.random_range(500..5000),
            ..BeginWrite::default()
        }
    }

    async fn put(&mut self) {
        let name = self.table();
        let mode = [WriteMode::Append, WriteMode::Replace, WriteMode::Create][self.dice.random_range(0..10) / 4];
        let staged = self.dice.random_bool(0.2);
        let begin = self.begin(&name, mode, staged);
        let began = self.world.checks.tick();
        let write = match self.insist(Op::BeginWrite(begin.clone())).await {
            (Answer::Replied(reply::Reply::Write(write)), _) => write,
            (Answer::Replied(reply::Reply::Refusal(refusal)), _) => return self.refused(&name, began, &refusal),
            _ => return,
        };
        if !staged {
            let parts = self.parts(&write.id);
            return self.commit(&name, mode, CommitWrite { write: write.id, parts, attempt: begin.attempt }).await;
        }
        if self.stage(&write).await {
            self.commit(&name, mode, CommitWrite { write: write.id, ..CommitWrite::default() }).await;
        }
    }

    /// Stages streams into a write; false: it came to nothing.
    async fn stage(&mut self, write: &Write) -> bool {
        for _ in 0..self.dice.random_range(1..3) {
            let (stream, parts) = (self.fresh(), self.parts(&write.id));
            let stage = StageParts { write: write.id.clone(), stream, parts, lease_ms: 3000, schema: SCHEMA.into() };
            match self.insist(Op::StageParts(stage)).await {
                (Answer::Replied(reply::Reply::Done(_)), _) => {}
                _ => return false,
            }
        }
        if self.dice.random_bool(0.1) {
            let abort = AbortWrite { write: write.id.clone(), reason: "changed its mind".into(), attempt: 0 };
            self.insist(Op::AbortWrite(abort)).await;
        }
        true
    }

    async fn commit(&mut self, name: &[String], mode: WriteMode, commit: CommitWrite) {
        let write = write_hash(&commit.write);
        let effect = match mode {
            WriteMode::Create => Effect::Create { write },
            WriteMode::Replace => Effect::Replace { write },
            WriteMode::Append | WriteMode::Compact => Effect::Append { write },
        };
        let checks = self.world.checks.clone();
        let began = checks.tick();
        let (answer, unknown) = self.insist(Op::CommitWrite(commit)).await;
        match answer {
            Answer::Replied(reply::Reply::Outcome(outcome)) => {
                let ended = Some(checks.tick());
                checks.history.lock().add(&name[0], effect, began, ended, Some(outcome.version));
            }
            // It may have been committed by an earlier try and be forgotten by now.
            Answer::Replied(reply::Reply::Refusal(refusal)) if !unknown => self.refused(name, began, &refusal),
            Answer::NotProposed => {}
            _ => checks.history.lock().add(&name[0], effect, began, None, None),
        }
    }

    /// What a refusal says of the table.
    fn refused(&self, name: &[String], began: u64, refusal: &Refusal) {
        let there = match Code::from_i32(refusal.code) {
            Code::AlreadyExists => true,
            Code::NotFound if refusal.message.contains("there is no table") => false,
            _ => return,
        };
        let checks = &self.world.checks;
        let ended = Some(checks.tick());
        checks.history.lock().add(&name[0], Effect::Is(there), began, ended, None);
    }

    async fn drop_table(&mut self) {
        let name = self.table();
        self.alone(&name, Op::DropTable(DropTable { table: name.clone() }), Effect::Drop).await;
    }

    async fn create(&mut self) {
        let (table, spec, placement) = (self.table(), Some(self.spec()), self.placement());
        let create = CreateTable { table: table.clone(), kind: 1, spec, schema: SCHEMA.into(), placement };
        self.alone(&table, Op::CreateTable(create), Effect::Create { write: 0 }).await;
    }

    /// A change of a table that has no id: it is tried once.
    async fn alone(&mut self, name: &[String], op: Op, effect: Effect) {
        let checks = self.world.checks.clone();
        let began = checks.tick();
        match self.propose(op).await {
            Answer::Replied(reply::Reply::Refusal(refusal)) => self.refused(name, began, &refusal),
            Answer::Replied(_) => {
                let ended = Some(checks.tick());
                checks.history.lock().add(&name[0], effect, began, ended, None);
            }
            Answer::Unknown => checks.history.lock().add(&name[0], effect, began, None, None),
            Answer::NotProposed => {}
        }
    }

    async fn read_some(&mut self) {
        let name = self.table();
        self.read(&name).await;
    }

    async fn read(&mut self, name: &[String]) {
        let (world, checks) = (self.world.clone(), self.world.checks.clone());
        let Some(up) = world.any(&mut self.dice) else { return };
        let (began, known) = (checks.tick(), checks.oracle.lock().now());
        // What it shows, and after how many entries.
        let look = |view: CatalogView| {
            let at = checks.at(up.life)?;
            let compared = checks.oracle.lock().compare(up.life.id, at, &view);
            Some((at, compared, state_of(&view, name)))
        };
        let reading = async {
            match self.dice.random_bool(0.5) {
                true => up.handle.read().await.map(look),
                false => up.handle.read_with(look).await,
            }
        };
        let Some(Ok(Some((at, compared, seen)))) = up.over.run_until_cancelled(reading).await else { return };
        let judged = checks.oracle.lock().read(up.life.id, known, at);
        checks.judge(judged.and(compared));
        let ended = Some(checks.tick());
        checks.history.lock().add(&name[0], Effect::Read(seen), began, ended, None);
    }

    /// What nodes, readers and the leader do besides.
    async fn something_else(&mut self) {
        let node = self.dice.random_range(1..=NODES);
        let op = match self.dice.random_range(0..9) {
            0 => register(node, self.fresh()),
            1 => Op::SetNodeState(SetNodeState { node, state: NodeState::Unreachable as i32, boot: 0 }),
            2 => Op::Expire(Expire { write_id_retention_ms: self.dice.random_range(1000..4000) }),
            3 => Op::CancelFlight(CancelFlight { flight: self.fresh(), until_ms: 1 }),
            4 => Op::DrainNode(DrainNode { node, draining: self.dice.random_bool(0.5) }),
            5 => Op::RenewWrite(RenewWrite { write: format!("w{}", self.number << 32 | self.made), lease_ms: 1000 }),
            6 => self.pin(),
            7 => self.held(node),
            _ => self.lost(),
        };
        self.propose(op).await;
    }

    fn pin(&mut self) -> Op {
        let until_ms = self.world.now_ms() + self.dice.random_range(0..3000);
        let (table, version) = (self.dice.random_range(1..8), self.dice.random_range(1..6));
        Op::PinVersion(PinVersion { table, version, until_ms })
    }

    fn some_part(&mut self, wanted: impl Fn(&PartRow) -> bool) -> Option<PartRow> {
        let up = self.world.any(&mut self.dice)?;
        let view = up.handle.view();
        let parts: Vec<&PartRow> = view.all_parts().filter(|part| wanted(part)).collect();
        let at = self.dice.random_range(0..parts.len().max(1));
        parts.get(at).map(|part| (*part).clone())
    }

    fn holder(&self, part: Option<volley_common::PartId>, node: u64, held: bool) -> Op {
        let changes = part.map(|part| HolderChange { part: Some(part.into()), node, held });
        Op::UpdateHolders(UpdateHolders { changes: changes.into_iter().collect() })
    }

    fn held(&mut self, node: u64) -> Op {
        let part = self.some_part(|_| true);
        self.holder(part.map(|part| part.part_id()), node, true)
    }

    /// One holder of a part no longer has it: one client does this, once a part, so that another one is left.
    fn lost(&mut self) -> Op {
        let thinned = std::mem::take(&mut self.thinned);
        let part = self.some_part(|part| part.holders.len() > 1 && !thinned.contains(&part.part_id()));
        self.thinned = thinned;
        let part = part.filter(|_| self.number == 0);
        self.thinned.extend(part.as_ref().map(PartRow::part_id));
        let node = part.as_ref().map_or(0, |part| part.holders[0]);
        self.holder(part.map(|part| part.part_id()), node, false)
    }
}
