//! A burst: a thousand writers at once, while other faults may be in effect.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use volley_client::{Client, FetchOptions};
use volley_common::options::{Mode, Options};
use volley_common::{Code, Error, Result, TableName};

use super::{FaultUndo, InjectResult, ProcessNemesis};
use crate::check::{ChaosViolation, ViolationKind};
use crate::rows;

/// Writers at once.
const WRITERS: usize = 1_000;
/// Rows of each write.
const ROWS: i64 = 20;
/// Shards of the table.
const SHARDS: u32 = 4;
/// How long a put may take, all its attempts together: two processors need more than a minute for all members and writers.
const PUT_LIMIT: Duration = Duration::from_secs(180);
/// How long one attempt to read the table may take, and how long it may be unreadable afterwards.
const READ_LIMIT: Duration = Duration::from_secs(30);
const UNREADABLE_LIMIT: Duration = PUT_LIMIT;
/// Pause before the first attempt is repeated; it doubles with each attempt, up to [`MAX_DOUBLINGS`] times, as clients do. A
/// thousand that come back at once would be the next burst.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const MAX_DOUBLINGS: u32 = 4;

impl ProcessNemesis {
    /// A thousand clients append to a table of their own at once. Each append must end, and those that were acknowledged must
    /// be there, once.
    pub(super) async fn burst(&mut self) -> InjectResult {
        let (begin, address) = (Instant::now(), self.cluster.servers.addresses());
        // A name is used once: a repeated write id has the outcome of the first write, whose table is dropped.
        let name = format!("burst{}", self.bursts);
        self.bursts += 1;
        let table: TableName = name.parse().map_err(|e: Error| e.message)?;
        let options = Options {
            mode: Some(Mode::Create),
            shards: Some(SHARDS),
            shard_by: Some(vec!["seq".into()]),
            ..Options::default()
        };
        // One connection to each member that answers: the proxies before the members look up the owner of each connection.
        let mut clients = Vec::new();
        for member in &address {
            clients.extend(tokio::time::timeout(RETRY_PAUSE * 5, connect(member)).await.into_iter().flatten());
        }
        let Some(client) = clients.first() else { return Err("no member answered".into()) };
        client.put(&table, &options, rows::schema(), rows::stream(&name, "", 0)).await.map_err(|e| e.message)?;
        let writers = (0..WRITERS).map(|number| append(&clients, &table, number));
        let ended: Vec<(usize, Result<()>)> = writers.collect::<FuturesUnordered<_>>().collect().await;
        let acknowledged: BTreeSet<String> =
            ended.iter().filter(|(_, result)| result.is_ok()).map(|(number, _)| write_id(&table, *number)).collect();
        let hung = ended.iter().filter_map(|(_, result)| result.as_ref().err());
        let hung: Vec<&Error> = hung.filter(|error| error.code == Code::DeadlineExceeded).collect();
        let is_refusal = |error: &&Error| error.code != Code::DeadlineExceeded;
        let mut refusals = ended.iter().filter_map(|(_, result)| result.as_ref().err().filter(is_refusal));
        if let Some(refusal) = refusals.next() {
            let more = refusals.count();
            self.violate(ViolationKind::Unexpected, format!("{name}: a put was refused, and {more} others: {refusal}"));
        }
        if let Some(first) = hung.first() {
            let count = hung.len();
            self.violate(
                ViolationKind::Unexpected,
                format!("{name}: {count} of {WRITERS} puts did not succeed within {PUT_LIMIT:?}: {first}"),
            );
        }
        match read(&address, &name, &table).await {
            Ok(found) => self.judge(&name, found, &acknowledged),
            Err(error) => {
                self.violate(ViolationKind::Unreachable, format!("{name}: the table cannot be read: {error}"))
            }
        }
        drop_table(&clients, &table).await.map_err(|e| e.message)?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok((format!("{} of {WRITERS} puts acknowledged in {seconds:.1} s", acknowledged.len()), FaultUndo::Nothing))
    }

    /// What was acknowledged must be there.
    fn judge(&mut self, name: &str, found: rows::TableContent, acknowledged: &BTreeSet<String>) {
        found.flaws.iter().for_each(|flaw| self.violate(ViolationKind::Corrupt, format!("{name}: {flaw}")));
        let visible: BTreeSet<String> = found.writes.into_iter().collect();
        if let Some(lost) = acknowledged.difference(&visible).next() {
            self.violate(ViolationKind::Lost, format!("{name}: the acknowledged write {lost} is not visible"));
        }
    }

    fn violate(&mut self, kind: ViolationKind, what: String) {
        self.violations.push(ChaosViolation { kind, what, operations: Vec::new() });
    }
}

/// Every burst has its own ids: a write id is for one table.
fn write_id(table: &TableName, number: usize) -> String {
    format!("{table}-{number}")
}

async fn connect(address: &str) -> Result<Client> {
    Client::connect(address).await
}

/// Appends the rows of one writer, and repeats that under its id, at another member, while the cluster asks for it;
/// DEADLINE_EXCEEDED if no attempt succeeds in time. The writers that fail at one member go on to different ones.
async fn append(clients: &[Client], table: &TableName, number: usize) -> (usize, Result<()>) {
    let (begin, write) = (Instant::now(), write_id(table, number));
    let options = Options { mode: Some(Mode::Append), write_id: Some(write.clone()), ..Options::default() };
    let stride = 1 + number / clients.len() % clients.len().saturating_sub(1).max(1);
    let mut last = None;
    for attempt in 0.. {
        let client = &clients[(number + attempt * stride) % clients.len()];
        let rows = rows::stream(&table.to_string(), &write, ROWS);
        let putting = client.put(table, &options, rows::schema(), rows);
        let left = PUT_LIMIT.saturating_sub(begin.elapsed());
        match tokio::time::timeout(left, putting).await {
            Ok(Ok(_)) => return (number, Ok(())),
            // Faults that are in effect, or too many puts at once.
            Ok(Err(error)) if !matches!(error.code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted) => {
                return (number, Err(error));
            }
            Ok(Err(error)) => {
                last = Some(error);
                tokio::time::sleep(RETRY_PAUSE * (1 << MAX_DOUBLINGS.min(attempt as u32))).await;
            }
            Err(_) => {
                let last = last.map_or("had no answer".into(), |error| format!("followed this error: {error}"));
                return (number, Err(Error::deadline(format!("attempt {attempt} {last}"))));
            }
        }
    }
    unreachable!("attempts have no end")
}

/// Drops the table through any member that answers, if it is not dropped yet.
async fn drop_table(clients: &[Client], table: &TableName) -> Result<()> {
    through_any(clients, |client| async move {
        match client.drop_table(table).await {
            Err(error) if error.code != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    })
    .await
}

/// Reads the table through any member that answers.
async fn read(addresses: &[String], name: &str, table: &TableName) -> Result<rows::TableContent> {
    through_any(addresses, |address| async move {
        let client = connect(address).await?;
        let info = client.info(table, &Options::default()).await?;
        let batches: Vec<_> = client.fetch(info, FetchOptions::default())?.collect().await;
        let batches: Result<Vec<_>> = batches.into_iter().map(|fetched| fetched.map(|f| f.batch)).collect();
        Ok(rows::content(name, &batches?, false))
    })
    .await
}

/// What a call through any member gives, each in turn until one answers.
async fn through_any<'a, M, T, F>(members: &'a [M], call: impl Fn(&'a M) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begin = Instant::now();
    for member in members.iter().cycle() {
        let ended = tokio::time::timeout(READ_LIMIT, call(member)).await;
        let error = match ended {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => error,
            Err(_) => Error::deadline(format!("no answer within {READ_LIMIT:?}")),
        };
        if begin.elapsed() > UNREADABLE_LIMIT {
            return Err(error);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Err(Error::unavailable("there is no member"))
}
