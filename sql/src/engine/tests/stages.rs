//! Queries on three nodes in one process: the same rows as on one node, what stays on one node, cancellation, lost nodes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::StreamExt;
use volley_common::wire::cluster::{QueryTaskKey, ReadQueryTaskRequest};
use volley_common::{Code, NodeId};

use super::memory_network::StageRig;
use super::memory_source::{HOLDERS, ScanEnd, order_schema, orders};
use super::*;

/// The tables of these tests that a statement reads.
fn tables_of(sql: &str) -> Vec<&'static str> {
    ["big", "other", "small", "vacant"].into_iter().filter(|table| sql.contains(table)).collect()
}

/// `rows` rows with the columns k (a key with nulls and repeated values), v (a number) and t (a text), in parts of about equal
/// size.
fn table(name: &str, key: DataType, rows: i64, parts: i64) -> MemoryTable {
    let fields = vec![
        Field::new("k", key.clone(), true),
        Field::new("v", DataType::Int64, false),
        Field::new("t", DataType::Utf8, true),
    ];
    let schema = Arc::new(Schema::new(fields));
    let part = |part: i64| {
        let numbers: Vec<i64> = (part..rows).step_by(parts as usize).collect();
        let keys = numbers.iter().map(|n| (n % 11 != 3).then_some(n * 7 % 101));
        let keys: ArrayRef = match key {
            DataType::Int32 => Arc::new(keys.map(|key| key.map(|key| key as i32)).collect::<Int32Array>()),
            DataType::Utf8 => Arc::new(keys.map(|key| key.map(|key| key.to_string())).collect::<StringArray>()),
            _ => Arc::new(keys.collect::<Int64Array>()),
        };
        let texts: StringArray = numbers.iter().map(|n| (n % 5 != 0).then(|| format!("text {}", n % 23))).collect();
        let columns: Vec<ArrayRef> = vec![keys, Arc::new(Int64Array::from(numbers)), Arc::new(texts)];
        vec![RecordBatch::try_new(schema.clone(), columns).unwrap()]
    };
    MemoryTable::new(name, 1, schema.clone(), (0..parts).map(part).collect())
}

fn tables() -> Vec<MemoryTable> {
    vec![
        table("big", DataType::Int64, 1000, 7),
        table("other", DataType::Int32, 300, 4),
        table("small", DataType::Utf8, 40, 1),
        table("vacant", DataType::Int64, 0, 0),
    ]
}

fn rig() -> StageRig {
    StageRig::new(config(), tables(), 0)
}

async fn explained(rig: &StageRig, sql: &str) -> String {
    rig.rows(&format!("EXPLAIN {sql}"), &tables_of(sql)).await.unwrap().join("\n")
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

/// Statements whose rows have an order do not need their text to be sorted.
const QUERIES: &[&str] = &[
    "SELECT count(*) FROM big",
    "SELECT * FROM big WHERE v % 7 = 2",
    "SELECT k, count(*), sum(v), min(t), max(t), count(DISTINCT t) FROM big GROUP BY k",
    "SELECT DISTINCT t FROM big",
    "SELECT t, sum(v) FROM big GROUP BY t HAVING sum(v) > 1000 ORDER BY t NULLS FIRST",
    "SELECT v FROM big ORDER BY v DESC LIMIT 13",
    "SELECT v FROM big ORDER BY v LIMIT 5 OFFSET 500",
    "SELECT count(*) FROM (SELECT * FROM big LIMIT 17)",
    "SELECT a.v, b.v FROM big a JOIN other b ON a.k = b.k",
    "SELECT a.v, b.v FROM big a JOIN big b ON a.k = b.k AND a.v = b.v + 101",
    "SELECT a.v, b.v FROM big a LEFT JOIN other b ON a.k = b.k AND b.v < 50",
    "SELECT a.v, b.v FROM other a RIGHT JOIN big b ON a.k = b.k AND a.v < 50",
    "SELECT a.v, b.v FROM big a FULL JOIN other b ON a.k = b.k AND a.v % 2 = 0 AND b.v % 3 = 0",
    "SELECT a.v, b.v FROM big a JOIN small b ON a.k = CAST(b.k AS BIGINT)",
    "SELECT a.v, b.v FROM small b LEFT JOIN big a ON a.k = CAST(b.k AS BIGINT) AND a.v < 20",
    "SELECT a.v FROM big a WHERE EXISTS (SELECT 1 FROM other b WHERE b.k = a.k AND b.v < 20)",
    "SELECT a.v FROM big a WHERE NOT EXISTS (SELECT 1 FROM other b WHERE b.k = a.k)",
    "SELECT a.v FROM big a WHERE a.k NOT IN (SELECT b.k FROM other b WHERE b.k IS NOT NULL AND b.v < 90)",
    "SELECT a.v FROM big a WHERE a.k NOT IN (SELECT b.k FROM other b)",
    "SELECT a.v, b.v FROM big a JOIN small b ON a.v < b.v AND a.k IS NULL",
    "SELECT a.v, b.v FROM other a LEFT JOIN small b ON a.v > b.v + 280",
    "SELECT a.v, b.v FROM other a CROSS JOIN small b WHERE a.v < 10",
    "SELECT count(*) FROM (SELECT a.v FROM big a CROSS JOIN other b WHERE a.v < 100) c CROSS JOIN (SELECT v FROM other WHERE v < 9) d",
    "SELECT a.v, b.v FROM big a LEFT JOIN vacant b ON a.k = b.k WHERE a.v < 10",
    "SELECT k FROM big UNION SELECT CAST(k AS BIGINT) FROM small",
    "SELECT v FROM big UNION ALL SELECT v FROM other UNION ALL SELECT v FROM small UNION ALL SELECT 5",
    "SELECT k FROM big INTERSECT SELECT CAST(k AS BIGINT) FROM other",
    "SELECT k FROM big EXCEPT SELECT CAST(k AS BIGINT) FROM other WHERE v < 50",
    "SELECT v, row_number() OVER (PARTITION BY k ORDER BY v) FROM big",
    "SELECT v, sum(v) OVER (ORDER BY v ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM big",
    "SELECT v, lag(t) IGNORE NULLS OVER (PARTITION BY k ORDER BY v) FROM big",
    "SELECT v, count(*) FILTER (WHERE v % 3 = 0) OVER (PARTITION BY k ORDER BY v) FROM big",
    "SELECT k, count(*) FILTER (WHERE v % 3 = 0), array_agg(v ORDER BY v DESC) FROM big GROUP BY k",
    "SELECT t || '-' || t FROM big WHERE repeat(t, 2) LIKE '%3%'",
    "SELECT v FROM big WHERE v > (SELECT avg(v) FROM other)",
    "WITH x AS (SELECT k, sum(v) AS s FROM big GROUP BY k) SELECT a.s, b.s FROM x a JOIN x b ON a.k = b.k",
    "SELECT count(*) FROM big a JOIN other b ON a.k = b.k JOIN small c ON c.t = a.t JOIN big d ON d.v = b.v",
    "SELECT approx_distinct(k) > 90, stddev(v) > 1, array_length(array_agg(v)) FROM big",
    "SELECT TRY_CAST(v AS INT) % 7, count(*) FROM big GROUP BY 1",
    "SELECT a.v, b.v FROM big a JOIN other b ON TRY_CAST(a.v AS INT) = TRY_CAST(b.v AS INT)",
    "SELECT date_part('year', arrow_cast(v * 1000000000000000, 'Timestamp(ns)')), count(*) FROM big GROUP BY 1",
    "SELECT CASE WHEN k IN (1, 2, 3, 4, 5) THEN 'few' WHEN k IS NULL THEN 'none' ELSE t END, count(*) FROM big GROUP BY 1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_give_the_rows_of_one() {
    let (one, three) = (EngineRig::with(config(), tables()), rig());
    for sql in QUERIES {
        let expected = one.rows(sql, &tables_of(sql)).await;
        let found = three.rows(sql, &tables_of(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(sorted(found), sorted(expected), "{sql}");
    }
    three.all_tasks_ended().await;
}

/// How far a line of a plan is indented.
fn indentation(line: &str) -> usize {
    line.chars().take_while(|c| !c.is_alphabetic() && *c != '[').count()
}

/// The library swaps the sides of some joins, and distributes those of others by their keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_in_stages_take_their_probe_sides_in_pieces() {
    let rig = rig();
    let mut kinds = BTreeSet::new();
    for sql in QUERIES.iter().filter(|sql| sql.contains("JOIN") || sql.contains("EXISTS")) {
        let plan = explained(&rig, sql).await;
        let lines: Vec<&str> = plan.lines().collect();
        let is_join = |line: &&str| {
            ["HashJoinExec", "NestedLoopJoinExec", "CrossJoinExec"].iter().any(|join| line.contains(join))
        };
        for (at, join) in lines.iter().enumerate().filter(|(_, line)| is_join(line)) {
            let depth = indentation(join);
            // A stage ends with a line of its own.
            let of_stage = lines[at + 1..].iter().take_while(|line| !line.contains('└'));
            let below = of_stage.take_while(|line| indentation(line) > depth);
            let sides: Vec<_> = below.filter(|line| indentation(line) == depth + 2).collect();
            assert!(sides.len() == 2 && sides[1].contains("CooperativeProbeExec"), "{sql}: {join}\n{plan}");
            kinds.extend(plan.contains("DistributedExec").then(|| join.contains("mode=Partitioned, join_type=Left,")));
        }
        let count = |operator: &str| lines.iter().filter(|line| line.contains(operator)).count();
        assert_eq!(count("CooperativeProbeExec"), lines.iter().filter(|line| is_join(line)).count(), "{sql}\n{plan}");
    }
    assert_eq!(kinds.len(), 2, "no join whose sides were distributed was seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_over_nodes() {
    let rig = rig();
    let rows = rig.rows("SELECT v FROM big ORDER BY v", &["big"]).await.unwrap();
    assert_eq!(rows, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_is_read_once_by_its_holder() {
    let rig = rig();
    rig.rows("SELECT k, sum(v) FROM big GROUP BY k", &["big"]).await.unwrap();
    let scans = std::mem::take(&mut *rig.source.scans.lock());
    let mut read = Vec::new();
    for scan in &scans {
        let parts = &scan.table.ticket.parts[scan.parts.clone()];
        let holders: Vec<&[u64]> = parts.iter().map(|part| part.holders.as_slice()).collect();
        assert!(holders.windows(2).all(|pair| pair[0] == pair[1]), "a task reads of several holders: {holders:?}");
        read.extend(parts.iter().map(|part| part.id.as_ref().unwrap().lo));
    }
    read.sort_unstable();
    assert_eq!(read, (0..7).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_stages_and_nodes() {
    let rig = rig();
    let plan = explained(&rig, "SELECT k, count(*) FROM big GROUP BY k").await;
    for part in ["t1 on node 0000000000000002", "DistributedExec", "Stage 1", "node=0000000000000003"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let analyzed =
        rig.rows("EXPLAIN ANALYZE SELECT k, count(*) FROM big GROUP BY k", &["big"]).await.unwrap().join("\n");
    assert!(analyzed.contains("PartScanExec") && analyzed.contains("output_rows"), "{analyzed}");
    // Each of them reads from tasks on all three nodes.
    let exchanges: Vec<&str> = analyzed.lines().filter(|line| line.contains("=> Network")).collect();
    let moves = |line: &&str| line.contains("bytes_received=") && !line.contains("bytes_received=0");
    assert!(exchanges.len() >= 2 && exchanges.iter().all(moves), "{analyzed}");
    rig.all_tasks_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analyzed_query_ends_although_tasks_are_not_read() {
    let rig = rig();
    for sql in [
        "SELECT v FROM big UNION ALL SELECT v FROM other LIMIT 1",
        "SELECT a.v FROM vacant a JOIN big b ON a.k = b.k JOIN other c ON c.k = b.k",
        "SELECT k, count(*) FROM big GROUP BY k LIMIT 1",
    ] {
        for _ in 0..5 {
            rig.rows(&format!("EXPLAIN ANALYZE {sql}"), &tables_of(sql)).await.unwrap();
        }
    }
    rig.all_tasks_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_casts_run_on_several_nodes() {
    let rig = rig();
    for sql in [
        "SELECT TRY_CAST(v AS INT) % 7, count(*) FROM big GROUP BY 1",
        "SELECT date_part('year', arrow_cast(v * 1000000000000000, 'Timestamp(ns)')), count(*) FROM big GROUP BY 1",
    ] {
        let plan = explained(&rig, sql).await;
        assert!(plan.contains("DistributedExec"), "{plan}");
    }
    let plan = explained(&rig, "SELECT TRY_CAST(v AS INT) % 7, count(*) FROM big GROUP BY 1").await;
    assert!(plan.contains("optimization_fence"), "{plan}");
    let error = rig.rows("SELECT optimization_fence(v) FROM big", &["big"]).await.unwrap_err();
    assert!(error.message.contains("optimization_fence"), "no statement can call it: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_parts_are_read_on_no_node() {
    let rig = rig();
    rig.source.prunes_last.store(true, Ordering::Relaxed);
    let plan = explained(&rig, "SELECT k, count(*) FROM big WHERE v >= 0 GROUP BY k").await;
    assert!(plan.contains("DistributedExec") && plan.contains("parts_pruned=1 of 7"), "{plan}");
    // The last of the seven parts has 142 rows.
    let rows = rig.rows("SELECT count(*) FROM big WHERE v >= 0", &["big"]).await.unwrap();
    assert_eq!(rows, ["858"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_stays_on_one_node_with_a_reason() {
    let reason = async |rig: &StageRig, sql: &str| explained(rig, &format!("VERBOSE {sql}")).await;
    let all = rig();
    let of_subquery = reason(&all, "SELECT v FROM big WHERE v > (SELECT avg(v) FROM other)").await;
    assert!(of_subquery.contains("this node alone: it has a scalar subquery"), "{of_subquery}");
    let of_window = reason(&all, "SELECT lag(t) IGNORE NULLS OVER (ORDER BY v) FROM big").await;
    assert!(of_window.contains("this node alone: it has a window function"), "{of_window}");
    let limited = "SELECT count(*) FROM big a JOIN (SELECT k FROM big LIMIT 100) b ON a.k = b.k";
    let of_limit = reason(&all, limited).await;
    assert!(of_limit.contains("this node alone: it joins the first rows"), "{of_limit}");
    let of_values = reason(&all, "SELECT 1").await;
    assert!(of_values.contains("this node alone: it reads no table"), "{of_values}");
    let of_part = reason(&all, "SELECT sum(v) FROM small").await;
    assert!(of_part.contains("too few parts"), "{of_part}");
    *all.nodes.engine.lock() = Some("another".into());
    let of_version = reason(&all, "SELECT sum(v) FROM big").await;
    assert!(of_version.contains("no other node of this version"), "{of_version}");
    let large = StageRig::new(config(), tables(), 1 << 40);
    let of_size = reason(&large, "SELECT sum(v) FROM big").await;
    assert!(of_size.contains("sql_distribute_bytes"), "{of_size}");
    assert_eq!(large.rows("SELECT count(*) FROM big", &["big"]).await.unwrap(), ["1000"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_node_before_the_first_row_is_left_out() {
    let (one, rig) = (EngineRig::with(config(), tables()), rig());
    let sql = "SELECT k, sum(v) FROM big GROUP BY k";
    *rig.nodes.fragile.lock() = Some(NodeId(3));
    let found = rig.rows(sql, &["big"]).await.unwrap();
    assert_eq!(sorted(found), sorted(one.rows(sql, &tables_of(sql)).await));
    assert_eq!(*rig.nodes.fragile.lock(), None, "the node was lost");
    rig.all_tasks_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error_of_a_task_keeps_code_and_names_the_node() {
    let rig = rig();
    let error = rig.rows("SELECT sum(v / (v - 999)) FROM big", &["big"]).await.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.starts_with("node 0000000000000003: "), "{error}");
    rig.all_tasks_ended().await;
}

#[tokio::test]
async fn too_many_partitions_are_refused_before_memory_is_taken() {
    let rig = rig();
    let worker = rig.nodes.workers.lock()[&NodeId(2)].clone();
    let key = QueryTaskKey { query: "67e55044-10b1-426f-9247-bb680e5fe0c8".into(), stage: 1, task: 0 };
    let end_partition = u64::MAX >> 1;
    let request = ReadQueryTaskRequest { key: Some(key), end_partition, ..ReadQueryTaskRequest::default() };
    assert_eq!(worker.read_task(request).await.err().unwrap().code, Code::InvalidArgument);
}

/// A table whose scans do not end as they should, on all nodes.
fn endless(end: ScanEnd, config: EngineConfig) -> StageRig {
    let parts = vec![vec![orders(&[(1, Some("a"), Some(1))])]; 6];
    let table = MemoryTable::new("endless", 1, order_schema(), parts).ending(end);
    StageRig::new(config, vec![table], 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_in_a_task_is_an_error() {
    let rig = endless(ScanEnd::Panics, config());
    let error = rig.rows("SELECT customer, count(*) FROM endless GROUP BY customer", &["endless"]).await.unwrap_err();
    assert_eq!(error.code, Code::Internal, "{error}");
    rig.all_tasks_ended().await;
    rig.source.all_dropped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_query_ends_its_tasks_everywhere() {
    for end in [ScanEnd::Hangs, ScanEnd::Repeats] {
        let rig = endless(end, config());
        for sql in ["SELECT customer, count(*) FROM endless GROUP BY customer", "SELECT * FROM endless"] {
            let mut stream = rig.start(sql, &["endless"]).await.unwrap();
            let mut open = rig.source.open.subscribe();
            let opened = async { open.wait_for(|open| *open >= HOLDERS as usize).await.map(|_| ()) };
            // It runs as long as somebody waits for its rows.
            let read = async {
                while let Some(rows) = stream.next().await {
                    rows.unwrap();
                }
            };
            tokio::select! {
                opened = opened => opened.unwrap(),
                () = read => panic!("{sql} has ended"),
            }
            drop(stream);
            rig.all_tasks_ended().await;
            rig.source.all_dropped().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_query_keeps_neither_broadcasts_nor_memory() {
    let joining = rig();
    joining.rows("SELECT a.v, b.v FROM big a JOIN other b ON a.k = b.k", &["big", "other"]).await.unwrap();
    joining.all_tasks_ended().await;
    for engine in &joining.engines {
        while engine.template.runtime_env().memory_pool.reserved() > 0 {
            tokio::task::yield_now().await;
        }
    }
    // All rows of one side go to all nodes.
    let hanging = endless(ScanEnd::Hangs, config());
    let sql = "SELECT count(*) FROM endless a JOIN endless b ON a.amount < b.amount";
    let stream = hanging.start(sql, &["endless"]).await.unwrap();
    hanging.source.open.subscribe().wait_for(|open| *open >= 6).await.unwrap();
    drop(stream);
    hanging.all_tasks_ended().await;
    hanging.source.all_dropped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limit_ends_tasks_everywhere() {
    let rig = endless(ScanEnd::Hangs, EngineConfig { timeout: Duration::from_secs(1), ..config() });
    let error = rig.rows("SELECT sum(amount) FROM endless", &["endless"]).await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
    rig.all_tasks_ended().await;
    rig.source.all_dropped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_sent_before_a_node_is_lost_so_the_query_fails() {
    let rig = endless(ScanEnd::Repeats, config());
    let mut stream = rig.start("SELECT amount FROM endless", &["endless"]).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 1);
    rig.nodes.lose(NodeId(2));
    let error = loop {
        if let Err(error) = stream.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("rows of the result were sent already"), "{error}");
    rig.all_tasks_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_room_takes_no_part() {
    let rig = endless(ScanEnd::Hangs, EngineConfig { max_queries: 1, max_queries_per_principal: 1, ..config() });
    let sql = "SELECT sum(amount) FROM endless";
    let running = rig.start(sql, &["endless"]).await.unwrap();
    rig.source.open.subscribe().wait_for(|open| *open >= 6).await.unwrap();
    let explain = statement(&format!("EXPLAIN VERBOSE {sql}"), &["endless"]);
    let query = rig.engines[1].prepare(rig.source.clone(), &explain, None, CallerKey::Cluster).await.unwrap();
    let rows = rig.engines[1].run(query, CallerKey::Cluster).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    let plan = text(&rows).join("\n");
    // The head of the first query has no tasks of others.
    assert!(!plan.contains("on node 0000000000000003"), "{plan}");
    drop(running);
    rig.all_tasks_ended().await;
}
