//! Tests the `volley` program against clusters of `volley dev`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::FileWriter;
use serde_json::Value;
use tempfile::TempDir;

/// A running `volley dev`, killed on drop.
struct DevProcess {
    child: Child,
    address: String,
}

impl DevProcess {
    fn start(folder: &Path, more: &[&str]) -> DevProcess {
        let mut child = volley(&["dev", "--port", "0", "--data-dir", folder.to_str().unwrap()])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line:?}")).trim().to_string();
        DevProcess { child, address }
    }

    fn run(&self, args: &[&str]) -> Output {
        volley(args).env("VOLLEY_CLUSTER", &self.address).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// The error line of a command that fails.
    fn error(&self, args: &[&str]) -> String {
        one_error(self.run(args), args)
    }

    /// Stops it with SIGINT.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for DevProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn volley(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_volley"));
    command.args(args).env_remove("VOLLEY_CLUSTER");
    command
}

fn one_error(output: Output, args: &[&str]) -> String {
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("volley: ") && text.lines().count() == 1, "{args:?}: {text}");
    text
}

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1..].sort_unstable();
    lines
}

const CSV: &str = "n,word,day\n1,one,2024-01-01\n2,,2024-01-02\n3,three,\n";

#[test]
fn tables_round_trip_in_every_format_and_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("t.csv"), CSV).unwrap();
    let data = folder.path().join("data");
    let dev = DevProcess::start(&data, &[]);

    let put = dev.json(&["put", &at("t.csv"), "--table", "a/t"]);
    assert_eq!((&put["rows"], &put["version"]), (&3.into(), &1.into()));
    for (index, name) in ["t.parquet", "t.arrow", "t.arrows", "t.jsonl", "t.tsv"].iter().enumerate() {
        dev.ok(&["get", "a/t", "-o", &at(name)]);
        let put = dev.json(&["put", &at(name), "--table", "a/t"]);
        assert_eq!(put["version"], index + 2, "{name}");
    }
    dev.ok(&["get", "a/t", "--columns", "n,word,day", "-o", &at("back.csv")]);
    assert_eq!(std::fs::read_to_string(at("back.csv")).unwrap(), CSV);

    dev.ok(&["put", &at("t.csv"), &at("t.csv"), "--table", "keyed", "--shard-by", "n,word", "--shards", "3"]);
    dev.ok(&["put", &at("t.csv"), "--table", "keyed", "--mode", "append", "--compression", "lz4"]);
    dev.ok(&["get", "keyed", "-o", &at("keyed.csv")]);
    let keyed = std::fs::read_to_string(at("keyed.csv")).unwrap();
    let row = |text: &str| sorted_lines(&keyed).iter().filter(|line| **line == text).count();
    assert_eq!((row("1,one,2024-01-01"), row("3,three,")), (3, 3));

    dev.stop();
    let dev = DevProcess::start(&data, &[]);
    let list = dev.json(&["ls"]);
    let names: Vec<_> =
        list.as_array().unwrap().iter().map(|t| (t["table"].as_str().unwrap(), t["rows"].as_u64())).collect();
    assert_eq!(names, [("a/t", Some(3)), ("keyed", Some(9))]);
    assert!(dev.ok(&["get", "a/t"]).contains("three"));
    assert!(dev.ok(&["info", "keyed"]).contains("by key"));
    dev.ok(&["drop", "keyed"]);
    assert_eq!(dev.json(&["ls", "keyed"]), serde_json::json!([]));
    assert_eq!(dev.json(&["stats"])["tables"], 1);
    assert_eq!(dev.json(&["cluster", "status"])["nodes"].as_array().unwrap().len(), 3);
    dev.stop();
}

#[test]
fn errors_are_one_line_and_leave_no_files_or_tables() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("t.csv"), CSV).unwrap();
    std::fs::write(at("other.csv"), CSV.replace("word", "wort")).unwrap();
    std::fs::write(at("late.csv"), format!("{CSV}x,four,\n")).unwrap();
    let data = folder.path().join("data");
    let dev = DevProcess::start(&data, &["--nodes", "1"]);

    let has = |args: &[&str], words: &[&str]| {
        let error = dev.error(args);
        words.iter().for_each(|word| assert!(error.contains(word), "{args:?}: {word:?} is not in {error}"));
    };
    has(&["get", "nowhere"], &["nowhere"]);
    has(&["drop", "nowhere"], &["nowhere"]);
    has(&["put", &at("t.xlsx"), "--table", "t"], &["t.xlsx", ".parquet", ".jsonl"]);
    has(&["put", &at("missing.csv"), "--table", "t"], &["missing.csv", "No such file"]);
    has(&["put", &at("t.csv"), &at("other.csv"), "--table", "t"], &["other.csv", "wort", "word"]);
    has(&["put", &at("t.csv"), "--table", "t", "--shard-by", "no"], &["\"no\""]);
    has(&["put", &at("t.csv"), "--table", "t", "--mode", "append"], &["\"t\""]);
    // Only a part of the file is readable: no rows are kept.
    has(
        &["put", &at("t.csv"), &at("late.csv"), "--table", "t", "--infer-rows", "3"],
        &["late.csv: line 5", "\"x\"", "--infer-rows"],
    );
    assert_eq!(dev.json(&["ls"]), serde_json::json!([]));

    dev.ok(&["put", &at("t.csv"), "--table", "t"]);
    has(&["get", "t", "-o", &at("t.xlsx")], &["t.xlsx"]);
    has(&["get", "t", "-o", &at("no/such/folder.csv")], &["folder.csv", "there is no folder"]);
    has(&["get", "t", "--columns", "no", "-o", &at("new.csv")], &["\"no\""]);
    has(&["put", &at("t.csv"), "--table", "t", "--mode", "create"], &["\"t\""]);
    assert!(!Path::new(&at("new.csv")).exists());

    let second = ["dev", "--port", "0", "--data-dir", data.to_str().unwrap()];
    assert!(one_error(volley(&second).output().unwrap(), &second).contains("running"));
    let taken = ["dev", "--port", dev.address.rsplit_once(':').unwrap().1];
    assert!(one_error(volley(&taken).output().unwrap(), &taken).contains(taken[2]));
    let nobody = ["ls", "--cluster", "127.0.0.1:1"];
    assert!(one_error(volley(&nobody).output().unwrap(), &nobody).contains("volley dev"));
    dev.stop();
}

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
    dev.stop();
}

#[test]
fn three_coordinators_restart_on_their_ports() {
    let folder = TempDir::new().unwrap();
    let csv = folder.path().join("t.csv");
    std::fs::write(&csv, CSV).unwrap();
    let data = folder.path().join("data");
    let more = ["--coordinators", "3", "--nodes", "1"];
    let dev = DevProcess::start(&data, &more);
    dev.ok(&["put", csv.to_str().unwrap(), "--table", "t"]);
    dev.stop();
    let dev = DevProcess::start(&data, &more);
    assert_eq!(dev.json(&["cluster", "status"])["coordinators"].as_array().unwrap().len(), 3);
    assert!(dev.ok(&["get", "t"]).contains("three"));
    dev.stop();
    let fewer = ["dev", "--port", "0", "--data-dir", data.to_str().unwrap()];
    assert!(one_error(volley(&fewer).output().unwrap(), &fewer).contains("--coordinators 3"));
}

#[test]
fn operators_see_and_change_the_cluster() {
    let folder = TempDir::new().unwrap();
    let csv = folder.path().join("t.csv");
    std::fs::write(&csv, CSV).unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &[]);
    for _ in 0..2 {
        dev.ok(&["put", csv.to_str().unwrap(), "--table", "a/t", "--shard-by", "n", "--shards", "3"]);
    }
    assert!(dev.ok(&["cluster", "status"]).starts_with("green: "));
    assert!(dev.ok(&["explain", "a/t"]).contains("all its copies where they should be"));
    assert!(dev.ok(&["coordinators"]).contains("leader"));
    let versions = dev.json(&["info", "a/t", "--versions"]);
    assert_eq!((&versions["newest"], versions["versions"].as_array().unwrap().len()), (&2.into(), 2));
    assert!(dev.ok(&["info", "a/t", "--versions"]).contains("the newest"));
    assert!(dev.ok(&["get", "a/t", "--version", "1"]).contains("three"));

    let nodes = dev.json(&["nodes"])["nodes"].as_array().unwrap().clone();
    let (id, address) = (nodes[0]["id"].as_str().unwrap(), nodes[0]["flight"].as_str().unwrap());
    assert!(dev.ok(&["nodes"]).contains(id));
    assert!(dev.error(&["remove", id]).contains("drain"));
    assert!(dev.error(&["drain", "zzzz"]).contains("zzzz"));
    assert!(dev.ok(&["drain", &id[..8]]).contains("is drained"));
    assert!(dev.ok(&["nodes"]).contains("draining"));
    assert!(dev.ok(&["drain", address, "--cancel"]).contains("accepts writes again"));
    dev.ok(&["drain", id, "--no-wait"]);
    assert_eq!(dev.json(&["drain", id])["done"], true);
    assert!(dev.ok(&["remove", id]).contains(id));
    assert_eq!(dev.json(&["nodes"])["nodes"].as_array().unwrap().len(), 2);
    assert!(dev.ok(&["get", "a/t"]).contains("three"));
    dev.stop();
}

#[test]
fn drain_continues_after_an_interrupt() {
    let folder = TempDir::new().unwrap();
    let csv = folder.path().join("t.csv");
    std::fs::write(&csv, CSV).unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    dev.ok(&["put", csv.to_str().unwrap(), "--table", "t"]);
    let node = || dev.json(&["nodes"])["nodes"][0].clone();
    let id = node()["id"].as_str().unwrap().to_string();
    // No other node can receive the parts.
    let mut drain = volley(&["drain", &id]);
    let drain = drain.env("VOLLEY_CLUSTER", &dev.address).stderr(Stdio::piped()).spawn().unwrap();
    while node()["draining"] != true {}
    assert!(Command::new("kill").args(["-INT", &drain.id().to_string()]).status().unwrap().success());
    let ended = drain.wait_with_output().unwrap();
    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{text}");
    assert!(text.contains("the drain continues") && text.contains("--cancel"), "{text}");
    assert_eq!(node()["draining"], true);
    assert!(dev.ok(&["drain", &id, "--no-wait"]).contains("1 part left (no node accepts writes"));
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

#[test]
fn demo_passes_its_checks() {
    let output = volley(&["demo", "--scale", "0.01"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("60,175 rows").count(), 3, "{text}");
    assert!(text.contains("All checks passed") && text.contains("flight.connect"), "{text}");
}

#[test]
fn link_named_as_a_server_runs_that_server() {
    let folder = TempDir::new().unwrap();
    let wrong = [("volley-node", "--coordinators", "nowhere"), ("volley-coordinator", "--locations", "x=proxy")];
    for (name, flag, value) in wrong {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_volley"), &link).unwrap();
        let version = Command::new(&link).arg("--version").output().unwrap();
        assert!(String::from_utf8(version.stdout).unwrap().starts_with(&format!("{name} ")));
        let rejected = Command::new(&link).args(["--check-config", flag, value]).env_clear().output().unwrap();
        let text = String::from_utf8(rejected.stderr).unwrap();
        assert!(!rejected.status.success() && text.starts_with(name) && text.contains(flag), "{text}");
    }
}
