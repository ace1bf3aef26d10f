//! Records data folders of this version, for later versions to read: `tests/recorded/NAME/`.
//!
//! `cargo build --workspace --bins && cargo run -p volley-tests --bin record_format -- NAME`, when a format on disk has changed.
//! With `VOLLEY_BIN_DIR` the servers of another build write them. If `tests/recorded/NAME/` has a `coordinator.toml` or a
//! `node.toml`, the servers start with it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failure ends it")]

use volley_common::options::{Mode, Options};
use volley_tests::recorded::RecordedCluster;
use volley_tests::rows;

#[tokio::main]
async fn main() {
    let name = std::env::args().nth(1).expect("give the record a name, such as the version of the software");
    let mut cluster = RecordedCluster::empty(&name).await;
    cluster.coordinator.restart().await;
    cluster.node.restart().await;
    let client = cluster.coordinator.client().await;
    // Rows by key and rows in insertion order, an appended version, a nested name, and a write id that is remembered.
    let keyed = Options { shards: Some(2), shard_by: Some(vec!["id".into()]), ..Options::default() };
    rows::put(&client, "by/key", &keyed, 0..1000).await.unwrap();
    rows::put(&client, "in order", &Options::default(), 0..1000).await.unwrap();
    let more = Options { mode: Some(Mode::Append), write_id: Some("more".into()), ..Options::default() };
    rows::put(&client, "in order", &more, 1000..2000).await.unwrap();
    drop(client);
    assert!(cluster.node.stop().await.success() && cluster.coordinator.stop().await.success());
    cluster.save(&name);
    println!("recorded as {name}");
}
