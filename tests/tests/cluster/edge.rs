//! What clients see at the edges: errors of any length, wrong ports, other protocols, the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::{FlightDescriptor, Ticket};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use volley_client::Client;
use volley_common::Code;
use volley_common::options::Options;
use volley_tests::loopback::{HTTP_OFFSET, PEER_OFFSET};
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, raw, rows, wait_for};

/// What clients accept of a message, bytes.
const MAX_MESSAGE: usize = 2 << 10;

const SOON: Duration = Duration::from_secs(60);

async fn small() -> TestCluster {
    TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 1, ..ClusterOptions::default() }).await
}

/// The address of another port of the same member.
fn port(address: &str, offset: u16) -> String {
    let (host, port) = address.rsplit_once(':').unwrap();
    format!("{host}:{}", port.parse::<u16>().unwrap() + offset)
}

fn says(text: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} does not say {word:?}"));
}

/// The client retries what is UNAVAILABLE, and would do so for ever.
#[tokio::test(flavor = "multi_thread")]
async fn refusal_that_names_a_wide_type_arrives_at_once() {
    let cluster = small().await;
    let wide = (0..500).map(|at| Field::new(format!("a_rather_long_name_{at}"), DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(vec![Field::new("wide", DataType::Struct(wide), true)]));
    let command = json!({ "table": "t", "shard_by": ["wide"] }).to_string();
    for member in [&cluster.nodes[0], &cluster.coordinators[0]] {
        let start = Instant::now();
        let mut messages = raw::messages("t", &schema, Vec::new());
        messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(command.clone()));
        let status = raw::put(&member.client().await, futures::stream::iter(messages)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{}: {status}", member.name);
        assert!(status.message().len() <= MAX_MESSAGE, "{}", status.message().len());
        says(status.message(), &["wide", "left out"]);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_option_is_refused_with_a_short_error() {
    let mut cluster = small().await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..10).await.unwrap();
    let long = "x".repeat(9_000_000);
    let no_column = json!({ "table": "t", "columns": [long] }).to_string();
    let no_mode = json!({ "table": "t", "mode": long }).to_string();
    for member in [&cluster.nodes[0], &cluster.coordinators[0]] {
        let client = member.client().await;
        for command in [&no_column, &no_mode] {
            let error = client.flight().get_flight_info(FlightDescriptor::new_cmd(command.clone())).await.unwrap_err();
            let code = error.code();
            assert!(matches!(code, Code::InvalidArgument | Code::NotFound), "{}: {code:?}", member.name);
            assert!(error.message().len() <= MAX_MESSAGE && error.message().contains("xxx"), "{error}");
        }
        let error = client.flight().do_get(Ticket::new(no_column.clone())).await.unwrap_err();
        assert!(error.message().len() <= MAX_MESSAGE && error.code() != Code::Unavailable, "{}: {error}", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_on_a_wrong_port_is_told_which_one_it_wants() {
    let mut cluster = small().await;
    let (node, coordinator) = (cluster.nodes[0].address.clone(), cluster.coordinators[0].address.clone());
    for (address, is, wanted) in [
        (port(&node, PEER_OFFSET), "peer port", "--listen"),
        (port(&node, HTTP_OFFSET), "HTTP port", "--listen"),
        (port(&coordinator, HTTP_OFFSET), "HTTP port", "--listen"),
    ] {
        let error = async { Client::connect(&address).await?.info(&rows::name("t"), &Options::default()).await };
        let error = error.await.unwrap_err();
        says(&error.message, &[is, wanted]);
    }
    let node = &mut cluster.nodes[0];
    node.kill();
    for (offset, is) in [(0, "Flight port"), (HTTP_OFFSET, "HTTP port")] {
        node.set_flag("--coordinators", &port(&coordinator, offset));
        says(&node.start_fails().await, &[is, "--peer-listen"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_is_logged_with_its_cause() {
    let cluster = small().await;
    for (member, bytes, cause) in [
        (&cluster.coordinators[0], &b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"[..], "TLS ClientHello"),
        (&cluster.nodes[0], b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 request"),
    ] {
        let mut stream = TcpStream::connect(&member.address).await.unwrap();
        let own = stream.local_addr().unwrap().to_string();
        stream.write_all(bytes).await.unwrap();
        // The member closes the connection; whether by a reset does not matter.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let line = || member.log().lines().find(|line| line.contains(cause)).map(String::from);
        let line = wait_for(Duration::from_secs(10), "a line in the log", async || line()).await;
        says(&line, &[&own, "Flight port", "INFO"]);
        assert!(!member.log().contains('\x1b'), "colours in a file: {}", member.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_filter_that_is_no_level_is_refused() {
    let mut cluster = small().await;
    for member in cluster.members() {
        member.kill();
        member.run_under(vec!["env".into(), "VOLLEY_LOG=inof".into()]);
        says(&member.start_fails().await, &["VOLLEY_LOG", "\"inof\"", "info"]);
    }
}

/// The number of lines of a member's log that have all of these texts.
fn logged(member: &ServerProcess, texts: &[&str]) -> usize {
    member.log().lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_has_each_change_and_no_flood_of_a_dead_member() {
    const PUTS: usize = 20;
    let mut cluster = TestCluster::start_with(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await;
    let killed = cluster.leader().await;
    let dead = format!("coordinator={} ", killed + 1);
    let silent = |member: &ServerProcess| logged(member, &["a coordinator does not answer", &dead]);
    // Those that started first may have found it silent before.
    let before: Vec<usize> = cluster.coordinators.iter().map(silent).collect();
    cluster.coordinators[killed].kill();
    let next =
        wait_for(SOON, "another leader", async || cluster.known_leader().await.filter(|one| *one != killed)).await;
    let client = cluster.nodes[0].client().await;
    // Meanwhile the leader sends messages to the dead one again and again.
    for _ in 0..PUTS {
        let put = async || rows::put(&client, "t", &Options::default(), 0..10).await.ok();
        wait_for(SOON, "a put is acknowledged", put).await;
    }
    client.drop_table(&rows::name("t")).await.unwrap();
    let alive = || (0..3).filter(|at| *at != killed).map(|at| &cluster.coordinators[at]);
    let leads = async || (logged(&cluster.coordinators[next], &[" INFO ", "this coordinator leads"]) > 0).then_some(());
    wait_for(SOON, "the change of the leader is logged", leads).await;
    assert!(logged(&cluster.nodes[0], &[" INFO ", "a put was committed", "table=t"]) >= PUTS);
    for (text, least) in [("a write was committed", PUTS), ("a table was dropped", 1)] {
        let lines: usize = alive().map(|member| logged(member, &[" INFO ", text])).sum();
        assert!(lines >= least, "{lines} lines: {text}");
    }
    assert!(silent(&cluster.coordinators[next]) > before[next], "{}", cluster.coordinators[next].log_tail());
    for (member, before) in cluster.coordinators.iter().zip(before) {
        // Twice, if it answered late just before it was killed.
        assert!(silent(member) <= before + 2, "{}", member.log_tail());
        assert_eq!(logged(member, &[" WARN openraft"]), 0, "{}", member.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_stop_logs_no_error() {
    let mut cluster = TestCluster::start_with(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..10).await.unwrap();
    let leader = cluster.leader().await;
    for member in [&mut cluster.nodes[0], &mut cluster.coordinators[leader]] {
        assert!(member.stop().await.success());
        assert_eq!(logged(member, &["ERROR "]), 0, "{}", member.log_tail());
    }
}
