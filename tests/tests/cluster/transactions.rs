//! Transactions: puts into several tables are all visible or none is, whatever dies between the puts and the commit.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};
use volley_client::{Client, PutOutcome};
use volley_common::options::{Mode, Options};
use volley_common::{Code, Result};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);

async fn begin(client: &Client) -> String {
    client.action("begin_transaction", &Value::Null).await.unwrap()["transaction"].as_str().unwrap().into()
}

async fn put_in(client: &Client, id: &str, table: &str, mode: Mode, ids: Range<i64>) -> Result<PutOutcome> {
    let options = Options { mode: Some(mode), transaction: Some(id.into()), ..Options::default() };
    rows::put(client, table, &options, ids).await
}

async fn end(client: &Client, action: &str, id: &str) -> Result<Value> {
    client.action(action, &json!({ "transaction": id })).await
}

/// Ends a transaction as a client does: again, while it is unknown whether that took effect.
async fn commit(client: &Client, id: &str) {
    wait_for(SOON, "the transaction is committed", async || match end(client, "commit_transaction", id).await {
        Ok(_) => Some(()),
        Err(error) => {
            assert_eq!(error.code, Code::Unavailable, "{error}");
            None
        }
    })
    .await;
}

/// The ids in a table, once a leader answers; `None`: there is no table.
async fn read(client: &Client, table: &str) -> Option<Vec<i64>> {
    wait_for(SOON, "a read is answered", async || match rows::get_sorted(client, table).await {
        Ok(ids) => Some(Some(ids)),
        Err(error) if error.code == Code::NotFound => Some(None),
        Err(error) => {
            assert_eq!(error.code, Code::Unavailable, "{error}");
            None
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_killed_between_puts_and_commit_loses_neither_table() {
    let mut cluster = TestCluster::start().await;
    let (one, other) = (cluster.nodes[0].client().await, cluster.nodes[1].client().await);
    rows::put(&one, "old", &Options::default(), 0..1000).await.unwrap();
    let id = begin(&one).await;
    assert!(put_in(&one, &id, "old", Mode::Append, 1000..2000).await.unwrap().staged);
    let (first, second) = tokio::join!(
        put_in(&one, &id, "new", Mode::CreateAppend, 0..1000),
        put_in(&other, &id, "new", Mode::CreateAppend, 1000..2000),
    );
    first.and(second).unwrap();
    let leader = cluster.leader().await;
    cluster.coordinators[leader].kill();
    assert_eq!(read(&other, "new").await, None, "nothing is visible before the commit");
    assert_eq!(read(&other, "old").await.unwrap(), Vec::from_iter(0..1000));
    commit(&other, &id).await;
    commit(&one, &id).await;
    cluster.coordinators[leader].restart().await;
    for coordinator in &cluster.coordinators {
        let client = coordinator.client().await;
        for table in ["old", "new"] {
            assert_eq!(read(&client, table).await.unwrap(), Vec::from_iter(0..2000), "{}: {table}", coordinator.name);
        }
    }
    let late = put_in(&one, &id, "old", Mode::Append, 0..1).await.unwrap_err();
    assert!(late.code == Code::FailedPrecondition && late.message.contains("committed already"), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_killed_during_the_commit_leaves_both_tables_or_none() {
    let mut cluster = TestCluster::start().await;
    for round in 0..5 {
        let client = cluster.nodes[round % 4].client().await;
        let id = begin(&client).await;
        let tables = [format!("a{round}"), format!("b{round}")];
        for table in &tables {
            put_in(&client, &id, table, Mode::Create, 0..100).await.unwrap();
        }
        let leader = cluster.leader().await;
        let committing = {
            let (client, id) = (cluster.nodes[(round + 1) % 4].client().await, id.clone());
            tokio::spawn(async move { end(&client, "commit_transaction", &id).await })
        };
        // Earlier or later within the commit, or after it.
        tokio::time::sleep(Duration::from_millis(4 * round as u64)).await;
        cluster.coordinators[leader].kill();
        let answer = committing.await.unwrap();
        // What the next leader has is decided. A commit that was acknowledged is among it.
        let found = [read(&client, &tables[0]).await, read(&client, &tables[1]).await];
        assert_eq!(found[0], found[1], "round {round}: {answer:?}");
        match answer {
            Ok(_) => assert!(found[0].is_some(), "round {round}: the commit was acknowledged"),
            Err(error) => assert_eq!(error.code, Code::Unavailable, "round {round}: {error}"),
        }
        commit(&client, &id).await;
        for table in &tables {
            assert_eq!(read(&client, table).await.unwrap(), Vec::from_iter(0..100), "round {round}: {table}");
        }
        cluster.coordinators[leader].restart().await;
        cluster.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_left_alone_or_rolled_back_leaves_no_files() {
    let options = ClusterOptions { coordinator_config: "lease_ms = 5000".into(), ..ClusterOptions::default() };
    let cluster = TestCluster::start_with(options).await;
    let client = cluster.nodes[0].client().await;
    for is_left in [true, false] {
        let id = begin(&client).await;
        for (table, mode) in [("a", Mode::Create), ("b", Mode::Replace)] {
            put_in(&client, &id, table, mode, 0..50_000).await.unwrap();
        }
        assert!(!cluster.part_files().is_empty());
        if !is_left {
            end(&client, "abort_transaction", &id).await.unwrap();
        }
        wait_for(SOON, "its parts are removed", async || cluster.part_files().is_empty().then_some(())).await;
        let error = end(&client, "commit_transaction", &id).await.unwrap_err();
        assert!(error.code == Code::Aborted && error.message.contains("was rolled back"), "{error}");
        let late = put_in(&client, &id, "a", Mode::Create, 0..1).await.unwrap_err();
        assert_eq!(late.code, Code::Aborted, "{late}");
        assert_eq!((read(&client, "a").await, read(&client, "b").await), (None, None));
    }
    let id = begin(&client).await;
    let mixed = client.action("begin_write", &json!({ "table": "a", "transaction": id })).await;
    assert_eq!(mixed.unwrap_err().code, Code::InvalidArgument);
}
