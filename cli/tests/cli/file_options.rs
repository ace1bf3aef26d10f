//! Options of files, by the `volley` program against clusters of `volley dev`.

use tempfile::TempDir;

use crate::support::DevProcess;

#[test]
fn compressed_files_are_put_and_written() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    std::fs::write(at("t.csv"), "a,b\n1,x\n2,\n").unwrap();
    dev.ok(&["put", &at("t.csv"), "--table", "t"]);
    for name in ["t.csv.gz", "t.jsonl.zst", "t.arrows.gz", "t.parquet.zst"] {
        let written = dev.json(&["get", "t", "-o", &at(name)]);
        let bytes = std::fs::read(at(name)).unwrap();
        assert!(bytes.starts_with(if name.ends_with("gz") { b"\x1f\x8b" } else { b"\x28\xb5" }), "{name}");
        assert_eq!(written["bytes"], bytes.len(), "{name}");
        dev.ok(&["put", &at(name), "--table", "u"]);
        assert_eq!(dev.ok(&["get", "u", "-o", "-", "--format", "csv"]), "a,b\n1,x\n2,\n", "{name}");
        dev.ok(&["drop", "u"]);

        std::fs::write(at(name), &bytes[..bytes.len() - 1]).unwrap();
        let error = dev.error(&["put", &at(name), "--table", "t"]);
        assert!(error.contains(name), "{error}");
    }
    assert_eq!(dev.json(&["ls", "t"])[0]["rows"], 2);
    dev.stop();
}

#[test]
fn csv_of_other_programs_is_read_and_written() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    // As Excel writes it in Western Europe.
    std::fs::write(at("t.csv"), b"# sales\nname;price\n\xc4pfel;1\n'a;b';2\n").unwrap();
    let excel = ["--delimiter", ";", "--quote", "'", "--encoding", "windows-1252"];
    dev.ok(&[&["put", &at("t.csv"), "--table", "t", "--comment", "#"], &excel[..]].concat());
    assert_eq!(dev.ok(&["get", "t", "-o", "-", "--format", "csv"]), "name,price\n\u{c4}pfel,1\na;b,2\n");
    dev.ok(&[&["get", "t", "-o", &at("back.csv")], &excel[..]].concat());
    assert_eq!(std::fs::read(at("back.csv")).unwrap(), b"name;price\n\xc4pfel;1\n'a;b';2\n");

    // Without a header columns are numbered, or those of the table.
    std::fs::write(at("rows.csv"), "x,3\n").unwrap();
    dev.ok(&["put", &at("rows.csv"), "--table", "u", "--no-header"]);
    assert_eq!(dev.ok(&["get", "u", "-o", "-", "--format", "csv"]), "c0,c1\nx,3\n");
    dev.ok(&["put", &at("rows.csv"), "--table", "t", "--no-header", "--mode", "append"]);
    assert_eq!(dev.ok(&["get", "t", "-o", "-", "--format", "tsv", "--no-header"]).lines().last(), Some("x\t3"));

    let cases: [(&[&str], &str); 4] = [
        (&["put", &at("rows.csv"), "--table", "t", "--delimiter", "\""], "--delimiter and --quote are the same"),
        (&["get", "t", "-o", &at("t.parquet"), "--no-header"], "--no-header is for CSV and TSV"),
        (&["get", "t", "--encoding", "utf-16"], "--encoding is for files"),
        (
            &["get", "t", "-o", "-", "--format", "csv", "--encoding", "latin-1", "--null", "\u{20ac}"],
            "cannot stand for null",
        ),
    ];
    for (args, expected) in cases {
        let error = dev.error(args);
        assert!(error.contains(expected), "{error}");
    }
    dev.ok(&["get", "t", "-o", &at("t.parquet")]);
    let error = dev.error(&["put", &at("t.parquet"), "--table", "t", "--comment", "#"]);
    assert!(error.contains("--comment is for CSV, and no file is that"), "{error}");
    let error = dev.error(&["put", &at("t.parquet"), &at("rows.csv"), "--table", "w", "--no-header"]);
    assert!(error.contains("give --schema"), "{error}");
    dev.stop();
}

#[test]
fn bad_rows_are_skipped_and_reported_on_request() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    std::fs::write(at("t.csv"), "a,b\n1,2\n3\n4,x\n").unwrap();
    assert!(dev.error(&["put", &at("t.csv"), "--table", "t"]).contains("t.csv: line 3: 1 cell instead of 2"));
    let skip = ["put", &at("t.csv"), "--table", "t", "--on-bad-row", "skip", "--type", "b=int64"];
    let put = dev.run(&skip);
    let report = String::from_utf8(put.stderr).unwrap();
    assert!(put.status.success(), "{report}");
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(lines[..2], ["types: a Int64, b Int64", "volley: skipped 2 bad rows; the first:"]);
    assert!(lines[2].contains("t.csv: line 3: 1 cell") && lines[3].contains("t.csv: line 4: column \"b\": \"x\""));
    assert_eq!(dev.ok(&["get", "t", "-o", "-", "--format", "csv"]), "a,b\n1,2\n");
    let outcome = dev.json(&skip);
    assert_eq!((&outcome["rows"], &outcome["bad_rows"]["skipped"]), (&1.into(), &2.into()));
    assert_eq!(outcome["bad_rows"]["first"][0]["file"], at("t.csv"));

    // A file of which no row can be read does not empty the table.
    std::fs::write(at("none.csv"), "a,b\n1;2\n").unwrap();
    let error = dev.error(&["put", &at("none.csv"), "--table", "t", "--on-bad-row", "skip"]);
    assert!(error.contains("no row can be read; the first: ") && error.contains("none.csv: line 2"), "{error}");
    assert_eq!(dev.json(&["ls", "t"])[0]["rows"], 1);
    dev.stop();
}

#[test]
fn folders_and_patterns_are_one_write() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    for (file, text) in
        [("t/y=1/b.csv", "n\n2\n"), ("t/y=1/a.csv", "n\n1\n"), ("t/y=2/c.csv", "n\n3\n"), ("t/_SUCCESS", "")]
    {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let csv = |table: &str| dev.ok(&["get", table, "-o", "-", "--format", "csv"]);
    assert!(dev.ok(&["put", &at("t"), "--table", "t", "--type", "y=int16"]).contains("version 1, 3 rows"));
    assert_eq!(csv("t"), "n,y\n1,1\n2,1\n3,2\n");
    assert_eq!(dev.json(&["info", "t"])["columns"][1]["type"], "Int16");
    dev.ok(&["put", &at("t/y=[12]/[ab].csv"), "--table", "u"]);
    assert_eq!(csv("u"), "n,y\n1,1\n2,1\n");
    dev.ok(&["put", &at("t/**/c.csv"), "--table", "t", "--mode", "append"]);
    assert_eq!(csv("t").lines().last(), Some("3,2"));
    assert!(dev.error(&["put", &at("t/*.parquet"), "--table", "u"]).contains("*.parquet: no file matches"));
    dev.stop();
}

#[test]
fn resumed_load_stores_each_file_once() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    std::fs::create_dir(at("in")).unwrap();
    for (name, text) in [("in/a.csv", "n\n1\n"), ("in/b.csv", "n\n2\n")] {
        std::fs::write(at(name), text).unwrap();
    }
    let load = ["put", &at("in"), "--table", "t", "--mode", "create", "--resume", &at("m")];
    let report = dev.json(&load);
    assert_eq!((&report["files"], &report["writes"], &report["rows"]), (&2.into(), &1.into(), &2.into()));

    // As if the process had been killed between the commit and its record.
    let manifest = std::fs::read_to_string(at("m")).unwrap();
    let lines: Vec<&str> = manifest.split_inclusive('\n').collect();
    assert!(lines.len() == 3 && lines[2].starts_with("{\"commit\""), "{manifest}");
    std::fs::write(at("m"), lines[..2].concat()).unwrap();
    std::fs::write(at("in/c.csv"), "n\n3\n").unwrap();
    let report = dev.json(&load);
    assert_eq!((&report["files"], &report["writes"], &report["already_loaded"]), (&3.into(), &2.into(), &0.into()));
    assert_eq!(dev.ok(&["get", "t", "-o", "-", "--format", "csv"]), "n\n1\n2\n3\n");

    assert!(dev.ok(&load).contains("t: nothing to load; 3 files loaded before"));
    std::fs::write(at("in/d.csv"), "n\nx\n").unwrap();
    assert!(dev.error(&load).contains("d.csv: line 2: column \"n\": \"x\" does not fit the type Int64"));
    std::fs::write(at("in/d.csv"), "n\n4\n").unwrap();
    let report = dev.json(&load);
    assert_eq!((&report["files"], &report["rows"], &report["already_loaded"]), (&1.into(), &1.into(), &3.into()));
    std::fs::write(at("in/d.csv"), "n\n5\n6\n").unwrap();
    assert!(dev.error(&load).contains("d.csv: the file has changed since it was loaded"));
    assert_eq!(dev.json(&["ls", "t"])[0]["rows"], 4);
    dev.stop();
}
