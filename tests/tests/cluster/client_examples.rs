//! The examples in the documentation of the Rust client, as they stand there, on a cluster. Here, because a documentation test of the
//! client's crate would have no cluster.
#![allow(clippy::print_stdout, reason = "the examples print")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use volley_common::Result;
use volley_common::options::Options;
use volley_tests::{TestCluster, rows};

/// The address in the first example, which is that of no cluster here.
const EXAMPLE_ADDRESS: &str = "\"grpc://volley-1:8815,volley-2:8815\"";
/// The files with the examples. That of `client/src/builder.rs` is not run: it needs certificates for its hosts, and a user.
const FILES: [&str; 5] = [
    include_str!("../../../client/src/lib.rs"),
    include_str!("../../../client/src/put.rs"),
    include_str!("../../../client/src/parallel_put.rs"),
    include_str!("../../../client/src/get.rs"),
    include_str!("../../../client/src/calls.rs"),
];

async fn read_filtered(members: &str) -> Result<()> {
    use futures::TryStreamExt;
    use volley_client::{Client, FetchOptions, Options};

    let client = Client::connect(members).await?;
    let options = Options { filter: Some("fare > 10".into()), ..Options::default() };
    let mut rows = client.get(&"trips".parse()?, &options, FetchOptions::default()).await?;
    while let Some(fetched) = rows.try_next().await? {
        println!("{} rows from {}", fetched.batch.num_rows(), fetched.from);
    }
    Ok(())
}

async fn append(client: volley_client::Client, batch: RecordBatch) -> Result<()> {
    use volley_client::{Mode, Options};

    let options = Options { mode: Some(Mode::Append), write_id: Some("load-17".into()), ..Options::default() };
    let (schema, batches) = (batch.schema(), futures::stream::iter([Ok(batch)]));
    let outcome = client.put(&"trips".parse()?, &options, schema, batches).await?;
    println!("version {} with {} rows more", outcome.version, outcome.rows);
    Ok(())
}

async fn put_in_parallel(client: volley_client::Client, batch: RecordBatch) -> Result<()> {
    use volley_client::{Options, ParallelPut};

    let options = Options { shard_by: Some(vec!["id".into()]), shards: Some(16), ..Options::default() };
    let (schema, batches) = (batch.schema(), futures::stream::iter([Ok(batch)]));
    let outcome = client.put_parallel(&"trips".parse()?, &options, schema, batches, ParallelPut::default()).await?;
    println!("version {} has {} rows", outcome.version, outcome.rows);
    Ok(())
}

async fn fetch_a_plan(client: volley_client::Client) -> Result<()> {
    use futures::TryStreamExt;
    use volley_client::{FetchOptions, Options};

    let info = client.info(&"trips".parse()?, &Options::default()).await?;
    println!("{} rows in {} endpoints", info.total_records, info.endpoint.len());
    let mut batches = client.fetch(info, FetchOptions { streams: 4, window_bytes: 8 << 20 })?;
    while let Some(fetched) = batches.try_next().await? {
        println!("endpoint {}: {} rows", fetched.endpoint, fetched.batch.num_rows());
    }
    Ok(())
}

async fn begin_and_abort(client: volley_client::Client) -> Result<()> {
    let begun = client.action("begin_write", &serde_json::json!({ "table": "trips", "mode": "append" })).await?;
    client.action("abort_write", &serde_json::json!({ "write_id": begun["write_id"] })).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_of_the_client_run() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let (ids, fares) = (Int64Array::from_iter_values(0..4), Float64Array::from(vec![9.5, 20.0, 3.2, 12.5]));
    let batch =
        RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("fare", Arc::new(fares) as ArrayRef)]).unwrap();
    put_in_parallel(client.clone(), batch.clone()).await.unwrap();
    append(client.clone(), batch).await.unwrap();
    fetch_a_plan(client.clone()).await.unwrap();
    begin_and_abort(client.clone()).await.unwrap();
    let members = [cluster.coordinators[0].uri(), cluster.nodes[1].uri()].join(",");
    read_filtered(&members).await.unwrap();
    let info = client.info(&rows::name("trips"), &Options::default()).await.unwrap();
    assert_eq!(info.total_records, 8, "the write that was aborted added nothing");
}

/// The examples in the documentation of a file: the lines of each that readers see.
fn examples(source: &str) -> Vec<String> {
    let (mut found, mut example) = (Vec::new(), None);
    for line in source.lines().map(str::trim_start) {
        let Some(line) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else { continue };
        let line = line.strip_prefix(' ').unwrap_or(line);
        match (line, &mut example) {
            ("```no_run", None) => example = Some(String::new()),
            ("```", Some(_)) => found.extend(example.take()),
            (hidden, Some(_)) if hidden.starts_with("# ") => {}
            (shown, Some(lines)) => *lines += &format!("{shown}\n"),
            (_, None) => {}
        }
    }
    found
}

/// The text without white space and what rustfmt adds where it breaks lines.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<String>().replace(",)", ")")
}

#[test]
fn examples_here_are_those_of_the_documentation() {
    let run = squeezed(include_str!("client_examples.rs"));
    let found: Vec<String> = FILES.iter().flat_map(|file| examples(file)).collect();
    assert_eq!(found.len(), 5, "{found:?}");
    for example in found {
        let expected = squeezed(&example.replace(EXAMPLE_ADDRESS, "members"));
        assert!(run.contains(&expected), "this file runs another form of\n{example}");
    }
}
