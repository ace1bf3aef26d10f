//! Keeps what this software writes to disk, for later software to read: `tests/recorded/NAME/`.
//!
//! `cargo build --workspace --bins && cargo run -p volley-tests --bin record_format -- NAME`, when a format on disk has changed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failure is its end")]

use volley_common::options::{Mode, Options};
use volley_tests::recorded::Recorded;
use volley_tests::rows;

#[tokio::main]
async fn main() {
    let name = std::env::args().nth(1).expect("give the format a name, such as the version of the software");
    let mut recorded = Recorded::empty().await;
    recorded.coordinator.restart().await;
    recorded.node.restart().await;
    let client = recorded.coordinator.client().await;
    // Rows by key and rows in order, an appended version, a nested name, and a write id that is remembered.
    let keyed = Options { shards: Some(2), shard_by: Some(vec!["id".into()]), ..Options::default() };
    rows::put(&client, "by/key", &keyed, 0..1000).await.unwrap();
    rows::put(&client, "in order", &Options::default(), 0..1000).await.unwrap();
    let more = Options { mode: Some(Mode::Append), write_id: Some("more".into()), ..Options::default() };
    rows::put(&client, "in order", &more, 1000..2000).await.unwrap();
    drop(client);
    assert!(recorded.node.stop().await.success() && recorded.coordinator.stop().await.success());
    recorded.keep(&name);
    println!("kept as {name}");
}
