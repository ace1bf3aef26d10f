//! Reads with a filter, as coordinators plan them for nodes, and what they refuse.

use arrow_flight::{FlightDescriptor, FlightInfo};
use tonic::Request;
use volley_client::Client;
use volley_common::options::Options;
use volley_common::options::sql::{FILTER_CHECKED_HEADER, SQL_FORWARDED_HEADER};
use volley_common::ticket::SQL_MAGIC;
use volley_common::{Code, Error};
use volley_tests::{ClusterOptions, TestCluster, rows};

/// One coordinator and two nodes, with a table of four parts.
async fn with_table() -> TestCluster {
    let options = ClusterOptions { coordinators: 1, nodes: 2, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start_with(options).await;
    let options = Options { shards: Some(4), shard_by: Some(vec!["id".into()]), ..Options::default() };
    rows::put(&cluster.client().await, "t", &options, 0..20_000).await.unwrap();
    cluster
}

fn request(command: &str, header: &'static str) -> Request<FlightDescriptor> {
    let mut request = Request::new(FlightDescriptor::new_cmd(command.to_string()));
    request.metadata_mut().insert(header, "1".parse().unwrap());
    request
}

async fn info(client: &Client, command: &str, header: &'static str) -> Result<FlightInfo, Error> {
    Ok(client.flight().get_flight_info(request(command, header)).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_that_a_node_has_checked_is_in_every_ticket() {
    let cluster = with_table().await;
    let client = cluster.coordinators[0].client().await;
    let plain = info(&client, r#"{"table": "t"}"#, FILTER_CHECKED_HEADER).await.unwrap();
    assert_eq!((plain.endpoint.len(), plain.total_records), (4, 20_000));
    for (command, endpoints) in [
        (r#"{"table": "t", "where": "id < 10"}"#, 4),
        (r#"{"table": "t", "where": "id < 10", "max_endpoints": 2}"#, 2),
        (r#"{"table": "t", "where": "id < 10", "limit": 3}"#, 1),
    ] {
        let filtered = info(&client, command, FILTER_CHECKED_HEADER).await.unwrap();
        assert_eq!((filtered.total_records, filtered.total_bytes), (-1, -1), "{command}");
        assert_eq!((filtered.endpoint.len(), &filtered.schema), (endpoints, &plain.schema), "{command}");
        for endpoint in &filtered.endpoint {
            let ticket = &endpoint.ticket.as_ref().unwrap().ticket;
            assert!(ticket.starts_with(SQL_MAGIC), "an earlier version would redeem it: {command}");
            assert!(!endpoint.location.is_empty() && endpoint.app_metadata.is_empty(), "{command}");
        }
    }
    let selected = request(r#"{"table": "t", "where": "id < 10", "columns": ["id"]}"#, FILTER_CHECKED_HEADER);
    client.flight().get_schema(selected).await.unwrap();
}

/// As a node of an earlier version gives it back.
#[tokio::test(flavor = "multi_thread")]
async fn call_with_sql_that_comes_back_is_refused() {
    let cluster = with_table().await;
    let client = cluster.coordinators[0].client().await;
    for command in [r#"{"table": "t", "where": "id < 10"}"#, r#"{"sql": "SELECT 1"}"#] {
        let error = info(&client, command, SQL_FORWARDED_HEADER).await.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition, "{command}: {error}");
        assert!(error.message.contains("upgrade all nodes"), "{error}");
        let status = client.flight().get_schema(request(command, SQL_FORWARDED_HEADER)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{command}: {status}");
    }
    info(&client, r#"{"table": "t"}"#, SQL_FORWARDED_HEADER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_of_a_put_is_refused() {
    let mut cluster = with_table().await;
    let options = Options { filter: Some("id < 10".into()), ..Options::default() };
    for member in cluster.members() {
        let error = rows::put(&member.client().await, "t", &options, 0..10).await.unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("where"), "{}: {error}", member.name);
    }
}
