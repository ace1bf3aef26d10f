//! The commands that look at tables, copy them, compare them and measure a cluster, against clusters of `volley dev`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, DictionaryArray, IntervalMonthDayNanoArray, ListArray, RecordBatch};
use arrow::datatypes::{Int8Type, Int32Type, IntervalMonthDayNanoType};
use arrow::ipc::writer::FileWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{DevProcess, volley};

/// Rows with the columns `n` and `word`: `7,w7`.
fn csv(path: &Path, numbers: impl Iterator<Item = u32>) -> String {
    let rows: String = numbers.map(|n| format!("{n},w{n}\n")).collect();
    std::fs::write(path, format!("n,word\n{rows}")).unwrap();
    path.to_str().unwrap().to_string()
}

/// The column `n` of rows that are printed as JSON lines.
fn numbers(dev: &DevProcess, args: &[&str]) -> Vec<u64> {
    let text = dev.ok(&[args, &["--json"]].concat());
    let row = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
    text.lines().map(row).collect()
}

/// The exit code and the outcome of a comparison.
fn diff(dev: &DevProcess, args: &[&str]) -> (i32, Value) {
    let output = dev.run(&[&["diff"], args, &["--json"]].concat());
    let outcome = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), outcome)
}

#[test]
fn rows_and_columns_of_a_table_are_shown() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let file = csv(&folder.path().join("t.csv"), 1..=30);
    dev.ok(&["put", &file, "--table", "a/t"]);
    dev.ok(&["put", &file, "--table", "a/t", "--mode", "append"]);

    assert_eq!(numbers(&dev, &["head", "a/t", "-n", "2"]), [1, 2]);
    assert_eq!(numbers(&dev, &["head", "a/t", "--where", "n > 28", "-n", "2"]), [29, 30]);
    assert_eq!(numbers(&dev, &["tail", "a/t", "-n", "32"])[..3], [29, 30, 1]);
    assert_eq!(numbers(&dev, &["tail", "a/t", "-n", "2", "--where", "n <= 5", "--version", "1"]), [4, 5]);
    assert!(dev.ok(&["head", "a/t", "--columns", "word", "-n", "1"]).contains("w1"));

    assert_eq!(dev.ok(&["count", "a/t"]), "60\n");
    assert_eq!(dev.ok(&["count", "a/t", "--where", "n > 10 -- of both"]), "40\n");
    let counted = dev.json(&["count", "a/t", "--version", "1"]);
    assert_eq!(counted, json!({ "table": "a/t", "version": 1, "rows": 30 }));

    let schema = dev.json(&["schema", "a/t"]);
    assert_eq!(schema["columns"][1], json!({ "name": "word", "type": "Utf8", "nullable": true }));
    assert!(dev.ok(&["schema", "a/t"]).contains("Int64"));

    let sample = numbers(&dev, &["sample", "a/t", "-n", "5", "--seed", "7"]);
    assert_eq!((sample.len(), numbers(&dev, &["sample", "a/t", "-n", "5", "--seed", "7"])), (5, sample));
    assert_eq!(numbers(&dev, &["sample", "a/t", "-n", "100"]).len(), 60);
    assert!(dev.ok(&["sample", "a/t", "-n", "5"]).contains("5 rows of 60; --seed "));

    let described = dev.json(&["describe", "a/t"]);
    let n = &described["columns"][0];
    assert_eq!((&n["nulls"], &n["min"], &n["max"], &n["mean"]), (&json!(0), &json!(1), &json!(30), &json!(15.5)));
    assert!((28..=32).contains(&n["distinct"].as_u64().unwrap()), "{described}");
    let word = &described["columns"][1];
    assert_eq!((&word["min"], &word["max"], &word["mean"]), (&json!("w1"), &json!("w9"), &Value::Null));
    assert!(dev.ok(&["describe", "a/t", "--columns", "n"]).contains("15.5"));

    assert!(dev.ok(&["status"]).starts_with("green: "));
    assert_eq!(dev.json(&["tables"])[0]["table"], "a/t");
    dev.stop();
}

#[test]
fn odd_names_and_types_are_described() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let decimal = Decimal128Array::from(vec![Some(125), None]).with_precision_and_scale(10, 2).unwrap();
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None]);
    let span = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNanoType::make_value(1, 2, 3); 2]);
    let word: DictionaryArray<Int8Type> = ["x", "y"].into_iter().collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("Total \"net\"", Arc::new(decimal)),
        ("list", Arc::new(list)),
        ("span", Arc::new(span)),
        ("select", Arc::new(word)),
    ];
    let columns = columns.map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let path = folder.path().join("odd.arrow");
    let mut writer = FileWriter::try_new(std::fs::File::create(&path).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let name = "Sales 2026/\"odd\"/t";
    dev.ok(&["put", path.to_str().unwrap(), "--table", name]);

    let described = dev.json(&["describe", name]);
    let column = |at: usize| described["columns"][at].clone();
    assert_eq!((&column(0)["nulls"], &column(0)["min"], &column(0)["mean"]), (&json!(1), &json!("1.25"), &json!(1.25)));
    assert_eq!((&column(1)["nulls"], &column(1)["min"]), (&json!(1), &Value::Null));
    assert_eq!((&column(2)["nulls"], &column(2)["max"]), (&json!(0), &Value::Null));
    assert_eq!((&column(3)["min"], &column(3)["max"]), (&json!("x"), &json!("y")));
    assert_eq!(dev.ok(&["count", name, "--where", "\"select\" = 'y'"]), "1\n");
    assert!(dev.ok(&["tail", name, "-n", "1"]).contains("| y"));
    assert_eq!(diff(&dev, &[name, name]).0, 0);
    dev.stop();
}

#[test]
fn tables_and_versions_are_compared_by_key_or_as_multisets() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let dev = DevProcess::start(&at("data"), &["--nodes", "1"]);
    let old = csv(&at("old.csv"), 1..=30);
    let new = csv(&at("new.csv"), 2..=31);
    std::fs::write(&new, std::fs::read_to_string(&new).unwrap().replace("5,w5\n", "5,other\n")).unwrap();
    for file in [&old, &new] {
        dev.ok(&["put", file, "--table", "keyed", "--shard-by", "n", "--shards", "3"]);
        dev.ok(&["put", file, "--table", "plain"]);
    }
    // 1 is gone, 31 is new, and 5 has another word.
    let (code, outcome) = diff(&dev, &["keyed", "--versions", "1", "2"]);
    assert_eq!((code, &outcome["equal"], &outcome["key"]), (1, &json!(false), &json!(["n"])));
    assert_eq!((&outcome["added"], &outcome["removed"], &outcome["changed"]), (&json!(1), &json!(1), &json!(1)));
    let (code, outcome) = diff(&dev, &["plain", "--versions", "1", "2"]);
    assert_eq!((code, &outcome["key"]), (1, &Value::Null));
    assert_eq!((&outcome["added"], &outcome["removed"]), (&json!(2), &json!(2)));
    assert_eq!(diff(&dev, &["plain", "--versions", "1", "2", "--key", "n"]).1["changed"], 1);
    assert_eq!(diff(&dev, &["plain", "--versions", "1", "2", "--columns", "n", "--where", "n BETWEEN 2 AND 30"]).0, 0);
    let (code, outcome) = diff(&dev, &["keyed", "plain"]);
    assert_eq!((code, &outcome["equal"]), (0, &json!(true)), "whatever order the rows have");
    assert!(dev.ok(&["diff", "keyed", "plain"]).ends_with("equal\n"));

    dev.ok(&["put", &new, "--table", "typed", "--type", "n=int32"]);
    let (code, outcome) = diff(&dev, &["plain", "typed"]);
    assert_eq!((code, &outcome["compared"]), (1, &json!(["word"])));
    assert_eq!(outcome["columns"], json!([{ "column": "n", "a": "Int64", "b": "Int32" }]));
    let missing = dev.run(&["diff", "plain", "plian"]);
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(missing.status.code() == Some(2) && error.contains("did you mean \"plain\"?"), "{error}");
    dev.stop();
}

#[test]
fn copy_keeps_rows_and_options_across_clusters() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let from = DevProcess::start(&at("from"), &[]);
    let to = DevProcess::start(&at("to"), &["--nodes", "1"]);
    let file = csv(&at("t.csv"), 1..=5000);
    let put = ["put", &file, "--table", "a/t", "--shard-by", "n", "--shards", "5", "--compression", "lz4"];
    from.ok(&[&put[..], &["--retention", "7200", "--ttl", "12h", "--streams", "3"]].concat());
    assert_eq!(from.ok(&["count", "a/t"]), "5000\n");

    let source = format!("{}/a/t", from.address);
    assert!(to.error(&["cp", &source, "copy"]).contains("request fewer replicas"));
    assert_eq!(to.json(&["ls"]), json!([]));
    let copied = to.json(&["cp", &source, "copy", "--replicas", "1"]);
    assert_eq!((&copied["rows"], &copied["from"]["version"]), (&json!(5000), &json!(1)));
    let info = to.json(&["info", "copy"]);
    for (option, value) in [
        ("shards", json!(5)),
        ("shard_by", json!(["n"])),
        ("compression", json!("lz4")),
        ("retention_s", json!(7200)),
        ("ttl_s", json!(43_200)),
        ("replicas", json!(1)),
    ] {
        assert_eq!(info[option], value, "{option}");
    }
    assert!(to.error(&["cp", &source, "copy", "--replicas", "1"]).contains("\"copy\""), "it exists");
    to.ok(&["cp", "a/t", "copy", "--from-cluster", &from.address, "--mode", "append", "--where", "n <= 10"]);
    assert_eq!(to.ok(&["count", "copy"]), "5010\n");
    let replaced = to.ok(&["cp", &source, "copy", "--mode", "replace", "--replicas", "1"]);
    assert!(replaced.contains("copy: replaced version 2 (5,010 rows)"), "{replaced}");

    // Within a cluster, in the order of the rows.
    from.ok(&["put", &file, "--table", "plain"]);
    from.ok(&["cp", "plain", "b/plain"]);
    assert_eq!(diff(&from, &["plain", "b/plain"]).0, 0);
    assert_eq!(numbers(&from, &["tail", "b/plain", "-n", "2"]), [4999, 5000]);
    let error = from.error(&["cp", "plain", "a/t", "--mode", "replace"]);
    assert!(error.contains("drop a/t first") && error.contains("--shard-by"), "{error}");
    assert!(from.error(&["tail", "a/t"]).contains("have no order"));
    assert!(from.error(&["head", "x/plain"]).contains("did you mean \"b/plain\"?"));
    let error = from.error(&["put", &file, "--table", "plian", "--mode", "append"]);
    assert!(error.contains("did you mean \"plain\"?"), "{error}");
    assert!(to.error(&["cp", &format!("{}/a/tt", from.address), "u"]).contains("the other cluster"));
    to.stop();
    from.stop();
}

#[test]
fn bench_measures_and_leaves_no_table() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &[]);
    let measured = dev.json(&["bench", "--bytes", "5MB", "--streams", "2"]);
    let transfers = measured["transfers"].as_array().unwrap();
    assert_eq!(transfers.len(), 4);
    for transfer in transfers {
        assert_eq!(transfer["rows"], 131_072, "two batches");
        assert!(transfer["bytes_per_second"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(measured["plans"]["calls"], 200);
    assert_eq!(dev.json(&["ls"]), json!([]));
    assert!(dev.ok(&["bench", "--bytes", "1MB"]).contains("get, up to 8 streams"));
    assert_eq!(dev.json(&["ls"]), json!([]));
    dev.stop();
}

#[test]
fn interrupted_bench_leaves_no_table_and_no_write() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let open_writes = || dev.json(&["stats"])["open_writes"].as_u64();
    let mut bench = volley(&["bench", "--bytes", "1TB"]);
    let bench = bench.env("VOLLEY_CLUSTER", &dev.address).stderr(Stdio::piped()).spawn().unwrap();
    while open_writes() == Some(0) {}
    assert!(Command::new("kill").args(["-INT", &bench.id().to_string()]).status().unwrap().success());
    let ended = bench.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    while open_writes() != Some(0) {}
    assert_eq!(dev.json(&["ls"]), json!([]));
    dev.stop();
}
