//! Sessions of a single coordinator.
#![allow(clippy::unwrap_used)]

use prost::Message;
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;
use volley_common::PartId;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{CancelFlight, Node, RegisterNode};
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{
    Heartbeat, HeldPart, Inventory, LostParts, NodeReport, QuarantineParts, SendInventory, Welcome,
};

use super::leader_loop::MEMBERS_BATCH_INTERVAL;
use super::session::{ReceivedReport, SessionState};
use super::*;
use crate::raft::testing::single_leader;
use crate::scheduler::reconcile::CatalogHistory;

const NODE: NodeId = NodeId(7);

async fn single_coordinator() -> (TempDir, Arc<NodeMembership>) {
    coordinator_with(CoordinatorConfig::default()).await
}

async fn coordinator_with(membership: CoordinatorConfig) -> (TempDir, Arc<NodeMembership>) {
    let (dir, raft) = single_leader().await;
    (dir, NodeMembership::new(Arc::new(membership), raft, Arc::default(), CancellationToken::new()))
}

fn heartbeat(parts: u64) -> Report {
    Report::Heartbeat(Heartbeat { parts, ..Heartbeat::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_recorded_on_arrival_and_handled_to_the_end() {
    let (_dir, membership) = single_coordinator().await;
    let (orders, _queued) = mpsc::channel(9);
    let session = membership.open_session(NODE, 1, orders, CancellationToken::new(), CatalogHistory::Complete).unwrap();
    let (node, reports) = mpsc::channel(1);
    // A view of the catalog blocks changes: handling the first report does not finish while it is held.
    let view = membership.raft.view();
    let last_heard = || membership.state.lock().last_heard.get(&NODE).copied();
    let handled = || membership.node_reports.heartbeats.lock().get(&NODE).map(|heartbeat| heartbeat.parts);
    let sending = async {
        let mut last = None;
        let lost = Report::Lost(LostParts { parts: vec![PartId(1).into()], reason: "a test".into() });
        for report in std::iter::once(lost).chain((1..=5).map(heartbeat)) {
            node.send(Ok(NodeReport { report: Some(report) })).await.unwrap();
            while last_heard() == last {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            last = last_heard();
        }
        assert_eq!(handled(), None);
        drop(node);
        // Gives the session time to notice the end of the stream.
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(view);
    };
    let serving = membership.serve_session(SessionState::new(NODE, session, 1), ReceiverStream::new(reports));
    let both = async { tokio::join!(serving, sending) };
    let (reason, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("it hangs");
    assert_eq!((reason.as_str(), handled()), ("the node closed it", Some(5)));
}

/// Broadcasts go to open sessions only, so a session that opens meanwhile must get the change with its welcome.
#[tokio::test(flavor = "multi_thread")]
async fn welcome_contains_what_was_broadcast_before_it() {
    let (_dir, membership) = single_coordinator().await;
    let raft = membership.raft.clone();
    for round in 0..20 {
        let (orders, mut queued) = mpsc::channel(9);
        let opened = {
            let _broadcasting = membership.state.lock();
            let opened = std::thread::spawn({
                let membership = membership.clone();
                move || {
                    membership.open_session(NODE, 1, orders, CancellationToken::new(), CatalogHistory::Complete).is_ok()
                }
            });
            let cancel = Op::CancelFlight(CancelFlight { flight: round, until_ms: u64::MAX });
            let decided = || tokio::runtime::Handle::current().block_on(raft.propose_if_leader(cancel));
            tokio::task::block_in_place(decided).unwrap();
            opened
        };
        assert!(opened.join().unwrap());
        let Ok(NodeOrder { what: Some(What::Welcome(Welcome { cancelled, .. })), .. }) = queued.recv().await.unwrap()
        else {
            panic!("no welcome")
        };
        assert!(cancelled.iter().any(|one| one.flight == round), "round {round}");
    }
}

/// A copy of a node's data folder has the node's id, but its process another boot id.
#[tokio::test(flavor = "multi_thread")]
async fn second_process_of_a_node_in_session_is_refused() {
    let config = CoordinatorConfig { heartbeat_ms: 20, ..CoordinatorConfig::default() };
    let (_dir, membership) = coordinator_with(config).await;
    let node = |boot| Node { id: NODE.0, boot, ..Node::default() };
    let (orders, queued) = mpsc::channel(9);
    membership.open_session(NODE, 1, orders, CancellationToken::new(), CatalogHistory::Complete).unwrap();
    let reporting = tokio::spawn({
        let membership = membership.clone();
        async move {
            loop {
                membership.state.lock().last_heard.insert(NODE, Instant::now());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let _ = membership.require_only_process(&node(1)).await.expect("the same process opens another session");
    let error = membership.require_only_process(&node(2)).await.unwrap_err();
    assert_eq!(error.code, volley_common::Code::FailedPrecondition);
    assert!(error.message.contains("--data-dir") && error.message.contains(&NODE.to_string()), "{error}");
    reporting.abort();
    // The process ends, which closes its streams, while the next one waits.
    let restarted = node(2);
    let (second, ()) = tokio::join!(membership.require_only_process(&restarted), async { drop(queued) });
    let _ = second.expect("a restarted node");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_that_time_out_are_marked_in_one_round() {
    let (_dir, membership) = single_coordinator().await;
    let register = |id| {
        let node = Some(Node { id, boot: id + 10, ..Node::default() });
        membership.raft.propose(Op::RegisterNode(RegisterNode { node }))
    };
    let registered = futures::future::join_all((1..=300).map(register)).await;
    assert!(registered.iter().all(Result::is_ok));
    membership.mark_timed_out().await;
    assert_eq!(membership.raft.view().live_node_ids().len(), 300, "it does not lead long enough");
    let timeout = membership.node_timeout();
    {
        let mut state = membership.state.lock();
        state.leader_since = Instant::now().checked_sub(2 * timeout);
        state.last_heard.insert(NODE, Instant::now());
    }
    membership.mark_timed_out().await;
    assert!(membership.raft.view().live_node_ids().iter().eq([&NODE]));
    let catalog = membership.raft.view();
    assert!(catalog.nodes().filter(|node| node.id != NODE.0).all(|node| node.unreachable_since_ms > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_list_of_members_goes_to_some_nodes_at_a_time() {
    let (_dir, membership) = single_coordinator().await;
    let mut queues = Vec::new();
    for id in 1..=5 {
        let (orders, mut queued) = mpsc::channel(9);
        let close = CancellationToken::new();
        membership.open_session(NodeId(id), 1, orders, close, CatalogHistory::Complete).unwrap();
        let welcome = queued.recv().await.unwrap().unwrap();
        assert!(matches!(welcome.what, Some(What::Welcome(_))));
        queues.push(queued);
    }
    let members = Members { coordinator_peer: vec!["c:1".into()], ..Members::default() };
    let two = 2 * members.encoded_len();
    // The nodes that get a list.
    let mut round = |now| {
        membership.send_members(&members, two, now);
        let is_list = |order| matches!(order, Ok(Ok(NodeOrder { what: Some(What::Members(_)), .. })));
        (1..).zip(&mut queues).filter_map(|(id, queue)| is_list(queue.try_recv()).then_some(id)).collect::<Vec<u64>>()
    };
    let mut now = Instant::now();
    assert!(round(now).is_empty(), "their welcomes have it");
    membership.state.lock().members_generation += 1;
    assert_eq!(round(now), [1, 2]);
    assert!(round(now).is_empty(), "too early");
    now += MEMBERS_BATCH_INTERVAL;
    membership.state.lock().members_generation += 1;
    assert_eq!(round(now), [3, 4], "those with the oldest lists");
    now += MEMBERS_BATCH_INTERVAL;
    assert_eq!(round(now), [1, 5]);
    assert_eq!(round(now), [2], "so few at once");
    assert!(round(now).is_empty());
}

/// After a recovery: once the node is told that it is reconciled, parts that the catalog does not list are deleted.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_misses_an_order_is_not_reconciled() {
    let (_dir, membership) = single_coordinator().await;
    // Room for the welcome and one order.
    let (orders, mut queued) = mpsc::channel(2);
    let close = CancellationToken::new();
    let id = membership.open_session(NODE, 1, orders, close.clone(), CatalogHistory::Recovered).unwrap();
    let mut session = SessionState { history: CatalogHistory::Recovered, ..SessionState::new(NODE, id, 1) };
    let part = |id: u128| HeldPart { id: Some(PartId(id).into()), write: "lost".into(), ..HeldPart::default() };
    let report = Report::Inventory(Inventory { parts: (1..=1200).map(part).collect(), last: true });
    let received = ReceivedReport { at: Instant::now(), report };
    let error = membership.handle_report(&mut session, received).await.unwrap_err();
    assert_eq!(error.code, volley_common::Code::Unavailable, "{error}");
    assert!(close.is_cancelled() && session.history == CatalogHistory::Recovered);
    let first = queued.recv().await.unwrap().unwrap();
    assert!(matches!(first.what, Some(What::Welcome(_))));
    let second = queued.recv().await.unwrap().unwrap();
    assert!(matches!(second.what, Some(What::Quarantine(QuarantineParts { parts })) if parts.len() == 500));
    assert_eq!(membership.send_order(NODE, What::SendInventory(SendInventory {})), None, "though there is room again");
    assert!(queued.try_recv().is_err());
}
