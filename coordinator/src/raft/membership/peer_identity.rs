//! Coordinators query each other's id, data folder and cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use volley_common::cluster_id::{Relation, relation};
use volley_common::wire::raft::{Identity, MembershipStatus};
use volley_common::{Error, Result};

use super::decommission::decommission;
use super::membership_plan::PeerStatus;
use crate::raft::context::RaftContext;
use crate::raft::rpc::network::raft_client;

/// The timeout of a request.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks every other possible coordinator for its identity, and acts on what they report about this one.
pub async fn query_all(ctx: &RaftContext) -> Vec<(u64, Result<Identity>)> {
    // Coordinators of the configured list that are no longer members are included, because they may know that the
    // cluster was recovered without this one.
    let mut others = ctx.config.peers.clone();
    others.extend(ctx.members().nodes().map(|(id, peer)| (*id, peer.addr.clone())));
    others.extend(ctx.peers());
    others.remove(&ctx.config.id);
    let queries = others.into_iter().map(|(id, addr)| async move { (id, query(ctx, id, &addr).await) });
    let answers = futures::future::join_all(queries).await;
    for theirs in answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        apply_peer_status(ctx, theirs).await;
    }
    answers
}

/// The identities of all coordinators, this one included, for a report; or why one does not answer.
pub async fn identities(ctx: &RaftContext, timeout: Duration) -> BTreeMap<u64, Result<Identity>> {
    let asked = ctx.peers().into_iter().map(|(id, addr)| async move {
        if id == ctx.config.id {
            return (id, ctx.identity().await);
        }
        let answer = tokio::time::timeout(timeout, query(ctx, id, &addr)).await.unwrap_or_else(|_| {
            let text = format!("coordinator {id} at {addr} does not answer within {} s", timeout.as_secs());
            Err(Error::unavailable(text))
        });
        (id, answer)
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

/// Asks one coordinator for its identity.
///
/// # Errors
/// UNAVAILABLE: no answer. FAILED_PRECONDITION: another coordinator answers there. PERMISSION_DENIED: it is of another
/// cluster.
pub async fn query(ctx: &RaftContext, id: u64, addr: &str) -> Result<Identity> {
    let ours = ctx.identity().await?;
    let mut client = raft_client(ctx.channel(id, addr)?);
    let theirs = match tokio::time::timeout(QUERY_TIMEOUT, client.identify(ours)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(Error::from(status).at(format!("coordinator {id} at {addr}"))),
        Err(_) => return Err(Error::unavailable(format!("coordinator {id} at {addr} does not answer"))),
    };
    if theirs.id != id {
        return Err(Error::precondition(format!(
            "the peer list says that coordinator {id} is at {addr}, but coordinator {} answers there",
            theirs.id
        )));
    }
    ctx.features.lock().insert(id, theirs.features);
    Ok(theirs)
}

/// Queries a coordinator that has just queried this one, if its cluster id is that of this cluster after a recovery,
/// because then this coordinator may be superseded.
pub async fn query_back(ctx: Arc<RaftContext>, theirs: Identity) {
    let ours = ctx.view().cluster().map(|ours| ours.id.clone()).unwrap_or_default();
    if ours.is_empty() || theirs.cluster.is_empty() || relation(&ours, &theirs.cluster) != Relation::Later {
        return;
    }
    let Some(peer) = theirs.list.iter().find(|peer| peer.id == theirs.id) else { return };
    if let Ok(answer) = query(&ctx, peer.id, &peer.addr).await {
        apply_peer_status(&ctx, &answer).await;
    }
}

/// Ends this coordinator if another one knows that it was removed or superseded.
async fn apply_peer_status(ctx: &RaftContext, theirs: &Identity) {
    match theirs.status() {
        MembershipStatus::Removed => decommission(ctx, removed_message(ctx)).await,
        MembershipStatus::Superseded => {
            let why = decommission_message(ctx, "was superseded: the cluster was recovered without it");
            decommission(ctx, why).await;
        }
        _ => {}
    }
}

/// The status of another coordinator in the cluster that this one knows.
pub fn membership_status_of(ctx: &RaftContext, theirs: &Identity) -> MembershipStatus {
    let members = ctx.committed_members();
    let view = ctx.view();
    let Some(cluster) = view.cluster() else { return MembershipStatus::Unspecified };
    let desired = view.coordinators();
    let is_member = members.nodes().any(|(_, peer)| peer.store_id == theirs.store);
    match () {
        // Checked first: a new member receives the log from its beginning, and has the cluster's earlier ids meanwhile.
        () if is_member => MembershipStatus::Member,
        () if is_superseded(&cluster.id, theirs) => MembershipStatus::Superseded,
        () if view.is_retired(theirs.store) => MembershipStatus::Removed,
        () if desired.contains_key(&theirs.id) => MembershipStatus::Member,
        () if desired.is_empty() => MembershipStatus::Unspecified,
        () => MembershipStatus::Unknown,
    }
}

/// Whether another coordinator is of the cluster as it was before a recovery.
fn is_superseded(cluster: &str, theirs: &Identity) -> bool {
    !theirs.cluster.is_empty() && relation(cluster, &theirs.cluster) == Relation::Earlier
}

/// The leader's view of another coordinator.
pub fn peer_status(ctx: &RaftContext, theirs: &Identity) -> PeerStatus {
    let view = ctx.view();
    let addr = ctx.peers().remove(&theirs.id).unwrap_or_else(|| "its address".into());
    let cluster = view.cluster().map_or("", |cluster| &cluster.id);
    let why = match () {
        () if view.is_retired(theirs.store) => "belongs to a coordinator that was removed",
        () if is_superseded(cluster, theirs) => "belongs to the cluster as it was before a recovery",
        () => return PeerStatus { store_id: theirs.store, rejection: None },
    };
    let rejection = format!(
        "the data folder of coordinator {} at {addr} {why}: stop it, empty the folder and start it with --join",
        theirs.id
    );
    PeerStatus { store_id: theirs.store, rejection: Some(rejection) }
}

/// The leader's view of every coordinator that answered, and of itself.
pub fn peer_statuses(ctx: &RaftContext, answers: &[(u64, Result<Identity>)]) -> BTreeMap<u64, PeerStatus> {
    let others = answers.iter().filter_map(|(id, theirs)| Some((*id, peer_status(ctx, theirs.as_ref().ok()?))));
    let own = (ctx.config.id, PeerStatus { store_id: ctx.store.id(), rejection: None });
    others.chain([own]).collect()
}

/// Why this coordinator ends if it was removed.
pub fn removed_message(ctx: &RaftContext) -> String {
    decommission_message(ctx, "was removed from the cluster")
}

fn decommission_message(ctx: &RaftContext, what: &str) -> String {
    let (id, dir) = (ctx.config.id, ctx.store.dir().display());
    let addr = ctx.config.peers.get(&id).map_or("HOST:PORT", String::as_str);
    format!(
        "this coordinator, {id}, {what}. To add it again, empty its data folder {dir}, start it with --join, and run: volley coordinators add {id}={addr}"
    )
}
