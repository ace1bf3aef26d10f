//! Files into tables and back, by the `volley` program against clusters of `volley dev`.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::FileWriter;
use tempfile::TempDir;

use crate::support::{DevProcess, one_error, volley};

/// Runs a command with an input that is a pipe.
fn piped(dev: &DevProcess, args: &[&str], input: String) -> Output {
    let mut command = volley(args);
    command.env("VOLLEY_CLUSTER", &dev.address).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

#[test]
fn piped_rows_are_all_stored_or_none() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let rows = |count: usize| format!("a,b\n{}", "1,x\n".repeat(count));
    let count = || dev.json(&["ls", "t"])[0]["rows"].as_u64();

    let put = piped(&dev, &["put", "/dev/stdin", "--format", "csv", "--table", "t"], rows(50_000));
    let text = String::from_utf8(put.stderr).unwrap();
    assert!(put.status.success() && text == "types: a Int64, b Utf8\n", "{text}");
    assert_eq!(count(), Some(50_000));
    assert!(piped(&dev, &["put", "-", "--format", "csv", "--table", "t"], rows(2)).status.success());
    assert_eq!(count(), Some(2));

    let fifo = folder.path().join("t.csv");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (path, text) = (fifo.clone(), rows(30_000));
    let writer = std::thread::spawn(move || std::fs::write(path, text));
    dev.ok(&["put", fifo.to_str().unwrap(), "--table", "t"]);
    writer.join().unwrap().unwrap();
    assert_eq!(count(), Some(30_000));

    // Nothing, and half of a row, replace nothing.
    for (input, reason) in [("", "standard input: the file is empty"), ("a,b\n1,x\n2", "standard input: line 3")] {
        let args = ["put", "-", "--format", "csv", "--table", "t"];
        let error = one_error(piped(&dev, &args, input.into()), &args);
        assert!(error.contains(reason), "{error}");
        assert_eq!(count(), Some(30_000));
    }
    dev.stop();
}

#[test]
fn text_is_put_with_the_types_that_are_known() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let types = || {
        let info = dev.json(&["info", "t"]);
        let columns: Vec<_> = info["columns"].as_array().unwrap().iter().map(|c| c["type"].clone()).collect();
        serde_json::to_string(&columns).unwrap()
    };
    std::fs::write(at("t.csv"), "a,b\n1,10\n").unwrap();
    std::fs::write(at("null.csv"), "a,b\n2,\n").unwrap();
    std::fs::write(at("code.csv"), "a,b\n3,B7\n").unwrap();
    dev.ok(&["put", &at("t.csv"), "--table", "t", "--type", "b=int32"]);
    assert_eq!(types(), r#"["Int64","Int32"]"#);
    dev.ok(&["put", &at("null.csv"), "--table", "t", "--mode", "append"]);
    dev.ok(&["get", "t", "-o", &at("back.csv")]);
    assert_eq!(std::fs::read_to_string(at("back.csv")).unwrap(), "a,b\n1,10\n2,\n");

    let ignored = dev.error(&["put", &at("t.csv"), "--table", "t", "--mode", "append", "--all-text"]);
    assert!(ignored.contains("--all-text has no effect here (the types are the table's)"), "{ignored}");

    // A table keeps its types, unless others are named.
    for more in [["--mode", "append"], ["--mode", "replace"]] {
        let error = dev.error(&["put", &at("code.csv"), "--table", "t", more[0], more[1]]);
        assert!(error.contains("code.csv: line 2: column \"b\": \"B7\"") && error.contains("table"), "{error}");
    }
    std::fs::write(at("info.json"), dev.ok(&["info", "t", "--json"])).unwrap();
    dev.ok(&["put", &at("code.csv"), "--table", "t", "--all-text"]);
    assert_eq!(types(), r#"["Utf8","Utf8"]"#);
    dev.ok(&["put", &at("t.csv"), "--table", "t", "--schema", &at("info.json")]);
    assert_eq!(types(), r#"["Int64","Int32"]"#);
    // Several files have one schema; an option without effect is refused.
    dev.ok(&["drop", "t"]);
    dev.ok(&["put", &at("t.csv"), &at("code.csv"), "--table", "t"]);
    assert_eq!(types(), r#"["Int64","Utf8"]"#);
    dev.ok(&["get", "t", "-o", &at("t.parquet")]);
    assert!(dev.error(&["put", &at("t.parquet"), "--table", "t", "--all-text"]).contains("--all-text is for CSV"));
    assert!(dev.error(&["put", &at("t.csv"), "--table", "t", "--type", "c=int8"]).contains("the columns are a, b"));
    let error = dev.error(&["put", &at("t.csv"), "--table", "t", "--type", "a.x=int8"]);
    assert!(error.contains("\"a.x\", which is part of the column \"a\""), "{error}");
    dev.stop();
}

/// An Arrow file with one column.
fn arrow_file(path: &str, name: &str, column: ArrayRef) {
    let batch = RecordBatch::try_from_iter_with_nullable([(name, column, true)]).unwrap();
    let mut writer = FileWriter::try_new(std::fs::File::create(path).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

#[test]
fn append_widens_exactly_or_names_the_field() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    arrow_file(&at("wide.arrow"), "n", Arc::new(Int64Array::from(vec![i64::MAX])));
    arrow_file(&at("narrow.arrow"), "n", Arc::new(Int32Array::from(vec![Some(-1), None])));
    arrow_file(&at("text.arrow"), "n", Arc::new(StringArray::from(vec!["1"])));
    dev.ok(&["put", &at("wide.arrow"), &at("narrow.arrow"), "--table", "w"]);
    dev.ok(&["put", &at("narrow.arrow"), "--table", "w", "--mode", "append"]);
    assert_eq!(dev.ok(&["get", "w", "-o", "-", "--format", "jsonl"]).lines().count(), 5);
    dev.ok(&["get", "w", "-o", &at("back.csv"), "--null", "none"]);
    let text = std::fs::read_to_string(at("back.csv")).unwrap();
    assert_eq!(text, "n\n9223372036854775807\n-1\nnone\n-1\nnone\n");
    let error = dev.error(&["put", &at("text.arrow"), "--table", "w", "--mode", "append"]);
    assert!(error.contains("\"n\"") && error.contains("Utf8") && error.contains("Int64"), "{error}");
    // The other way round nothing is narrowed.
    dev.ok(&["put", &at("narrow.arrow"), "--table", "v"]);
    let error = dev.error(&["put", &at("wide.arrow"), "--table", "v", "--mode", "append"]);
    assert!(error.contains("\"n\"") && error.contains("Int32"), "{error}");
    dev.stop();
}

#[test]
fn output_is_written_into_pipes_and_nothing_is_left_of_a_refusal() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    arrow_file(&at("in.arrow"), "a,b", Arc::new(Float64Array::from(vec![0.5, f64::NAN])));
    let put = ["put", &at("in.arrow"), "--table", "t", "--shard-by", "\"a,b\"", "--retention", "7200"];
    assert!(!dev.ok(&put).contains("replaced"));
    dev.ok(&["put", &at("in.arrow"), "--table", "short", "--ttl", "12h"]);
    assert_eq!(dev.json(&["info", "short"])["ttl_s"], 43_200);
    assert!(dev.ok(&["info", "short"]).contains("expires"));
    let again = dev.ok(&put);
    assert!(again.contains("replaced version 1 (2 rows), which is readable for"), "{again}");
    let replaced = dev.json(&put)["replaced"].clone();
    assert_eq!((&replaced["version"], &replaced["rows"]), (&2.into(), &2.into()));

    let info = dev.json(&["info", "t"]);
    assert_eq!((&info["shard_by"][0], &info["retention_s"]), (&"a,b".into(), &7200.into()));
    let shown = dev.ok(&["info", "t"]);
    for word in ["key", "shards", "replicas", "compression", "retention", "2 h", "parts", "created", "last write"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }

    let pipe = at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    dev.ok(&["get", "t", "--columns", "\"a,b\"", "-o", &pipe, "--format", "csv"]);
    assert_eq!(reader.join().unwrap(), "\"a,b\"\n0.5\nNaN\n");

    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let before = files();
    let error = dev.error(&["get", "t", "-o", &at("t.jsonl")]);
    assert!(error.contains("\"a,b\"") && error.contains("NaN"), "{error}");
    assert!(dev.error(&["get", "t", "--json"]).contains("NaN"));
    assert!(dev.error(&["get", "t", "-o", "/dev/full", "--format", "csv"]).contains("No space left"));
    assert_eq!(files(), before);
    dev.stop();
}
