//! Memory, number of queries, time, and queries that nobody reads any more.

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::StreamExt;
use volley_common::Code;

use super::memory_source::{ScanEnd, order_schema, orders};
use super::*;

/// Rows of the table `big`: about 16 MiB.
const BIG_ROWS: usize = 200_000;

/// A table with the columns `key` and `text`, both unique and in no order.
fn big() -> MemoryTable {
    let fields = vec![Field::new("key", DataType::Int64, false), Field::new("text", DataType::Utf8, false)];
    let schema = Arc::new(Schema::new(fields));
    let batch = |part: usize| {
        let keys = (part..BIG_ROWS).step_by(100).map(|row| (row * 7919 % BIG_ROWS) as i64);
        let texts: StringArray = keys.clone().map(|key| Some(format!("{key:064}"))).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(keys.collect::<Int64Array>()), Arc::new(texts)];
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    };
    let parts = (0..4).map(|part| (0..25).map(|at| batch(part * 25 + at)).collect()).collect();
    MemoryTable::new("big", 1, schema.clone(), parts)
}

fn with_memory(memory_bytes: u64) -> EngineRig {
    EngineRig::with(EngineConfig { memory_bytes, ..config() }, vec![big()])
}

/// Ends when no operator holds memory; those of tasks that were aborted drop it a little later.
async fn all_memory_freed(rig: &EngineRig) {
    while rig.engine.template.runtime_env().memory_pool.reserved() > 0 {
        tokio::task::yield_now().await;
    }
}

fn endless(end: ScanEnd, config: EngineConfig) -> EngineRig {
    let parts = vec![vec![orders(&[(1, Some("a"), Some(1))])]; 4];
    let mut tables = order_tables();
    tables.push(MemoryTable::new("endless", 1, order_schema(), parts).ending(end));
    EngineRig::with(config, tables)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sort_beyond_memory_gives_all_rows_in_order() {
    // Sorting takes twice the bytes of the rows, without spilling.
    for memory in [4 << 20, 10 << 20, 20 << 20] {
        let rig = with_memory(memory);
        let result = rig.batches("SELECT key, text FROM big ORDER BY text", &["big"]).await;
        let batches = result.unwrap_or_else(|error| panic!("with {memory}: {error}"));
        let keys: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(keys, (0..BIG_ROWS as i64).collect::<Vec<_>>(), "with {memory}");
        all_memory_freed(&rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_without_memory_end_right_or_with_an_error() {
    for memory in [1 << 10, 1 << 20, 4 << 20] {
        let rig = with_memory(memory);
        let groups = "SELECT count(*) FROM (SELECT text, sum(key) FROM big GROUP BY text)";
        let sort = "SELECT count(*) FROM (SELECT text FROM big ORDER BY text LIMIT 150000)";
        for (sql, rows) in [(groups, BIG_ROWS), (sort, 150_000)] {
            match rig.batches(sql, &["big"]).await {
                Ok(batches) => assert_eq!(text(&batches), [rows.to_string()], "{sql} with {memory}"),
                Err(error) => assert_eq!(error.code, Code::ResourceExhausted, "{sql} with {memory}: {error}"),
            }
        }
        all_memory_freed(&rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sort_beyond_the_spill_space_names_its_setting() {
    let rig = EngineRig::with(EngineConfig { memory_bytes: 4 << 20, spill_bytes: 1 << 20, ..config() }, vec![big()]);
    let error = rig.error("SELECT key, text FROM big ORDER BY text", &["big"]).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("sql_spill_bytes") && !error.message.contains("datafusion"), "{error}");
    all_memory_freed(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_that_cannot_spill_is_refused() {
    let rig = with_memory(64 << 10);
    let error = rig.error("SELECT count(*) FROM big a JOIN big b ON a.text = b.text", &["big"]).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("sql_memory_bytes"), "{error}");
    assert_eq!(rig.rows("SELECT key FROM big WHERE key = 5", &["big"]).await, ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_query_drops_its_scans() {
    let rig = endless(ScanEnd::Repeats, config());
    for sql in ["SELECT * FROM endless", "SELECT customer, count(*) FROM endless GROUP BY customer"] {
        let mut stream = rig.start(sql, &["endless"]).await.unwrap();
        let mut open = rig.source.open.subscribe();
        if !sql.contains("GROUP") {
            stream.next().await.unwrap().unwrap();
        }
        open.wait_for(|open| *open > 0).await.unwrap();
        drop(stream);
        rig.source.all_dropped().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_query_drops_its_other_scans() {
    let failing = Error::unavailable("the holder is gone");
    let rig = endless(ScanEnd::Fails(failing.clone()), config());
    let error = rig.error("SELECT * FROM endless", &["endless"]).await;
    assert_eq!(error, failing);
    rig.source.all_dropped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_ends_at_its_time_limit() {
    let rig = endless(ScanEnd::Hangs, EngineConfig { timeout: Duration::from_millis(300), ..config() });
    let error = rig.error("SELECT sum(amount) FROM endless", &["endless"]).await;
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.message.contains("statement_timeout_s"), "{error}");
    rig.source.all_dropped().await;
}

/// They give no row, or very many, and nothing below them waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_joins_end_at_their_time_limit() {
    let rig = EngineRig::with(EngineConfig { timeout: Duration::from_secs(2), ..config() }, vec![big()]);
    let conditions = ["", "WHERE a.key * b.key < 0", "WHERE a.key % 1 = b.key % 1 AND a.key * b.key < 0"];
    for condition in conditions {
        let sql = format!("SELECT sum(a.key - b.key) FROM big a CROSS JOIN big b {condition}");
        let error = rig.error(&sql, &["big"]).await;
        assert_eq!(error.code, Code::DeadlineExceeded, "{condition}: {error}");
        // No thread is left in a join.
        all_memory_freed(&rig).await;
    }
    assert_eq!(rig.rows("SELECT key FROM big WHERE key = 5", &["big"]).await, ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limit_ends_a_query_that_nobody_reads() {
    let rig = endless(ScanEnd::Repeats, EngineConfig { timeout: Duration::from_secs(2), ..config() });
    let stream = rig.start("SELECT * FROM endless", &["endless"]).await.unwrap();
    while rig.engine.admission.running() > 0 {
        tokio::task::yield_now().await;
    }
    rig.source.all_dropped().await;
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
}

/// With memory for one batch or two, the query waits for its reader, who gets all rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_count_in_the_memory_of_queries() {
    let rig = with_memory(256 << 10);
    let pool = || rig.engine.template.runtime_env().memory_pool.reserved();
    let stream = rig.start("SELECT key, text FROM big", &["big"]).await.unwrap();
    while pool() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(pool() <= 256 << 10);
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), BIG_ROWS);
    all_memory_freed(&rig).await;
    let error = with_memory(1 << 10).error("SELECT key, text FROM big", &["big"]).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("sql_memory_bytes"), "{error}");
}

/// Results that are complete and not read would else be without number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_keeps_its_place_until_its_rows_are_read() {
    let rig = EngineRig::with(EngineConfig { max_queries_per_principal: 1, ..config() }, order_tables());
    let mut stream = rig.start("SELECT count(id) FROM orders", &["orders"]).await.unwrap();
    let row = stream.next().await.unwrap().unwrap();
    assert_eq!(text(&[row]), ["5"]);
    assert!(stream.take_share().is_some() && stream.next().await.is_none());
    let refused = rig.start("SELECT count(id) FROM orders", &["orders"]).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
    drop(stream);
    assert_eq!(rig.rows("SELECT count(id) FROM orders", &["orders"]).await, ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_beyond_the_limit_are_refused_until_one_ends() {
    let rig = endless(ScanEnd::Hangs, EngineConfig { max_queries_per_principal: 1, ..config() });
    let stream = rig.start("SELECT * FROM endless", &["endless"]).await.unwrap();
    let refused = rig.start("SELECT * FROM orders", &["orders"]).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted);
    // It is not even planned: that would be an error.
    let refused = rig.start("SELECT nothing FROM orders", &["orders"]).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted);
    let query = rig.prepare("SELECT count(id) FROM orders", &["orders"]).await.unwrap();
    let other = rig.engine.run(query, CallerKey::Principal("bob".into())).await.unwrap();
    assert_eq!(text(&other.try_collect::<Vec<_>>().await.unwrap()), ["5"]);
    drop(stream);
    while rig.engine.admission.running() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.rows("SELECT count(id) FROM orders", &["orders"]).await, ["5"]);
}

/// Lists and texts of whole tables, with each row of another one: together some gigabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_are_joined_in_small_batches() {
    let rig = with_memory(256 << 20);
    let list = "(SELECT array_agg(key) AS x FROM big WHERE key < 50000) c";
    let few = "(SELECT key FROM big WHERE key < 1000) b";
    for (sql, rows) in [
        (format!("SELECT sum(array_length(x)) FROM {list} CROSS JOIN {few}"), "50000000"),
        (format!("SELECT sum(array_length(x)) FROM {list} CROSS JOIN {few} WHERE array_length(x) > b.key"), "50000000"),
        (format!("SELECT count(x) FROM {few} LEFT JOIN {list} ON x[1] <> b.key + 100000"), "1000"),
        (
            format!("SELECT sum(array_length((SELECT array_agg(key) FROM big WHERE key < 50000))) FROM {few}"),
            "50000000",
        ),
    ] {
        assert_eq!(rig.rows(&sql, &["big"]).await, [rows], "{sql}");
        all_memory_freed(&rig).await;
    }
}

/// A text of 1.28 MB, which is repeated in two batches of two rows by each partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_values_count_in_the_memory() {
    let text = "(SELECT repeat(text, 20000) AS x FROM big WHERE key = 5) c";
    let once = format!("SELECT length(x) FROM {text}");
    let joined = format!("SELECT sum(length(x) + key) FROM {text} CROSS JOIN (SELECT key FROM big WHERE key < 9) b");
    let rig = with_memory(64 << 20);
    assert_eq!(rig.rows(&joined, &["big"]).await, ["11520036"]);
    all_memory_freed(&rig).await;
    let rig = with_memory(4 << 20);
    assert_eq!(rig.rows(&once, &["big"]).await, ["1280000"]);
    let error = rig.error(&joined, &["big"]).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("sql_memory_bytes"), "{error}");
    all_memory_freed(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_rows_without_columns_are_counted() {
    let config = EngineConfig { memory_bytes: 4 << 20, timeout: Duration::from_secs(60), ..config() };
    let rig = EngineRig::with(config, vec![big()]);
    let pairs = "SELECT x.value FROM generate_series(1, 100) x CROSS JOIN generate_series(1, 1000000000000) y";
    let error = rig.error(&format!("WITH a AS ({pairs}) SELECT count(*) FROM a CROSS JOIN a AS b"), &[]).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("sql_memory_bytes"), "{error}");
    all_memory_freed(&rig).await;
    // It does not wait for all rows.
    let first = format!("SELECT count(*) FROM ({pairs} LIMIT 10) a CROSS JOIN (SELECT key FROM big WHERE key < 7) b");
    assert_eq!(rig.rows(&first, &["big"]).await, ["70"]);
    let pairs = "SELECT a.key FROM big a CROSS JOIN big b WHERE a.key < 3 AND b.key < 1000";
    let all = format!("SELECT count(*) FROM ({pairs}) a CROSS JOIN (SELECT key FROM big WHERE key < 7) b");
    assert_eq!(rig.rows(&all, &["big"]).await, ["21000"]);
    all_memory_freed(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_count_their_rows_and_results() {
    let rig = with_memory(64 << 20);
    let lists =
        "SELECT sum(array_length(x)) FROM (SELECT array_agg(key) OVER (ORDER BY key) AS x FROM big WHERE key < 4000)";
    assert_eq!(rig.rows(lists, &["big"]).await, ["8002000"]);
    all_memory_freed(&rig).await;
    for window in
        ["array_agg(key) OVER ()", "string_agg(text, ',') OVER ()", "max(text || text || text || text) OVER ()"]
    {
        let sql = format!("SELECT count(x) FROM (SELECT {window} AS x FROM big)");
        let error = rig.error(&sql, &["big"]).await;
        assert_eq!(error.code, Code::ResourceExhausted, "{sql}: {error}");
        assert!(error.message.contains("sql_memory_bytes"), "{sql}: {error}");
        all_memory_freed(&rig).await;
    }
    let small = "SELECT sum(n), count(t) FROM (SELECT sum(key) OVER (PARTITION BY key % 7) AS n, lag(text) OVER (ORDER BY key) AS t FROM big WHERE key < 7)";
    assert_eq!(rig.rows(small, &["big"]).await, ["21|6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_beside_its_own_elements_is_refused() {
    let rig = with_memory(256 << 20);
    let list = "(SELECT array_agg(key) AS x FROM big WHERE key < 50000)";
    let elements = format!("SELECT count(e) FROM (SELECT unnest(x) AS e FROM {list})");
    assert_eq!(rig.rows(&elements, &["big"]).await, ["50000"]);
    let both = format!("SELECT count(e), max(array_length(y)) FROM (SELECT x AS y, unnest(x) AS e FROM {list})");
    let error = rig.error(&both, &["big"]).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("unnest"), "{error}");
}
