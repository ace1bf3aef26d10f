//! The workload of a run: puts, drops, reads and queries on a few tables, all recorded. `clients/reads.rs` has the reads and queries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use volley_client::{Client, PutOutcome};
use volley_common::options::{Mode, Options};
use volley_common::{Code, Error, Result, TableName};
use volley_tests::cluster::{MemberId, TestCluster};

use crate::history::{ClientOperation, HistoryLine, HistoryRecorder, MemberCall, OpOutcome, OpRequest, PutMode};
use crate::outcomes::{failed, put_outcome};
use crate::rows;

mod reads;

use reads::PinnedInfo;

/// The timeout of a client's call: less than the retention, so that nothing expires while it is read.
const CALL_LIMIT: Duration = Duration::from_secs(9);
/// How often a put is repeated under its id while its outcome is unknown.
const ATTEMPTS: usize = 4;
/// Operations on a table before the next one replaces it: few enough for the checker.
const OPERATIONS: u64 = 150;
/// Maximum number of rows of a write.
const MOST_ROWS: i64 = 1500;

/// A kind of table, and how its rows are kept.
#[derive(Clone, Debug)]
pub struct TableKind {
    prefix: &'static str,
    keyed: bool,
    /// Copies of every part.
    pub replicas: u32,
    /// Whether clients drop it occasionally.
    volatile: bool,
}

const fn kind(prefix: &'static str, keyed: bool, replicas: u32, volatile: bool) -> TableKind {
    TableKind { prefix, keyed, replicas, volatile }
}

const TABLE_KINDS: [TableKind; 5] = [
    kind("plain", false, 2, false),
    kind("keyed", true, 2, false),
    kind("triple", false, 3, false),
    kind("volatile", true, 3, true),
    kind("fleeting", false, 2, true),
];

/// How many copies the parts of a table must have, by its name.
pub fn replicas(table: &str) -> Option<u32> {
    TABLE_KINDS.iter().find(|kind| table.starts_with(kind.prefix)).map(|kind| kind.replicas)
}

/// What all clients share: addresses, tables and the history.
pub struct ClientWorkload {
    recorder: Arc<HistoryRecorder>,
    addresses: Vec<String>,
    /// In the order of `addresses`.
    members: Vec<MemberId>,
    retention: Duration,
    /// Operations on each kind so far.
    used: [AtomicU64; TABLE_KINDS.len()],
    stop: CancellationToken,
}

impl ClientWorkload {
    /// A workload on the members of a cluster. `retention`: how long the cluster keeps old versions.
    pub fn new(recorder: Arc<HistoryRecorder>, cluster: &TestCluster, retention: Duration) -> ClientWorkload {
        let (addresses, members) = (cluster.addresses(), cluster.member_ids());
        ClientWorkload {
            recorder,
            addresses,
            members,
            retention,
            used: Default::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Stops all clients after their current operation.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Counts one operation; returns the current table of a kind, and its predecessor if that is due to be dropped.
    fn table(&self, kind: usize) -> (String, Option<String>) {
        let used = self.used[kind].fetch_add(1, Ordering::Relaxed);
        let (generation, prefix) = (used / OPERATIONS, TABLE_KINDS[kind].prefix);
        let old = (used % OPERATIONS == OPERATIONS / 2 && generation >= 2).then(|| generation - 2);
        (format!("{prefix}{generation}"), old.map(|generation| format!("{prefix}{generation}")))
    }
}

/// One client. It calls a random member each time, on a new connection after each failure.
pub struct ChaosClient {
    load: Arc<ClientWorkload>,
    rng: StdRng,
    /// Distinguishes it from others in the history.
    number: u64,
    connections: HashMap<usize, Client>,
    kept: Vec<PinnedInfo>,
}

/// The index of the member that was called, and its answer.
type MemberAnswer<T> = (usize, Result<T>);

impl ChaosClient {
    /// A client with a random sequence of its own.
    pub fn new(load: Arc<ClientWorkload>, seed: u64) -> ChaosClient {
        let (rng, connections) = (StdRng::seed_from_u64(seed), HashMap::new());
        ChaosClient { load, rng, number: seed, connections, kept: Vec::new() }
    }

    /// Runs one operation after the other until the workload stops.
    pub async fn run(mut self) {
        while !self.load.stop.is_cancelled() {
            let kind = self.rng.random_range(0..TABLE_KINDS.len());
            let (table, old) = self.load.table(kind);
            if let Some(old) = old {
                self.read(&old, true).await;
                self.drop_table(&old).await;
            }
            self.one(&TABLE_KINDS[kind], &table).await;
        }
    }

    async fn one(&mut self, kind: &TableKind, table: &str) {
        match self.rng.random_range(0..100) {
            0..38 => self.append(kind, table).await,
            38..46 => drop(self.put(kind, table, PutMode::Replace).await),
            46..50 => drop(self.put(kind, table, PutMode::Create).await),
            50..53 if kind.volatile => self.drop_table(table).await,
            50..60 => self.read_pinned().await,
            60..66 => self.read_version(table).await,
            66..74 => self.read(table, false).await,
            74..84 => self.query(table).await,
            _ => self.read(table, true).await,
        }
    }

    /// Appends; creates the table if it does not exist.
    async fn append(&mut self, kind: &TableKind, table: &str) {
        if self.put(kind, table, PutMode::Append).await == OpOutcome::Absent {
            self.put(kind, table, PutMode::Create).await;
        }
    }

    async fn put(&mut self, kind: &TableKind, table: &str, mode: PutMode) -> OpOutcome {
        let (id, begin) = (self.load.recorder.id(), self.load.recorder.now());
        let (write, rows) = (format!("w{id}"), self.rng.random_range(1..=MOST_ROWS));
        let request = OpRequest::Put { mode, write: write.clone(), rows };
        let mut outcome = OpOutcome::Absent;
        for attempt in 0..ATTEMPTS {
            let (member, result) = self.put_once(kind, table, mode, &write, rows).await;
            if result.is_err() {
                self.connections.remove(&member);
            }
            // After an attempt of unknown outcome no refusal is conclusive: the earlier attempt may still take effect.
            let certain = attempt == 0;
            outcome = put_outcome(result, certain);
            if !matches!(outcome, OpOutcome::Unknown { .. }) || self.load.stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(50..500))).await;
        }
        self.note(id, table, request, begin, outcome)
    }

    async fn put_once(
        &mut self,
        kind: &TableKind,
        table: &str,
        mode: PutMode,
        write: &str,
        rows: i64,
    ) -> MemberAnswer<PutOutcome> {
        let options = write_options(kind, mode, write);
        let (name, stream) = (name(table), rows::stream(table, write, rows));
        self.call(async move |client| client.put(&name, &options, rows::schema(), stream).await).await
    }

    async fn drop_table(&mut self, table: &str) {
        let (id, begin, name) = (self.load.recorder.id(), self.load.recorder.now(), name(table));
        let (member, result) = self.call(async move |client| client.drop_table(&name).await).await;
        let outcome = match result {
            Ok(_) => OpOutcome::Done { version: 0 },
            Err(error) => {
                self.connections.remove(&member);
                failed(error, true)
            }
        };
        self.note(id, table, OpRequest::Drop, begin, outcome);
    }

    /// Calls a member with a time limit; connects first if necessary.
    async fn call<T>(&mut self, call: impl AsyncFnOnce(&Client) -> Result<T>) -> MemberAnswer<T> {
        let member = self.rng.random_range(0..self.load.addresses.len());
        let address = &self.load.addresses[member];
        let known = self.connections.get(&member).cloned();
        let called = async {
            let client = match known {
                Some(client) => client,
                None => Client::connect(address).await.map_err(|e| Error { code: Code::Unavailable, ..e })?,
            };
            let answer = call(&client).await;
            Ok((client, answer))
        };
        let begin = self.load.recorder.now();
        let outcome = tokio::time::timeout(CALL_LIMIT, called).await;
        let (name, end) = (self.load.members[member].to_string(), self.load.recorder.now());
        self.load.recorder.add(HistoryLine::Call(MemberCall { client: self.number, member: name, begin, end }));
        match outcome {
            Ok(Ok((client, answer))) => {
                self.connections.insert(member, client);
                (member, answer.map_err(|error| error.at(address)))
            }
            Ok(Err(error)) => (member, Err(error)),
            Err(_) => (member, Err(Error::deadline(format!("{address}: no answer within {CALL_LIMIT:?}")))),
        }
    }

    fn note(&self, id: u64, table: &str, request: OpRequest, begin: u64, outcome: OpOutcome) -> OpOutcome {
        let (end, table) = (self.load.recorder.now(), table.to_string());
        self.load.recorder.add(HistoryLine::Operation(ClientOperation {
            id,
            table,
            request,
            begin,
            end,
            outcome: outcome.clone(),
        }));
        outcome
    }

    /// Repeats a put of unknown outcome under its id.
    pub async fn settle(&mut self, operation: &ClientOperation) {
        let OpRequest::Put { mode, write, rows } = &operation.request else { return };
        let Some(kind) = TABLE_KINDS.iter().find(|kind| operation.table.starts_with(kind.prefix)) else { return };
        let (_, result) = self.put_once(kind, &operation.table, *mode, write, *rows).await;
        let outcome = put_outcome(result, false);
        self.note(operation.id, &operation.table, operation.request.clone(), operation.begin, outcome);
    }
}

fn name(table: &str) -> TableName {
    table.parse().unwrap()
}

fn is_keyed(table: &str) -> bool {
    TABLE_KINDS.iter().any(|kind| kind.keyed && table.starts_with(kind.prefix))
}

fn write_options(kind: &TableKind, mode: PutMode, write: &str) -> Options {
    let mode_option = match mode {
        PutMode::Append => Mode::Append,
        PutMode::Replace => Mode::Replace,
        PutMode::Create => Mode::Create,
    };
    let made = mode != PutMode::Append;
    Options {
        mode: Some(mode_option),
        write_id: Some(write.to_string()),
        shards: (made && kind.keyed).then_some(4),
        shard_by: (made && kind.keyed).then(|| vec!["seq".into()]),
        replicas: made.then_some(kind.replicas),
        ..Options::default()
    }
}
