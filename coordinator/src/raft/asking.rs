//! Coordinators ask each other who they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use volley_common::cluster_id::{Relation, relation};
use volley_common::wire::raft::{Identity, MembershipStatus};
use volley_common::{Error, Result};

use super::handle::Inner;
use super::members::Answer;
use super::network::client;

/// An answer takes no longer.
const ASKING: Duration = Duration::from_secs(2);

/// The identity of everyone else who may be a coordinator, or why there is none; draws the consequences for this one.
pub async fn ask_all(inner: &Inner) -> Vec<(u64, Result<Identity>)> {
    // Those of the peer list who are none may still have heard that the cluster went on without this one.
    let mut others = inner.config.peers.clone();
    others.extend(inner.members().nodes().map(|(id, peer)| (*id, peer.addr.clone())));
    others.extend(inner.peers());
    others.remove(&inner.config.id);
    let asking = others.into_iter().map(|(id, addr)| async move { (id, ask(inner, id, &addr).await) });
    let answers = futures::future::join_all(asking).await;
    for theirs in answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        heed(inner, theirs).await;
    }
    answers
}

/// One coordinator's identity.
///
/// # Errors
/// UNAVAILABLE: no answer. FAILED_PRECONDITION: another coordinator answers there. PERMISSION_DENIED: of another cluster.
pub async fn ask(inner: &Inner, id: u64, addr: &str) -> Result<Identity> {
    let ours = inner.identity().await?;
    let mut client = client(inner.link(addr)?);
    match tokio::time::timeout(ASKING, client.identify(ours)).await {
        Ok(Ok(reply)) => check_id(id, addr, reply.into_inner()),
        Ok(Err(status)) => Err(Error::from(status).at(format!("coordinator {id} at {addr}"))),
        Err(_) => Err(Error::unavailable(format!("coordinator {id} at {addr} does not answer"))),
    }
}

fn check_id(id: u64, addr: &str, theirs: Identity) -> Result<Identity> {
    if theirs.id == id {
        return Ok(theirs);
    }
    Err(Error::precondition(format!(
        "the peer list says that coordinator {id} is at {addr}, but coordinator {} answers there",
        theirs.id
    )))
}

/// Ends this coordinator if another one knows that it is none any more.
async fn heed(inner: &Inner, theirs: &Identity) {
    match theirs.status() {
        MembershipStatus::Removed => inner.end(removed(inner)).await,
        MembershipStatus::Superseded => inner.end(left_behind(inner)).await,
        _ => {}
    }
}

/// What another coordinator is to the cluster that this one knows.
pub fn standing(inner: &Inner, theirs: &Identity) -> MembershipStatus {
    let members = inner.committed_members();
    let view = inner.view();
    let Some(cluster) = view.cluster() else { return MembershipStatus::Unspecified };
    let wanted = view.coordinators();
    let is_member = members.nodes().any(|(_, peer)| peer.store == theirs.store);
    match () {
        // A new one is sent the log from its beginning, when the cluster had the ids that it has no more.
        () if is_member => MembershipStatus::Member,
        () if is_earlier(&cluster.id, theirs) => MembershipStatus::Superseded,
        () if view.is_retired(theirs.store) => MembershipStatus::Removed,
        () if wanted.contains_key(&theirs.id) => MembershipStatus::Member,
        () if wanted.is_empty() => MembershipStatus::Unspecified,
        () => MembershipStatus::Unknown,
    }
}

fn is_earlier(cluster: &str, theirs: &Identity) -> bool {
    !theirs.cluster.is_empty() && relation(cluster, &theirs.cluster) == Relation::Earlier
}

/// What the leader makes of an answer.
pub fn answer(inner: &Inner, theirs: &Identity) -> Answer {
    let view = inner.view();
    let place = inner.peers().remove(&theirs.id).unwrap_or_else(|| "its address".into());
    let cluster = view.cluster().map_or("", |cluster| &cluster.id);
    let why = match () {
        () if view.is_retired(theirs.store) => "is that of a coordinator that was removed",
        () if is_earlier(cluster, theirs) => "is of the cluster as it was before a recovery",
        () => return Answer { store: theirs.store, unfit: None },
    };
    let unfit = format!(
        "the data folder of coordinator {} at {place} {why}: stop it, empty the folder and start it with --join",
        theirs.id
    );
    Answer { store: theirs.store, unfit: Some(unfit) }
}

/// Everyone's answers as the leader reads them, its own among them.
pub fn answers(inner: &Inner, heard: &[(u64, Result<Identity>)]) -> BTreeMap<u64, Answer> {
    let others = heard.iter().filter_map(|(id, theirs)| Some((*id, answer(inner, theirs.as_ref().ok()?))));
    let own = (inner.config.id, Answer { store: inner.store.id(), unfit: None });
    others.chain([own]).collect()
}

/// What a removed coordinator says.
pub fn removed(inner: &Inner) -> String {
    end_text(inner, "was removed from the cluster")
}

fn left_behind(inner: &Inner) -> String {
    end_text(inner, "was left behind: the cluster was recovered without it")
}

fn end_text(inner: &Inner, what: &str) -> String {
    let (id, dir) = (inner.config.id, inner.store.dir().display());
    let addr = inner.config.peers.get(&id).map_or("HOST:PORT", String::as_str);
    format!(
        "this coordinator, {id}, {what}. To have it back, empty its data folder {dir}, start it with --join, and run: volley coordinators add {id}={addr}"
    )
}

/// Who asked is of what this one's cluster became in a recovery: asks back what this one is to it.
pub async fn ask_back(inner: Arc<Inner>, theirs: Identity) {
    let ours = inner.view().cluster().map(|ours| ours.id.clone()).unwrap_or_default();
    if ours.is_empty() || theirs.cluster.is_empty() || relation(&ours, &theirs.cluster) != Relation::Later {
        return;
    }
    let Some(peer) = theirs.list.iter().find(|peer| peer.id == theirs.id) else { return };
    if let Ok(answer) = ask(&inner, peer.id, &peer.addr).await {
        heed(&inner, &answer).await;
    }
}
