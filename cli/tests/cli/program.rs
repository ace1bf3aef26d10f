//! Tests the `volley` program against clusters of `volley dev`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{DevProcess, one_error, sorted_lines, volley};

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
    let append = ["put", &at("t.csv"), "--table", "keyed", "--mode", "append"];
    dev.ok(&append);
    assert!(dev.error(&[&append[..], &["--compression", "lz4"]].concat()).contains("compression = none"));
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
    let noted = volley(&taken).env("VOLLEY_HIGH_WATER", "abc").output().unwrap().stderr;
    let noted = String::from_utf8(noted).unwrap();
    assert!(noted.starts_with("note: VOLLEY_HIGH_WATER has no effect"), "{noted}");
    let nobody = ["ls", "--cluster", "127.0.0.1:1"];
    let error = one_error(volley(&nobody).output().unwrap(), &nobody);
    assert!(!error.contains("volley dev") && error.contains("VOLLEY_CLUSTER"), "{error}");
    dev.stop();
}

#[test]
fn silent_address_is_named_in_bounded_time_by_every_command() {
    // The system accepts connections, as for a process that is stopped; nobody answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for args in [&["ls"][..], &["stats"], &["get", "t"], &["doctor"]] {
        let args = [args, &["--cluster", &address]].concat();
        let started = Instant::now();
        let error = one_error(volley(&args).output().unwrap(), &args);
        assert!(error.contains(&format!("grpc://{address} does not answer")), "{args:?}: {error}");
        assert!(error.contains("another member") && started.elapsed() < Duration::from_secs(9), "{args:?}: {error}");
    }
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
    let versions = dev.ok(&["info", "a/t", "--versions"]);
    assert!(versions.contains("the newest") && versions.contains("`volley restore a/t --version N`"), "{versions}");
    assert!(dev.ok(&["info", "a/t"]).contains("`volley info a/t --versions`"));
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
