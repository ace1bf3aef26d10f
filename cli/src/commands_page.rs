//! Checks docs/commands.md against the command line. With `VOLLEY_UPDATE_DOCS=1` it writes the page's table of commands instead:
//!
//! ```text
//! VOLLEY_UPDATE_DOCS=1 cargo test -p volley commands_page
//! ```

use std::collections::BTreeSet;

use clap::{Command, CommandFactory};
use serde_json::{Deserializer, Value};

use crate::args::Args;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
const BEGIN: &str = "<!-- A test writes the table from here -->\n";
const END: &str = "<!-- to here. -->\n";

/// The commands that can be run, as they are typed, each with what it does.
fn commands(command: &Command, typed: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let typed = format!("{typed} {}", one.get_name());
        if !one.is_subcommand_required_set() {
            let about = one.get_about().map(ToString::to_string).unwrap_or_default();
            found.push((typed.clone(), about.replace('|', "\\|")));
        }
        found.extend(commands(one, &typed));
    }
    found
}

fn table() -> String {
    let row = |(typed, about): (String, String)| format!("| `{typed}` | {about} |\n");
    let rows: String = commands(&Args::command(), "volley").into_iter().map(row).collect();
    format!("| command | what it does |\n|---|---|\n{rows}")
}

fn page() -> String {
    std::fs::read_to_string(PAGE).unwrap()
}

/// The sections of the commands: what is typed, and the text.
fn sections(page: &str) -> Vec<(String, &str)> {
    let parts = page.split("\n### `").skip(1);
    parts.map(|part| part.split_once("`\n").map(|(typed, text)| (typed.to_string(), text)).unwrap()).collect()
}

#[test]
fn table_of_commands_is_up_to_date() {
    let page = page();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("VOLLEY_UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    let text = "docs/commands.md is out of date: VOLLEY_UPDATE_DOCS=1 cargo test -p volley commands_page";
    assert!(written == table(), "{text}\n{}", table());
}

#[test]
fn every_command_has_its_section() {
    let page = page();
    let described: BTreeSet<String> = sections(&page).into_iter().map(|(typed, _)| typed).collect();
    let known: BTreeSet<String> = commands(&Args::command(), "volley").into_iter().map(|(typed, _)| typed).collect();
    let missing: Vec<_> = known.difference(&described).collect();
    let unknown: Vec<_> = described.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "docs/commands.md lacks {missing:?}, and has {unknown:?}");
}

#[test]
fn examples_are_json() {
    for (typed, text) in sections(&page()) {
        let example = text.split_once("```json\n").map(|(_, rest)| rest.split("```").next().unwrap());
        let Some(example) = example else {
            assert!(text.contains("No JSON"), "{typed} has neither an example nor the words No JSON");
            continue;
        };
        let values: Result<Vec<Value>, _> = Deserializer::from_str(example).into_iter().collect();
        assert!(values.as_ref().is_ok_and(|values| !values.is_empty()), "{typed}: {values:?}");
    }
}
