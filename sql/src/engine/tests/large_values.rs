//! Functions whose results are larger than their arguments.

use volley_common::Code;

use super::*;

/// Fails if it does not end with an error that names the function.
async fn refused(rig: &EngineRig, sql: &str, name: &str) {
    let error = rig.error(sql, &["orders"]).await;
    assert_eq!(error.code, Code::InvalidArgument, "{sql}: {error}");
    assert!(error.message.contains(name), "{sql}: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_beyond_any_memory_are_refused() {
    let rig = EngineRig::new();
    for (sql, name) in [
        ("SELECT repeat('x', 2000000000)", "repeat"),
        ("SELECT repeat(customer, 2000000000) FROM orders", "repeat"),
        ("SELECT lpad(customer, 2000000000) FROM orders", "lpad"),
        ("SELECT replace(repeat('a', 100000), 'a', repeat('b', 100000)) FROM orders", "replace"),
        ("SELECT array_repeat(id, 1000000000) FROM orders", "array_repeat"),
        ("SELECT array_resize(make_array(id), 2000000000, id) FROM orders", "array_resize"),
        ("SELECT range(1, 1000000000000)", "range"),
        ("SELECT generate_series(id, 1000000000000) FROM orders", "generate_series"),
        ("SELECT concat_ws(repeat('x', 1000000), repeat('y', 1000000), '')", "concat_ws"),
        ("SELECT levenshtein(repeat('x', 1000000), repeat('y', 1000000))", "levenshtein"),
    ] {
        refused(&rig, sql, name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_lists_that_double_are_refused() {
    let rig = EngineRig::new();
    for (first, next, name) in [
        ("customer", "s || s", "||"),
        ("customer", "concat(s, s)", "concat"),
        ("customer", "encode(s, 'hex')", "encode"),
        ("make_array(id)", "s || s", "array_concat"),
        ("make_array(id)", "[s, s]", "make_array"),
        ("id", "struct(s, s)", "parts"),
        ("id", "{'a': s, 'b': s}", "parts"),
    ] {
        let steps: Vec<String> = (1..45).map(|i| format!("w{i} AS (SELECT {next} AS s FROM w{})", i - 1)).collect();
        let with = format!("WITH w0 AS (SELECT {first} AS s FROM orders), {}", steps.join(", "));
        refused(&rig, &format!("{with} SELECT * FROM w44"), name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_within_the_bounds_are_those_of_the_engine() {
    let rig = EngineRig::new();
    for (expression, expected) in [
        ("repeat('ab', 3)", "ababab"),
        ("lpad('a', 3, 'xy')", "xya"),
        ("replace('aba', 'a', 'cc')", "ccbcc"),
        ("concat('a', NULL, 1)", "a1"),
        ("'a' || 'b' || 1", "ab1"),
        ("'a' || NULL", "null"),
        ("concat_ws('-', 'a', 'b')", "a-b"),
        ("encode('a', 'hex')", "61"),
        ("array_to_string(make_array(1, 2), ',')", "1,2"),
        ("array_to_string(make_array(1) || make_array(2), ',')", "1,2"),
        ("array_to_string(range(3), ',')", "0,1,2"),
        ("array_to_string([1, 2], ',')", "1,2"),
        ("struct(1, 'a')['c1']", "a"),
        ("levenshtein('kitten', 'sitting')", "3"),
    ] {
        assert_eq!(rig.rows(&format!("SELECT {expression}"), &[]).await, [expected], "{expression}");
    }
    let sql =
        "SELECT count(s), sum(length(s)) FROM (SELECT repeat('abc' || id, 9000000) AS s FROM orders WHERE id < 3)";
    assert_eq!(rig.rows(sql, &["orders"]).await, ["2|72000000"], "in several steps");
    let named = rig.prepare("SELECT customer || 'x' FROM orders", &["orders"]).await.unwrap();
    assert!(named.schema().field(0).name().ends_with("customer || Utf8(\"x\")"), "{:?}", named.schema());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_texts_are_still_filtered_by_the_holders() {
    let rig = EngineRig::new();
    assert_eq!(rig.rows("SELECT id FROM orders WHERE customer || 'x' = 'cx'", &["orders"]).await, ["5"]);
    assert!(rig.scans().iter().all(|scan| scan.filter.is_some()));
}

#[tokio::test]
async fn types_whose_nulls_are_large_are_refused() {
    let rig = EngineRig::new();
    for sql in [
        "SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)') FROM orders",
        "SELECT id FROM orders WHERE EXISTS (SELECT CAST(NULL AS INT[2000000000]) FROM orders)",
    ] {
        let error = rig.prepare(sql, &["orders"]).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{sql}: {error}");
        assert!(error.message.contains("elements each"), "{sql}: {error}");
    }
}
