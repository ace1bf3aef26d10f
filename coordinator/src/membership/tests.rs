//! Sessions of a coordinator that is alone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;
use volley_common::PartId;
use volley_common::proxy::Relay;
use volley_common::wire::catalog::CancelFlight;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{Heartbeat, LostParts, NodeReport, Welcome};

use super::session::Visit;
use super::*;
use crate::config::Config;
use crate::raft::{Handle, RaftConfig};
use crate::service::via::{Entry, Locations};

const NODE: NodeId = NodeId(7);

async fn alone() -> (TempDir, Arc<Membership>) {
    let dir = TempDir::new().unwrap();
    let mut config = RaftConfig::new(1, BTreeMap::from([(1, "127.0.0.1:1".into())]), dir.path().to_path_buf());
    config.set_election_timeout(Duration::from_millis(200));
    let raft = Handle::start(config).await.unwrap();
    let mut applied = raft.watch_applied();
    while raft.view().cluster().is_none() || !raft.is_leader() {
        applied.changed().await.unwrap();
    }
    let (name, uri) = ("".into(), "grpc+tcp://127.0.0.1:1".into());
    let entries = vec![Entry { name, uri, locations: Locations::Direct }];
    let service = Service::new(Config::default(), raft, Relay::new(), entries, CancellationToken::new());
    (dir, Membership::new(Arc::new(service)))
}

fn heartbeat(parts: u64) -> Report {
    Report::Heartbeat(Heartbeat { parts, ..Heartbeat::default() })
}

/// ... and those that arrived before the node ended the session count.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_heard_while_its_earlier_reports_are_still_taken_in() {
    let (_dir, membership) = alone().await;
    let (orders, _waiting) = mpsc::channel(9);
    let session = membership.welcome(NODE, orders, CancellationToken::new()).unwrap();
    let (node, reports) = mpsc::channel(1);
    // While somebody reads the catalog nothing is applied: the first report, a change, is not taken in.
    let reading = membership.service.raft.view();
    let heard = || membership.state.lock().heard.get(&NODE).copied();
    let told = || membership.service.reports.lock().get(&NODE).map(|report| report.parts);
    let speaking = async {
        let mut last = None;
        let lost = Report::Lost(LostParts { parts: vec![PartId(1).into()], reason: "a test".into() });
        for report in std::iter::once(lost).chain((1..=5).map(heartbeat)) {
            node.send(Ok(NodeReport { report: Some(report) })).await.unwrap();
            while heard() == last {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            last = heard();
        }
        assert_eq!(told(), None);
        drop(node);
        // The end of the stream is noticed.
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(reading);
    };
    let serving = membership.serve(Visit::new(NODE, session, 1), ReceiverStream::new(reports));
    let both = async { tokio::join!(serving, speaking) };
    let (why, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("it hangs");
    assert_eq!((why.as_str(), told()), ("the node ended it", Some(5)));
}

/// What all sessions are told from now on: a node that is welcomed meanwhile learns it from the one or the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_holds_what_others_were_told_before_it() {
    let (_dir, membership) = alone().await;
    let raft = membership.service.raft.clone();
    for round in 0..20 {
        let (orders, mut waiting) = mpsc::channel(9);
        let welcomed = {
            let _telling = membership.state.lock();
            let welcomed = std::thread::spawn({
                let membership = membership.clone();
                move || membership.welcome(NODE, orders, CancellationToken::new()).is_ok()
            });
            let cancel = Op::CancelFlight(CancelFlight { flight: round, until_ms: u64::MAX });
            let decided = || tokio::runtime::Handle::current().block_on(raft.propose_if_leader(cancel));
            tokio::task::block_in_place(decided).unwrap();
            welcomed
        };
        assert!(welcomed.join().unwrap());
        let Ok(NodeOrder { what: Some(What::Welcome(Welcome { cancelled, .. })), .. }) = waiting.recv().await.unwrap()
        else {
            panic!("no welcome")
        };
        assert!(cancelled.iter().any(|one| one.flight == round), "round {round}");
    }
}
