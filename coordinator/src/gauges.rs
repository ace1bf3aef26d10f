//! What metrics tell of a coordinator and its catalog, read at each scrape.

use std::cmp::Reverse;

use volley_common::telemetry::gauge_lines;

use crate::catalog::Catalog;
use crate::diagnostics::replication_health::ReplicationHealth;
use crate::membership::NodeMembership;
use crate::service::Services;

/// Sets the gauges. Returns the lines of those whose series come and go. Blocks.
pub fn update(service: &Services, membership: &NodeMembership) -> String {
    let raft = &service.raft;
    set("volley_node_sessions", membership.session_count());
    set("volley_is_leader", usize::from(raft.is_leader()));
    set("volley_diverged_coordinators", raft.diverged().len());
    set("volley_plans_waiting", service.planning.waiting());
    service.pool.update_gauges();
    let of_raft = raft.update_gauges();
    let catalog = raft.view();
    update_catalog(&catalog);
    of_raft + &largest_tables(&catalog, service.config.metrics_tables as usize)
}

/// Sets the gauge of the leader. A coordinator that has lost the others still knows the last one, so a majority must confirm it.
pub async fn update_leader(service: &Services) {
    let is_confirmed = service.raft.leader().is_some() && service.status.verified_health().await.0;
    set("volley_has_leader", usize::from(is_confirmed));
}

/// Sets the gauges of repair. Only the leader knows the figures: those of others are 0, so that no old ones stay.
pub async fn update_repair(service: &Services) {
    let is_leader = service.raft.is_leader();
    // One that cannot be counted has the figures of the last time.
    if is_leader && let Ok(health) = service.status.replication_health().await {
        set_health(&health);
    } else if !is_leader {
        set_health(&ReplicationHealth::default());
    }
    let copying = if is_leader { service.node_reports.copying.lock().len() } else { 0 };
    set("volley_repair_copies", copying);
}

fn set(name: &'static str, value: usize) {
    metrics::gauge!(name).set(value as f64);
}

fn set_health(health: &ReplicationHealth) {
    metrics::gauge!("volley_parts_under_replicated").set(health.under_replicated as f64);
    metrics::gauge!("volley_parts_unreadable").set(health.unreadable as f64);
    metrics::gauge!("volley_repair_backlog_bytes").set(health.bytes_to_copy as f64);
}

fn update_catalog(catalog: &Catalog) {
    let (mut tables, mut rows, mut bytes) = (0, 0u64, 0u64);
    for table in catalog.tables() {
        (tables, rows, bytes) = (tables + 1, rows.saturating_add(table.rows), bytes.saturating_add(table.bytes));
    }
    set("volley_tables", tables);
    metrics::gauge!("volley_tables_rows").set(rows as f64);
    metrics::gauge!("volley_tables_bytes").set(bytes as f64);
    set("volley_parts", catalog.part_count());
    set("volley_open_writes", catalog.open_writes().count());
    set("volley_finished_writes", catalog.finished_writes());
    set("volley_nodes", catalog.nodes().count());
    set("volley_nodes_alive", catalog.live_nodes().count());
    set("volley_nodes_draining", catalog.nodes().filter(|node| node.draining).count());
}

/// Rows and bytes of this many tables, those with the most bytes.
fn largest_tables(catalog: &Catalog, most: usize) -> String {
    if most == 0 {
        return String::new();
    }
    let mut tables: Vec<_> = catalog.tables().collect();
    tables.sort_by_key(|table| Reverse(table.bytes));
    tables.truncate(most);
    let bytes = tables.iter().map(|table| (table.name.join("/"), table.bytes));
    let rows = tables.iter().map(|table| (table.name.join("/"), table.rows));
    gauge_lines("volley_table_bytes", "table", bytes) + &gauge_lines("volley_table_rows", "table", rows)
}
