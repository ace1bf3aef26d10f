//! Metrics of coordinators: the catalog, repair, Raft.

use super::MetricDefinition as Metric;
use super::MetricKind::{Counter, Gauge, Histogram};
use super::MetricOwner::Coordinators;

/// The catalog.
pub const TABLES: &[Metric] = &[
    Metric::new(Gauge, Coordinators, "volley_tables", "tables", &[], "Tables.").worry("Near `max_tables`."),
    Metric::new(Gauge, Coordinators, "volley_tables_rows", "rows", &[], "Rows of the newest versions of all tables."),
    Metric::new(
        Gauge,
        Coordinators,
        "volley_tables_bytes",
        "bytes",
        &[],
        "Bytes of the newest versions of all tables, without their further copies.",
    ),
    Metric::new(
        Gauge,
        Coordinators,
        "volley_table_rows",
        "rows",
        &["table"],
        "Rows of each of the largest tables; only with `metrics_tables`.",
    ),
    Metric::new(
        Gauge,
        Coordinators,
        "volley_table_bytes",
        "bytes",
        &["table"],
        "Bytes of each of the largest tables; only with `metrics_tables`.",
    ),
    Metric::new(Gauge, Coordinators, "volley_parts", "parts", &[], "Parts of all versions that are kept.")
        .worry("Millions: appends are smaller than compaction can keep up with."),
    Metric::new(Gauge, Coordinators, "volley_open_writes", "writes", &[], "Writes that are open.")
        .worry("Near `max_open_writes`."),
    Metric::new(
        Gauge,
        Coordinators,
        "volley_finished_writes",
        "writes",
        &[],
        "Finished writes whose ids are remembered.",
    ),
    Metric::new(Gauge, Coordinators, "volley_nodes", "nodes", &[], "Nodes of the cluster."),
    Metric::new(Gauge, Coordinators, "volley_nodes_alive", "nodes", &[], "Those of them that are alive.")
        .worry("Fewer than `volley_nodes`, as reported by the leader."),
    Metric::new(Gauge, Coordinators, "volley_nodes_draining", "nodes", &[], "Those of them that are being drained."),
    Metric::new(
        Gauge,
        Coordinators,
        "volley_clock_skew_seconds",
        "seconds",
        &["member"],
        "How far the clock of a member is from this coordinator's.",
    )
    .worry("Above 5 s."),
];

/// Replication and repair: only of the leader.
pub const REPAIR: &[Metric] = &[
    Metric::new(Gauge, Coordinators, "volley_node_sessions", "sessions", &[], "Nodes in session with this coordinator; the leader has one with each.")
        .worry("Fewer than `volley_nodes`, at the leader."),
    Metric::new(Gauge, Coordinators, "volley_parts_under_replicated", "parts", &[], "Parts of newest versions with fewer copies on live nodes than their tables want; 0 unless this coordinator leads.")
        .worry("Above 0 for longer than repair takes."),
    Metric::new(Gauge, Coordinators, "volley_parts_unreadable", "parts", &[], "Parts without a copy on a live node; 0 unless this coordinator leads.")
        .worry("Above 0: tables cannot be read."),
    Metric::new(Gauge, Coordinators, "volley_repair_backlog_bytes", "bytes", &[], "Bytes of the copies that are missing; 0 unless this coordinator leads.")
        .worry("It does not fall while all nodes that are left are alive."),
    Metric::new(Gauge, Coordinators, "volley_repair_copies", "parts", &[], "Copies that the leader has ordered and that have not ended, of repair and of rebalancing."),
    Metric::new(Counter, Coordinators, "volley_repair_copies_ordered_total", "parts", &["kind"], "Copies that this coordinator ordered as the leader, by kind: `repair` of parts with too few, `rebalance` of parts that move."),
    Metric::new(Counter, Coordinators, "volley_excess_copies_deleted_total", "parts", &[], "Copies that it gave up, because every placed node has one."),
    Metric::new(Counter, Coordinators, "volley_compactions_ordered_total", "compactions", &[], "Compactions that it ordered."),
    Metric::new(Counter, Coordinators, "volley_nodes_lost_total", "nodes", &[], "Nodes that it marked as unreachable.")
        .worry("It grows."),
];

/// Raft.
pub const RAFT: &[Metric] = &[
    Metric::new(Gauge, Coordinators, "volley_has_leader", "one", &[], "1 while this coordinator knows a leader that a majority follows; each scrape asks for that, and waits a second at most.")
        .worry("0 at a majority: nothing can be written."),
    Metric::new(Gauge, Coordinators, "volley_is_leader", "one", &[], "1 while this coordinator leads."),
    Metric::new(Gauge, Coordinators, "volley_raft_role", "one", &["role"], "1 for the role that this coordinator has: `leader`, `follower`, `candidate`, `learner`, `stopped`; 0 for the others.")
        .worry("`candidate` for longer than an election."),
    Metric::new(Gauge, Coordinators, "volley_raft_term", "terms", &[], "The term.")
        .worry("It grows again and again: elections fail."),
    Metric::new(Counter, Coordinators, "volley_raft_leader_changes_total", "times", &[], "How often the leader that this coordinator knows has changed, to none included.")
        .worry("More than some in an hour: the disk or the network of a coordinator is slow."),
    Metric::new(Gauge, Coordinators, "volley_raft_last_log_index", "entries", &[], "The index of the last entry of the log."),
    Metric::new(Gauge, Coordinators, "volley_raft_committed_index", "entries", &[], "The index of the last entry that this coordinator knows to be committed."),
    Metric::new(Gauge, Coordinators, "volley_applied_index", "entries", &[], "The index of the last entry that was applied to the catalog.")
        .worry("It stays, while that of others grows: the coordinator is cut off or stalled."),
    Metric::new(Gauge, Coordinators, "volley_raft_commit_lag", "entries", &[], "Entries of the log that are not committed yet.")
        .worry("Thousands for a minute: a majority does not acknowledge."),
    Metric::new(Gauge, Coordinators, "volley_raft_apply_lag", "entries", &[], "Committed entries that are not applied yet.")
        .worry("Thousands for a minute."),
    Metric::new(Gauge, Coordinators, "volley_raft_replication_lag", "entries", &["coordinator"], "Entries that each coordinator does not have, as the leader knows; other coordinators do not report it.")
        .worry("It grows."),
    Metric::new(Gauge, Coordinators, "volley_raft_log_entries", "entries", &[], "Entries of the log that are kept."),
    Metric::new(Gauge, Coordinators, "volley_raft_snapshot_index", "entries", &[], "The index of the last entry in the newest snapshot; 0: there is none."),
    Metric::new(Gauge, Coordinators, "volley_raft_snapshot_bytes", "bytes", &[], "Size of the newest snapshot."),
    Metric::new(Gauge, Coordinators, "volley_raft_snapshot_timestamp_seconds", "seconds", &[], "When it was made or received, seconds since 1970; 0: there is none."),
    Metric::new(Gauge, Coordinators, "volley_catalog_file_bytes", "bytes", &[], "Size of the database of log and catalog.")
        .worry("Near the free space of its disk."),
    Metric::new(Histogram, Coordinators, "volley_catalog_commit_duration_seconds", "seconds", &[], "Making a batch of log entries and rows durable: one fsync of the database.")
        .worry("The 99th percentile above 0.1 s: elections and writes suffer."),
    Metric::new(Gauge, Coordinators, "volley_diverged_coordinators", "coordinators", &[], "Coordinators whose log differs from the leader's.")
        .worry("Above 0: empty its folder and let it rejoin."),
];
