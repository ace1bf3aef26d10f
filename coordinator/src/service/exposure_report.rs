//! What the members and the catalog leave open, as the cluster's status reports it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use volley_common::identity::Access;
use volley_common::wire::catalog::{Role, User};
use volley_common::wire::cluster::Heartbeat;
use volley_common::wire::raft::Identity;
use volley_common::{NodeId, Result};

use crate::catalog::Catalog;

/// The most users without grants that are named.
const MAX_NAMES: usize = 20;

/// What the settings of the members that answer leave open: `[{"kind", "members"}]`, by
/// [`volley_common::server::ExposureKind`].
pub(super) fn exposures(
    identities: &BTreeMap<u64, Result<Identity>>,
    heartbeats: &BTreeMap<NodeId, Heartbeat>,
) -> Vec<Value> {
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, identity) in identities.iter().filter_map(|(id, answer)| Some((id, answer.as_ref().ok()?))) {
        for kind in &identity.exposures {
            members.entry(kind).or_default().push(format!("coordinator {id}"));
        }
    }
    for (id, heartbeat) in heartbeats {
        for kind in &heartbeat.exposures {
            members.entry(kind).or_default().push(format!("node {id}"));
        }
    }
    members.into_iter().map(|(kind, members)| json!({ "kind": kind, "members": members })).collect()
}

/// The users to whom nothing is granted, directly or by their groups: `{"count", "names"}`. Only administrators get names, and
/// of the first [`MAX_NAMES`].
pub(super) fn users_without_grants(catalog: &Catalog, access: &Access) -> Value {
    let granted: BTreeSet<&str> = catalog.grants().map(|grant| grant.to.as_str()).collect();
    let has = |kind: &str, name: &str| granted.contains(format!("{kind}:{name}").as_str());
    let has_none = |user: &&User| !has("user", &user.name) && !user.groups.iter().any(|group| has("group", group));
    let without: Vec<&str> = catalog.users().filter(has_none).map(|user| user.name.as_str()).collect();
    let names = access.require_cluster(Role::Admin).is_ok().then(|| without.iter().take(MAX_NAMES).collect::<Vec<_>>());
    json!({ "count": without.len(), "names": names })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Error;
    use volley_common::wire::catalog::command::Op;
    use volley_common::wire::catalog::{Grant, PutGrant, PutUser, PutUserMode};

    use super::super::testing::ServicesFixture;
    use super::*;

    #[test]
    fn exposures_name_their_members() {
        let open = |kinds: &[&str]| kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>();
        let coordinator = Identity { exposures: open(&["public_metrics", "shareable_tickets"]), ..Identity::default() };
        let identities: BTreeMap<_, _> =
            [(1, Ok(coordinator)), (2, Ok(Identity::default())), (3, Err(Error::unavailable("down")))].into();
        let heartbeat = Heartbeat { exposures: open(&["public_metrics"]), ..Heartbeat::default() };
        let heartbeats: BTreeMap<_, _> = [(NodeId(7), heartbeat)].into();
        let reported = exposures(&identities, &heartbeats);
        let node = format!("node {}", NodeId(7));
        assert_eq!(
            Value::from(reported),
            json!([{ "kind": "public_metrics", "members": ["coordinator 1", node] },
                { "kind": "shareable_tickets", "members": ["coordinator 1"] }])
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn users_with_grants_of_any_kind_are_left_out() {
        let fixture = ServicesFixture::closed().await;
        for (name, group, generation) in [("ana", "analysts", 2), ("bob", "others", 3)] {
            let user = User { name: name.into(), groups: vec![group.into()], generation, ..User::default() };
            fixture.apply(Op::PutUser(PutUser { user: Some(user), mode: PutUserMode::Create as i32 })).await;
        }
        let grant = Grant { to: "group:analysts".into(), role: Role::Reader as i32, ..Grant::default() };
        fixture.apply(Op::PutGrant(PutGrant { grant: Some(grant) })).await;
        let report = |access: &Access| users_without_grants(&fixture.services.raft.view(), access);
        assert_eq!(report(&fixture.access("root")), json!({ "count": 1, "names": ["bob"] }));
        assert_eq!(report(&fixture.access("ana")), json!({ "count": 1, "names": null }));
    }
}
