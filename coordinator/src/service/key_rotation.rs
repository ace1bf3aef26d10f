//! New keys, requested by an administrator: for sessions at once, for tickets in steps (see `ticket_keys` of the catalog).

use serde_json::{Value, json};
use volley_common::Result;
use volley_common::identity::new_signing_key;
use volley_common::options::MAX_RETENTION_S;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{AddSigningKey, RotateTicketKey};

use crate::config::CoordinatorConfig;
use crate::raft::Handle;

/// How long the members have to learn a new ticket key before it signs, milliseconds. With a session they need about a second.
const LEARN_MS: u64 = 60_000;
/// How long a former ticket key is accepted at least, milliseconds: members that learn a second later that it is one have
/// asserted clients with it, and assertions last a minute.
const KEEP_MS: u64 = 120_000;

/// What is to be replaced besides the key that signs new sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRotation {
    /// The former signing keys are removed at once: every session ends.
    pub revoke_sessions: bool,
    /// The ticket key.
    pub tickets: TicketRotation,
}

/// What happens to the ticket key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TicketRotation {
    /// It stays.
    #[default]
    Keep,
    /// It is replaced, and accepted until its tickets have expired.
    Replace,
    /// It is replaced, and no longer accepted than needed: its tickets end then.
    Revoke,
}

/// Replaces keys: `{"signing_key", "sessions_revoked", "ticket_key"}`, with the id of the new signing key. `ticket_key` is null,
/// or says when the new one signs and until when the present one is accepted: `{"signs_from_ms", "former_until_ms"}`.
///
/// # Errors
/// Of the ticket key, before anything is changed: FAILED_PRECONDITION: the members are learning another new one.
/// RESOURCE_EXHAUSTED: too many former ones are accepted still. UNAVAILABLE: no leader.
pub async fn rotate_keys(raft: &Handle, config: &CoordinatorConfig, rotation: KeyRotation) -> Result<Value> {
    let ticket_key = match rotation.tickets {
        TicketRotation::Keep => Value::Null,
        TicketRotation::Replace => {
            rotate_ticket_key(raft, KEEP_MS + longest_ticket_ms(raft, config).await?, false).await?
        }
        TicketRotation::Revoke => rotate_ticket_key(raft, KEEP_MS, true).await?,
    };
    let key = new_signing_key(raft.now_ms())?;
    let id = key.id.clone();
    let revoke_others = rotation.revoke_sessions;
    raft.propose(Op::AddSigningKey(AddSigningKey { key: Some(key), older_than_ms: 0, revoke_others })).await?;
    tracing::warn!(key = id, revoke_sessions = revoke_others, "an administrator replaced the key that signs sessions");
    Ok(json!({ "signing_key": id, "sessions_revoked": revoke_others, "ticket_key": ticket_key }))
}

async fn rotate_ticket_key(raft: &Handle, keep_former_ms: u64, revoke_former: bool) -> Result<Value> {
    let key = rand::random::<[u8; 32]>().to_vec().into();
    let signs_from_ms = raft.now_ms() + LEARN_MS;
    let rotate = RotateTicketKey { key, sign_after_ms: LEARN_MS, keep_former_ms, revoke_former };
    raft.propose(Op::RotateTicketKey(rotate)).await?;
    tracing::warn!(revoke_tickets = revoke_former, "an administrator replaces the ticket key: it signs in a minute");
    Ok(json!({ "signs_from_ms": signs_from_ms, "former_until_ms": signs_from_ms + keep_former_ms }))
}

/// How long a ticket of a table that exists now may last, milliseconds.
async fn longest_ticket_ms(raft: &Handle, config: &CoordinatorConfig) -> Result<u64> {
    let longest = raft.read().await?.longest_retention_ms().max(config.retention_ms);
    Ok(config.limits.ticket_ms(longest.min(MAX_RETENTION_S * 1000)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::identity::Secret;
    use volley_common::wire::catalog::Expire;
    use volley_common::wire::cluster::Ticket;
    use volley_common::{Code, clock};

    use super::*;
    use crate::service::testing::{ROOT_PASSWORD, ServicesFixture};
    use crate::service::tickets::ticket_key;

    async fn rotate(fixture: &ServicesFixture, rotation: KeyRotation) -> Result<Value> {
        let rotated = rotate_keys(&fixture.services.raft, &fixture.services.config, rotation).await;
        fixture.follow_catalog();
        rotated
    }

    async fn login(fixture: &ServicesFixture) -> Secret {
        let login = &fixture.services.login;
        let token = login.login("root", &Secret::new(ROOT_PASSWORD), "192.0.2.1").await.unwrap().token;
        fixture.follow_catalog();
        token
    }

    fn accepts(fixture: &ServicesFixture, token: &Secret) -> bool {
        fixture.services.authenticator.access_of_token(token, None).is_ok()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn new_signing_key_keeps_sessions_unless_they_are_revoked() {
        let fixture = ServicesFixture::closed().await;
        let before = login(&fixture).await;
        let rotated = rotate(&fixture, KeyRotation::default()).await.unwrap();
        let newest = fixture.services.raft.view().newest_signing_key().unwrap().id.clone();
        assert_eq!(rotated, json!({ "signing_key": newest, "sessions_revoked": false, "ticket_key": null }));
        assert!(accepts(&fixture, &before));
        rotate(&fixture, KeyRotation { revoke_sessions: true, ..KeyRotation::default() }).await.unwrap();
        assert!(!accepts(&fixture, &before));
        let after = login(&fixture).await;
        assert!(accepts(&fixture, &after) && after != before);
        assert_eq!(fixture.services.raft.view().identity_snapshot().keys.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn new_ticket_key_is_accepted_before_it_signs() {
        let fixture = ServicesFixture::closed().await;
        let raft = &fixture.services.raft;
        let ticket = Ticket { expires_ms: clock::now_ms() + 60_000, ..Ticket::default() };
        let replace = KeyRotation { tickets: TicketRotation::Replace, ..KeyRotation::default() };
        let rotated = rotate(&fixture, replace).await.unwrap();
        let (from, until) = (&rotated["ticket_key"]["signs_from_ms"], &rotated["ticket_key"]["former_until_ms"]);
        let kept_ms = until.as_u64().unwrap() - from.as_u64().unwrap();
        assert_eq!(kept_ms, KEEP_MS + fixture.services.config.retention_ms, "as long as tickets may last");
        let present = ticket_key(&raft.view()).unwrap();
        let next = raft.view().cluster().unwrap().next_ticket_key.clone().unwrap();
        let by_next = volley_common::ticket::TicketKey::new(&next.key).sign(&ticket);
        fixture.services.tickets.verify(&by_next).unwrap();
        fixture.services.tickets.verify(&present.sign(&ticket)).unwrap();
        fixture.apply(Op::Expire(Expire { write_id_retention_ms: 1, ..Expire::default() })).await;
        assert_ne!(raft.view().cluster().unwrap().ticket_key, next.key, "not before its time");
        let again = rotate(&fixture, KeyRotation { revoke_sessions: true, ..replace }).await.unwrap_err();
        assert!(again.code == Code::FailedPrecondition && again.message.contains("already"), "{again}");
        assert_eq!(raft.view().identity_snapshot().keys.len(), 1, "nothing was changed");
    }
}
