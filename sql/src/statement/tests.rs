use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use serde_json::json;
use volley_common::Code;

use super::*;

mod limits;
mod refused;

fn name(text: &str) -> TableName {
    text.parse().unwrap()
}

fn at(text: &str, version: Option<u64>) -> TableAt {
    TableAt { name: name(text), version }
}

fn read(sql: &str) -> PlainRead {
    match parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}")) {
        SqlStatement::Read(read) => read,
        other => panic!("{sql}: {other:?}"),
    }
}

fn query(sql: &str) -> QueryStatement {
    match parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}")) {
        SqlStatement::Query(query) => query,
        other => panic!("{sql}: {other:?}"),
    }
}

fn update(sql: &str) -> UpdateStatement {
    match parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}")) {
        SqlStatement::Update(update) => update,
        other => panic!("{sql}: {other:?}"),
    }
}

fn error(sql: &str, code: Code) -> String {
    match parse(sql) {
        Ok(found) => panic!("{sql}: {found:?}"),
        Err(error) => {
            assert_eq!(error.code, code, "{sql}: {error}");
            error.message
        }
    }
}

#[test]
fn columns_filter_and_limit_of_a_table_are_a_read() {
    let all = PlainRead { table: name("t"), version: None, columns: None, filter: None, limit: None };
    let columns = |names: &[&str]| Some(names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    assert_eq!(read("SELECT * FROM t"), all);
    assert_eq!(read(" select * from T; "), all);
    assert_eq!(read("SELECT * FROM t AS x LIMIT ALL"), all);
    assert_eq!(read("SELECT * FROM volley.\"default\".t"), all);
    assert_eq!(
        read("SELECT * FROM \"a/b\".\"C\" LIMIT 0"),
        PlainRead { table: name("a/b/C"), limit: Some(0), ..all.clone() }
    );
    assert_eq!(read("SELECT * FROM \"a/b/C\""), PlainRead { table: name("a/b/C"), ..all.clone() });
    assert_eq!(
        read("SELECT A, \"B\" FROM t WHERE A > 1 AND \"B\" = 'it''s' LIMIT 5"),
        PlainRead {
            columns: columns(&["a", "B"]),
            filter: Some("A > 1 AND \"B\" = 'it''s'".into()),
            limit: Some(5),
            ..all.clone()
        }
    );
    assert_eq!(read("SELECT * FROM t FOR VERSION AS OF 7"), PlainRead { version: Some(7), ..all.clone() });
    assert_eq!(read("SELECT * FROM t VERSION AS OF 7 x"), PlainRead { version: Some(7), ..all });
}

#[test]
fn filter_of_plain_expressions_keeps_its_meaning() {
    for filter in [
        "a IN (1, 2) AND NOT b",
        "a BETWEEN 1 AND 2 OR c IS NULL",
        "s LIKE 'a%' ESCAPE '!'",
        "lower(s) = 'x'",
        "CAST(a AS DOUBLE) > 1.5",
        "t > TIMESTAMP '2026-01-01 00:00:00'",
        "t > DATE '2026-01-01' - INTERVAL '1' DAY",
        "EXTRACT(YEAR FROM t) = 2026",
        "CASE WHEN a THEN b ELSE c END",
        "n['x'] = 1",
        "(a OR b) AND c IS NOT DISTINCT FROM 3",
        "s = 'two  spaces' /* and a comment */",
    ] {
        let text = read(&format!("SELECT * FROM t WHERE {filter}")).filter.unwrap();
        let again = read(&format!("SELECT * FROM t WHERE {text}")).filter.unwrap();
        assert_eq!(text, again, "{filter}");
    }
}

#[test]
fn everything_else_is_for_the_engine() {
    for sql in [
        "SELECT 1",
        "SELECT count(*) FROM t",
        "SELECT a AS b FROM t",
        "SELECT a, a FROM t",
        "SELECT t.a FROM t",
        "SELECT t.* FROM t",
        "SELECT * EXCLUDE (a) FROM t",
        "SELECT a + 1 FROM t",
        "SELECT DISTINCT a FROM t",
        "SELECT a FROM t ORDER BY a",
        "SELECT a FROM t GROUP BY a",
        "SELECT a FROM t LIMIT 5 OFFSET 1",
        "SELECT a FROM t LIMIT 1 + 1",
        "SELECT a FROM t FETCH FIRST 5 ROWS ONLY",
        "SELECT a FROM t, u",
        "SELECT a FROM t JOIN u ON t.a = u.a",
        "SELECT x FROM t AS t (x)",
        "SELECT * FROM (SELECT * FROM t)",
        "SELECT * FROM generate_series(1, 3)",
        "SELECT * FROM information_schema.tables",
        "SELECT a FROM t UNION ALL SELECT a FROM t",
        "SELECT a FROM t WHERE a IN (SELECT a FROM u)",
        "SELECT a FROM t WHERE t.a > 1",
        "SELECT a FROM t WHERE random() > 0.5",
        "SELECT a FROM t WHERE now() > b",
        "SELECT a FROM t WHERE CURRENT_DATE > b",
        "SELECT a FROM t WHERE sum(a) > 1",
        "SELECT a FROM t WHERE a > $1",
        "SELECT a FROM t WHERE a > - -1",
        "SELECT a FROM t WHERE repeat(s, 9) = 'x'",
        "SELECT a FROM t WHERE nothing(s) = 'x'",
        "WITH x AS (SELECT * FROM t) SELECT * FROM x",
        "VALUES (1), (2)",
    ] {
        let query = query(sql);
        assert_eq!((query.sql.as_str(), query.kind), (sql, QueryKind::Select));
    }
}

#[test]
fn tables_of_a_query_are_listed_once() {
    let tables = |sql: &str| query(sql).tables;
    assert_eq!(tables("SELECT 1 FROM b, a.c, b AS x, \"A/B\".c"), ["A/B/c", "a/c", "b"].map(|t| at(t, None)));
    assert_eq!(
        tables("SELECT (SELECT max(x) FROM u) FROM t WHERE a IN (SELECT a FROM v)"),
        ["t", "u", "v"].map(|t| at(t, None))
    );
    assert_eq!(tables("WITH x AS (SELECT * FROM t) SELECT * FROM x, x AS y"), [at("t", None)]);
    assert_eq!(tables("WITH t AS (SELECT * FROM t) SELECT * FROM t"), [at("t", None)]);
    assert!(tables("WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT * FROM r").is_empty());
    assert_eq!(tables("SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x), x"), [at("x", None)]);
    assert!(tables("SELECT * FROM information_schema.columns, generate_series(1, 2)").is_empty());
    assert_eq!(tables("SELECT 1 FROM t, \"default\".t AS u, volley.\"default\".t AS v"), [at("t", None)]);
}

#[test]
fn versions_become_names_of_the_engine() {
    let found = query("SELECT n.a, count(*) FROM s.t FOR VERSION AS OF 7 AS o JOIN s.t n ON o.a = n.a GROUP BY n.a");
    assert_eq!(found.sql, "SELECT n.a, count(*) FROM s.\"t@7\" AS o JOIN s.t n ON o.a = n.a GROUP BY n.a");
    assert_eq!(found.tables, [at("s/t", None), at("s/t", Some(7))]);
    let found = query("SELECT count(T.a) FROM T for version as of 007");
    assert_eq!(found.sql, "SELECT count(T.a) FROM \"t@7\" AS \"t\"");
    let found = query("SELECT 1 FROM t FOR VERSION AS OF 1 a, t FOR VERSION AS OF 2 b");
    assert_eq!(found.tables, [at("t", Some(1)), at("t", Some(2))]);
    assert_eq!(query("DESCRIBE t FOR VERSION AS OF 3").tables, [at("t", Some(3))]);
    let found = query("EXPLAIN SELECT * FROM t FOR VERSION AS OF 3");
    assert_eq!(found.tables, [at("t", Some(3))]);
    assert_eq!(found.sql, "EXPLAIN SELECT * FROM \"t@3\" AS \"t\"");
    // A column may have the name.
    assert_eq!(query("SELECT version AS of FROM t").tables, [at("t", None)]);
}

#[test]
fn table_that_is_named_like_a_version_is_itself() {
    assert_eq!(read("SELECT * FROM \"t@7\"").table, name("t@7"));
    let found = query("SELECT count(*) FROM \"t@7\"");
    assert_eq!(found.sql, "SELECT count(*) FROM \"t@7@\" AS \"t@7\"");
    assert_eq!(found.tables, [at("t@7", None)]);
    assert_eq!(query("SELECT count(*) FROM \"a@b\"").sql, "SELECT count(*) FROM \"a@b\"");
    assert!(matches!(update("DROP TABLE \"t@7\""), UpdateStatement::DropTable { table, .. } if table == name("t@7")));
    let shadowed = "WITH \"t@7\" AS (SELECT 1) SELECT * FROM \"t@7\"";
    assert!(error(shadowed, Code::InvalidArgument).contains("rename it"));
}

#[test]
fn references_round_trip_and_stay_different() {
    let names =
        ["t", "t@", "t@7", "t@@", "t@7@", "t@x", "a/t@7", "a@1/t", "default/t@1", "@", "t@99999999999999999999"];
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        for version in [None, Some(0), Some(7), Some(u64::MAX)] {
            let table = at(name, version);
            assert_eq!(TableAt::from_reference(&table.reference()).unwrap(), table);
            assert!(seen.insert(table.reference()), "{table:?}");
        }
    }
}

proptest! {
    #[test]
    fn every_table_has_a_reference_of_its_own(text in "[a@0-9/]{1,8}", version in any::<Option<u64>>()) {
        if let Ok(name) = text.parse::<TableName>() {
            let table = TableAt { name, version };
            prop_assert_eq!(TableAt::from_reference(&table.reference()).unwrap(), table);
        }
    }

    #[test]
    fn parser_never_panics(text in "(SELECT|FROM|t|\\*|FOR VERSION AS OF| |7|\\(|\\)|,|\\?|WITH|AS|'|\"|@|;|WHERE|a){0,30}") {
        let _ = parse(&text);
    }
}

#[test]
fn misplaced_versions_are_refused() {
    for sql in [
        "SELECT * FROM t AS x FOR VERSION AS OF 7",
        "SELECT a FOR VERSION AS OF 7 FROM t",
        "SELECT * FROM (SELECT 1) FOR VERSION AS OF 7",
        "INSERT INTO t FOR VERSION AS OF 7 SELECT 1",
        "FOR VERSION AS OF 7",
    ] {
        error(sql, Code::InvalidArgument);
    }
    assert!(error("SELECT * FROM t FOR VERSION AS OF 'x'", Code::InvalidArgument).contains("whole number"));
    assert!(error("SELECT * FROM t FOR VERSION AS OF 1.5", Code::InvalidArgument).contains("whole number"));
    assert!(error("SELECT * FROM t FOR SYSTEM_TIME AS OF now()", Code::Unimplemented).contains("VERSION"));
    error("SELECT * FROM \"t\u{1}7\"", Code::InvalidArgument);
}

#[test]
fn parameters_are_numbered() {
    let found = query("SELECT a FROM t WHERE a > ? AND b = '?' LIMIT ?");
    assert_eq!(found.sql, "SELECT a FROM t WHERE a > $1 AND b = '?' LIMIT $2");
    assert_eq!(query("SELECT $2, $1").sql, "SELECT $2, $1");
    assert!(error("SELECT ?, $1", Code::InvalidArgument).contains("two kinds"));
}

#[test]
fn explain_show_and_describe_are_queries() {
    let kind = |sql: &str| query(sql).kind;
    assert_eq!(kind("EXPLAIN SELECT * FROM t"), QueryKind::Explain { analyze: false });
    assert_eq!(kind("EXPLAIN ANALYZE SELECT * FROM t"), QueryKind::Explain { analyze: true });
    assert_eq!(kind("SHOW TABLES"), QueryKind::Show);
    assert_eq!(kind("SHOW COLUMNS FROM t"), QueryKind::Show);
    assert_eq!(kind("DESCRIBE a.t"), QueryKind::Describe);
    assert_eq!(query("DESCRIBE a.t").tables, [at("a/t", None)]);
    assert!(query("DESCRIBE information_schema.tables").tables.is_empty());
    error("EXPLAIN INSERT INTO t VALUES (1)", Code::Unimplemented);
}

#[test]
fn columns_are_shown_of_one_table() {
    for (given, whole) in [
        ("t", r#""volley"."default"."t""#),
        ("A.T", r#""volley"."a"."t""#),
        (r#""a/b/C""#, r#""volley"."a/b"."C""#),
        ("information_schema.tables", "information_schema.tables"),
    ] {
        assert_eq!(query(&format!("SHOW COLUMNS FROM {given}")).sql, format!("SHOW COLUMNS FROM {whole}"));
    }
}

#[test]
fn created_table_has_types_and_options() {
    let sql = "CREATE TABLE a.t (id BIGINT NOT NULL, \"Name\" VARCHAR, price DECIMAL(10, 2), seen TIMESTAMP(6) WITH TIME ZONE,
        born DATE, tags VARCHAR[], ok BOOLEAN NULL) WITH (shards = 8, shard_by = 'id, Name', compression = lz4, preserve_batches = true, ttl_s = 60)";
    let UpdateStatement::CreateTable(table) = update(sql) else { panic!("{sql}") };
    let list = DataType::List(Field::new_list_field(DataType::Utf8, true).into());
    let expected = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("Name", DataType::Utf8, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("seen", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("born", DataType::Date32, true),
        Field::new("tags", list, true),
        Field::new("ok", DataType::Boolean, true),
    ]);
    assert_eq!(*table.schema, expected);
    assert_eq!((table.name, table.if_not_exists, table.or_replace), (name("a/t"), false, false));
    let options =
        json!({"shards": 8, "shard_by": ["id", "Name"], "compression": "lz4", "preserve_batches": true, "ttl_s": 60});
    assert_eq!(Value::Object(table.options), options);
}

#[test]
fn create_forms_and_lists_are_read() {
    let UpdateStatement::CreateTable(table) =
        update("CREATE TABLE IF NOT EXISTS t (a INT) WITH (shard_by = ARRAY['a', 'b,c'])")
    else {
        panic!("no CREATE TABLE")
    };
    assert!(table.if_not_exists);
    assert_eq!(Value::Object(table.options), json!({"shard_by": ["a", "b,c"]}));
    let UpdateStatement::CreateTableAs { table, query } =
        update("CREATE OR REPLACE TABLE t AS SELECT a FROM u FOR VERSION AS OF 2")
    else {
        panic!("no CREATE TABLE AS")
    };
    assert!(table.or_replace && table.schema.fields().is_empty());
    assert_eq!(query.sql, "SELECT a FROM \"u@2\" AS \"u\"");
    assert_eq!(query.tables, [at("u", Some(2))]);
}

#[test]
fn wrong_tables_are_refused() {
    for sql in [
        "CREATE TABLE t",
        "CREATE TABLE t (a INT, A INT)",
        "CREATE OR REPLACE TABLE IF NOT EXISTS t (a INT)",
        "CREATE TABLE t (a INT) WITH (colour = 'red')",
        "CREATE TABLE t (a INT) WITH (shards = 1, shards = 2)",
        "CREATE TABLE t (a INT) WITH (shards = 1.5)",
        "CREATE TABLE information_schema.t (a INT)",
        "CREATE TABLE a.b.c.d (a INT)",
    ] {
        error(sql, Code::InvalidArgument);
    }
    error("CREATE TABLE x.y.z (a INT)", Code::NotFound);
    for sql in [
        "CREATE TEMPORARY TABLE t (a INT)",
        "CREATE TABLE t (a INT PRIMARY KEY)",
        "CREATE TABLE t (a INT DEFAULT 1)",
        "CREATE TABLE t (a INT, PRIMARY KEY (a))",
        "CREATE TABLE t (a VARCHAR(10))",
        "CREATE TABLE t (a INT) AS SELECT 1",
        "CREATE TABLE t LIKE u",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
    ] {
        error(sql, Code::Unimplemented);
    }
}

#[test]
fn insert_has_a_query_and_perhaps_columns() {
    let UpdateStatement::Insert { table, columns, query } = update("INSERT INTO a.t (X, \"Y\") VALUES (1, ?), (2, ?)")
    else {
        panic!("no INSERT")
    };
    assert_eq!((table, columns), (name("a/t"), Some(vec!["x".to_string(), "Y".to_string()])));
    assert_eq!(query.sql, "VALUES (1, $1), (2, $2)");
    assert!(query.tables.is_empty());
    let UpdateStatement::Insert { columns, query, .. } = update("INSERT INTO t SELECT * FROM u WHERE a > 1") else {
        panic!("no INSERT")
    };
    assert_eq!((columns, query.sql.as_str()), (None, "SELECT * FROM u WHERE a > 1"));
    assert_eq!(query.tables, [at("u", None)]);
    for sql in [
        "INSERT OVERWRITE t SELECT 1",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t VALUES (1) RETURNING a",
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
    ] {
        error(sql, Code::Unimplemented);
    }
}

#[test]
fn drop_names_one_table() {
    let drop = |table: &str, if_exists| UpdateStatement::DropTable { table: name(table), if_exists };
    assert_eq!(update("DROP TABLE a.t"), drop("a/t", false));
    assert_eq!(update("DROP TABLE IF EXISTS T"), drop("t", true));
    for sql in ["DROP TABLE t, u", "DROP TABLE t CASCADE", "DROP VIEW t", "DROP SCHEMA a"] {
        error(sql, Code::Unimplemented);
    }
}

#[test]
fn unsupported_statements_say_what_to_do() {
    for (sql, instead) in [
        ("UPDATE t SET a = 1", "mode replace"),
        ("DELETE FROM t", "mode replace"),
        ("TRUNCATE TABLE t", "mode replace"),
        ("ALTER TABLE t ADD COLUMN b INT", "CREATE OR REPLACE TABLE"),
        ("COPY t TO 'x.csv' STORED AS CSV", "volley get"),
        ("GRANT SELECT ON t TO u", "volley grant"),
        ("BEGIN", "autocommit"),
        ("COMMIT", "autocommit"),
        ("SAVEPOINT a", "whole transaction"),
        ("ROLLBACK TO SAVEPOINT a", "whole transaction"),
        ("SET x = 1", "leave it out"),
        ("CREATE VIEW v AS SELECT 1", "CREATE TABLE"),
        ("CREATE SCHEMA a", "create the table"),
        ("PREPARE p AS SELECT 1", "driver"),
        ("SELECT 1 INTO t", "CREATE TABLE name AS"),
        ("SELECT * FROM t FOR UPDATE", "locks nothing"),
    ] {
        let error = error(sql, Code::Unimplemented);
        assert!(error.contains(instead), "{sql}: {error}");
    }
}

#[test]
fn exactly_one_statement_is_parsed() {
    for sql in ["", " ; ", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE t", "SELEC 1", "SELECT 'a"] {
        error(sql, Code::InvalidArgument);
    }
    assert_eq!(query("SELECT 1;").kind, QueryKind::Select);
    assert!(error("SELECT 1; DROP TABLE t", Code::InvalidArgument).contains("2 statements"));
}
