//! Metrics of gets, puts and queries.

use super::MetricDefinition as Metric;
use super::MetricKind::{Counter, Gauge, Histogram};
use super::MetricOwner::{Coordinators, Nodes};

/// Gets.
pub const GETS: &[Metric] = &[
    Metric::new(
        Gauge,
        Nodes,
        "volley_gets",
        "streams",
        &[],
        "Gets of parts in progress, those of other nodes and of clients that do not read included.",
    ),
    Metric::new(Counter, Nodes, "volley_get_streams_total", "streams", &[], "Gets that began, refused ones included."),
    Metric::new(
        Counter,
        Nodes,
        "volley_get_bytes_total",
        "bytes",
        &[],
        "Bytes of messages that gets sent, to clients and to other nodes.",
    )
    .worry("One node sends far more than the others: its clients may read only the first endpoint."),
    Metric::new(
        Counter,
        Nodes,
        "volley_get_rows_total",
        "rows",
        &[],
        "Rows that gets sent; those of a part that is passed on from another node count at its end.",
    ),
    Metric::new(
        Counter,
        Nodes,
        "volley_local_reads_total",
        "streams",
        &[],
        "Reads of clients on the node's machine that got the files of parts in place of messages.",
    ),
    Metric::new(Counter, Nodes, "volley_local_read_bytes_total", "bytes", &[], "Bytes of the files that they got."),
    Metric::new(
        Counter,
        Nodes,
        "volley_local_reads_refused_total",
        "streams",
        &["result"],
        "Those that were sent to the wire, by what was in their way: `absent`, `busy`, `columns`, `credentials`, `damaged`, `filter`, `rights` or `ticket`.",
    )
    .worry("`absent` grows fast: clients reach the socket of another node by the same path."),
    Metric::new(
        Gauge,
        Nodes,
        "volley_get_memory_bytes",
        "bytes",
        &[],
        "Memory that gets have taken of `get_memory_bytes`.",
    )
    .worry("Near the limit."),
    Metric::new(Gauge, Nodes, "volley_get_memory_limit_bytes", "bytes", &[], "The limit, `get_memory_bytes`."),
    Metric::new(
        Counter,
        Nodes,
        "volley_gets_refused_total",
        "streams",
        &["scope"],
        "Gets that were refused for want of that memory, by scope: `all` or `principal`.",
    )
    .worry("It grows."),
    Metric::new(
        Counter,
        Nodes,
        "volley_decompressing_gets_refused_total",
        "streams",
        &[],
        "Gets beyond `max_decompressing_gets`.",
    )
    .worry("It grows."),
    Metric::new(
        Counter,
        Nodes,
        "volley_get_saved_bytes_total",
        "bytes",
        &[],
        "Bytes that gets did not send because they compressed on the way.",
    ),
    Metric::new(
        Counter,
        Nodes,
        "volley_filtered_gets_refused_total",
        "streams",
        &[],
        "Gets beyond `max_filtered_gets`.",
    )
    .worry("It grows."),
    Metric::new(
        Counter,
        Nodes,
        "volley_scan_messages_total",
        "batches",
        &[],
        "Record batches that reads with a filter and queries found in parts.",
    ),
    Metric::new(
        Counter,
        Nodes,
        "volley_scan_messages_pruned_total",
        "batches",
        &[],
        "Those of them that they left out by statistics.",
    ),
    Metric::new(
        Gauge,
        Coordinators,
        "volley_plans_waiting",
        "requests",
        &[],
        "Requests that wait for a place to be planned (`max_concurrent_plans`).",
    )
    .worry("Above 0 for a minute."),
    Metric::new(
        Counter,
        Coordinators,
        "volley_plans_refused_total",
        "requests",
        &[],
        "Requests that were refused because too many waited.",
    )
    .worry("It grows."),
    Metric::new(
        Counter,
        Coordinators,
        "volley_plan_parts_pruned_total",
        "parts",
        &[],
        "Parts that plans left out by their statistics.",
    ),
];

/// Puts.
pub const PUTS: &[Metric] = &[
    Metric::new(Gauge, Nodes, "volley_puts", "puts", &[], "Puts in progress."),
    Metric::new(Counter, Nodes, "volley_puts_refused_total", "puts", &["scope"], "Puts beyond a limit, by scope: `all` (`max_concurrent_puts`) or `principal` (`max_concurrent_puts_per_principal`).")
        .worry("It grows."),
    Metric::new(Counter, Nodes, "volley_put_bytes_total", "bytes", &[], "Bytes of messages that puts received."),
    Metric::new(Counter, Nodes, "volley_put_rows_total", "rows", &[], "Rows that puts received."),
    Metric::new(Gauge, Nodes, "volley_put_memory_bytes", "bytes", &[], "Memory that messages and rows of puts have taken.")
        .worry("Near the limit: puts are as slow as the disk."),
    Metric::new(Gauge, Nodes, "volley_put_memory_limit_bytes", "bytes", &[], "The limit, half of `put_memory_bytes`."),
    Metric::new(Gauge, Nodes, "volley_put_messages_waiting", "messages", &[], "Messages of puts that wait for that memory.")
        .worry("Above 0 for minutes: disk or copies are slower than the clients."),
    Metric::new(Histogram, Nodes, "volley_put_commit_duration_seconds", "seconds", &[], "From the last copy of a put to the answer of the coordinators, which have made its version durable.")
        .worry("The 99th percentile above 1 s: the disk of a coordinator, or the network between them, is slow."),
];

/// Queries.
pub const QUERIES: &[Metric] = &[
    Metric::new(Gauge, Nodes, "volley_queries", "queries", &[], "Queries in progress, until their last row is taken."),
    Metric::new(Counter, Nodes, "volley_queries_refused_total", "queries", &["scope"], "Queries beyond a limit, by scope: `all` (`max_concurrent_queries`) or `principal` (`max_queries_per_principal`).")
        .worry("It grows."),
    Metric::new(Histogram, Nodes, "volley_query_duration_seconds", "seconds", &[], "From the begin of a query to its last row, or to its failure."),
    Metric::new(Counter, Nodes, "volley_query_stages_total", "stages", &[], "Stages of queries that ran on several nodes, counted where the query came to."),
    Metric::new(Counter, Nodes, "volley_queries_distributed_total", "queries", &[], "Queries that ran on several nodes."),
    Metric::new(Gauge, Nodes, "volley_query_tasks", "tasks", &[], "Tasks of other nodes' queries in progress."),
    Metric::new(Gauge, Nodes, "volley_query_memory_bytes", "bytes", &[], "Memory that queries have taken of `sql_memory_bytes`.")
        .worry("Near the limit: queries spill or fail."),
    Metric::new(Gauge, Nodes, "volley_query_memory_limit_bytes", "bytes", &[], "The limit, `sql_memory_bytes` or its default."),
    Metric::new(Gauge, Nodes, "volley_query_spill_bytes", "bytes", &[], "Bytes on disk of what queries have no memory for.")
        .worry("Near the limit: queries fail."),
    Metric::new(Gauge, Nodes, "volley_query_spill_limit_bytes", "bytes", &[], "The limit, `sql_spill_bytes`."),
];
