//! What is measured, a function for each case.

use futures::future::LocalBoxFuture;

use crate::bench::Bench;

mod calls;
mod gets;
mod memory;
mod puts;
mod rust;
mod shapes;
mod sweep;

type Ran<'a> = LocalBoxFuture<'a, Result<(), String>>;

/// A case: its name, what it shows, how it runs.
pub struct Case {
    /// Its word on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Runs it and adds what was measured to the report.
    pub run: for<'a> fn(&'a mut Bench) -> Ran<'a>,
}

/// All cases, in the order in which they run: those that read the same tables follow each other.
pub const CASES: &[Case] = &[
    Case { name: "get-1", about: "get the reference table, 1 stream", run: |b| Box::pin(gets::get_1(b)) },
    Case { name: "get-4", about: "get the reference table, 4 streams", run: |b| Box::pin(gets::get_4(b)) },
    Case { name: "project", about: "get 3 of its 64 columns", run: |b| Box::pin(gets::project(b)) },
    Case { name: "rust-get", about: "get it with Volley's client in Rust", run: |b| Box::pin(rust::get(b)) },
    Case { name: "proxy", about: "get it through members that do not hold it", run: |b| Box::pin(gets::proxy(b)) },
    Case { name: "get-1-64k", about: "get it, put in batches of 65,536 rows", run: |b| Box::pin(gets::get_1_64k(b)) },
    Case { name: "put-1", about: "put the reference table, 1 stream", run: |b| Box::pin(puts::put_1(b)) },
    Case { name: "put-1-64k", about: "put it in batches of 65,536 rows", run: |b| Box::pin(puts::put_1_64k(b)) },
    Case { name: "put-4", about: "put it in 4 streams", run: |b| Box::pin(puts::put_4(b)) },
    Case { name: "put-keyed", about: "put it by a key into 8 shards, two copies", run: |b| Box::pin(puts::keyed(b)) },
    Case { name: "rust-put", about: "put it with Volley's client in Rust", run: |b| Box::pin(rust::put(b)) },
    Case {
        name: "lineitem",
        about: "TPC-H lineitem: strings, decimals, dates",
        run: |b| Box::pin(shapes::lineitem(b)),
    },
    Case { name: "lz4", about: "lineitem compressed by LZ4, at rest and sent", run: |b| Box::pin(shapes::lz4(b)) },
    Case { name: "wide", about: "a table of 1,000 columns", run: |b| Box::pin(shapes::wide(b)) },
    Case { name: "small", about: "many tables of 100 rows, 16 clients", run: |b| Box::pin(calls::small(b)) },
    Case { name: "appends", about: "appends of 100 rows, 16 clients", run: |b| Box::pin(calls::appends(b)) },
    Case { name: "info", about: "get_flight_info of 1,000 parts", run: |b| Box::pin(calls::info(b)) },
    Case { name: "memory", about: "a node's memory while it serves 32 streams", run: |b| Box::pin(memory::memory(b)) },
    Case { name: "sweep", about: "messages of 0.5 to 4 MiB", run: |b| Box::pin(sweep::sweep(b)) },
];
