//! Comparisons of casts, in plans in which other rules move them.

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, TimestampNanosecondArray, TimestampSecondArray};
use volley_common::Code;

use super::*;

/// Columns: id, seconds, nanoseconds, price, number.
fn rig() -> EngineRig {
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4])), false),
        ("seconds", Arc::new(TimestampSecondArray::from(vec![Some(0), Some(1), Some(-1), None])), true),
        ("nanoseconds", Arc::new(TimestampNanosecondArray::from(vec![Some(0), Some(1), None, Some(-1)])), true),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![Some(100), Some(110), Some(-50), None])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
            true,
        ),
        ("number", Arc::new(Int64Array::from(vec![Some(1), Some(1 << 40), Some(-5), None])), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    EngineRig::with(config(), vec![MemoryTable::new("t", 1, batch.schema(), vec![vec![batch]])])
}

/// Comparisons, and the rows for which they are true.
const COMPARISONS: [(&str, &[&str]); 16] = [
    ("seconds >= TIMESTAMP '1970-01-01 00:00:00.5'", &["2"]),
    ("seconds < TIMESTAMP '1970-01-01 00:00:00.5'", &["1", "3"]),
    ("seconds = TIMESTAMP '1970-01-01 00:00:00.5'", &[]),
    ("seconds <> TIMESTAMP '1970-01-01 00:00:00.5'", &["1", "2", "3"]),
    ("NOT seconds <= TIMESTAMP '1969-12-31 23:59:59.5'", &["1", "2"]),
    ("seconds BETWEEN TIMESTAMP '1969-12-31 23:59:59.5' AND TIMESTAMP '1970-01-01 00:00:00.5'", &["1"]),
    ("seconds IN (TIMESTAMP '1970-01-01 00:00:00.5', TIMESTAMP '1970-01-01 00:00:01')", &["2"]),
    ("CAST(price AS BIGINT) = 1", &["1", "2"]),
    ("CAST(price AS BIGINT) IN (0, 1)", &["1", "2", "3"]),
    ("arrow_cast(price, 'Int64') = 1", &["1", "2"]),
    ("CAST(price AS DECIMAL(10, 1)) = 1.1", &["2"]),
    ("arrow_cast(price, 'Decimal128(10, 0)') = CAST(1 AS DECIMAL(10, 0))", &["1", "2"]),
    ("TRY_CAST(number AS INT) <> 1", &["3"]),
    ("TRY_CAST(number AS INT) IS NOT DISTINCT FROM NULL", &["2", "4"]),
    // A second after midnight in Berlin.
    (
        "arrow_cast(seconds, 'Timestamp(s, \"Europe/Berlin\")') = arrow_cast('1969-12-31T23:00:01Z', 'Timestamp(s, \"Europe/Berlin\")')",
        &["2"],
    ),
    ("EXTRACT(year FROM nanoseconds) < 9999", &["1", "2", "4"]),
];

async fn check(rig: &EngineRig, sql: &str, expected: &[&str]) {
    assert_eq!(rig.rows(sql, &["t"]).await, expected, "{sql}");
}

#[tokio::test]
async fn comparisons_of_casts_are_not_moved() {
    let rig = rig();
    for (comparison, expected) in COMPARISONS {
        check(&rig, &format!("SELECT id FROM t WHERE {comparison} ORDER BY id"), expected).await;
        let value = format!("SELECT id FROM (SELECT id, {comparison} AS c FROM t) WHERE c ORDER BY id");
        check(&rig, &value, expected).await;
        let case = format!("SELECT id FROM t WHERE CASE WHEN number = 7 THEN true ELSE {comparison} END ORDER BY id");
        check(&rig, &case, expected).await;
        let count = format!("SELECT count(*) FILTER (WHERE {comparison}) FROM t");
        check(&rig, &count, &[expected.len().to_string().as_str()]).await;
    }
}

#[tokio::test]
async fn casts_that_rules_bring_into_comparisons_are_not_moved() {
    let rig = rig();
    let queries: [(&str, &[&str]); 9] = [
        ("SELECT id FROM (SELECT id, CAST(price AS BIGINT) AS n FROM t) WHERE n = 1 ORDER BY id", &["1", "2"]),
        (
            "SELECT id FROM (SELECT id, arrow_cast(seconds, 'Timestamp(ns)') AS s FROM t) WHERE s > TIMESTAMP '1970-01-01 00:00:00.5'",
            &["2"],
        ),
        (
            "WITH x AS (SELECT id, CAST(price AS BIGINT) AS n FROM t) SELECT a.id, b.id FROM x a JOIN x b ON a.n = b.n AND b.n = 1 ORDER BY 1, 2",
            &["1|1", "1|2", "2|1", "2|2"],
        ),
        ("SELECT a.id, b.id FROM t a JOIN t b ON a.seconds = b.nanoseconds ORDER BY 1, 2", &["1|1"]),
        ("SELECT CAST(price AS BIGINT), count(*) FROM t GROUP BY 1 HAVING CAST(price AS BIGINT) = 1", &["1|2"]),
        ("SELECT id FROM t WHERE CAST(price AS BIGINT) = (SELECT 1) ORDER BY id", &["1", "2"]),
        ("SELECT id FROM t WHERE CAST(price AS BIGINT) = CASE WHEN true THEN 1 ELSE 2 END ORDER BY id", &["1", "2"]),
        ("SELECT id FROM t WHERE CAST(price AS BIGINT) * 1 = 1 ORDER BY id", &["1", "2"]),
        ("SELECT id FROM t WHERE seconds >= TIMESTAMP '1970-01-01 00:00:00' + INTERVAL '500 milliseconds'", &["2"]),
    ];
    for (sql, expected) in queries {
        check(&rig, sql, expected).await;
    }
}

#[tokio::test]
async fn aggregates_correlated_by_a_cast_are_right_or_refused() {
    let rig = rig();
    let queries: [(&str, &[&str]); 4] = [
        ("SELECT a.id FROM t a WHERE a.id = (SELECT max(b.id) FROM t b WHERE b.seconds = a.nanoseconds)", &["1"]),
        ("SELECT a.id FROM t a WHERE a.id = (SELECT max(b.id) FROM t b WHERE a.nanoseconds = b.seconds)", &["1"]),
        (
            "SELECT a.id FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE CAST(b.price AS BIGINT) = a.number) ORDER BY a.id",
            &["1"],
        ),
        // It is a comparison with zero, once it is simplified.
        (
            "SELECT a.id FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE CAST(b.price AS BIGINT) = a.id * 0 AND b.id = 3) ORDER BY a.id",
            &["1", "2", "3", "4"],
        ),
    ];
    for (sql, expected) in queries {
        check(&rig, sql, expected).await;
    }
    // There would be a maximum for each price.
    for cast in ["CAST(b.price AS BIGINT)", "CAST(CAST(b.price AS DOUBLE) AS BIGINT)", "CAST(b.price AS DECIMAL(8, 0))"]
    {
        let sql = format!("SELECT a.id FROM t a WHERE a.id = (SELECT max(b.id) FROM t b WHERE {cast} = a.number)");
        assert_eq!(rig.error(&sql, &["t"]).await.code, Code::Unimplemented, "{sql}");
    }
}

#[tokio::test]
async fn columns_that_are_cast_keep_their_names() {
    let rig = rig();
    let sql = "SELECT CAST(price AS BIGINT), seconds >= TIMESTAMP '1970-01-01 00:00:00.5', EXTRACT(year FROM nanoseconds), sum(CAST(price AS BIGINT)) OVER () FROM t";
    let planned = rig.prepare(sql, &["t"]).await.unwrap().schema();
    for batch in rig.batches(sql, &["t"]).await.unwrap() {
        assert_eq!(batch.schema(), planned);
    }
    let names: Vec<&str> = planned.fields().iter().map(|field| field.name().as_str()).collect();
    assert!(names.iter().all(|name| !name.contains("fence")), "{names:?}");
}

#[tokio::test]
async fn exact_comparisons_are_pushed_without_a_cast() {
    let rig = rig();
    for (comparison, filter) in [
        ("seconds >= TIMESTAMP '1970-01-01 00:00:01'", "\"seconds\" >= "),
        ("seconds >= TIMESTAMP '1970-01-01 00:00:00.5'", "\"seconds\" > "),
        ("price = 1", "\"price\" = "),
        ("number = CAST(1 AS SMALLINT)", "\"number\" = "),
        ("CAST(price AS BIGINT) = 1", "CAST(\"price\" AS BIGINT) = "),
    ] {
        rig.rows(&format!("SELECT id FROM t WHERE {comparison} ORDER BY id"), &["t"]).await;
        let scans = rig.scans();
        let pushed = scans.iter().filter_map(|scan| scan.filter.as_ref()).map(|filter| filter.text());
        let pushed: Vec<&str> = pushed.collect();
        assert!(!pushed.is_empty() && pushed.iter().all(|text| text.contains(filter)), "{comparison}: {pushed:?}");
    }
}
