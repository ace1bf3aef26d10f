//! What is asked of the cluster while it suffers: puts, drops and reads on a few tables, all taken down.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_flight::{FlightInfo, Ticket};
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use volley_common::client::{Client, FetchOptions, PutOutcome};
use volley_common::options::{Mode, Options};
use volley_common::{Code, Error, Result, TableName};

use crate::history::{Ask, Event, Line, Outcome, PutMode, Recorder};
use crate::rows::{self, Content};

/// How long one call may take before the client gives it up: less than the retention, so that nothing expires while it is read.
const CALL: Duration = Duration::from_secs(9);
/// How often a put is repeated under its id while its outcome is unknown.
const ATTEMPTS: usize = 4;
/// Operations on a table before the next one takes its place: what the judge can look through with ease.
const OPERATIONS: u64 = 150;
/// Rows of a write at most.
const MOST_ROWS: i64 = 1500;

/// A table, and how its rows are kept.
#[derive(Clone, Debug)]
pub struct Slot {
    prefix: &'static str,
    keyed: bool,
    /// Copies of every part.
    pub replicas: u32,
    /// Whether it is dropped now and then.
    volatile: bool,
}

/// The kinds of tables that there are.
const fn slot(prefix: &'static str, keyed: bool, replicas: u32, volatile: bool) -> Slot {
    Slot { prefix, keyed, replicas, volatile }
}

const SLOTS: [Slot; 5] = [
    slot("plain", false, 2, false),
    slot("keyed", true, 2, false),
    slot("triple", false, 3, false),
    slot("volatile", true, 3, true),
    slot("fleeting", false, 2, true),
];

/// How many copies each table should have; by its name.
pub fn replicas(table: &str) -> Option<u32> {
    SLOTS.iter().find(|slot| table.starts_with(slot.prefix)).map(|slot| slot.replicas)
}

/// What all clients share.
pub struct Load {
    recorder: Arc<Recorder>,
    addresses: Vec<String>,
    retention: Duration,
    /// Operations on each slot so far.
    used: [AtomicU64; SLOTS.len()],
    stop: CancellationToken,
}

impl Load {
    /// Clients of these members. `retention`: how long the cluster keeps old versions.
    pub fn new(recorder: Arc<Recorder>, addresses: Vec<String>, retention: Duration) -> Load {
        Load { recorder, addresses, retention, used: Default::default(), stop: CancellationToken::new() }
    }

    /// Tells all clients to end after what they are at.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The table that a slot has now, after counting one operation; and its predecessor if it is time to drop that.
    fn table(&self, slot: usize) -> (String, Option<String>) {
        let used = self.used[slot].fetch_add(1, Ordering::Relaxed);
        let (generation, prefix) = (used / OPERATIONS, SLOTS[slot].prefix);
        let old = (used % OPERATIONS == OPERATIONS / 2 && generation >= 2).then(|| generation - 2);
        (format!("{prefix}{generation}"), old.map(|generation| format!("{prefix}{generation}")))
    }
}

/// A FlightInfo that is kept to be read again.
struct Kept {
    table: String,
    info: FlightInfo,
    content: Content,
    since: Instant,
}

/// One client. It comes by any member, another after each failure.
pub struct Worker {
    load: Arc<Load>,
    rng: StdRng,
    connections: HashMap<usize, Client>,
    kept: Vec<Kept>,
}

/// The answer, and by which member it came.
type Answer<T> = (usize, Result<T>);

impl Worker {
    /// A client with its own sequence of choices.
    pub fn new(load: Arc<Load>, seed: u64) -> Worker {
        Worker { load, rng: StdRng::seed_from_u64(seed), connections: HashMap::new(), kept: Vec::new() }
    }

    /// Asks for one thing after the other until told to stop.
    pub async fn run(mut self) {
        while !self.load.stop.is_cancelled() {
            let slot = self.rng.random_range(0..SLOTS.len());
            let (table, old) = self.load.table(slot);
            if let Some(old) = old {
                self.read(&old, true).await;
                self.drop_table(&old).await;
            }
            self.one(&SLOTS[slot], &table).await;
        }
    }

    async fn one(&mut self, slot: &Slot, table: &str) {
        match self.rng.random_range(0..100) {
            0..38 => self.append(slot, table).await,
            38..46 => drop(self.put(slot, table, PutMode::Replace).await),
            46..50 => drop(self.put(slot, table, PutMode::Create).await),
            50..53 if slot.volatile => self.drop_table(table).await,
            50..60 => self.read_pinned().await,
            60..66 => self.read_version(table).await,
            66..74 => self.read(table, false).await,
            _ => self.read(table, true).await,
        }
    }

    /// Appends; the first to find no table makes it.
    async fn append(&mut self, slot: &Slot, table: &str) {
        if self.put(slot, table, PutMode::Append).await == Outcome::Absent {
            self.put(slot, table, PutMode::Create).await;
        }
    }

    async fn put(&mut self, slot: &Slot, table: &str, mode: PutMode) -> Outcome {
        let (id, begin) = (self.load.recorder.id(), self.load.recorder.now());
        let (write, rows) = (format!("w{id}"), self.rng.random_range(1..=MOST_ROWS));
        let ask = Ask::Put { mode, write: write.clone(), rows };
        let mut outcome = Outcome::Absent;
        for attempt in 0..ATTEMPTS {
            let (member, result) = self.put_once(slot, table, mode, &write, rows).await;
            if result.is_err() {
                self.connections.remove(&member);
            }
            // What was unknown once cannot be refused for sure: the earlier attempt may still come through.
            let certain = attempt == 0;
            outcome = put_outcome(result, certain);
            if !matches!(outcome, Outcome::Unknown { .. }) || self.load.stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(50..500))).await;
        }
        self.note(id, table, ask, begin, outcome)
    }

    async fn put_once(
        &mut self,
        slot: &Slot,
        table: &str,
        mode: PutMode,
        write: &str,
        rows: i64,
    ) -> Answer<PutOutcome> {
        let options = write_options(slot, mode, write);
        let (name, stream) = (name(table), rows::stream(table, write, rows));
        self.call(async move |client| client.put(&name, &options, rows::schema(), stream).await).await
    }

    async fn drop_table(&mut self, table: &str) {
        let (id, begin, name) = (self.load.recorder.id(), self.load.recorder.now(), name(table));
        let (member, result) = self.call(async move |client| client.drop_table(&name).await).await;
        let outcome = match result {
            Ok(_) => Outcome::Done { version: 0 },
            Err(error) => {
                self.connections.remove(&member);
                failed(error, true)
            }
        };
        self.note(id, table, Ask::Drop, begin, outcome);
    }

    async fn read(&mut self, table: &str, endpoints: bool) {
        let (id, begin, since) = (self.load.recorder.id(), self.load.recorder.now(), Instant::now());
        let (result, kept) = match endpoints {
            true => self.read_info(table, Options::default()).await,
            false => (self.read_stream(table).await, None),
        };
        let outcome = read_outcome(result);
        if let (Some(info), Outcome::Content { content, .. }) = (kept, &outcome)
            && self.kept.len() < 8
            && self.rng.random_bool(0.3)
        {
            self.kept.push(Kept { table: table.to_string(), info, content: content.clone(), since });
        }
        self.note(id, table, Ask::Read { endpoints }, begin, outcome);
    }

    /// By FlightInfo: all endpoints in parallel.
    async fn read_info(&mut self, table: &str, options: Options) -> (Result<Outcome>, Option<FlightInfo>) {
        let (table, name) = (table.to_string(), name(table));
        let (member, result) = self
            .call(async move |client| {
                let info = client.info(&name, &options).await?;
                Ok((fetch(client, &table, info.clone()).await?, info))
            })
            .await;
        match result {
            Ok((outcome, info)) => (Ok(outcome), Some(info)),
            Err(error) => {
                self.connections.remove(&member);
                (Err(error), None)
            }
        }
    }

    /// By the table's name as a ticket, at one member.
    async fn read_stream(&mut self, table: &str) -> Result<Outcome> {
        let (owned, ordered) = (table.to_string(), !is_keyed(table));
        let (member, result) =
            self.call(async move |client| client.do_get(Ticket { ticket: owned.into_bytes().into() }).await).await;
        match result {
            Ok((_, batches)) => {
                Ok(Outcome::Content { version: None, ordered, content: rows::content(table, &batches, ordered) })
            }
            Err(error) => {
                self.connections.remove(&member);
                Err(error)
            }
        }
    }

    /// Reads a FlightInfo again that was got a while ago, if there is one that has not expired.
    async fn read_pinned(&mut self) {
        let limit = self.load.retention;
        self.kept.retain(|kept| kept.since.elapsed() < limit * 3 / 4);
        if self.kept.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.kept.len());
        let (table, info, was, since) = {
            let kept = &self.kept[at];
            (kept.table.clone(), kept.info.clone(), kept.content.clone(), kept.since)
        };
        let (id, begin, owned) = (self.load.recorder.id(), self.load.recorder.now(), table.clone());
        let (_, result) = self.call(async move |client| fetch(client, &owned, info).await).await;
        // Past its time it may have expired while it was being read.
        if since.elapsed() < limit {
            self.note(id, &table, Ask::Pinned { was }, begin, read_outcome(result));
        }
    }

    /// Reads some version before the newest one.
    async fn read_version(&mut self, table: &str) {
        let (id, begin) = (self.load.recorder.id(), self.load.recorder.now());
        let kept = self.kept.iter().find(|kept| kept.table == table).and_then(|kept| version_of(&kept.info));
        let Some(version) = kept else { return self.read(table, true).await };
        let options = Options { version: Some(version), ..Options::default() };
        let (result, _) = self.read_info(table, options).await;
        self.note(id, table, Ask::Version { version }, begin, read_outcome(result));
    }

    /// Calls a member with a time limit; connects first if need be.
    async fn call<T>(&mut self, call: impl AsyncFnOnce(&Client) -> Result<T>) -> Answer<T> {
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
        match tokio::time::timeout(CALL, called).await {
            Ok(Ok((client, answer))) => {
                self.connections.insert(member, client);
                (member, answer.map_err(|error| error.at(address)))
            }
            Ok(Err(error)) => (member, Err(error)),
            Err(_) => (member, Err(Error::deadline(format!("{address}: no answer within {CALL:?}")))),
        }
    }

    fn note(&self, id: u64, table: &str, ask: Ask, begin: u64, outcome: Outcome) -> Outcome {
        let (end, table) = (self.load.recorder.now(), table.to_string());
        self.load.recorder.add(Line::Event(Event { id, table, ask, begin, end, outcome: outcome.clone() }));
        outcome
    }

    /// Repeats a put whose outcome is not known, under its id.
    pub async fn settle(&mut self, event: &Event) {
        let Ask::Put { mode, write, rows } = &event.ask else { return };
        let Some(slot) = SLOTS.iter().find(|slot| event.table.starts_with(slot.prefix)) else { return };
        let (_, result) = self.put_once(slot, &event.table, *mode, write, *rows).await;
        let outcome = put_outcome(result, false);
        self.note(event.id, &event.table, event.ask.clone(), event.begin, outcome);
    }

    /// Reads a table by one member, to see how it stands; whether there was an answer.
    pub async fn look(&mut self, table: &str) -> bool {
        let (id, begin) = (self.load.recorder.id(), self.load.recorder.now());
        let (result, _) = self.read_info(table, Options::default()).await;
        let outcome = self.note(id, table, Ask::Read { endpoints: true }, begin, read_outcome(result));
        matches!(outcome, Outcome::Content { .. } | Outcome::Absent)
    }
}

async fn fetch(client: &Client, table: &str, info: FlightInfo) -> Result<Outcome> {
    let (version, ordered) = (version_of(&info), info.ordered);
    let batches: Vec<_> =
        client.fetch(info, FetchOptions::default())?.map_ok(|fetched| fetched.batch).try_collect().await?;
    Ok(Outcome::Content { version, ordered, content: rows::content(table, &batches, ordered) })
}

fn name(table: &str) -> TableName {
    table.parse().unwrap()
}

fn is_keyed(table: &str) -> bool {
    SLOTS.iter().any(|slot| slot.keyed && table.starts_with(slot.prefix))
}

fn write_options(slot: &Slot, mode: PutMode, write: &str) -> Options {
    let mode_option = match mode {
        PutMode::Append => Mode::Append,
        PutMode::Replace => Mode::Replace,
        PutMode::Create => Mode::Create,
    };
    let made = mode != PutMode::Append;
    Options {
        mode: Some(mode_option),
        write_id: Some(write.to_string()),
        shards: (made && slot.keyed).then_some(4),
        shard_by: (made && slot.keyed).then(|| vec!["seq".into()]),
        replicas: made.then_some(slot.replicas),
        ..Options::default()
    }
}

/// The version that a FlightInfo is of.
fn version_of(info: &FlightInfo) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(&info.app_metadata).ok()?["version"].as_u64()
}

/// Codes of which docs/guarantees.md says that the put had no effect.
const REFUSALS: [Code; 6] = [
    Code::Aborted,
    Code::AlreadyExists,
    Code::FailedPrecondition,
    Code::InvalidArgument,
    Code::NotFound,
    Code::ResourceExhausted,
];

fn put_outcome(result: Result<PutOutcome>, first: bool) -> Outcome {
    match result {
        Ok(outcome) => Outcome::Done { version: outcome.version },
        Err(error) => failed(error, first),
    }
}

/// What an error of a write means; after an attempt of unknown outcome no refusal is certain.
fn failed(error: Error, first: bool) -> Outcome {
    let (code, message) = (format!("{:?}", error.code), error.message);
    match error.code {
        Code::NotFound if first => Outcome::Absent,
        Code::AlreadyExists if first => Outcome::Present,
        refusal if REFUSALS.contains(&refusal) && first => Outcome::Refused { code, message },
        // The refusal itself is honest; what the earlier attempt did stays open.
        refusal if REFUSALS.contains(&refusal) => Outcome::Unknown { code: "Aborted".into(), message },
        _ => Outcome::Unknown { code, message },
    }
}

fn read_outcome(result: Result<Outcome>) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(error) if error.code == Code::NotFound => Outcome::Absent,
        Err(error) => Outcome::Refused { code: format!("{:?}", error.code), message: error.message },
    }
}
