//! The page Cluster: is it well, why not, what to do; zones, nodes, coordinators, the shards of the largest tables, drains.

use std::time::Instant;

use askama::Template;
use axum::response::Response;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use volley_common::clock::span;
use volley_common::{Code, TableName};

use super::error_pages::MessagePage;
use super::figures::{FigureTile, UNKNOWN, count_of, items, number, plural, size, size_of, text};
use super::health_reasons::{HealthReason, insecure, reasons, sentence};
use super::page_error::PageError;
use super::shard_map::{ShardCell, strip};
use super::shell::PageShell;
use super::visitor::{PageVisit, PageVisitor};
use crate::table_path::path_of_table;

/// The largest tables whose shards are shown.
const SHOWN_TABLES: usize = 8;
/// Calls of a page at once.
const CONCURRENT: usize = 4;

#[derive(Template)]
#[template(path = "cluster.html")]
struct ClusterPage {
    shell: PageShell,
    view: ClusterPicture,
    tables: Vec<ShardStrip>,
    drains: Vec<DrainLine>,
}

#[derive(Template)]
#[template(path = "cluster_live.html")]
struct ClusterFragment {
    view: ClusterPicture,
}

/// What follows the cluster.
struct ClusterPicture {
    tone: &'static str,
    mark: &'static str,
    health: String,
    sentence: &'static str,
    reasons: Vec<HealthReason>,
    /// What the cluster leaves open by its settings.
    exposures: Vec<HealthReason>,
    tiles: Vec<FigureTile>,
    repair: String,
    zones: Vec<ZoneBox>,
    coordinators: Vec<CoordinatorLine>,
}

struct ZoneBox {
    name: String,
    nodes: Vec<NodeCell>,
}

struct NodeCell {
    id: String,
    /// Its first digits.
    short: String,
    address: String,
    state: &'static str,
    tone: &'static str,
    mark: &'static str,
    detail: String,
    /// All of it in words.
    text: String,
    parts: String,
    bytes: String,
    disk: String,
    size: String,
    used_percent: u64,
    software: String,
}

struct CoordinatorLine {
    id: String,
    address: String,
    role: &'static str,
    state: &'static str,
    tone: &'static str,
    detail: String,
    lag: String,
    skew: String,
}

struct ShardStrip {
    name: String,
    href: String,
    text: String,
    cells: Vec<ShardCell>,
}

struct DrainLine {
    node: String,
    tone: &'static str,
    text: String,
    reasons: Vec<String>,
}

/// Shows the page.
pub(crate) async fn page(visitor: PageVisitor) -> Result<Response, PageError> {
    let visit = visitor.enter().await?;
    if !visit.has_cluster_role(&["operator", "admin"]) {
        return limited(&visit).await;
    }
    let status = match visit.calls.action("cluster_status", &json!({})).await {
        Err(error) if error.code == Code::PermissionDenied => return limited(&visit).await,
        status => status?,
    };
    let (tables, drains) = tokio::join!(largest_tables(&visit), drains(&visit, &status));
    let page = ClusterPage {
        shell: visit.shell("Cluster").live("/ui/live/cluster"),
        view: view(&status, &visit.visitor),
        tables,
        drains,
    };
    visit.show(&page)
}

/// What follows the cluster, anew.
///
/// # Errors
/// Those of `cluster_status`.
pub(crate) async fn fragment(visitor: PageVisitor) -> Result<String, PageError> {
    let status = visitor.caller.flight().await?.action("cluster_status", &json!({})).await?;
    Ok(ClusterFragment { view: view(&status, &visitor) }.render()?)
}

/// The page of a visitor who is no operator: what everybody may know.
async fn limited(visit: &PageVisit) -> Result<Response, PageError> {
    let health = visit.calls.action("healthcheck", &json!({})).await?;
    let nodes = plural(number(&health["nodes_alive"]).unwrap_or_default(), "node");
    let is_ok = health["status"] == "ok";
    visit.show(&MessagePage {
        shell: visit.shell("Cluster"),
        tone: if is_ok { "good" } else { "bad" },
        text: match is_ok {
            true => format!("The cluster has a leader, and {nodes} that answer."),
            false => format!("The cluster has no leader: nothing can be written. {nodes} answered last."),
        },
        remedy: "More of it is for operators: an administrator can give you the role operator. Your tables are on the page Tables.".into(),
        details: String::new(),
    })
}

fn view(status: &Value, visitor: &PageVisitor) -> ClusterPicture {
    let health = text(&status["health"]);
    let (tone, mark) = match health.as_str() {
        "green" => ("good", "✓"),
        "yellow" => ("warn", "!"),
        _ => ("bad", "✕"),
    };
    ClusterPicture {
        tone,
        mark,
        sentence: sentence(status),
        reasons: reasons(status),
        exposures: insecure(status).into_iter().collect(),
        tiles: tiles(status),
        repair: repair(status, visitor),
        zones: zones(status),
        coordinators: items(&status["coordinators"]).map(coordinator_line).collect(),
        health,
    }
}

fn tiles(status: &Value) -> Vec<FigureTile> {
    let (stats, copies) = (&status["stats"], &status["copies"]);
    let (nodes, alive) = (number(&stats["nodes"]), number(&stats["nodes_alive"]));
    let (below, unreadable) = (number(&copies["below_replicas"]), number(&copies["unreadable"]));
    vec![
        FigureTile::new(
            "Nodes",
            format!("{} / {}", count_of(&stats["nodes_alive"]), count_of(&stats["nodes"])),
            "answer",
        )
        .off_if(alive != nodes, "bad"),
        FigureTile::new("Tables", count_of(&stats["tables"]), format!("{} rows", count_of(&stats["rows"]))),
        FigureTile::new("Data", size_of(&stats["bytes"]), "one copy of each part"),
        FigureTile::new("Parts", count_of(&copies["parts"]), "of the newest versions"),
        FigureTile::new("Fewer copies", count_of(&copies["below_replicas"]), "parts").off_if(below > Some(0), "warn"),
        FigureTile::new("Unreadable", count_of(&copies["unreadable"]), "parts").off_if(unreadable > Some(0), "bad"),
        FigureTile::new("Open writes", count_of(&stats["open_writes"]), ""),
    ]
}

/// How far repair is; empty if there is nothing to repair.
fn repair(status: &Value, visitor: &PageVisitor) -> String {
    let copies = &status["copies"];
    let left = number(&copies["bytes_to_copy"]).unwrap_or_default();
    let rest = visitor.caller.state().progress().observe("repair", left, Instant::now());
    if left == 0 {
        return String::new();
    }
    let copying = match number(&copies["being_copied"]).unwrap_or_default() {
        0 => "no copy is under way now".to_string(),
        parts => format!("{} being copied now", plural(parts, "part")),
    };
    let rest = match rest {
        Some(rest) => format!("about {} left at the rate of the last minutes", span(rest.as_millis() as u64)),
        None => "how long it takes is known once bytes have been copied while a page is open".to_string(),
    };
    format!("{} to copy, {copying}; {rest}.", size(left))
}

fn zones(status: &Value) -> Vec<ZoneBox> {
    let mut zones: Vec<ZoneBox> = Vec::new();
    for node in items(&status["nodes"]) {
        let name = match text(&node["zone"]) {
            name if name.is_empty() => "no zone".to_string(),
            name => name,
        };
        let cell = node_cell(node);
        match zones.iter_mut().find(|zone| zone.name == name) {
            Some(zone) => zone.nodes.push(cell),
            None => zones.push(ZoneBox { name, nodes: vec![cell] }),
        }
    }
    zones.sort_by(|a, b| a.name.cmp(&b.name));
    zones
}

fn node_cell(node: &Value) -> NodeCell {
    let (state, tone, mark) = match node["condition"].as_str() {
        Some("ok") => ("ok", "good", "✓"),
        Some("draining") => ("draining", "moving", "→"),
        Some("refusing") => ("read-only", "warn", "!"),
        Some("degraded") => ("degraded", "warn", "!"),
        _ => ("unreachable", "bad", "✕"),
    };
    let (id, detail, address) = (text(&node["id"]), text(&node["text"]), text(&node["flight"]));
    let (used, total) = (number(&node["bytes_used"]), number(&node["bytes_total"]).filter(|total| *total > 0));
    let used_percent =
        used.zip(total).map(|(used, total)| (u128::from(used) * 100 / u128::from(total)).min(100) as u64);
    let disk = match used_percent {
        Some(percent) => format!("{percent} % of {}", size_of(&node["bytes_total"])),
        None => UNKNOWN.into(),
    };
    let parts = count_of(&node["parts"]);
    let text =
        format!("node {id} at {address}: {state}; {parts} parts, {}; disk used: {disk}", size_of(&node["bytes"]));
    NodeCell {
        short: id.chars().take(6).collect(),
        id,
        address,
        state,
        tone,
        mark,
        text,
        detail: if detail == "ok" { String::new() } else { detail },
        size: format!("{parts} parts, {}", size_of(&node["bytes"])),
        parts,
        bytes: size_of(&node["bytes"]),
        disk,
        used_percent: used_percent.unwrap_or_default(),
        software: text_of_software(&node["software"]),
    }
}

/// The version in `volley-node 0.1.0`.
fn text_of_software(software: &Value) -> String {
    text(software).split(' ').nth(1).unwrap_or(UNKNOWN).to_string()
}

fn coordinator_line(one: &Value) -> CoordinatorLine {
    let (state, tone) = match one["state"].as_str() {
        Some("ok") => ("ok", "good"),
        Some("diverged") => ("diverged", "bad"),
        _ => ("unreachable", "bad"),
    };
    let is_leader = one["leader"] == true;
    CoordinatorLine {
        id: count_of(&one["id"]),
        address: text(&one["peer"]),
        role: match (is_leader, one["voter"] == true) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        },
        state,
        tone,
        detail: text(&one["text"]),
        lag: count_of(&one["lag"]),
        skew: one["clock_skew_ms"].as_i64().map_or_else(|| UNKNOWN.into(), |ms| format!("{ms} ms")),
    }
}

/// The shards of the largest tables that the visitor may read. They are no reason to fail the page.
async fn largest_tables(visit: &PageVisit) -> Vec<ShardStrip> {
    let Ok(listed) = visit.calls.action("list_tables", &json!({})).await else { return Vec::new() };
    let table = |table: &Value| Some((number(&table["bytes"])?, table["table"].as_str()?.to_string()));
    let mut tables: Vec<(u64, String)> = items(&listed["tables"]).filter_map(table).collect();
    tables.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    tables.truncate(SHOWN_TABLES);
    let strips = stream::iter(tables).map(|(_, name)| table_strip(visit, name)).buffered(CONCURRENT);
    strips.collect::<Vec<_>>().await.into_iter().flatten().collect()
}

async fn table_strip(visit: &PageVisit, name: String) -> Option<ShardStrip> {
    let table: TableName = name.parse().ok()?;
    let layout = visit.calls.action("explain", &json!({ "table": name })).await.ok()?;
    Some(shard_strip(&table, &layout))
}

fn shard_strip(table: &TableName, layout: &Value) -> ShardStrip {
    let shards = layout["shards"].as_array().map_or(0, Vec::len) as u64;
    ShardStrip {
        name: text(&table.to_string().into()),
        href: format!("/ui/tables/{}", path_of_table(table)),
        text: format!("{}, {}", plural(shards, "shard"), plural(number(&layout["parts"]).unwrap_or_default(), "part")),
        cells: strip(layout),
    }
}

/// How far drains are. Only when the page is loaded: each of these calls is a line of the audit log.
async fn drains(visit: &PageVisit, status: &Value) -> Vec<DrainLine> {
    let draining: Vec<String> =
        items(&status["nodes"]).filter(|node| node["draining"] == true).map(|node| text(&node["id"])).collect();
    stream::iter(draining).map(|node| drain_of(visit, node)).buffered(CONCURRENT).collect().await
}

async fn drain_of(visit: &PageVisit, node: String) -> DrainLine {
    match visit.calls.action("drain_node", &json!({ "node": node, "begin": false })).await {
        Ok(drain) => drain_line(node, &drain, &visit.visitor),
        Err(error) => DrainLine { node, tone: "warn", text: error.message, reasons: Vec::new() },
    }
}

fn drain_line(node: String, drain: &Value, visitor: &PageVisitor) -> DrainLine {
    let left = number(&drain["bytes_left"]).unwrap_or_default();
    let rest = visitor.caller.state().progress().observe(&format!("drain {node}"), left, Instant::now());
    let text = match (drain["done"] == true, rest) {
        (true, _) => "is drained: it can be stopped, and removed by `volley remove`".to_string(),
        (false, rest) => {
            let rest = rest.map(|rest| format!("; about {} left", span(rest.as_millis() as u64))).unwrap_or_default();
            format!(
                "{} with {} have too few copies on other nodes{rest}",
                count_of(&drain["parts_left"]) + " parts",
                size(left)
            )
        }
    };
    let reasons = items(&drain["why"]).map(|why| self::text(&why["why"])).collect();
    DrainLine { node, tone: "moving", text, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_shown_by_words_mark_and_tone() {
        let node = json!({ "id": "0123456789abcdef", "condition": "silent", "text": "unreachable for 5 min", "zone": "",
            "flight": "grpc+tcp://n:8816", "parts": 7, "bytes": 1500, "bytes_used": 30, "bytes_total": 120,
            "software": "volley-node 0.1.0" });
        let cell = node_cell(&node);
        assert_eq!(
            (cell.short.as_str(), cell.state, cell.tone, cell.used_percent),
            ("012345", "unreachable", "bad", 25)
        );
        assert!(cell.text.contains("unreachable; 7 parts, 1.50 kB; disk used: 25 % of 120 B"), "{}", cell.text);
        let zones = zones(&json!({ "nodes": [node] }));
        assert_eq!((zones[0].name.as_str(), zones[0].nodes.len()), ("no zone", 1));
        assert_eq!(node_cell(&json!({ "condition": "refusing" })).state, "read-only");
    }

    #[test]
    fn coordinator_has_a_role() {
        let role = |one: Value| coordinator_line(&one).role;
        assert_eq!(role(json!({ "leader": true, "voter": true })), "leader");
        assert_eq!(role(json!({ "leader": false, "voter": true })), "follower");
        assert_eq!(role(json!({ "leader": false, "voter": false })), "learner");
    }

    #[test]
    fn tiles_tell_what_is_off() {
        let status =
            json!({ "stats": { "nodes": 3, "nodes_alive": 2 }, "copies": { "below_replicas": 1, "unreadable": 0 } });
        let tones: Vec<&str> = tiles(&status).iter().map(|tile| tile.tone).collect();
        assert_eq!(tones, ["bad", "", "", "", "warn", "", ""]);
    }
}
