//! Metrics of a node's parts, disk and background work.

use super::MetricDefinition as Metric;
use super::MetricKind::{Counter, Gauge, Histogram};
use super::MetricOwner::Nodes;

/// Parts and disk.
pub const PARTS: &[Metric] = &[
    Metric::new(Gauge, Nodes, "volley_node_parts", "parts", &["state"], "Parts on the disk, by state: `held`, `quarantined` (damaged), `orphaned` (the catalog may have lost them).")
        .worry("`quarantined` above 0: the disk damaged data, which repair has replaced; `orphaned` above 0: see `volley doctor`."),
    Metric::new(Gauge, Nodes, "volley_node_part_bytes", "bytes", &["state"], "Bytes of these parts, by state: `held`, `orphaned`."),
    Metric::new(Gauge, Nodes, "volley_disk_free_bytes", "bytes", &[], "Free space of the file system of the data folder."),
    Metric::new(Gauge, Nodes, "volley_disk_total_bytes", "bytes", &[], "Used and free space of that file system.")
        .worry("Used space near the high watermark."),
    Metric::new(Gauge, Nodes, "volley_disk_watermark_ratio", "ratio", &["mark"], "The share of used space above which the node accepts no parts (`high`), and below which it does again (`low`)."),
    Metric::new(Gauge, Nodes, "volley_node_is_writable", "one", &[], "1 while the node accepts new parts.")
        .worry("0: the disk is full, or a write failed and the node must be restarted."),
    Metric::new(Gauge, Nodes, "volley_node_is_degraded", "one", &[], "1 while the disk is degraded: fsync is slow, or reads failed.")
        .worry("1: replace the disk."),
    Metric::new(Gauge, Nodes, "volley_part_cache_parts", "parts", &[], "Parts that are kept mapped."),
    Metric::new(Gauge, Nodes, "volley_part_cache_bytes", "bytes", &[], "Mapped bytes of these parts."),
    Metric::new(Counter, Nodes, "volley_part_opens_total", "parts", &[], "Parts that had to be opened, because they were not mapped.")
        .worry("Its rate is near that of gets, with few parts in use."),
    Metric::new(Histogram, Nodes, "volley_fsync_duration_seconds", "seconds", &[], "Making the contents of a part durable.")
        .worry("The 99th percentile above 1 s."),
    Metric::new(Counter, Nodes, "volley_parts_quarantined_total", "parts", &[], "Parts that were found to be damaged.")
        .worry("Above 0: see `damaged/` in docs/files.md."),
    Metric::new(Gauge, Nodes, "volley_in_session", "one", &[], "1 while the node is in session with the leading coordinator.")
        .worry("0 for a minute."),
    Metric::new(Counter, Nodes, "volley_sessions_total", "sessions", &[], "Sessions with a leading coordinator that began.")
        .worry("It grows while no coordinator restarts: the network or a coordinator is unsteady."),
];

/// Copies, scrub, compaction.
pub const WORK: &[Metric] = &[
    Metric::new(
        Gauge,
        Nodes,
        "volley_part_copies",
        "parts",
        &["kind"],
        "Parts that are being copied to this node or wait for it, by kind: `put`, `background` (repair and rebalancing).",
    ),
    Metric::new(
        Counter,
        Nodes,
        "volley_part_copies_ended_total",
        "parts",
        &["kind", "result"],
        "Copies to this node that ended, by kind and result: `ok`, `failed`.",
    )
    .worry("`failed` grows: sources or the disk fail; the log says which."),
    Metric::new(
        Counter,
        Nodes,
        "volley_part_copy_bytes_total",
        "bytes",
        &["kind"],
        "Bytes that copies to this node received.",
    ),
    Metric::new(
        Histogram,
        Nodes,
        "volley_part_copy_duration_seconds",
        "seconds",
        &["kind"],
        "Copying a part to this node, until it is durable; the wait for a place included.",
    )
    .worry("The 99th percentile of `put` above some seconds: puts wait for it."),
    Metric::new(
        Counter,
        Nodes,
        "volley_scrub_parts_total",
        "parts",
        &["result"],
        "Parts that the scrub read, by result: `ok`, `damaged`, `failed` (to be repeated).",
    )
    .worry("`damaged` above 0."),
    Metric::new(Counter, Nodes, "volley_scrub_bytes_total", "bytes", &[], "Bytes that the scrub read."),
    Metric::new(
        Gauge,
        Nodes,
        "volley_scrub_completed_timestamp_seconds",
        "seconds",
        &[],
        "When the last whole scrub ended, seconds since 1970; 0: never.",
    )
    .worry("Longer ago than twice `scrub_days`."),
    Metric::new(
        Gauge,
        Nodes,
        "volley_scrub_oldest_verification_timestamp_seconds",
        "seconds",
        &[],
        "How far the scrub is: when the part of the node was verified whose verification is the oldest, seconds since 1970; 0: one never was.",
    )
    .worry("Longer ago than `scrub_days` and a day: the scrub does not keep up, so raise `scrub_bytes_per_second`."),
    Metric::new(
        Counter,
        Nodes,
        "volley_compactions_total",
        "compactions",
        &["result"],
        "Compactions by this node that ended, by result: `ok`, `aborted` (the table changed meanwhile), `failed`.",
    )
    .worry("`failed` grows, and `ok` does not."),
    Metric::new(Counter, Nodes, "volley_compacted_parts_total", "parts", &[], "Small parts that compactions replaced."),
];
