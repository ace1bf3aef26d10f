//! Checks the pages of reference against the code: docs/actions.md against the coordinators' actions and rights, the options of
//! docs/options.md and the codes of docs/errors.md against those of the servers. With `VOLLEY_UPDATE_DOCS=1` it writes the first page
//! instead:
//!
//! ```text
//! VOLLEY_UPDATE_DOCS=1 cargo test -p volley --test cli reference::
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use volley_common::wire::catalog::Role;
use volley_coordinator::flight::actions::action_types;
use volley_coordinator::flight::rights::{self, Requirement};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const INTRODUCTION: &str = "\
# Actions

For those who write a client, or call what neither a put nor a read does: every action of `do_action`, what it takes, and the role that it needs. A body is JSON, unless the action is one of Flight or Flight SQL, \
whose names begin with a capital letter: those take the messages of their protocol. Replies are JSON, too. `volley` and the Python package have commands and methods for most of them; \
[commands.md](commands.md) shows the replies.

In a cluster without users everybody may call all of them. `list_actions` gives the same list.

A test generates this page from the coordinators' tables (`cli/tests/cli/reference.rs`).

| action | needs | what it does |
|---|---|---|
";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

fn role_name(role: Role) -> String {
    format!("`{}`", role.as_str_name().trim_start_matches("ROLE_").to_lowercase())
}

/// What a caller needs, in words.
fn needs(requirement: Requirement) -> String {
    match requirement {
        Requirement::Public => "nothing, not even a login".into(),
        Requirement::OfAction => "what the action requires".into(),
        Requirement::Identity => "a login".into(),
        Requirement::Own => "a login, for what is one's own".into(),
        Requirement::Grants => "`owner` of the prefix, or `admin`".into(),
        Requirement::Table(role) => format!("{} of the table", role_name(role)),
        Requirement::TableOrCluster(of_table, without) => {
            format!("{} of the table; {} without one", role_name(of_table), role_name(without))
        }
        Requirement::Cluster(role) => format!("{} of the cluster", role_name(role)),
    }
}

fn actions_page() -> String {
    let mut text = String::from(INTRODUCTION);
    for action in action_types() {
        let needs = needs(rights::of_action(&action.r#type).unwrap().requirement);
        let description = action.description.replace('|', "\\|");
        writeln!(text, "| `{}` | {needs} | {description} |", action.r#type).unwrap();
    }
    text
}

/// The first cells of the tables of a page that have one word in code, as in "| `word` |".
fn rows(page: &str) -> BTreeSet<&str> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    cells.map(|(word, _)| word).collect()
}

#[test]
fn actions_reference_is_up_to_date() {
    let path = Path::new(ROOT).join("docs/actions.md");
    if std::env::var_os("VOLLEY_UPDATE_DOCS").is_some() {
        fs::write(path, actions_page()).unwrap();
        return;
    }
    let is_same = fs::read_to_string(path).unwrap_or_default() == actions_page();
    assert!(
        is_same,
        "docs/actions.md is out of date: VOLLEY_UPDATE_DOCS=1 cargo test -p volley --test cli reference::"
    );
}

#[test]
fn options_reference_has_every_option_and_no_other() {
    let source = read("common/src/options/fields.rs");
    // The list that the error of an unknown option shows.
    let known = source.split("let known = \"").nth(1).unwrap().split('"').next().unwrap();
    let known: BTreeSet<&str> = known.split(", ").collect();
    let page = read("docs/options.md");
    let table = page.split("\n## ").next().unwrap();
    assert_eq!(rows(table), known, "docs/options.md");
}

#[test]
fn errors_reference_has_every_code_and_no_other() {
    let source = read("common/src/error.rs");
    let constructors = source.split("constructors! {").nth(1).unwrap().split("\n    }").next().unwrap();
    let codes = constructors.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" => "));
    let codes: BTreeSet<String> = codes.map(|(_, code)| upper_case(code)).collect();
    let page = read("docs/errors.md");
    let codes: BTreeSet<&str> = codes.iter().map(String::as_str).collect();
    assert_eq!(rows(&page), codes, "docs/errors.md");
}

/// `InvalidArgument` → `INVALID_ARGUMENT`.
fn upper_case(code: &str) -> String {
    let mut text = String::new();
    for letter in code.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}
