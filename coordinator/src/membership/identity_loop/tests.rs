//! Users and grants on their way from the catalog to nodes and to the coordinator's own directory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use volley_common::identity::DirectoryHandle;
use volley_common::wire::catalog::{PutUser, PutUserMode, RotateTicketKey, User};
use volley_common::wire::cluster::{NodeOrder, Welcome};

use super::*;
use crate::CoordinatorConfig;
use crate::directory_updates;
use crate::raft::testing::single_leader;
use crate::scheduler::reconcile::CatalogHistory;

const NODE: NodeId = NodeId(7);

type Orders = mpsc::Receiver<Result<NodeOrder, Status>>;

/// A leader without a file for its first administrator.
async fn leader() -> (TempDir, Arc<NodeMembership>) {
    leader_with(CoordinatorConfig::default()).await
}

async fn leader_with(config: CoordinatorConfig) -> (TempDir, Arc<NodeMembership>) {
    let (dir, raft) = single_leader().await;
    (dir, NodeMembership::new(Arc::new(config), raft, Arc::default(), CancellationToken::new()))
}

/// The setting `bootstrap_admin_file` with a file of this content.
fn bootstrap_config(dir: &TempDir, content: &str) -> CoordinatorConfig {
    let file = dir.path().join("admin");
    std::fs::write(&file, content).unwrap();
    CoordinatorConfig { bootstrap_admin_file: Some(file), ..CoordinatorConfig::default() }
}

fn open_session(membership: &NodeMembership) -> (Orders, IdentitySnapshot) {
    let (orders, mut queued) = mpsc::channel(9);
    membership.open_session(NODE, 1, orders, CancellationToken::new(), CatalogHistory::Complete).unwrap();
    let Ok(NodeOrder { what: Some(What::Welcome(Welcome { identity, .. })), .. }) = queued.try_recv().unwrap() else {
        panic!("no welcome")
    };
    (queued, identity.unwrap())
}

fn next_identity(queued: &mut Orders) -> Option<IdentitySnapshot> {
    match queued.try_recv().ok()?.unwrap().what {
        Some(What::Identity(identity)) => Some(identity),
        other => panic!("{other:?}"),
    }
}

async fn put_user(membership: &NodeMembership, name: &str, mode: PutUserMode) {
    let user = User { name: name.into(), password_hash: "a hash".into(), generation: 1, ..User::default() };
    let put = PutUser { user: Some(user), mode: mode as i32 };
    membership.raft.propose_if_leader(Op::PutUser(put)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_users_with_the_welcome_and_after_each_change() {
    let (_dir, membership) = leader().await;
    let (mut queued, identity) = open_session(&membership);
    assert!(identity.epoch == 0 && identity.users.is_empty() && !identity.closed);
    membership.broadcast_identity();
    assert_eq!(next_identity(&mut queued), None, "nothing changed");
    put_user(&membership, "root", PutUserMode::Bootstrap).await;
    membership.broadcast_identity();
    let first = next_identity(&mut queued).unwrap();
    assert_eq!((first.epoch, first.users[0].name.as_str(), first.users[0].password_hash.as_str()), (1, "root", ""));
    put_user(&membership, "ann", PutUserMode::Create).await;
    membership.state.lock().identity_sent = Some(Instant::now() + Duration::from_secs(60));
    membership.broadcast_identity();
    assert_eq!(next_identity(&mut queued), None, "not more often than every 500 ms");
    membership.state.lock().identity_sent = None;
    membership.broadcast_identity();
    assert_eq!(next_identity(&mut queued).unwrap().users.len(), 2);
    let (_queued, identity) = open_session(&membership);
    assert_eq!((identity.epoch, identity.users.len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_reads_slowly_has_one_snapshot_queued() {
    let (_dir, membership) = leader().await;
    let (mut queued, _) = open_session(&membership);
    put_user(&membership, "root", PutUserMode::Bootstrap).await;
    for name in ["a", "b", "c"] {
        put_user(&membership, name, PutUserMode::Create).await;
        membership.state.lock().identity_sent = None;
        membership.broadcast_identity();
    }
    assert_eq!(next_identity(&mut queued).unwrap().users.len(), 2);
    assert_eq!(next_identity(&mut queued), None);
    membership.state.lock().identity_sent = None;
    membership.broadcast_identity();
    assert_eq!(next_identity(&mut queued).unwrap().users.len(), 4, "the newest, once it has read the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_a_new_ticket_key_before_it_signs() {
    let (_dir, membership) = leader().await;
    let (mut queued, identity) = open_session(&membership);
    let signing = membership.raft.view().cluster().unwrap().ticket_key.clone();
    assert_eq!(identity.ticket_keys, std::slice::from_ref(&signing));
    let next = bytes::Bytes::from(vec![7; 32]);
    let rotate = RotateTicketKey { key: next.clone(), sign_after_ms: 60_000, ..RotateTicketKey::default() };
    membership.raft.propose_if_leader(Op::RotateTicketKey(rotate)).await.unwrap();
    membership.broadcast_identity();
    assert_eq!(next_identity(&mut queued).unwrap().ticket_keys, [signing, next]);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_does_not_take_its_snapshot_is_closed() {
    let (_dir, membership) = leader().await;
    let (mut queued, _) = open_session(&membership);
    let is_closed = |after: Duration| {
        let epoch = membership.raft.view().identity_epoch();
        membership.close_delayed_sessions(epoch, Instant::now() + after);
        membership.state.lock().sessions[&NODE].close.is_cancelled()
    };
    put_user(&membership, "root", PutUserMode::Bootstrap).await;
    membership.broadcast_identity();
    assert!(!is_closed(Duration::from_secs(20)));
    assert!(next_identity(&mut queued).is_some());
    assert!(!is_closed(Duration::from_secs(40)), "it has taken it");
    put_user(&membership, "ann", PutUserMode::Create).await;
    membership.state.lock().identity_sent = None;
    membership.broadcast_identity();
    assert!(is_closed(Duration::from_secs(40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_key_is_added_once_there_are_identities() {
    let (_dir, membership) = leader().await;
    let keys = || membership.raft.view().identity_snapshot().keys.len();
    membership.renew_signing_key().await;
    assert_eq!(keys(), 0, "everybody may do everything");
    put_user(&membership, "root", PutUserMode::Bootstrap).await;
    membership.renew_signing_key().await;
    membership.renew_signing_key().await;
    assert_eq!(keys(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_administrator_comes_from_the_file() {
    let dir = TempDir::new().unwrap();
    let (_dir, membership) = leader_with(bootstrap_config(&dir, "root:correct horse\n")).await;
    let (_queued, identity) = open_session(&membership);
    assert!(identity.closed, "until there is a user");
    membership.renew_signing_key().await;
    membership.bootstrap_administrator().await;
    let view = membership.raft.view();
    let root = view.user("root").unwrap();
    assert!(root.generation != 0 && root.password_hash.starts_with("$argon2id$"));
    assert!(view.newest_signing_key().is_some() && !identity_snapshot(&view, &membership.config).closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_file_for_the_first_administrator_can_be_repaired() {
    let dir = TempDir::new().unwrap();
    let (_dir, membership) = leader_with(bootstrap_config(&dir, "no colon")).await;
    membership.bootstrap_administrator().await;
    assert!(!membership.raft.view().has_identities());
    std::fs::write(dir.path().join("admin"), "root:correct horse").unwrap();
    membership.bootstrap_administrator().await;
    assert!(!membership.raft.view().has_identities(), "not again within 10 s");
    membership.state.lock().bootstrap = Default::default();
    membership.bootstrap_administrator().await;
    assert!(membership.raft.view().user("root").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_directory_follows_the_catalog() {
    let (_dir, membership) = leader().await;
    let (directory, known, stop) = (DirectoryHandle::new(), watch::Sender::new(false), CancellationToken::new());
    let mut is_known = known.subscribe();
    let (raft, config) = (membership.raft.clone(), membership.config.clone());
    let updates = tokio::spawn(directory_updates::run(raft, config, directory.clone(), known, stop.clone()));
    is_known.wait_for(|known| *known).await.unwrap();
    assert!(directory.load().unwrap().is_open());
    put_user(&membership, "root", PutUserMode::Bootstrap).await;
    while directory.load().unwrap().epoch() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let known = directory.load().unwrap();
    assert!(!known.is_open() && known.user("root").is_some_and(|user| user.password_hash.is_empty()));
    stop.cancel();
    updates.await.unwrap();
}
