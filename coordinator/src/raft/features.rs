//! What the versions of the coordinators know: a command that one of them does not know is not proposed, because its catalog
//! would then differ from those of the others.

use std::collections::BTreeMap;

use volley_common::wire::IDENTITY_FEATURES;
use volley_common::wire::catalog::command::Op;
use volley_common::{Error, Result};

use super::context::RaftContext;
use super::membership::peer_identity::query_all;

impl RaftContext {
    /// Checks that every coordinator knows a command. Asks those that have not said it yet.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, naming the coordinator to upgrade, or to start.
    pub async fn check_features(&self, op: &Op) -> Result<()> {
        if self.check_known_features(op).is_ok() {
            return Ok(());
        }
        query_all(self).await;
        self.check_known_features(op)
    }

    /// The same by what the coordinators said last: each is asked once a second.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, naming the coordinator to upgrade, or to start.
    pub fn check_known_features(&self, op: &Op) -> Result<()> {
        // A catalog with an epoch has had such commands: every coordinator knows them.
        if !is_of_identities(op) || self.view().identity_epoch() != 0 {
            return Ok(());
        }
        let peers = self.peers();
        check(&peers, self.config.id, &self.features.lock())
    }
}

/// Whether a command needs [`IDENTITY_FEATURES`]. The commands that remove such rows change nothing where there are none.
fn is_of_identities(op: &Op) -> bool {
    matches!(
        op,
        Op::PutUser(_)
            | Op::CreateToken(_)
            | Op::PutGrant(_)
            | Op::AddSigningKey(_)
            | Op::SetQuota(_)
            | Op::ResetAdministrator(_)
            | Op::RotateTicketKey(_)
    )
}

/// `peers`: the addresses of all coordinators, by id. `own`: the id of this one. `features`: what the others said.
fn check(peers: &BTreeMap<u64, String>, own: u64, features: &BTreeMap<u64, u32>) -> Result<()> {
    for (id, addr) in peers.iter().filter(|(id, _)| **id != own) {
        let why = match features.get(id) {
            Some(known) if *known >= IDENTITY_FEATURES => continue,
            Some(_) => "is of a version that does not know users, grants and quotas: upgrade it first",
            None => "has not yet said whether it knows users, grants and quotas: start it if it is down, or remove it",
        };
        return Err(Error::precondition(format!("coordinator {id} at {addr} {why}")));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{Clear, PutUser};

    use super::*;

    #[test]
    fn coordinator_without_users_and_grants_is_named() {
        let peers: BTreeMap<u64, String> = (1..=3).map(|id| (id, format!("c{id}:1"))).collect();
        let refused = |features: &[(u64, u32)]| check(&peers, 1, &features.iter().copied().collect()).unwrap_err();
        let error = refused(&[(2, IDENTITY_FEATURES), (3, IDENTITY_FEATURES - 1)]);
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("coordinator 3 at c3:1") && error.message.contains("upgrade it"), "{error}");
        let error = refused(&[(3, IDENTITY_FEATURES)]);
        assert!(error.message.contains("coordinator 2 at c2:1") && error.message.contains("start it"), "{error}");
        check(&peers, 1, &BTreeMap::from([(2, IDENTITY_FEATURES), (3, IDENTITY_FEATURES + 1)])).unwrap();
    }

    #[test]
    fn commands_of_earlier_versions_need_no_features() {
        assert!(is_of_identities(&Op::PutUser(PutUser::default())) && !is_of_identities(&Op::Clear(Clear {})));
    }
}
