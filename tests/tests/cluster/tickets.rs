//! Tickets that are garbage, forged or too old.

use std::time::Duration;

use arrow_flight::Ticket;
use volley_common::Code;
use volley_common::options::Options;
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster;
use volley_tests::{Cluster, Shape, rows, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_forged_tickets_are_refused_by_every_member() {
    let mut cluster = Cluster::start().await;
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
            let told = matches!(error.code, Code::InvalidArgument | Code::PermissionDenied);
            assert!(told, "{}, garbage {garbage:?}: {:?} {error}", member.name, error.code);
        }
        let (_, batches) = there.do_get(ticket.clone()).await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(0..1000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_ticket_is_refused_and_a_new_one_works() {
    let coordinator_flags = vec!["--retention-ms".into(), "3000".into()];
    let mut cluster = Cluster::of(Shape { coordinators: 1, nodes: 1, coordinator_flags, ..Shape::default() }).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();
    let ticket = client.info(&rows::name("t"), &Options::default()).await.unwrap().endpoint[0].ticket.clone().unwrap();
    client.do_get(ticket.clone()).await.unwrap();
    let error =
        wait_for(Duration::from_secs(20), "the ticket expires", async || client.do_get(ticket.clone()).await.err())
            .await;
    assert_eq!(error.code, Code::NotFound, "{error}");
    assert!(error.message.contains("expired"), "{error}");
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_parts_leave_the_disks_when_their_tickets_have_expired() {
    let coordinator_flags = vec!["--retention-ms".into(), "1000".into()];
    let mut cluster = Cluster::of(Shape { coordinators: 1, nodes: 2, coordinator_flags, ..Shape::default() }).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();
    let before = cluster.files();
    assert_eq!(before.len(), 2, "two copies of one part: {before:?}");
    rows::put(&client, "t", &Options::default(), 0..2000).await.unwrap();
    wait_for(Duration::from_secs(60), "the replaced parts are removed", async || {
        let files = cluster.files();
        (files.len() == 2 && files.iter().all(|file| !before.contains(file))).then_some(())
    })
    .await;
    client.drop_table(&rows::name("t")).await.unwrap();
    wait_for(Duration::from_secs(60), "the dropped table's parts are removed", async || {
        cluster.files().is_empty().then_some(())
    })
    .await;
}
