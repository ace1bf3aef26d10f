//! The page of one table: rows, schema, shards, versions, and programs that read it.

use askama::Template;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use url::form_urlencoded;
use volley_common::clock::span;
use volley_common::escape::escape_invisible;
use volley_common::ipc::schema::parse_schema;
use volley_common::{Error, Result, TableName};

use super::charts::{ChartLine, ChartPicture};
use super::code_samples::{CodeSample, SampleAddresses, samples, sql_name};
use super::figures::{self, FigureTile, count_of, items, number, plain, size_of, text, utc_of};
use super::page_error::PageError;
use super::rows::{MAX_COLUMNS, PageRows, RowWindow, read};
use super::shard_map::{ShardTable, by_node};
use super::shell::PageShell;
use super::visitor::{PageVisit, PageVisitor};
use crate::table_path::{path_of_table, table_of_path};
use crate::transfer::waiting_tickets::WaitingTickets;

/// The path before a table's name.
const PREFIX: &str = "/ui/tables/";
/// Rows that are shown.
const PREVIEW_ROWS: usize = 100;
/// Versions that are listed.
const LISTED_VERSIONS: usize = 50;

#[derive(Template)]
#[template(path = "table.html")]
struct TablePage {
    shell: PageShell,
    name: String,
    tiles: Vec<FigureTile>,
    sql_href: String,
    preview: PageRows,
    columns: Vec<ColumnFact>,
    options: Vec<LabelledFact>,
    layout: ShardTable,
    versions: VersionList,
    samples: Vec<CodeSample>,
}

struct ColumnFact {
    name: String,
    kind: String,
    nulls: &'static str,
}

/// A fact with its name.
pub(crate) struct LabelledFact {
    pub label: &'static str,
    pub value: String,
}

#[derive(Default)]
struct VersionList {
    note: String,
    charts: Vec<ChartPicture>,
    rows: Vec<VersionRow>,
}

struct VersionRow {
    version: String,
    made: String,
    rows: String,
    bytes: String,
    parts: String,
    until: String,
}

/// Shows the page.
pub(crate) async fn page(visitor: PageVisitor, uri: Uri) -> Result<Response, PageError> {
    let table = table_of_path(uri.path().strip_prefix(PREFIX).unwrap_or_default())?;
    let visit = visitor.enter().await?;
    let (command, nothing) = (json!({ "table": table.to_string() }), json!({}));
    let calls = &visit.calls;
    let (stats, schema) = tokio::join!(calls.action("get_stats", &command), calls.schema(&command));
    let (stats, schema) = (stats?, schema?);
    let columns = column_facts(&schema)?;
    let (explained, versions, addresses, preview) = tokio::join!(
        calls.action("explain", &command),
        calls.action("list_versions", &command),
        calls.action("addresses", &nothing),
        preview(&visit, &table, &schema),
    );
    let sql = format!("SELECT * FROM {} LIMIT 100", sql_name(&table));
    let page = TablePage {
        shell: visit.shell(text(&table.to_string().into())),
        name: text(&table.to_string().into()),
        tiles: tiles(&stats),
        sql_href: format!(
            "/ui/sql?{}",
            form_urlencoded::Serializer::new(String::new()).append_pair("sql", &sql).finish()
        ),
        preview: preview.unwrap_or_else(|error| PageRows { note: no_rows(&error), ..PageRows::default() }),
        columns,
        options: options(&stats),
        layout: match explained {
            Ok(layout) => by_node(&layout),
            Err(error) => ShardTable { note: error.message, ..ShardTable::default() },
        },
        versions: match versions {
            Ok(versions) => version_list(&versions),
            Err(error) => VersionList { note: error.message, ..VersionList::default() },
        },
        samples: samples(&table, &sample_addresses(&visit, addresses), &path_of_table(&table)),
    };
    visit.show(&page)
}

fn no_rows(error: &Error) -> String {
    format!("The rows cannot be shown: {}", error.message)
}

/// The first rows, of the first columns.
async fn preview(visit: &PageVisit, table: &TableName, schema: &[u8]) -> Result<PageRows> {
    let fields = parse_schema(schema)?;
    let mut command = json!({ "table": table.to_string(), "limit": PREVIEW_ROWS });
    if fields.fields().len() > MAX_COLUMNS {
        let shown = fields.fields().iter().take(MAX_COLUMNS).map(|field| field.name().as_str());
        command["columns"] = shown.collect::<Vec<_>>().into();
    }
    let plan = visit.calls.info(&command).await?;
    let tickets = WaitingTickets::new(&visit.calls, plan.endpoint);
    let window = RowWindow { skip: 0, rows: PREVIEW_ROWS };
    let mut page = read(&visit.visitor.caller, visit.calls.clone(), tickets, &plan.schema, window).await?;
    let hidden = fields.fields().len().saturating_sub(MAX_COLUMNS);
    page.note = match (page.rows.len(), hidden) {
        (0, _) => "The table has no rows.".into(),
        (rows, 0) => format!("The first {}.", figures::plural(rows as u64, "row")),
        (rows, hidden) => format!(
            "The first {}, of the first {MAX_COLUMNS} columns; {} are not shown.",
            figures::plural(rows as u64, "row"),
            figures::plural(hidden as u64, "further column")
        ),
    };
    Ok(page)
}

fn column_facts(schema: &[u8]) -> Result<Vec<ColumnFact>> {
    let schema = parse_schema(schema)?;
    let fact = |field: &arrow::datatypes::FieldRef| ColumnFact {
        name: escape_invisible(field.name()).into_owned(),
        kind: escape_invisible(&field.data_type().to_string()).into_owned(),
        nulls: if field.is_nullable() { "allowed" } else { "none" },
    };
    Ok(schema.fields().iter().map(fact).collect())
}

fn tiles(stats: &Value) -> Vec<FigureTile> {
    let copies = match (number(&stats["replicas"]), number(&stats["min_copies"])) {
        (Some(_), Some(least)) => format!("{least} before a write is acknowledged"),
        _ => String::new(),
    };
    vec![
        FigureTile::new("Rows", count_of(&stats["rows"]), ""),
        FigureTile::new("Bytes", size_of(&stats["bytes"]), "one copy"),
        FigureTile::new("Parts", count_of(&stats["parts"]), format!("in {} shards", count_of(&stats["shards"]))),
        FigureTile::new("Copies", count_of(&stats["replicas"]), copies),
        FigureTile::new("Version", count_of(&stats["version"]), ""),
        FigureTile::new("Last write", utc_of(&stats["changed_ms"]), "UTC"),
    ]
}

/// The table's options, as far as it has them.
fn options(stats: &Value) -> Vec<LabelledFact> {
    let time =
        |key: &str, unit: u64| number(&stats[key]).map(|value| span(value.saturating_mul(unit))).unwrap_or_default();
    let facts = [
        ("Shard by", plain(&stats["shard_by"])),
        ("Shards", plain(&stats["shards"])),
        ("Compression", plain(&stats["compression"])),
        ("Replaced versions are kept", time("retention_ms", 1)),
        ("Dropped after its last write", time("ttl_s", 1000)),
        ("Expires", number(&stats["expires_ms"]).map(figures::utc).unwrap_or_default()),
        ("Columns with statistics", plain(&stats["stats_columns"])),
        ("Most endpoints of a read", plain(&stats["max_endpoints"])),
        ("Batches are kept as put", plain(&stats["preserve_batches"])),
        ("Tickets can be shared", plain(&stats["shareable_tickets"])),
        ("Created (UTC)", utc_of(&stats["created_ms"])),
    ];
    let has_value = |fact: &LabelledFact| !fact.value.is_empty();
    facts.map(|(label, value)| LabelledFact { label, value }).into_iter().filter(has_value).collect()
}

fn version_list(versions: &Value) -> VersionList {
    let all: Vec<&Value> = items(&versions["versions"]).collect();
    let rows = all.iter().take(LISTED_VERSIONS).map(|version| version_row(version)).collect();
    let more = number(&versions["more"]).unwrap_or_default() + all.len().saturating_sub(LISTED_VERSIONS) as u64;
    let note = match more {
        0 => String::new(),
        more => format!("The newest {LISTED_VERSIONS}; {} can be read, too.", figures::plural(more, "older version")),
    };
    VersionList { note, charts: growth(&all), rows }
}

fn version_row(version: &Value) -> VersionRow {
    let until = match (number(&version["until_ms"]), version["pinned"] == true) {
        (None, _) => "it is replaced".to_string(),
        (Some(until), true) => format!("{} (pinned)", figures::utc(until)),
        (Some(until), false) => figures::utc(until),
    };
    VersionRow {
        version: count_of(&version["version"]),
        made: utc_of(&version["made_ms"]),
        rows: count_of(&version["rows"]),
        bytes: size_of(&version["bytes"]),
        parts: count_of(&version["parts"]),
        until,
    }
}

/// How the table grew, if two versions at least say when they were written.
fn growth(versions: &[&Value]) -> Vec<ChartPicture> {
    let points = |key: &str| -> Vec<(u64, f64)> {
        let point = |version: &&Value| {
            let at = number(&version["made_ms"]).filter(|at| *at > 0)?;
            Some((at, number(&version[key])? as f64))
        };
        let mut points: Vec<(u64, f64)> = versions.iter().filter_map(point).collect();
        points.sort_by_key(|(at, _)| *at);
        points
    };
    let picture = |title: &'static str, points: Vec<(u64, f64)>, units: &'static [&'static str]| {
        let (first, last) = (points.first()?.0, points.last()?.0);
        (points.len() > 1 && last > first)
            .then(|| ChartPicture::new(title, (first, last), units, vec![ChartLine::new(title, points)]))
    };
    let bytes = picture("Bytes", points("bytes"), &["B", "kB", "MB", "GB", "TB", "PB"]);
    let rows = picture("Rows", points("rows"), &["", "thousand", "million", "billion"]);
    rows.into_iter().chain(bytes).collect()
}

/// Where programs of the visitor find the cluster.
fn sample_addresses(visit: &PageVisit, addresses: Result<Value>) -> SampleAddresses {
    let flight = addresses.ok().and_then(|addresses| addresses["coordinator"].as_str().map(str::to_string));
    let scheme = if visit.visitor.is_encrypted { "https" } else { "http" };
    SampleAddresses {
        flight: flight.unwrap_or_else(|| "grpc+tcp://HOST:8815".into()),
        http: format!("{scheme}://{}", visit.visitor.host),
        has_users: visit.who["open"] != true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_set_are_not_shown() {
        let facts = options(&json!({ "shards": 4, "shard_by": ["a", "b"], "ttl_s": null, "retention_ms": 7_200_000 }));
        let shown: Vec<(&str, &str)> = facts.iter().map(|fact| (fact.label, fact.value.as_str())).collect();
        assert_eq!(shown[..3], [("Shard by", "a, b"), ("Shards", "4"), ("Replaced versions are kept", "2 h")]);
    }

    #[test]
    fn growth_needs_two_versions_with_times() {
        let version = |at: Option<u64>, rows: u64| json!({ "made_ms": at, "rows": rows, "bytes": null, "version": 1 });
        let (one, two, unknown) = (version(Some(1000), 5), version(Some(9000), 8), version(None, 7));
        assert!(growth(&[&one, &unknown]).is_empty());
        let charts = growth(&[&two, &unknown, &one]);
        assert_eq!(charts.len(), 1, "a reader of some columns gets no bytes");
        assert_eq!(version_row(&one).until, "it is replaced");
    }
}
