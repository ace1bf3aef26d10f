//! Queries over two tables of each key type and kind of sharding: the cluster must have the rows that one process has.
//!
//! One node runs a whole query, or all nodes run stages of it. The matrix is for each way in which that can become wrong: rows
//! that a part's holder filters by another rule than the engine, parts that are read twice or not at all, rows that are lost or
//! repeated between nodes, and joins that rely on equal keys being in equal shards.
//!
//! Its short form has each key type once, each kind of sharding on either side, and joins without exchanges; `VOLLEY_JOIN_MATRIX=long`
//! runs all pairs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt, stream};
use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_common::{Code, Result};
use volley_tests::rows::name;
use volley_tests::text_rows::{difference, text_rows};
use volley_tests::wait_for;

use crate::QueryNodes;
use crate::key_types::{EQUAL_KEYS, KeyType, key_column, key_types};
use crate::session;
use crate::single_process::SingleProcess;

/// How the rows of a table are stored.
struct TableLayout {
    name: &'static str,
    shards: u32,
    shard_by: &'static [&'static str],
}

const fn layout(name: &'static str, shards: u32, shard_by: &'static [&'static str]) -> TableLayout {
    TableLayout { name, shards, shard_by }
}

static LAYOUTS: [TableLayout; 6] = [
    layout("one", 1, &[]),
    layout("spread", 5, &[]),
    layout("keyed4", 4, &["k"]),
    layout("keyed7", 7, &["k"]),
    layout("by_id", 3, &["id"]),
    layout("by_both", 2, &["k", "id"]),
];
/// A layout of tables without rows.
static EMPTY: TableLayout = layout("empty", 4, &["k"]);

/// `short`, which is the default, or `long`.
const FORM_VARIABLE: &str = "VOLLEY_JOIN_MATRIX";

/// Writes of each table, so that most shards have several parts.
const WRITES: i64 = 3;
/// Queries at once.
const QUERIES: usize = 4;

/// `{l}` and `{r}` are the tables, both with `id`, a key `k` and a number `v`; nulls are among keys and numbers. Sums are of
/// integers, so that their order does not matter.
const STATEMENTS: [&str; 20] = [
    BY_KEY,
    "SELECT l.id, l.v, r.id AS other FROM {l} l JOIN {r} r ON l.k = r.k WHERE l.id >= 10 AND r.v < 300 AND l.v <> r.v",
    "SELECT l.id, l.k, r.k AS other, r.v FROM {l} l LEFT JOIN {r} r ON l.k = r.k AND r.v > 100",
    "SELECT l.id, r.id AS other, r.k FROM {l} l RIGHT JOIN {r} r ON l.k = r.k WHERE l.id IS NULL OR l.id % 2 = 0",
    "SELECT l.id, l.k, r.id AS other, r.k AS other_k FROM {l} l FULL JOIN {r} r ON l.k = r.k",
    "SELECT l.id, r.id AS other FROM {l} l JOIN {r} r ON (l.k IS NOT DISTINCT FROM r.k) AND l.id < r.id",
    "SELECT l.id, r.id AS other FROM {l} l JOIN {r} r ON l.id + 40 < r.id",
    "SELECT a.id, b.id AS second, c.id AS third FROM {l} a JOIN {r} b ON a.k = b.k JOIN {l} c ON b.k = c.k AND c.id < a.id",
    "SELECT id, k FROM {l} l WHERE EXISTS (SELECT 1 FROM {r} r WHERE r.k = l.k AND r.v IS NOT NULL)",
    "SELECT id, k FROM {l} l WHERE NOT EXISTS (SELECT 1 FROM {r} r WHERE r.k = l.k)",
    "SELECT id FROM {l} WHERE k IN (SELECT k FROM {r})",
    "SELECT id FROM {l} WHERE k NOT IN (SELECT k FROM {r})",
    "SELECT id FROM {l} WHERE k NOT IN (SELECT k FROM {r} WHERE k IS NOT NULL)",
    "SELECT id, (SELECT count(*) FROM {r} r WHERE r.k = l.k) AS n FROM {l} l",
    "SELECT l.k, count(*) AS n, count(r.v) AS v, sum(r.v) AS total, min(l.id) AS least FROM {l} l LEFT JOIN {r} r ON l.k = r.k GROUP BY l.k",
    "SELECT k FROM {l} UNION SELECT k FROM {r}",
    "SELECT k FROM {l} INTERSECT SELECT k FROM {r}",
    "SELECT k, id FROM {l} EXCEPT SELECT k, id FROM {r}",
    "SELECT id, row_number() OVER (PARTITION BY k ORDER BY id) AS place, sum(v) OVER (PARTITION BY k ORDER BY id) AS total FROM {l} ORDER BY id LIMIT 40",
    BY_BOTH_KEYS,
];
const BY_KEY: &str = "SELECT l.id, l.k, r.id AS other, r.v FROM {l} l JOIN {r} r ON l.k = r.k";
const BY_BOTH_KEYS: &str =
    "SELECT l.id, l.k, r.v, r.k AS other FROM {l} l FULL JOIN {r} r ON l.k = r.k AND l.id = r.id AND l.v >= r.v";

/// Key types of tables with equal shards: joins of them need no exchange, by the keys that the statement joins.
static EQUAL_SHARDS: [(&str, &TableLayout, &str); 4] = [
    ("int64", &LAYOUTS[2], BY_KEY),
    ("float64", &LAYOUTS[2], BY_KEY),
    ("dictionary", &LAYOUTS[2], BY_KEY),
    ("int64", &LAYOUTS[5], BY_BOTH_KEYS),
];
/// How EXPLAIN names such a join.
const COLOCATED_JOIN: &str = "ColocatedJoinExec";
const SOON: Duration = Duration::from_secs(30);

/// The cluster and the single process, with the same tables.
struct JoinRig {
    /// One for each member.
    clients: Vec<Client>,
    single: SingleProcess,
    made: HashSet<String>,
}

impl JoinRig {
    /// Puts a table, unless it exists, and returns its name.
    async fn table(&mut self, side: &str, key: &KeyType, layout: &TableLayout) -> String {
        let table = format!("{}_{side}_{}", key.name, layout.name);
        if self.made.insert(table.clone()) {
            let rows = if layout.name == EMPTY.name { 0 } else { rows_of(side) };
            let schema = schema(&key.data_type);
            let writes: Vec<RecordBatch> = (0..WRITES).map(|write| batch(side, &schema, write, rows)).collect();
            for (write, batch) in writes.iter().enumerate() {
                let client = &self.clients[(self.made.len() + write) % self.clients.len()];
                put(client, &table, layout, write == 0, batch.clone()).await.unwrap();
            }
            self.single.add(&table, schema, writes);
        }
        table
    }

    /// A statement over these tables.
    async fn statement(&mut self, sql: &str, (left_key, left, right_key, right): TablePair<'_>) -> String {
        let (left, right) = (self.table("l", left_key, left).await, self.table("r", right_key, right).await);
        sql.replace("{l}", &left).replace("{r}", &right)
    }
}

fn rows_of(side: &str) -> i64 {
    if side == "l" { 66 } else { 48 }
}

fn schema(key: &DataType) -> SchemaRef {
    let number = |name, nullable| Field::new(name, DataType::Int64, nullable);
    Schema::new(vec![number("id", false), Field::new("k", key.clone(), true), number("v", true)]).into()
}

/// The rows of one write of a table. Each side has keys that the other one lacks, and most keys several times.
fn batch(side: &str, schema: &SchemaRef, write: i64, rows: i64) -> RecordBatch {
    let ids: Vec<i64> = (0..rows).filter(|id| id % WRITES == write).collect();
    let key = |id: &i64| match side {
        "l" => (id % 6 != 5).then_some(id * 7 % 13),
        _ => (id % 7 != 6).then_some(id * 5 % 11 + 4),
    };
    let keys: Vec<Option<i64>> = ids.iter().map(key).collect();
    let numbers: Int64Array = ids.iter().map(|id| (id % 4 != 3).then_some(id * 10)).collect();
    let key_column = key_column(schema.field(1).data_type(), &keys);
    RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(ids)), key_column, Arc::new(numbers)]).unwrap()
}

async fn put(client: &Client, table: &str, layout: &TableLayout, is_first: bool, batch: RecordBatch) -> Result<()> {
    let by_key = (!layout.shard_by.is_empty()).then(|| layout.shard_by.iter().map(|key| key.to_string()).collect());
    let options = match is_first {
        true => Options { shards: Some(layout.shards), shard_by: by_key, ..Options::default() },
        false => Options { mode: Some(Mode::Append), ..Options::default() },
    };
    let rows = stream::iter([Ok(batch.clone())]);
    client.put(&name(table), &options, batch.schema(), rows).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_on_sharded_tables_have_the_rows_of_one_process() {
    compare_all(QueryNodes::One).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_on_all_nodes_have_the_rows_of_one_process() {
    compare_all(QueryNodes::All).await;
}

async fn compare_all(nodes: QueryNodes) {
    let cluster = crate::sql_cluster(nodes).await;
    let mut clients = Vec::new();
    for address in cluster.addresses() {
        clients.push(Client::connect(&address).await.unwrap());
    }
    let mut rig = JoinRig { clients, single: SingleProcess::start(), made: HashSet::new() };
    let statements = statements(&mut rig).await;
    if matches!(nodes, QueryNodes::All) {
        require_colocated_joins(&mut rig).await;
    }
    let (asked, rig) = (statements.len(), &rig);
    let compared = stream::iter(statements.into_iter().enumerate())
        .map(|(at, sql)| async move { compare(&sql, &rig.clients[at % rig.clients.len()], &rig.single).await });
    let (mut failures, mut refused) = (Vec::new(), 0);
    for outcome in compared.buffer_unordered(QUERIES).collect::<Vec<_>>().await {
        match outcome {
            Ok(is_answered) => refused += usize::from(!is_answered),
            Err(failure) => failures.push(failure),
        }
    }
    assert!(failures.is_empty(), "{} of {asked} differ:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(refused * 10 < asked, "{refused} of {asked} statements are refused by one process, too");
}

/// That joins of equal shards need no exchange, so that the comparison is one of these. Those of other shards need one.
async fn require_colocated_joins(rig: &mut JoinRig) {
    let (types, client) = (key_types(), rig.clients[0].clone());
    let (whole, small) = (key_type(&types, "int64"), key_type(&types, "int8"));
    let [_, spread, keyed4, keyed7, ..] = &LAYOUTS;
    let joined = rig.statement(BY_KEY, (whole, keyed4, whole, keyed4)).await;
    // A node whose engine still starts takes no part.
    wait_for(SOON, "all nodes take part", async || {
        plan_of(&client, &joined).await.contains("t3 on node").then_some(())
    })
    .await;
    for (name, layout, sql) in &EQUAL_SHARDS {
        let key = key_type(&types, name);
        let joined = rig.statement(sql, (key, *layout, key, *layout)).await;
        let plan = plan_of(&client, &joined).await;
        assert!(plan.contains(COLOCATED_JOIN), "{joined}:\n{plan}");
    }
    for pair in [(whole, keyed4, whole, keyed7), (whole, keyed4, whole, spread), (small, keyed4, whole, keyed4)] {
        let joined = rig.statement(BY_KEY, pair).await;
        let plan = plan_of(&client, &joined).await;
        assert!(plan.contains("DistributedExec") && !plan.contains(COLOCATED_JOIN), "{joined}:\n{plan}");
    }
}

async fn plan_of(client: &Client, sql: &str) -> String {
    let (_, rows) = session::query(client, &format!("EXPLAIN {sql}")).await.unwrap();
    text_rows(&rows).concat().join("\n")
}

/// A key type and a layout of the left table, and of the right one.
type TablePair<'a> = (&'a KeyType, &'static TableLayout, &'a KeyType, &'static TableLayout);

/// Whether all pairs of tables are joined.
fn is_long() -> bool {
    match std::env::var(FORM_VARIABLE).as_deref() {
        Ok("long") => true,
        Ok("short") | Err(_) => false,
        Ok(other) => panic!("{FORM_VARIABLE} is {other:?}: set it to short or long"),
    }
}

fn key_type<'a>(types: &'a [KeyType], name: &str) -> &'a KeyType {
    types.iter().find(|key| key.name == name).unwrap()
}

/// Each key type once, each layout on the left and on the right, and a table without rows.
fn short_pairs(types: &[KeyType]) -> Vec<TablePair<'_>> {
    let count = LAYOUTS.len();
    let whole = key_type(types, "int64");
    let mut pairs: Vec<TablePair> = Vec::new();
    for (at, key) in types.iter().enumerate() {
        pairs.push((key, &LAYOUTS[at % count], key, &LAYOUTS[(at + 1 + at / count) % count]));
    }
    pairs.push((whole, &LAYOUTS[3], whole, &EMPTY));
    pairs.extend(EQUAL_SHARDS.iter().map(|(name, layout, _)| {
        let key = key_type(types, name);
        (key, *layout, key, *layout)
    }));
    pairs
}

/// Every pair of layouts for one type; for the others each layout, with another one for each type; and keys of different types.
fn long_pairs(types: &[KeyType]) -> Vec<TablePair<'_>> {
    let whole = key_type(types, "int64");
    let mut pairs: Vec<TablePair> = Vec::new();
    for left in &LAYOUTS {
        pairs.extend(LAYOUTS.iter().map(|right| (whole, left, whole, right)));
    }
    pairs.extend([(whole, &EMPTY, whole, &LAYOUTS[2]), (whole, &LAYOUTS[3], whole, &EMPTY)]);
    for (at, key) in types.iter().enumerate() {
        for shift in [0, 3] {
            let of = |index: usize| &LAYOUTS[index % LAYOUTS.len()];
            pairs.push((key, of(at + shift), key, of(at * 2 + shift + 1)));
        }
        pairs.push((key, &LAYOUTS[2], key, &LAYOUTS[2]));
    }
    for (at, (left, right)) in EQUAL_KEYS.iter().enumerate() {
        pairs.push((key_type(types, left), &LAYOUTS[2 + at % 2], key_type(types, right), &LAYOUTS[2]));
    }
    pairs
}

/// All queries, with their tables made.
async fn statements(rig: &mut JoinRig) -> Vec<String> {
    let types = key_types();
    let pairs = if is_long() { long_pairs(&types) } else { short_pairs(&types) };
    let mut found = Vec::new();
    for (left_key, left, right_key, right) in pairs {
        let (left, right) = (rig.table("l", left_key, left).await, rig.table("r", right_key, right).await);
        found.extend(STATEMENTS.iter().map(|sql| sql.replace("{l}", &left).replace("{r}", &right)));
    }
    found
}

/// Runs a query at a member and in one process. Whether both have answered it; an error says how they differ.
async fn compare(sql: &str, client: &Client, single: &SingleProcess) -> std::result::Result<bool, String> {
    let (expected, found) = (single.query(sql).await, session::query(client, sql).await);
    match (expected, found) {
        (Ok((expected_schema, expected)), Ok((schema, rows))) => {
            let (expected_columns, columns) = (columns(&expected_schema), columns(&schema));
            if expected_columns != columns {
                return Err(format!("{sql}\nthe columns are {columns:?} instead of {expected_columns:?}"));
            }
            match difference(&text_rows(&expected), &text_rows(&rows)) {
                Some(difference) => Err(format!("{sql}\n{difference}")),
                None => Ok(true),
            }
        }
        (Err(_), Err(error)) if matches!(error.code, Code::InvalidArgument | Code::Unimplemented) => Ok(false),
        (expected, found) => {
            let outcome = |error: Option<String>| error.unwrap_or_else(|| "rows".into());
            let expected = outcome(expected.err().map(|error| error.to_string()));
            let found = outcome(found.err().map(|error| format!("{:?} {error}", error.code)));
            Err(format!("{sql}\none process: {expected}\nthe cluster: {found}"))
        }
    }
}

/// Names and types. The cluster sends text in place of its views, which the single process keeps.
fn columns(schema: &SchemaRef) -> Vec<(&str, DataType)> {
    let data_type = |field: &Field| match field.data_type() {
        DataType::Utf8View => DataType::Utf8,
        other => other.clone(),
    };
    schema.fields().iter().map(|field| (field.name().as_str(), data_type(field))).collect()
}
