//! Clients that create, write, drop and read tables through any coordinator, and the commands of nodes and of the leader.

mod holders;
mod transactions;

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CancelFlight, CommitWrite, CreateTable, DrainNode, DropTable, Expire, Node, NodeState,
    Part, PartId, Refusal, RegisterNode, RenewWrite, Reply, SetNodeState, ShardPlacement, StageParts, TableSpec, Write,
    WriteMode, reply,
};
use volley_common::{Code, TableName};
use volley_coordinator::catalog::Catalog;
use volley_coordinator::raft::CatalogView;
use xxhash_rust::xxh3::xxh3_64;

use crate::cluster::SimCluster;
use crate::identity_commands::identity_command;
use crate::rng::SimRng;
use crate::table_history::{TableEffect, TableState};

/// The number of nodes in the catalog.
pub const NODES: u64 = 5;
const SHARDS: u32 = 2;
const REPLICAS: usize = 2;
const SCHEMA: &[u8] = b"a schema";
/// Maximum number of attempts of an operation whose outcome is unknown.
const MAX_ATTEMPTS: usize = 4;

/// The outcome of a proposal.
#[expect(clippy::large_enum_variant, reason = "one at a time, for a moment")]
enum ProposalOutcome {
    /// The catalog's reply, or its refusal.
    Replied(reply::Reply),
    /// It may or may not have been committed.
    Unknown,
    /// It was not proposed.
    NotProposed,
}

/// A client.
pub struct SimClient {
    cluster: Arc<SimCluster>,
    number: u64,
    tables: u64,
    rng: SimRng,
    ids_used: u64,
    /// Parts from which this client removed a holder.
    parts_reduced: Vec<volley_common::PartId>,
}

fn name_of(number: u64) -> Vec<String> {
    vec![format!("t{number}")]
}

fn write_hash(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// The state of a table for the history.
fn state_of(catalog: &Catalog, name: &[String]) -> TableState {
    let table = catalog.table_named(&TableName::from_components(name).ok()?)?;
    let mut writes: Vec<&str> = catalog.part_rows_at(table.id, table.version).map(|part| &*part.write).collect();
    writes.sort_unstable();
    writes.dedup();
    Some((table.version, writes.into_iter().fold(0, |sum, write| sum ^ write_hash(write))))
}

/// The effect of a committed write.
fn effect_of(mode: WriteMode, write: u64) -> TableEffect {
    match mode {
        WriteMode::Create => TableEffect::Create { write },
        WriteMode::Replace => TableEffect::Replace { write },
        WriteMode::Append | WriteMode::Compact => TableEffect::Append { write },
    }
}

fn stage_command(write: &Write, stream: u64, parts: Vec<Part>) -> StageParts {
    let (write, lease_ms, schema, attempt) = (write.id.clone(), 3000, SCHEMA.into(), write.attempt);
    StageParts { write, stream, parts, lease_ms, schema, attempt, only_first: false, begun: attempt }
}

/// Registers a node.
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

impl SimClient {
    pub fn new(cluster: Arc<SimCluster>, number: u64, tables: u64) -> SimClient {
        let rng = SimRng::new(cluster.seed, 1000 + number);
        SimClient { cluster, number, tables, rng, ids_used: 0, parts_reduced: Vec::new() }
    }

    /// Runs one operation after another until `end`.
    pub async fn run(mut self, end: Instant) {
        while Instant::now() < end {
            match self.rng.random_range(0..100) {
                0..40 => self.put().await,
                40..45 => self.transact().await,
                45..55 => self.drop_table().await,
                55..60 => self.create().await,
                60..80 => self.read_random().await,
                _ => self.propose_other().await,
            }
            let pause = self.rng.random_range(0..60);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Reads every table once.
    pub async fn read_all(&mut self) {
        for table in 0..self.tables {
            self.read(&name_of(table)).await;
        }
    }

    fn table(&mut self) -> Vec<String> {
        name_of(self.rng.random_range(0..self.tables))
    }

    fn new_id(&mut self) -> u64 {
        self.ids_used += 1;
        self.number << 32 | self.ids_used
    }

    /// Proposes a command through a coordinator, and checks the answer.
    async fn propose(&mut self, op: Op) -> ProposalOutcome {
        let (cluster, checks) = (self.cluster.clone(), self.cluster.checks.clone());
        let Some(process) = cluster.any_running(&mut self.rng) else {
            sleep(Duration::from_millis(50)).await;
            return ProposalOutcome::NotProposed;
        };
        let acknowledged = checks.oracle.lock().attempt(&op);
        let Some(outcome) = process.ended.run_until_cancelled(process.handle.propose(op.clone())).await else {
            return ProposalOutcome::Unknown;
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(error) if error.code == Code::Unavailable && error.message.contains("may or may not") => {
                return ProposalOutcome::Unknown;
            }
            Err(error) if error.code == Code::Unavailable || error.message.contains("has not yet said") => {
                checks.oracle.lock().not_proposed(&op, &error.message);
                return ProposalOutcome::NotProposed;
            }
            Err(error) => reply::Reply::Refusal(Refusal { code: error.code as i32, message: error.message }),
        };
        let answer = Reply { reply: Some(reply.clone()) };
        let outcome = checks.oracle.lock().acknowledged(&op, acknowledged, &answer);
        checks.record(outcome);
        ProposalOutcome::Replied(reply)
    }

    /// Proposes a command again while its outcome is unknown. Also returns whether an earlier attempt may have taken effect.
    async fn propose_with_retries(&mut self, op: Op) -> (ProposalOutcome, bool) {
        let mut unknown = false;
        for _ in 0..MAX_ATTEMPTS {
            match self.propose(op.clone()).await {
                ProposalOutcome::Replied(reply) => return (ProposalOutcome::Replied(reply), unknown),
                ProposalOutcome::Unknown => unknown = true,
                ProposalOutcome::NotProposed => {}
            }
        }
        (if unknown { ProposalOutcome::Unknown } else { ProposalOutcome::NotProposed }, unknown)
    }

    fn spec(&mut self) -> TableSpec {
        TableSpec {
            shards: SHARDS,
            replicas: REPLICAS as u32,
            min_copies: 1,
            retention_ms: self.rng.random_range(0..2000),
            ..TableSpec::default()
        }
    }

    fn placement(&mut self) -> Vec<ShardPlacement> {
        (0..SHARDS).map(|_| ShardPlacement { nodes: self.random_holders() }).collect()
    }

    fn random_holders(&mut self) -> Vec<u64> {
        let first = self.rng.random_range(0..NODES);
        let step = self.rng.random_range(1..NODES);
        vec![1 + first, 1 + (first + step) % NODES]
    }

    fn parts(&mut self, write: &str) -> Vec<Part> {
        let count = self.rng.random_range(1..4);
        let part = |client: &mut SimClient, seq| Part {
            id: Some(PartId { hi: 1, lo: client.new_id() }),
            shard: client.rng.random_range(0..SHARDS),
            write: write.into(),
            seq,
            rows: client.rng.random_range(1..100),
            bytes: client.rng.random_range(100..1000),
            holders: client.random_holders(),
            ..Part::default()
        };
        (0..count).map(|seq| part(self, seq)).collect()
    }

    fn begin(&mut self, name: &[String], mode: WriteMode, staged: bool) -> BeginWrite {
        let id = format!("w{}", self.new_id());
        BeginWrite {
            id,
            table: name.to_vec(),
            mode: mode as i32,
            spec: Some(self.spec()),
            schema: SCHEMA.into(),
            placement: self.placement(),
            staged,
            writer: self.rng.random_range(1..=NODES),
            writer_boot: 1,
            attempt: self.new_id(),
            lease_ms: self.rng.random_range(500..5000),
            ..BeginWrite::default()
        }
    }

    async fn put(&mut self) {
        let name = self.table();
        let mode = [WriteMode::Append, WriteMode::Replace, WriteMode::Create][self.rng.random_range(0..10) / 4];
        let staged = self.rng.random_bool(0.2);
        let begin = self.begin(&name, mode, staged);
        let invoked = self.cluster.checks.tick();
        let write = match self.propose_with_retries(Op::BeginWrite(begin.clone())).await {
            (ProposalOutcome::Replied(reply::Reply::Write(write)), _) => write,
            (ProposalOutcome::Replied(reply::Reply::Refusal(refusal)), _) => {
                return self.add_refusal(&name, invoked, &refusal);
            }
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

    /// Stages streams into a write; returns false if that failed.
    async fn stage(&mut self, write: &Write) -> bool {
        for _ in 0..self.rng.random_range(1..3) {
            let (stream, parts) = (self.new_id(), self.parts(&write.id));
            match self.propose_with_retries(Op::StageParts(stage_command(write, stream, parts))).await {
                (ProposalOutcome::Replied(reply::Reply::Done(_)), _) => {}
                _ => return false,
            }
        }
        if self.rng.random_bool(0.1) {
            let abort = AbortWrite { write: write.id.clone(), reason: "the client aborts".into(), attempt: 0 };
            self.propose_with_retries(Op::AbortWrite(abort)).await;
        }
        true
    }

    async fn commit(&mut self, name: &[String], mode: WriteMode, commit: CommitWrite) {
        let effect = effect_of(mode, write_hash(&commit.write));
        let checks = self.cluster.checks.clone();
        let invoked = checks.tick();
        let (answer, unknown) = self.propose_with_retries(Op::CommitWrite(commit)).await;
        match answer {
            ProposalOutcome::Replied(reply::Reply::Outcome(outcome)) => {
                let returned = Some(checks.tick());
                checks.history.lock().add(&name[0], effect, invoked, returned, Some(outcome.version));
            }
            // An earlier attempt may have committed it, and the catalog may have expired that outcome since.
            ProposalOutcome::Replied(reply::Reply::Refusal(refusal)) if !unknown => {
                self.add_refusal(name, invoked, &refusal)
            }
            ProposalOutcome::NotProposed => {}
            _ => checks.history.lock().add(&name[0], effect, invoked, None, None),
        }
    }

    /// Adds what a refusal reveals about the table to the history.
    fn add_refusal(&self, name: &[String], invoked: u64, refusal: &Refusal) {
        let exists = match Code::from_i32(refusal.code) {
            Code::AlreadyExists => true,
            Code::NotFound if refusal.message.contains("there is no table") => false,
            _ => return,
        };
        let checks = &self.cluster.checks;
        let returned = Some(checks.tick());
        checks.history.lock().add(&name[0], TableEffect::Exists(exists), invoked, returned, None);
    }

    async fn drop_table(&mut self) {
        let name = self.table();
        self.propose_once(&name, Op::DropTable(DropTable { table: name.clone() }), TableEffect::Drop).await;
    }

    async fn create(&mut self) {
        let (table, spec, placement) = (self.table(), Some(self.spec()), self.placement());
        let create = CreateTable { table: table.clone(), kind: 1, spec, schema: SCHEMA.into(), placement };
        self.propose_once(&table, Op::CreateTable(create), TableEffect::Create { write: 0 }).await;
    }

    /// Proposes a change without a write id, which is not idempotent: once.
    async fn propose_once(&mut self, name: &[String], op: Op, effect: TableEffect) {
        let checks = self.cluster.checks.clone();
        let invoked = checks.tick();
        match self.propose(op).await {
            ProposalOutcome::Replied(reply::Reply::Refusal(refusal)) => self.add_refusal(name, invoked, &refusal),
            ProposalOutcome::Replied(_) => {
                let returned = Some(checks.tick());
                checks.history.lock().add(&name[0], effect, invoked, returned, None);
            }
            ProposalOutcome::Unknown => checks.history.lock().add(&name[0], effect, invoked, None, None),
            ProposalOutcome::NotProposed => {}
        }
    }

    async fn read_random(&mut self) {
        let name = self.table();
        self.read(&name).await;
    }

    async fn read(&mut self, name: &[String]) {
        let (cluster, checks) = (self.cluster.clone(), self.cluster.checks.clone());
        let Some(process) = cluster.any_running(&mut self.rng) else { return };
        let (invoked, acknowledged) = (checks.tick(), checks.oracle.lock().acknowledged_count());
        // The state that the view shows, and after how many entries.
        let inspect = |view: CatalogView| {
            let at = checks.applied(process.incarnation)?;
            let compared = checks.oracle.lock().compare(process.incarnation.id, at, &view);
            Some((at, compared, state_of(&view, name)))
        };
        let reading = async {
            match self.rng.random_bool(0.5) {
                true => process.handle.read().await.map(inspect),
                false => process.handle.read_with(inspect).await,
            }
        };
        let Some(Ok(Some((at, compared, seen)))) = process.ended.run_until_cancelled(reading).await else { return };
        let outcome = checks.oracle.lock().read(process.incarnation.id, acknowledged, at);
        checks.record(outcome.and(compared));
        let returned = Some(checks.tick());
        checks.history.lock().add(&name[0], TableEffect::Read(seen), invoked, returned, None);
    }

    /// Proposes a command of a node, a reader or the leader.
    async fn propose_other(&mut self) {
        let node = self.rng.random_range(1..=NODES);
        let (kept_ms, most) = (self.rng.random_range(1000..4000), self.rng.random_range(0..200));
        let (write, now_ms) = (format!("w{}", self.number << 32 | self.ids_used), self.cluster.now_ms());
        let expire = Expire { write_id_retention_ms: kept_ms, max_finished_writes: most, max_finished_bytes: 0 };
        let op = match self.rng.random_range(0..11) {
            0 => register(node, self.new_id()),
            1 => Op::SetNodeState(SetNodeState { node, state: NodeState::Unreachable as i32, boot: 0 }),
            2 => Op::Expire(expire),
            3 => Op::CancelFlight(CancelFlight { flight: self.new_id(), until_ms: 1 }),
            4 => Op::DrainNode(DrainNode { node, draining: self.rng.random_bool(0.5) }),
            5 => Op::RenewWrite(RenewWrite { write, lease_ms: 1000 }),
            6 => self.pin(),
            7 => self.add_holder(node),
            8 => self.remove_holder(),
            _ => identity_command(&mut self.rng, self.number << 32 | self.ids_used, now_ms),
        };
        self.propose(op).await;
    }
}
