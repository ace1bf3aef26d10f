//! The JSON of commands is that of docs/commands.md: the same keys, with values of the same kinds.

use serde_json::{Deserializer, Value};
use tempfile::TempDir;

use crate::support::DevProcess;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");

/// The first example of a command.
fn documented(page: &str, typed: &str) -> Value {
    let (_, section) = page.split_once(&format!("\n### `{typed}`\n")).unwrap_or_else(|| panic!("{typed}"));
    let (_, example) = section.split_once("```json\n").unwrap();
    Deserializer::from_str(example).into_iter().next().unwrap().unwrap()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Where a value differs in keys and kinds from the example; null, and lists without items, stand for anything. Of lists the first
/// items are compared.
fn differences(at: &str, example: &Value, found: &Value) -> Vec<String> {
    match (example, found) {
        (Value::Null, _) | (_, Value::Null) => Vec::new(),
        (Value::Object(example), Value::Object(found)) => {
            let missing =
                example.keys().filter(|key| !found.contains_key(*key)).map(|key| format!("{at}.{key} is missing"));
            let unknown =
                found.keys().filter(|key| !example.contains_key(*key)).map(|key| format!("{at}.{key} is new"));
            let common = example.iter().filter_map(|(key, value)| Some((key, value, found.get(key)?)));
            let below = common.flat_map(|(key, example, found)| differences(&format!("{at}.{key}"), example, found));
            missing.chain(unknown).chain(below).collect()
        }
        (Value::Array(example), Value::Array(found)) => match (example.first(), found.first()) {
            (Some(example), Some(found)) => differences(&format!("{at}[0]"), example, found),
            _ => Vec::new(),
        },
        (example, found) if kind(example) == kind(found) => Vec::new(),
        (example, found) => vec![format!("{at} is {} and not {}", kind(found), kind(example))],
    }
}

#[test]
fn commands_print_the_json_of_the_page() {
    let folder = TempDir::new().unwrap();
    let dev = DevProcess::start(&folder.path().join("data"), &["--nodes", "1"]);
    let csv = folder.path().join("t.csv");
    std::fs::write(&csv, "id,day\n1,2026-01-31\n2,2026-02-01\n").unwrap();
    let put = ["put", csv.to_str().unwrap(), "--table", "trips", "--shard-by", "id", "--replicas", "1"];
    dev.ok(&put);
    let page = std::fs::read_to_string(PAGE).unwrap();
    let commands: [(&str, &[&str]); 18] = [
        ("volley put", &put),
        ("volley ls", &["ls"]),
        ("volley info", &["info", "trips"]),
        ("volley explain", &["explain", "trips"]),
        ("volley count", &["count", "trips"]),
        ("volley schema", &["schema", "trips"]),
        ("volley describe", &["describe", "trips"]),
        ("volley cp", &["cp", "trips", "copy"]),
        ("volley diff", &["diff", "trips", "copy"]),
        ("volley bench", &["bench", "--bytes", "1MB", "--streams", "2", "--replicas", "1"]),
        ("volley status", &["status"]),
        ("volley stats", &["stats"]),
        ("volley cluster status", &["cluster", "status"]),
        ("volley nodes", &["nodes"]),
        ("volley coordinators", &["coordinators"]),
        ("volley whoami", &["whoami"]),
        ("volley restore", &["restore", "trips", "--version", "1"]),
        ("volley drop", &["drop", "copy", "--yes"]),
    ];
    let found: Vec<String> = commands
        .iter()
        .flat_map(|(typed, args)| differences(typed, &documented(&page, typed), &dev.json(args)))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    dev.stop();
}

#[test]
fn other_keys_and_kinds_are_found() {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let found = differences(
        "x",
        &parsed(r#"{"a": 1, "b": {"c": null}, "d": [{"e": "f"}], "g": []}"#),
        &parsed(r#"{"b": {"c": 1, "h": 2}, "d": [{"e": 3}], "g": 4}"#),
    );
    assert_eq!(
        found,
        ["x.a is missing", "x.b.h is new", "x.d[0].e is a number and not a text", "x.g is a number and not a list"]
    );
}
