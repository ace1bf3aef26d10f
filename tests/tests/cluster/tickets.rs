//! Tickets that are garbage, forged or too old.

use std::time::Duration;

use arrow_flight::Ticket;
use volley_common::Code;
use volley_common::options::Options;
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_forged_tickets_are_refused() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();
    let ticket = client.info(&rows::name("t"), &Options::default()).await.unwrap().endpoint[0].ticket.clone().unwrap();
    let good = ticket.ticket.to_vec();
    let own = TicketKey::new(&[1; 32]).sign(&cluster::Ticket {
        table: vec!["t".into()],
        expires_ms: u64::MAX,
        ..Default::default()
    });
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let forged = [own, changed(good.len() - 1), changed(good.len() / 2), changed(20)];
    for member in cluster.members() {
        let there = member.client().await;
        for (at, bytes) in forged.iter().enumerate() {
            let error = there.do_get(Ticket { ticket: bytes.clone().into() }).await.unwrap_err();
            assert_eq!(error.code, Code::PermissionDenied, "{}, forgery {at}: {error}", member.name);
        }
        for garbage in [&b""[..], b"\x01\x02\x03", b"{\"table\": 3}", b"{}", &good[..20], &[0xff; 100]] {
            let error = there.do_get(Ticket { ticket: garbage.to_vec().into() }).await.unwrap_err();
            let is_refused = matches!(error.code, Code::InvalidArgument | Code::PermissionDenied);
            assert!(is_refused, "{}, garbage {garbage:?}: {:?} {error}", member.name, error.code);
        }
        let (_, batches) = there.do_get(ticket.clone()).await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(0..1000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_ticket_is_refused() {
    let coordinator_flags = vec!["--retention-ms".into(), "3000".into()];
    let mut cluster = TestCluster::start_with(ClusterOptions {
        coordinators: 1,
        nodes: 1,
        coordinator_flags,
        ..ClusterOptions::default()
    })
    .await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();
    let ticket = client.info(&rows::name("t"), &Options::default()).await.unwrap().endpoint[0].ticket.clone().unwrap();
    client.do_get(ticket.clone()).await.unwrap();
    let error =
        wait_for(Duration::from_secs(20), "the ticket expires", async || client.do_get(ticket.clone()).await.err())
            .await;
    assert_eq!(error.code, Code::NotFound, "{error}");
    assert!(error.message.contains("has expired: call get_flight_info again"), "{error}");
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_parts_are_deleted_after_their_retention() {
    let coordinator_flags = vec!["--retention-ms".into(), "1000".into()];
    let mut cluster = TestCluster::start_with(ClusterOptions {
        coordinators: 1,
        nodes: 2,
        coordinator_flags,
        ..ClusterOptions::default()
    })
    .await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();
    let before = cluster.part_files();
    assert_eq!(before.len(), 2, "two copies of one part: {before:?}");
    rows::put(&client, "t", &Options::default(), 0..2000).await.unwrap();
    wait_for(Duration::from_secs(60), "the replaced parts are removed", async || {
        let files = cluster.part_files();
        (files.len() == 2 && files.iter().all(|file| !before.contains(file))).then_some(())
    })
    .await;
    client.drop_table(&rows::name("t")).await.unwrap();
    wait_for(Duration::from_secs(60), "the dropped table's parts are removed", async || {
        cluster.part_files().is_empty().then_some(())
    })
    .await;
}
