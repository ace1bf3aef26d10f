//! DataFusion's own files of statements: the cluster must have the rows that one process has.
//!
//! They are not part of this repository. `VOLLEY_DATAFUSION_FILES` names the folder `datafusion/sqllogictest/test_files` of a copy of
//! DataFusion's repository, or some files of it; tables of CSV files need its other folders, too, and its submodule `testing`. The
//! results in the files do not matter: those of the version of DataFusion in use do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sqllogictest::{Condition, Location, Record, parse_file};
use tokio::runtime::Runtime;
use volley_client::Client;

use crate::QueryNodes;
use crate::file_run::{FileRun, RecordOutcome};
use crate::session::ValueType;

const FOLDER_VARIABLE: &str = "VOLLEY_DATAFUSION_FILES";
/// How DataFusion's runner calls itself in conditions of records.
const ENGINE: &str = "datafusion";
/// Characters of a statement and of a difference that are shown.
const SHOWN: usize = 700;
/// Plans of DataFusion recurse deeply, above all without optimisation.
const STACK_BYTES: usize = 32 << 20;

#[derive(Default)]
struct FileReport {
    compared: usize,
    refused_by_both: usize,
    not_applicable: usize,
    left_out: usize,
    failures: Vec<String>,
}

/// How often there was a reason, and where first.
type ReasonPlaces = BTreeMap<String, (usize, String)>;

#[test]
fn files_of_datafusion_on_request_have_rows_of_one_process() {
    large_stacks().block_on(compare_files(QueryNodes::One));
}

#[test]
fn files_of_datafusion_on_request_have_these_rows_on_all_nodes() {
    large_stacks().block_on(compare_files(QueryNodes::All));
}

fn large_stacks() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build().unwrap()
}

/// All files, also after a failure. With `--nocapture` a table of the files and the reasons of what was not compared are shown.
async fn compare_files(nodes: QueryNodes) {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        eprintln!("no files of DataFusion are compared: {FOLDER_VARIABLE} does not name their folder");
        return;
    };
    let folder = Path::new(&folder).canonicalize().unwrap();
    let files = files_of(&folder);
    assert!(!files.is_empty(), "there are files in {}", folder.display());
    let cluster = crate::sql_cluster(nodes).await;
    let mut clients = Vec::new();
    for address in cluster.addresses() {
        clients.push(Client::connect(&address).await.unwrap());
    }
    let (mut reasons, mut total) = (ReasonPlaces::new(), FileReport::default());
    show("file", ["compared", "refused", "not appl.", "left out", "different"].map(String::from));
    for file in &files {
        let report = run_file(&folder, file, &clients, &mut reasons).await;
        show(&shown_path(&folder, file), report.figures());
        total.add(report);
    }
    show("all", total.figures());
    for (reason, (count, place)) in &reasons {
        eprintln!("{count:>6} {reason} ({place})");
    }
    assert!(total.compared > 0, "an answer was compared");
    assert!(total.failures.is_empty(), "{} differ:\n\n{}", total.failures.len(), total.failures.join("\n\n"));
}

async fn run_file(folder: &Path, file: &Path, clients: &[Client], reasons: &mut ReasonPlaces) -> FileReport {
    let mut report = FileReport::default();
    let records = match parse_file::<ValueType>(file) {
        Ok(records) => records,
        Err(error) => {
            report.failures.push(error.to_string());
            return report;
        }
    };
    // Locations of files are relative to the folder above.
    let mut run = FileRun::start(clients, folder.parent().unwrap());
    for (location, sql) in records.into_iter().filter_map(statement) {
        let place = format!("{}:{}", shown_path(folder, Path::new(location.file())), location.line());
        let reason = match run.run(&sql).await {
            RecordOutcome::Compared => {
                report.compared += 1;
                continue;
            }
            RecordOutcome::RefusedByBoth => {
                report.refused_by_both += 1;
                continue;
            }
            RecordOutcome::Different(difference) => {
                report.failures.push(format!("{place}\n{}\n{}", cut(&sql), cut(&difference)));
                continue;
            }
            RecordOutcome::NotApplicable(reason) => {
                report.not_applicable += 1;
                format!("not applicable: {reason}")
            }
            RecordOutcome::LeftOut(reason) => {
                report.left_out += 1;
                format!("left out: {reason}")
            }
        };
        reasons.entry(reason).or_insert((0, place)).0 += 1;
    }
    run.end().await;
    report
}

impl FileReport {
    fn figures(&self) -> [String; 5] {
        [self.compared, self.refused_by_both, self.not_applicable, self.left_out, self.failures.len()]
            .map(|figure| figure.to_string())
    }

    fn add(&mut self, other: FileReport) {
        self.compared += other.compared;
        self.refused_by_both += other.refused_by_both;
        self.not_applicable += other.not_applicable;
        self.left_out += other.left_out;
        self.failures.extend(other.failures);
    }
}

fn show(name: &str, figures: [String; 5]) {
    let figures: Vec<String> = figures.iter().map(|figure| format!("{figure:>10}")).collect();
    eprintln!("{name:<50}{}", figures.concat());
}

/// All below this folder, in order. Parts of files, which others include, have another extension.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files = volley_tests::cluster::files_below(folder);
    files.retain(|path| path.extension().is_some_and(|end| end == "slt"));
    files
}

/// A statement or query that DataFusion's own runner would run.
fn statement(record: Record<ValueType>) -> Option<(Location, String)> {
    match record {
        Record::Statement { loc, conditions, sql, .. } | Record::Query { loc, conditions, sql, .. } => {
            conditions.iter().all(applies).then_some((loc, sql))
        }
        _ => None,
    }
}

fn applies(condition: &Condition) -> bool {
    match condition {
        Condition::OnlyIf { label } => label.eq_ignore_ascii_case(ENGINE),
        Condition::SkipIf { label } => !label.eq_ignore_ascii_case(ENGINE),
    }
}

fn shown_path(folder: &Path, file: &Path) -> String {
    file.strip_prefix(folder).unwrap_or(file).display().to_string()
}

fn cut(text: &str) -> String {
    let start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() { start + " …" } else { start }
}
