//! Statements that would grow too large are refused before the optimizer gets them, and ordinary ones are not.

use arrow::datatypes::{DataType, Field, Schema};
use volley_common::Code;

use super::*;
use crate::statement::{SqlStatement, parse};

/// The tables of TPC-H: their columns are of type integer (i), decimal (n), date (d) or text.
const TPCH: [(&str, &str); 8] = [
    ("region", "r_regionkey:i r_name r_comment"),
    ("nation", "n_nationkey:i n_name n_regionkey:i n_comment"),
    ("supplier", "s_suppkey:i s_name s_address s_nationkey:i s_phone s_acctbal:n s_comment"),
    ("customer", "c_custkey:i c_name c_address c_nationkey:i c_phone c_acctbal:n c_mktsegment c_comment"),
    ("part", "p_partkey:i p_name p_mfgr p_brand p_type p_size:i p_container p_retailprice:n p_comment"),
    ("partsupp", "ps_partkey:i ps_suppkey:i ps_availqty:i ps_supplycost:n ps_comment"),
    (
        "orders",
        "o_orderkey:i o_custkey:i o_orderstatus o_totalprice:n o_orderdate:d o_orderpriority o_clerk o_shippriority:i o_comment",
    ),
    (
        "lineitem",
        "l_orderkey:i l_partkey:i l_suppkey:i l_linenumber:i l_quantity:n l_extendedprice:n l_discount:n l_tax:n l_returnflag l_linestatus l_shipdate:d l_commitdate:d l_receiptdate:d l_shipinstruct l_shipmode l_comment",
    ),
];

const TPCH_QUERIES: [&str; 22] = [
    include_str!("../../../../tests/bench/queries/q01.sql"),
    include_str!("../../../../tests/bench/queries/q02.sql"),
    include_str!("../../../../tests/bench/queries/q03.sql"),
    include_str!("../../../../tests/bench/queries/q04.sql"),
    include_str!("../../../../tests/bench/queries/q05.sql"),
    include_str!("../../../../tests/bench/queries/q06.sql"),
    include_str!("../../../../tests/bench/queries/q07.sql"),
    include_str!("../../../../tests/bench/queries/q08.sql"),
    include_str!("../../../../tests/bench/queries/q09.sql"),
    include_str!("../../../../tests/bench/queries/q10.sql"),
    include_str!("../../../../tests/bench/queries/q11.sql"),
    include_str!("../../../../tests/bench/queries/q12.sql"),
    include_str!("../../../../tests/bench/queries/q13.sql"),
    include_str!("../../../../tests/bench/queries/q14.sql"),
    include_str!("../../../../tests/bench/queries/q15.sql"),
    include_str!("../../../../tests/bench/queries/q16.sql"),
    include_str!("../../../../tests/bench/queries/q17.sql"),
    include_str!("../../../../tests/bench/queries/q18.sql"),
    include_str!("../../../../tests/bench/queries/q19.sql"),
    include_str!("../../../../tests/bench/queries/q20.sql"),
    include_str!("../../../../tests/bench/queries/q21.sql"),
    include_str!("../../../../tests/bench/queries/q22.sql"),
];

fn tpch_table(name: &str, columns: &str) -> MemoryTable {
    let field = |column: &str| match column.split_once(':') {
        Some((name, "i")) => Field::new(name, DataType::Int64, false),
        Some((name, "n")) => Field::new(name, DataType::Decimal128(15, 2), false),
        Some((name, _)) => Field::new(name, DataType::Date32, false),
        None => Field::new(column, DataType::Utf8, false),
    };
    let fields: Vec<Field> = columns.split(' ').map(field).collect();
    MemoryTable::new(name, 1, Arc::new(Schema::new(fields)), Vec::new())
}

/// Parses and plans a statement, which does not optimize it.
async fn planned(rig: &EngineRig, sql: &str) -> Result<PlannedQuery> {
    match parse(sql)? {
        SqlStatement::Query(query) => rig.engine.prepare(rig.source.clone(), &query, None, CallerKey::Cluster).await,
        other => panic!("{sql}: {other:?}"),
    }
}

async fn passes(sql: &str) {
    let rig = EngineRig::new();
    if let Err(error) = planned(&rig, sql).await {
        panic!("{sql}: {error}");
    }
}

async fn is_refused(sql: &str) {
    let rig = EngineRig::new();
    for sql in [sql.to_string(), format!("EXPLAIN {sql}")] {
        let error = planned(&rig, &sql).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{sql}: {error}");
        let is_right = error.message.contains("would grow") || error.message.contains("nests CASE too deeply");
        assert!(is_right && error.message.contains("CREATE TABLE AS"), "{sql}: {error}");
    }
}

fn nested(levels: usize, leaf: &str, template: &str) -> String {
    (0..levels).fold(leaf.to_string(), |inner, _| template.replace("{}", &inner))
}

/// A query of WITH for each level, which computes the column `s` of the one before; then `last`, which reads `w`.
fn levels(count: usize, first: &str, computed: &str, last: &str) -> String {
    let of_level = |level: usize| match level {
        0 => format!("w0 AS ({first})"),
        _ => format!("w{level} AS (SELECT {computed} AS s FROM w{})", level - 1),
    };
    let queries: Vec<String> = (0..=count).map(of_level).collect();
    format!("WITH {}, w AS (SELECT * FROM w{count}) {last}", queries.join(", "))
}

const TEXTS: &str = "SELECT customer AS s FROM orders";
const NUMBERS: &str = "SELECT amount AS s FROM orders";

#[tokio::test]
async fn nested_functions_and_cases_are_refused() {
    for (levels, leaf, template) in [
        (30, "amount", "coalesce({}, 1)"),
        (30, "amount", "nvl({}, 1)"),
        (13, "id > 1", "CASE WHEN {} THEN amount > 1 ELSE id > 2 END"),
        (30, "id > 1", "CASE WHEN {} THEN amount > 1 ELSE id > 2 END"),
        (18, "amount", "CASE WHEN id > 1 THEN abs({}) END"),
    ] {
        let expr = nested(levels, leaf, template);
        is_refused(&format!("SELECT {expr} FROM orders")).await;
        is_refused(&format!("SELECT count(*) FROM orders WHERE ({expr}) IS NULL")).await;
    }
}

#[tokio::test]
async fn conditions_through_computed_columns_are_refused() {
    for last in [
        "SELECT * FROM w WHERE s = 'x'",
        "SELECT s, count(*) FROM w GROUP BY s HAVING s > 'x'",
        "SELECT * FROM (SELECT s AS t FROM w LIMIT 5) AS limited WHERE t = 'x'",
        "SELECT * FROM (SELECT s AS t FROM w UNION ALL SELECT 'y') AS two WHERE t = 'x'",
        "SELECT * FROM w ORDER BY s LIMIT 3",
        "SELECT count(*) FROM w JOIN customers ON s = name",
        "SELECT count(*) FROM w WHERE EXISTS (SELECT 1 FROM customers WHERE name = s)",
        "SELECT count(*) FROM w WHERE s IN (SELECT name FROM customers)",
    ] {
        is_refused(&levels(30, TEXTS, "s || s", last)).await;
        is_refused(&levels(30, TEXTS, "concat(s, 'x', s)", last)).await;
    }
}

#[tokio::test]
async fn columns_that_are_taken_in_one_by_one_are_refused() {
    is_refused(&levels(30, NUMBERS, "abs(CASE WHEN s > 1 THEN s END)", "SELECT * FROM w")).await;
    is_refused(&levels(30, TEXTS, "CAST(s ~ 'a|b' AS VARCHAR)", "SELECT * FROM w")).await;
    is_refused(&levels(30, NUMBERS, "CAST(s IN (1, 2, 3) AS BIGINT)", "SELECT * FROM w WHERE s = 1")).await;
}

#[tokio::test]
async fn comparison_with_all_rows_repeats_its_subquery() {
    let subquery = nested(11, "SELECT 1", "SELECT amount FROM orders WHERE amount > ALL ({})");
    is_refused(&format!("SELECT count(*) FROM orders WHERE amount > ALL ({subquery})")).await;
    passes("SELECT count(*) FROM orders WHERE amount > ALL (SELECT amount FROM orders)").await;
}

#[tokio::test]
async fn condition_that_is_pushed_to_many_tables_counts_for_each() {
    let list = (0..20_000).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    let sql = |count: usize| {
        let union = vec!["SELECT amount FROM orders"; count].join(" UNION ALL ");
        format!("SELECT count(*) FROM ({union}) AS all_orders WHERE amount IN ({list})")
    };
    is_refused(&sql(150)).await;
    passes(&sql(8)).await;
}

#[tokio::test]
async fn ordinary_deep_queries_pass() {
    let coalesce = |count: usize| nested(count, "1", "coalesce(s, {})");
    for sql in [
        levels(30, TEXTS, "s || s", "SELECT * FROM w"),
        levels(10, TEXTS, "upper(s || 'x')", "SELECT * FROM w WHERE s = 'x' ORDER BY s LIMIT 5"),
        levels(10, NUMBERS, "coalesce(s, 0) + 1", "SELECT * FROM w"),
        levels(9, NUMBERS, "coalesce(s, 0) + 1", "SELECT * FROM w WHERE s > 1"),
        levels(2, NUMBERS, &coalesce(15), "SELECT * FROM w WHERE s > 1"),
        format!("SELECT coalesce({}) FROM orders", vec!["amount"; 50].join(", ")),
    ] {
        passes(&sql).await;
    }
    let branches: String = (0..200).map(|value| format!("WHEN amount = {value} THEN 'x{value}' ")).collect();
    passes(&format!("SELECT CASE {branches} ELSE 'y' END AS name, count(*) FROM orders GROUP BY 1 ORDER BY 1")).await;
    passes(&format!("SELECT count(*) FROM orders WHERE CASE {branches} ELSE 'y' END = 'x7'")).await;
    let joins: String =
        (0..60).map(|at| format!(" JOIN orders o{at} ON o{at}.id = o.id AND o{at}.amount > 1")).collect();
    passes(&format!("SELECT count(*) FROM orders o{joins} WHERE o.amount BETWEEN 1 AND 5")).await;
    let rows = (0..10_000).map(|value| format!("({value}, 'x')")).collect::<Vec<_>>().join(", ");
    passes(&format!("SELECT * FROM (VALUES {rows}) AS v (a, b) WHERE a > 1")).await;
}

#[tokio::test]
async fn queries_of_tpch_pass() {
    let tables = TPCH.map(|(name, columns)| tpch_table(name, columns));
    let rig = EngineRig::with(config(), tables.into());
    for sql in TPCH_QUERIES {
        // Of query 11, which the benchmark fills in by the scale.
        let sql = sql.replace("{fraction}", "0.0001");
        if let Err(error) = planned(&rig, &sql).await {
            panic!("{sql}: {error}");
        }
    }
}

#[tokio::test]
async fn orders_of_many_keys_are_refused() {
    let rig = EngineRig::new();
    let keys = |count: usize| (0..count).map(|at| format!("id + {at}")).collect::<Vec<_>>().join(", ");
    passes(&format!("SELECT id FROM orders ORDER BY {}", keys(256))).await;
    let sorted = format!("(SELECT id FROM orders ORDER BY {} LIMIT 1)", keys(200));
    for sql in [
        format!("SELECT id FROM orders ORDER BY {}", keys(257)),
        format!("SELECT row_number() OVER (PARTITION BY {} ORDER BY {}) FROM orders", keys(200), keys(57)),
        format!("SELECT array_agg(id ORDER BY {}) FROM orders", keys(257)),
        format!("SELECT DISTINCT ON ({}) id FROM orders", keys(257)),
        format!("SELECT count(*) FROM {sorted} a, {sorted} b"),
    ] {
        let error = planned(&rig, &sql).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{sql}: {error}");
        assert!(error.message.contains("at most 256"), "{sql}: {error}");
    }
}
