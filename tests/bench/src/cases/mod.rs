//! The cases, a function for each.

use futures::future::LocalBoxFuture;

use crate::bench::Bench;

mod calls;
mod gets;
mod local;
mod memory;
mod mixed;
mod puts;
mod python;
mod rust;
mod shapes;
mod sweep;
mod thin;
mod training;

/// The name of the case that measures the Python package.
const PYTHON: &str = "python";
/// The name of the case of reads by files.
const LOCAL: &str = "local";
/// The cases that need the Python package, which is built for them.
pub const WITH_PACKAGE: [&str; 2] = [PYTHON, LOCAL];

type CaseFuture<'a> = LocalBoxFuture<'a, Result<(), String>>;

/// A case of the benchmark.
pub struct BenchCase {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Runs it and adds the results to the report.
    pub run: for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
}

/// All cases in the order in which they run. Cases that read the same tables are neighbours.
pub const CASES: &[BenchCase] = &[
    BenchCase { name: "get-1", about: "get the reference table, 1 stream", run: |b| Box::pin(gets::get_1(b)) },
    BenchCase { name: "get-4", about: "get the reference table, 4 streams", run: |b| Box::pin(gets::get_4(b)) },
    BenchCase { name: "project", about: "get 3 of its 64 columns", run: |b| Box::pin(gets::project(b)) },
    BenchCase { name: "rust-get", about: "get it with Volley's client in Rust", run: |b| Box::pin(rust::get(b)) },
    BenchCase { name: "proxy", about: "get it through members that do not hold it", run: |b| Box::pin(gets::proxy(b)) },
    BenchCase {
        name: "get-1-64k",
        about: "get it, put in batches of 65,536 rows",
        run: |b| Box::pin(gets::get_1_64k(b)),
    },
    BenchCase { name: "put-1", about: "put the reference table, 1 stream", run: |b| Box::pin(puts::put_1(b)) },
    BenchCase { name: "put-1-64k", about: "put it in batches of 65,536 rows", run: |b| Box::pin(puts::put_1_64k(b)) },
    BenchCase { name: "put-4", about: "put it in 4 streams", run: |b| Box::pin(puts::put_4(b)) },
    BenchCase {
        name: "put-keyed",
        about: "put it by a key into 8 shards, two copies",
        run: |b| Box::pin(puts::keyed(b)),
    },
    BenchCase { name: "rust-put", about: "put it with Volley's client in Rust", run: |b| Box::pin(rust::put(b)) },
    BenchCase {
        name: "lineitem",
        about: "TPC-H lineitem: strings, decimals, dates",
        run: |b| Box::pin(shapes::lineitem(b)),
    },
    BenchCase { name: "lz4", about: "lineitem compressed by LZ4, at rest and sent", run: |b| Box::pin(shapes::lz4(b)) },
    BenchCase { name: "wide", about: "a table of 1,000 columns", run: |b| Box::pin(shapes::wide(b)) },
    BenchCase { name: "small", about: "many tables of 100 rows, 16 clients", run: |b| Box::pin(calls::small(b)) },
    BenchCase { name: "appends", about: "appends of 100 rows, 16 clients", run: |b| Box::pin(calls::appends(b)) },
    BenchCase { name: "info", about: "get_flight_info of 1,000 parts", run: |b| Box::pin(calls::info(b)) },
    BenchCase { name: "mixed", about: "small gets beside bulk gets and puts", run: |b| Box::pin(mixed::small_gets(b)) },
    BenchCase {
        name: "memory",
        about: "a node's memory while it serves 32 streams",
        run: |b| Box::pin(memory::memory(b)),
    },
    BenchCase {
        name: PYTHON,
        about: "get and put with the Python package and with pyarrow, and shuffled batches, 4 nodes",
        run: |b| Box::pin(python::all(b)),
    },
    BenchCase {
        name: LOCAL,
        about: "get the reference table by the node's files, by the wire, and from the C++ server",
        run: |b| Box::pin(local::get(b)),
    },
    BenchCase {
        name: "thin",
        about: "lineitem over 15 Gb/s, 1 Gb/s and 100 Mb/s, in a network namespace of its own",
        run: |b| Box::pin(thin::get(b)),
    },
    BenchCase { name: "sweep", about: "messages of 0.5 to 4 MiB", run: |b| Box::pin(sweep::sweep(b)) },
];
