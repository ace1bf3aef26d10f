//! Options of files, by the `volley` program against clusters of `volley dev`.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::DevProcess;
use tempfile::TempDir;

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
