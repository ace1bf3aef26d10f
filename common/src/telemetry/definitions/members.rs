//! Metrics that coordinators and nodes have: calls, connections, other members, identity, the process.

use super::MetricDefinition as Metric;
use super::MetricKind::{Counter, Gauge, Histogram};
use super::MetricOwner::{Coordinators, Members};

/// Calls and connections.
pub const CALLS: &[Metric] = &[
    Metric::new(Counter, Members, "volley_requests_total", "calls", &["port", "method", "code"], "Calls that have ended, by port (`flight`, `peer`), method and gRPC code; `CANCELLED` is also a client that went away.")
        .worry("Codes INTERNAL and DATA_LOSS at all; UNAVAILABLE, DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED for more than some in a thousand."),
    Metric::new(Histogram, Members, "volley_request_duration_seconds", "seconds", &["port", "method"], "From the headers of a call to the end of its reply, which for a stream is as long as its client reads.")
        .worry("The 99th percentile of GetFlightInfo above 1 s."),
    Metric::new(Histogram, Members, "volley_request_first_byte_seconds", "seconds", &["port", "method"], "From the headers of a call to the first data of its reply; calls that fail before are left out.")
        .worry("The 99th percentile of DoGet above 1.5 s: a disk is slow, or a member hangs."),
    Metric::new(Gauge, Members, "volley_calls", "calls", &[], "Flight calls in progress, until their replies have ended.")
        .worry("Near `max_calls`."),
    Metric::new(Counter, Members, "volley_calls_refused_total", "calls", &["scope"], "Calls beyond a limit, by scope: `all` (`max_calls`), `principal` (`max_calls_per_principal`), `unidentified`, `other_service`.")
        .worry("It grows: clients wait and try again."),
    Metric::new(Gauge, Members, "volley_connections", "connections", &["port", "listener"], "Open connections, by port (`flight`, `peer`, `http`) and by the name of the Flight listener: empty for one without a name and for other ports, `local_socket` for clients on a node's machine.")
        .worry("Near `max_connections`."),
    Metric::new(Counter, Members, "volley_connections_refused_total", "connections", &["port", "scope"], "Connections that were closed at once, by scope: `all` (`max_connections`) or `network` (`max_connections_per_address`).")
        .worry("It grows."),
];

/// Arrow over HTTP. Its requests are Flight calls, too.
pub const HTTP: &[Metric] = &[
    Metric::new(Counter, Members, "volley_http_requests_total", "requests", &["operation", "status"], "Requests to `/api` by operation of the OpenAPI document and status; a response that breaks off later keeps its status.")
        .worry("Statuses from 500 on; 429 grows: clients wait and try again."),
    Metric::new(Histogram, Members, "volley_http_request_duration_seconds", "seconds", &["operation"], "From the head of a request to the end of its response, which for rows is as long as its client reads."),
    Metric::new(Counter, Members, "volley_http_sent_bytes_total", "bytes", &[], "Bytes of rows that were sent, as compressed as they were sent."),
    Metric::new(Counter, Members, "volley_http_received_bytes_total", "bytes", &[], "Bytes of bodies that were received."),
    Metric::new(Gauge, Members, "volley_http_memory_bytes", "bytes", &[], "Memory that requests have taken of `http_memory_bytes`.")
        .worry("Near half of `http_memory_bytes`, or all of it: requests of one caller, or of all, are refused."),
    Metric::new(Gauge, Members, "volley_http_spool_bytes", "bytes", &[], "Disk that bodies of requests have taken of `http_spool_bytes`.")
        .worry("Near half of `http_spool_bytes`, or all of it."),
    Metric::new(Counter, Members, "volley_http_refused_total", "requests", &["limit"], "Requests that were refused for want of `memory` or `spool`.")
        .worry("It grows: use Flight for much data, or raise the limit."),
];

/// What a member knows of other members, and passes on of their replies.
pub const PEERS: &[Metric] = &[
    Metric::new(
        Counter,
        Members,
        "volley_hedged_calls_total",
        "calls",
        &[],
        "Calls that were sent to a second member because the first was slow.",
    )
    .worry("More than a few in a hundred calls: a member is slow."),
    Metric::new(
        Gauge,
        Members,
        "volley_breakers_open",
        "members",
        &[],
        "Members that do not answer probes, so that they are tried last.",
    )
    .worry("Above 0 for a minute: a member hangs or is cut off; `volley cluster status` names it."),
    Metric::new(
        Counter,
        Members,
        "volley_breaker_openings_total",
        "times",
        &[],
        "How often a member began not to answer probes.",
    ),
    Metric::new(
        Counter,
        Members,
        "volley_relayed_bytes_total",
        "bytes",
        &[],
        "Bytes of replies of other members that were passed on to clients.",
    ),
    Metric::new(
        Gauge,
        Members,
        "volley_relay_memory_bytes",
        "bytes",
        &[],
        "Memory that replies which are passed on have taken of `relay_memory_bytes`.",
    )
    .worry("Near the limit: streams get narrow, and then are refused."),
    Metric::new(Gauge, Members, "volley_relay_memory_limit_bytes", "bytes", &[], "The limit, `relay_memory_bytes`."),
    Metric::new(
        Counter,
        Members,
        "volley_relays_refused_total",
        "calls",
        &["scope"],
        "Calls that were not passed on for want of that memory, by scope: `all` or `principal`.",
    )
    .worry("It grows: clients should read at the locations of the endpoints."),
];

/// Identity, certificates, the audit log.
pub const IDENTITY: &[Metric] = &[
    Metric::new(Counter, Members, "volley_authentications_total", "calls", &["result"], "Calls whose caller was looked for, by result: `accepted`, `password` (a login follows), `unauthenticated`, `denied`, `unavailable`.")
        .worry("`unauthenticated` grows fast: somebody guesses, or tokens have expired."),
    Metric::new(Counter, Coordinators, "volley_logins_total", "logins", &["result"], "Passwords that were verified, by result: `accepted`, `wrong`, `throttled`, `failed` (no fault of the caller).")
        .worry("`wrong` and `throttled` grow: somebody guesses passwords; the audit log says from where."),
    Metric::new(Gauge, Members, "volley_tls_certificate_expiry_timestamp_seconds", "seconds", &["file_kind"], "When the first certificate of a file expires, seconds since 1970.")
        .worry("Within 14 days."),
    Metric::new(Counter, Members, "volley_tls_reload_failures_total", "files", &["file_kind"], "Changed TLS files that could not be used.")
        .worry("Above 0: the former file is used until it expires."),
    Metric::new(Counter, Members, "volley_audit_dropped_total", "lines", &[], "Lines of the audit log that queue or disk did not take.")
        .worry("Above 0: the audit log has gaps."),
    Metric::new(Counter, Members, "volley_audit_suppressed_total", "lines", &[], "Lines about callers without identity beyond 100 a second."),
];

/// The process and its build.
pub const PROCESS: &[Metric] = &[
    Metric::new(Gauge, Members, "volley_build_info", "one", &["version"], "Always 1; the label has the version.")
        .worry("More than two versions, or two for longer than an upgrade takes."),
    Metric::new(Gauge, Members, "volley_runtime_workers", "threads", &[], "Threads of the runtime that serves calls."),
    Metric::new(Gauge, Members, "volley_runtime_tasks", "tasks", &[], "Tasks of that runtime."),
    Metric::new(Gauge, Members, "volley_runtime_queued_tasks", "tasks", &[], "Tasks that no thread has taken yet.")
        .worry("Hundreds for a minute: the process has too few cores."),
    Metric::new(
        Counter,
        Members,
        "volley_runtime_busy_milliseconds_total",
        "milliseconds",
        &[],
        "Time in which threads of that runtime were busy, summed over all of them.",
    )
    .worry("Its rate near 1,000 times the number of threads."),
    Metric::new(
        Counter,
        Members,
        "volley_trace_spans_total",
        "spans",
        &["result"],
        "Spans of calls that have ended, by result: `exported`, `dropped` (too many waited), `failed` (the collector was away, hung or refused them).",
    )
    .worry("`dropped` or `failed` grow: traces have gaps; see the collector, or lower `otlp_sampling_ratio`."),
    Metric::new(Counter, Members, "process_cpu_seconds_total", "seconds", &[], "Processor time of the process."),
    Metric::new(
        Gauge,
        Members,
        "process_resident_memory_bytes",
        "bytes",
        &[],
        "Resident memory, mapped files included.",
    )
    .worry("Near the memory of the machine or of the container."),
    Metric::new(Gauge, Members, "process_virtual_memory_bytes", "bytes", &[], "Virtual memory, mapped files included."),
    Metric::new(Gauge, Members, "process_threads", "threads", &[], "Threads of the process."),
    Metric::new(Gauge, Members, "process_open_fds", "files", &[], "Open files and sockets.")
        .worry("Above three quarters of `process_max_fds`."),
    Metric::new(
        Gauge,
        Members,
        "process_max_fds",
        "files",
        &[],
        "The most files and sockets that the process may open.",
    ),
    Metric::new(
        Gauge,
        Members,
        "process_start_time_seconds",
        "seconds",
        &[],
        "When the process was started, seconds since 1970.",
    )
    .worry("It changes, and nobody restarted the member."),
];
