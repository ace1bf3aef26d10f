//! Joins of tables with equal shards on three nodes: the same rows as on one node, and which joins need no exchange.

use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};

use super::memory_network::StageRig;
use super::*;

/// How EXPLAIN names a join without an exchange.
const COLOCATED: &str = "ColocatedJoinExec";
const TABLES: [&str; 14] = [
    "alpha", "beta", "fine", "narrow", "spread", "pair_a", "pair_b", "pair_c", "float_a", "float_b", "hollow", "big_a",
    "big_b", "big_c",
];

/// The tables of these tests that a statement reads.
fn tables_of(sql: &str) -> Vec<&'static str> {
    TABLES.into_iter().filter(|table| sql.contains(table)).collect()
}

/// `rows` rows with the columns k (a key with nulls and repeated values), j (a second one) and v (their number), in three parts. Of
/// floats there are two zeros and several NaN.
fn table(name: &str, key: DataType, rows: i64) -> MemoryTable {
    let number = |name, nullable| Field::new(name, DataType::Int64, nullable);
    let fields = vec![Field::new("k", key.clone(), true), number("j", false), number("v", false)];
    let schema = Arc::new(Schema::new(fields));
    let float = |key: i64| match key {
        5 => f64::NAN,
        6 => -f64::NAN,
        7 => f64::from_bits(0x7ff8_0000_0000_0001),
        8 => 0.0,
        9 => -0.0,
        key => key as f64,
    };
    let part = |part: i64| {
        let numbers: Vec<i64> = (part..rows).step_by(3).collect();
        let keys: Vec<Option<i64>> = numbers.iter().map(|n| (n % 11 != 3).then_some(n * 7 % 53)).collect();
        let keys: ArrayRef = match key {
            DataType::Float64 => Arc::new(keys.into_iter().map(|key| key.map(float)).collect::<Float64Array>()),
            _ => cast(&Int64Array::from(keys), &key).unwrap(),
        };
        let second: Int64Array = numbers.iter().map(|n| Some(n % 7)).collect();
        let columns: Vec<ArrayRef> = vec![keys, Arc::new(second), Arc::new(Int64Array::from(numbers))];
        vec![RecordBatch::try_new(schema.clone(), columns).unwrap()]
    };
    MemoryTable::new(name, 1, schema.clone(), (0..3).map(part).collect())
}

fn tables() -> Vec<MemoryTable> {
    let whole = |name, rows| table(name, DataType::Int64, rows);
    vec![
        whole("alpha", 400).sharded(&["k"], 4),
        whole("beta", 300).sharded(&["k"], 4),
        whole("fine", 200).sharded(&["k"], 5),
        table("narrow", DataType::Int32, 200).sharded(&["k"], 4),
        whole("spread", 200),
        whole("pair_a", 250).sharded(&["k", "j"], 3),
        whole("pair_b", 200).sharded(&["k", "j"], 3),
        whole("pair_c", 200).sharded(&["j", "k"], 3),
        table("float_a", DataType::Float64, 300).sharded(&["k"], 4),
        table("float_b", DataType::Float64, 200).sharded(&["k"], 4),
        whole("hollow", 0).sharded(&["k"], 4),
        // Too large to be collected on each node.
        whole("big_a", 1200).sharded(&["k"], 4),
        whole("big_b", 1200).sharded(&["k"], 4),
        whole("big_c", 1200),
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

async fn compare(one: &EngineRig, three: &StageRig, sql: &str) {
    let expected = one.rows(sql, &tables_of(sql)).await;
    let found = three.rows(sql, &tables_of(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(sorted(found), sorted(expected), "{sql}");
}

/// A join of sides that are too large for that.
const LARGE: &str = "SELECT a.k, a.j, a.v, b.k, b.j, b.v FROM big_a a JOIN big_b b ON a.k = b.k AND a.v = b.v";

/// Joins that need no exchange.
const WITHOUT_EXCHANGE: &[&str] = &[
    "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.k = b.k",
    "SELECT a.v, b.j FROM alpha a JOIN beta b ON b.k = a.k AND a.v < b.v WHERE a.j % 3 = 1 AND b.v > 10",
    "SELECT a.k, a.v, b.v FROM alpha a LEFT JOIN beta b ON a.k = b.k AND b.v < 50",
    "SELECT a.v, b.k, b.v FROM alpha a RIGHT JOIN beta b ON a.k = b.k AND a.v < 50",
    "SELECT a.k, a.v, b.k, b.v FROM alpha a FULL JOIN beta b ON a.k = b.k AND a.v % 2 = 0 AND b.v % 3 = 0",
    "SELECT a.v FROM alpha a WHERE EXISTS (SELECT 1 FROM beta b WHERE b.k = a.k AND b.v < 20)",
    "SELECT a.v FROM alpha a WHERE NOT EXISTS (SELECT 1 FROM beta b WHERE b.k = a.k AND b.v < 90)",
    "SELECT a.v FROM alpha a WHERE a.k IN (SELECT b.k FROM beta b WHERE b.j = 2)",
    "SELECT a.v, b.v FROM alpha a JOIN alpha b ON a.k = b.k AND a.v = b.v + 53",
    "SELECT a.v, b.v FROM (SELECT k AS kk, v FROM alpha WHERE j > 1) a JOIN beta b ON a.kk = b.k",
    "SELECT a.k, count(*), sum(b.v) FROM alpha a LEFT JOIN beta b ON a.k = b.k GROUP BY a.k",
    "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.k = b.k ORDER BY a.v, b.v LIMIT 7",
    "SELECT count(*) FROM alpha a JOIN beta b ON a.k = b.k JOIN spread c ON c.j = a.j",
    "SELECT a.v, b.v AS w FROM alpha a JOIN beta b ON a.k = b.k UNION ALL SELECT v, j FROM spread",
    "SELECT a.v, b.v FROM pair_a a JOIN pair_b b ON a.j = b.j AND a.k = b.k",
    "SELECT a.k, a.v, b.k, b.v FROM float_a a FULL JOIN float_b b ON a.k = b.k",
    LARGE,
    "SELECT a.k, a.v, max(a.j), max(b.j) FROM big_a a JOIN big_b b ON a.k = b.k AND a.v = b.v GROUP BY a.k, a.v",
];

/// Joins that need one.
const WITH_EXCHANGE: &[&str] = &[
    "SELECT a.v, b.v FROM alpha a JOIN fine b ON a.k = b.k",
    "SELECT a.v, b.v FROM alpha a LEFT JOIN narrow b ON a.k = b.k",
    "SELECT a.v, b.v FROM alpha a JOIN spread b ON a.k = b.k",
    "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.j = b.j AND a.v = b.v",
    "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.k = b.j AND a.j = b.k",
    "SELECT a.v, b.v FROM alpha a FULL JOIN beta b ON a.k + 1 = b.k",
    "SELECT a.v, b.v FROM (SELECT k + 1 AS k, v FROM alpha) a JOIN beta b ON a.k = b.k",
    "SELECT a.v, b.v FROM pair_a a JOIN pair_b b ON a.k = b.k",
    "SELECT a.v, b.v FROM pair_a a JOIN pair_c b ON a.k = b.k AND a.j = b.j",
    "SELECT a.v FROM alpha a WHERE a.k NOT IN (SELECT b.k FROM beta b)",
    "SELECT a.v, b.n FROM alpha a JOIN (SELECT k, count(*) AS n FROM beta GROUP BY k) b ON a.k = b.k",
    "SELECT a.v, b.v FROM alpha a JOIN (SELECT k, v FROM beta ORDER BY v LIMIT 30) b ON a.k = b.k",
    "SELECT a.v, b.v FROM alpha a JOIN (SELECT k, v FROM beta UNION ALL SELECT k, v FROM fine) b ON a.k = b.k",
];

/// Those of which either is right.
const WITH_OR_WITHOUT: &[&str] = &[
    "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.k IS NOT DISTINCT FROM b.k AND a.v < b.v",
    "SELECT a.v, b.v FROM alpha a LEFT JOIN hollow b ON a.k = b.k",
    "SELECT a.v, b.v FROM hollow a FULL JOIN beta b ON a.k = b.k",
    "SELECT k FROM alpha INTERSECT SELECT k FROM beta WHERE v < 40",
    "SELECT k FROM alpha EXCEPT SELECT k FROM beta WHERE v < 40",
    "SELECT a.j, b.j, c.j FROM big_a a JOIN big_b b ON a.k = b.k AND a.v = b.v JOIN big_c c ON c.k = a.k AND c.v = a.v",
    "SELECT a.j, b.j, c.n FROM big_a a JOIN big_b b ON a.k = b.k AND a.v = b.v JOIN (SELECT k, v, count(*) AS n FROM big_c GROUP BY k, v) c ON c.k = a.k AND c.v = a.v",
    "SELECT a.k, a.v FROM big_a a JOIN big_b b ON a.k = b.k AND a.v = b.v UNION SELECT k, v FROM big_c",
    "SELECT a.v, (SELECT count(*) FROM beta b WHERE b.k = a.k) FROM alpha a",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_of_equal_shards_need_no_exchange() {
    let (one, three) = (EngineRig::with(config(), tables()), rig());
    for sql in WITHOUT_EXCHANGE {
        let plan = explained(&three, sql).await;
        assert!(plan.contains(COLOCATED) && plan.contains("DistributedExec"), "{sql}\n{plan}");
        compare(&one, &three, sql).await;
    }
    three.all_tasks_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_of_other_rows_have_an_exchange() {
    let (one, three) = (EngineRig::with(config(), tables()), rig());
    for sql in WITH_EXCHANGE {
        let plan = explained(&three, sql).await;
        assert!(!plan.contains(COLOCATED), "{sql}\n{plan}");
        compare(&one, &three, sql).await;
    }
    for sql in WITH_OR_WITHOUT {
        compare(&one, &three, sql).await;
    }
    three.all_tasks_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_sides_are_joined_by_partitions_of_each_task() {
    let rig = rig();
    let plan = explained(&rig, LARGE).await;
    for part in ["ColocatedJoinExec: shards=", " of 4, HashJoinExec: mode=Partitioned", "RepartitionExec", "t2: "] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    assert!(!plan.contains("NetworkShuffleExec"), "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_of_joined_shards_is_read_once() {
    let rig = rig();
    rig.rows(WITHOUT_EXCHANGE[0], &["alpha", "beta"]).await.unwrap();
    let scans = std::mem::take(&mut *rig.source.scans.lock());
    for (table, rows) in [("alpha", 400), ("beta", 300)] {
        let of_table = scans.iter().filter(|scan| scan.table.name.to_string() == table);
        let read: Vec<_> = of_table.flat_map(|scan| &scan.table.ticket.parts[scan.parts.clone()]).collect();
        let mut ids: Vec<u64> = read.iter().map(|part| part.id.as_ref().unwrap().lo).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>(), "{table}");
        assert_eq!(read.iter().map(|part| part.rows).sum::<u64>(), rows, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_parts_of_joined_shards_are_left_out() {
    let (one, three) = (EngineRig::with(config(), tables()), rig());
    one.source.prunes_last.store(true, Ordering::Relaxed);
    three.source.prunes_last.store(true, Ordering::Relaxed);
    let sql = "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.k = b.k WHERE a.v >= 0 AND b.v >= 0";
    let plan = explained(&three, sql).await;
    assert!(plan.contains(COLOCATED) && plan.contains("parts_pruned=1"), "{plan}");
    compare(&one, &three, sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_analyze_counts_rows_of_joined_shards() {
    let rig = rig();
    let sql = "SELECT a.v, b.v FROM alpha a JOIN beta b ON a.k = b.k";
    let analyzed = rig.rows(&format!("EXPLAIN ANALYZE {sql}"), &["alpha", "beta"]).await.unwrap().join("\n");
    assert!(analyzed.contains(COLOCATED) && analyzed.contains("output_rows"), "{analyzed}");
    rig.all_tasks_ended().await;
}
