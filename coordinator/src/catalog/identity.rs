//! Users, service tokens, grants and signing keys: rows, indexes, queries, and expiry.
//!
//! **Invariant**: a command that changes any of these rows raises the epoch by one, by which members notice the change.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use volley_common::identity::RETIRED_KEY_MS;
use volley_common::wire::catalog::{
    AddSigningKey, AdministratorReset, Grant, IdentityState, Role, ServiceToken, SigningKey, User, reply, row,
};
use volley_common::wire::cluster::IdentitySnapshot;
use volley_common::{Error, Result};

use super::apply::done;
use super::{Catalog, RowKey};

/// Maximum number of users, of service tokens, and of grants.
pub(super) const MAX_ROWS: usize = 100_000;
/// Maximum number of signing keys; at most three are needed unless somebody rotates them by hand.
const MAX_SIGNING_KEYS: usize = 100;
/// Maximum bytes of all rows. Members get them in one message, which has room for `MAX_PEER_MESSAGE` (64 MiB) together
/// with the members of the cluster.
const MAX_IDENTITY_BYTES: u64 = 32 << 20;
/// Maximum number of resets of administrators that are remembered, the newest: each takes a restart of a coordinator, and an
/// argon2id hash at the next one.
const MAX_RESETS: usize = 16;
/// About how many service tokens one `Expire` removes at most: all its changes are one transaction of every coordinator.
const MAX_EXPIRED_TOKENS: usize = 10_000;
/// What a recovery adds to the epoch: more than the changes that may have been lost, so that none of their epochs returns.
const RECOVERY_EPOCHS: u64 = 1 << 32;

/// The key of a grant: to whom, the role's number, the prefix.
pub(super) type GrantKey = (String, u32, Vec<String>);

/// The key of a grant's row.
pub(super) fn grant_key(grant: &Grant) -> GrantKey {
    (grant.to.clone(), grant.role as u32, grant.prefix.clone())
}

/// The rows and their indexes.
#[derive(Default)]
pub(super) struct IdentityRows {
    /// By name.
    pub(super) users: BTreeMap<String, User>,
    /// By id.
    pub(super) tokens: BTreeMap<String, ServiceToken>,
    /// (user, id) of every token.
    tokens_by_user: BTreeSet<(String, String)>,
    /// (end, id) of every token, the first to expire first.
    tokens_by_end: BTreeSet<(u64, String)>,
    pub(super) grants: BTreeMap<GrantKey, Grant>,
    /// The number of grants by who granted them.
    granters: BTreeMap<String, usize>,
    /// The number of grants of `ROLE_ADMIN`.
    pub(super) administrators: usize,
    /// By id.
    keys: BTreeMap<String, SigningKey>,
    /// Encoded bytes of all rows.
    bytes: u64,
    state: IdentityState,
}

/// Rows from commands, from disk and from snapshots.
impl IdentityRows {
    pub(super) fn insert_user(&mut self, user: User) {
        self.remove_user(&user.name);
        self.bytes += user.encoded_len() as u64;
        self.users.insert(user.name.clone(), user);
    }

    pub(super) fn remove_user(&mut self, name: &str) {
        if let Some(old) = self.users.remove(name) {
            self.bytes -= old.encoded_len() as u64;
        }
    }

    pub(super) fn insert_token(&mut self, token: ServiceToken) {
        self.remove_token(&token.id);
        self.bytes += token.encoded_len() as u64;
        self.tokens_by_user.insert((token.user.clone(), token.id.clone()));
        self.tokens_by_end.insert((token.expires_ms, token.id.clone()));
        self.tokens.insert(token.id.clone(), token);
    }

    pub(super) fn remove_token(&mut self, id: &str) {
        if let Some(old) = self.tokens.remove(id) {
            self.bytes -= old.encoded_len() as u64;
            self.tokens_by_end.remove(&(old.expires_ms, old.id.clone()));
            self.tokens_by_user.remove(&(old.user, old.id));
        }
    }

    pub(super) fn insert_grant(&mut self, grant: Grant) {
        let key = grant_key(&grant);
        self.remove_grant(&key);
        self.bytes += grant.encoded_len() as u64;
        self.administrators += usize::from(grant.role == Role::Admin as i32);
        *self.granters.entry(grant.granted_by.clone()).or_default() += 1;
        self.grants.insert(key, grant);
    }

    pub(super) fn remove_grant(&mut self, key: &GrantKey) {
        if let Some(old) = self.grants.remove(key) {
            self.bytes -= old.encoded_len() as u64;
            self.administrators -= usize::from(old.role == Role::Admin as i32);
            if let Some(left) = self.granters.get_mut(&old.granted_by) {
                *left -= 1;
                if *left == 0 {
                    self.granters.remove(&old.granted_by);
                }
            }
        }
    }

    pub(super) fn insert_key(&mut self, key: SigningKey) {
        self.remove_key(&key.id);
        self.bytes += key.encoded_len() as u64;
        self.keys.insert(key.id.clone(), key);
    }

    pub(super) fn remove_key(&mut self, id: &str) {
        if let Some(old) = self.keys.remove(id) {
            self.bytes -= old.encoded_len() as u64;
        }
    }

    pub(super) fn set_state(&mut self, state: IdentityState) {
        self.state = state;
    }

    /// The row with the epoch and the resets; none before the first change.
    fn state(&self) -> Option<row::Row> {
        (self.state.epoch != 0).then(|| row::Row::Identity(self.state.clone()))
    }

    /// Remembers a reset. Its command raises the epoch, and so touches the row.
    pub(super) fn record_reset(&mut self, reset: AdministratorReset) {
        self.state.resets.push(reset);
        let excess = self.state.resets.len().saturating_sub(MAX_RESETS);
        self.state.resets.drain(..excess);
    }

    /// All rows, by kind.
    pub(super) fn rows(&self) -> impl Iterator<Item = row::Row> {
        let users = self.users.values().cloned().map(row::Row::User);
        let tokens = self.tokens.values().cloned().map(row::Row::Token);
        let grants = self.grants.values().cloned().map(row::Row::Grant);
        let keys = self.keys.values().cloned().map(row::Row::SigningKey);
        users.chain(tokens).chain(grants).chain(keys).chain(self.state())
    }

    /// The current row of a key of these rows.
    pub(super) fn row(&self, key: &RowKey) -> Option<row::Row> {
        match key {
            RowKey::User(name) => self.users.get(name).cloned().map(row::Row::User),
            RowKey::Token(id) => self.tokens.get(id).cloned().map(row::Row::Token),
            RowKey::Grant { to, role, prefix } => {
                self.grants.get(&(to.clone(), *role, prefix.clone())).cloned().map(row::Row::Grant)
            }
            RowKey::SigningKey(id) => self.keys.get(id).cloned().map(row::Row::SigningKey),
            RowKey::Identity => self.state(),
            _ => None,
        }
    }

    /// Ids of a user's tokens.
    pub(super) fn tokens_of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a str> {
        let from = (user.to_string(), String::new());
        self.tokens_by_user.range(from..).take_while(move |(of, _)| of == user).map(|(_, id)| id.as_str())
    }

    /// The keys of all grants to a user or group.
    pub(super) fn grants_to<'a>(&'a self, to: &'a str) -> impl Iterator<Item = &'a GrantKey> {
        let from: GrantKey = (to.to_string(), 0, Vec::new());
        self.grants.range(from..).take_while(move |((of, ..), _)| of == to).map(|(key, _)| key)
    }

    /// How many grants a principal has granted.
    pub(super) fn granted_by(&self, granter: &str) -> usize {
        self.granters.get(granter).copied().unwrap_or_default()
    }

    fn expired_tokens(&self, now: u64) -> impl Iterator<Item = &str> {
        let expired = self.tokens_by_end.iter().take_while(move |(end, _)| *end <= now);
        expired.map(|(_, id)| id.as_str()).take(MAX_EXPIRED_TOKENS)
    }

    /// Ids of the keys that no valid session token needs: the successor of each was made so long ago that every token which
    /// it signed has expired.
    fn retired_keys(&self, now: u64) -> Vec<String> {
        let mut keys: Vec<(u64, &str)> = self.keys.values().map(|key| (key.created_ms, key.id.as_str())).collect();
        keys.sort_unstable();
        let is_retired = |pair: &&[(u64, &str)]| pair[1].0.saturating_add(RETIRED_KEY_MS) <= now;
        keys.windows(2).filter(is_retired).map(|pair| pair[0].1.to_string()).collect()
    }

    /// Whether an `Expire` command would change anything here.
    pub(super) fn needs_expiry(&self, now: u64) -> bool {
        self.expired_tokens(now).next().is_some() || !self.retired_keys(now).is_empty()
    }

    /// Checks that a row of `new` bytes fits, in place of one of `old` bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED.
    pub(super) fn check_bytes(&self, old: usize, new: usize) -> Result<()> {
        let after = self.bytes.saturating_sub(old as u64) + new as u64;
        if new <= old || after <= MAX_IDENTITY_BYTES {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "users, tokens and grants would have {after} bytes together, more than the limit of {MAX_IDENTITY_BYTES}: remove some, or grant to groups instead of to each user"
        )))
    }

    /// Checks that one more row fits into the cluster's `kind` (a plural), which are `count`.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, naming the limit.
    pub(super) fn check_room(&self, kind: &str, count: usize, row: &impl Message) -> Result<()> {
        if count >= MAX_ROWS {
            return Err(Error::exhausted(format!(
                "the cluster has {count} {kind}, which is the limit: remove some that are not needed"
            )));
        }
        self.check_bytes(0, row.encoded_len())
    }
}

/// Queries.
impl Catalog {
    /// A user by name, with the password's hash.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.identity.users.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.identity.users.values()
    }

    /// A service token by its id.
    pub fn token(&self, id: &str) -> Option<&ServiceToken> {
        self.identity.tokens.get(id)
    }

    /// All service tokens, by id.
    pub fn tokens(&self) -> impl Iterator<Item = &ServiceToken> {
        self.identity.tokens.values()
    }

    /// The service tokens of a user, by id.
    pub fn tokens_of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a ServiceToken> {
        self.identity.tokens_of(user).filter_map(|id| self.identity.tokens.get(id))
    }

    /// All grants, by receiver, role and prefix.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.identity.grants.values()
    }

    /// The grant of a role on a prefix to `user:NAME` or `group:NAME`.
    pub fn grant(&self, to: &str, role: Role, prefix: &[String]) -> Option<&Grant> {
        self.identity.grants.get(&(to.to_string(), role as u32, prefix.to_vec()))
    }

    /// Whether there is a user or a grant: then clients must identify themselves.
    pub fn has_identities(&self) -> bool {
        !self.identity.users.is_empty() || !self.identity.grants.is_empty()
    }

    /// Whether there were users or grants, and none is left: then nobody may do anything, until there is an administrator again.
    pub fn lost_identities(&self) -> bool {
        self.identity.state.closed && !self.has_identities()
    }

    /// The key that signs new session tokens.
    pub fn newest_signing_key(&self) -> Option<&SigningKey> {
        self.identity.keys.values().max_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)))
    }

    /// How often users, tokens, grants, signing keys and ticket keys were changed.
    pub fn identity_epoch(&self) -> u64 {
        self.identity.state.epoch
    }

    /// The newest resets of administrators, the oldest of them first.
    pub fn administrator_resets(&self) -> &[AdministratorReset] {
        &self.identity.state.resets
    }

    /// What members need to identify clients and to check their rights and tickets: no password's hash, no private key.
    /// `closed`: there were users or grants, and none is left.
    pub fn identity_snapshot(&self) -> IdentitySnapshot {
        let user = |user: &User| User { password_hash: String::new(), ..user.clone() };
        let public = |key: &SigningKey| SigningKey { private_key: Bytes::new(), ..key.clone() };
        let ticket_key = self.cluster.iter().map(|cluster| &cluster.ticket_key);
        IdentitySnapshot {
            epoch: self.identity.state.epoch,
            users: self.users().map(user).collect(),
            tokens: self.tokens().cloned().collect(),
            grants: self.grants().cloned().collect(),
            keys: self.identity.keys.values().map(public).collect(),
            closed: self.lost_identities(),
            ticket_keys: ticket_key.chain(self.accepted_ticket_keys()).cloned().collect(),
        }
    }
}

/// Changes.
impl Catalog {
    /// To be called after a change.
    pub(super) fn raise_identity_epoch(&mut self) {
        self.identity.state.epoch += 1;
        self.identity.state.closed |= self.has_identities();
        self.touched.insert(RowKey::Identity);
    }

    /// After a recovery, which may have lost changes.
    pub(super) fn skip_identity_epochs(&mut self) {
        let epoch = &mut self.identity.state.epoch;
        if *epoch != 0 {
            *epoch = epoch.saturating_add(RECOVERY_EPOCHS);
            self.touched.insert(RowKey::Identity);
        }
    }

    pub(super) fn drop_token(&mut self, id: &str) {
        self.touched.insert(RowKey::Token(id.to_string()));
        self.identity.remove_token(id);
    }

    pub(super) fn add_signing_key(&mut self, op: &AddSigningKey, now: u64) -> Result<reply::Reply> {
        let key = op.key.as_ref().ok_or_else(|| Error::invalid("the command has no signing key"))?;
        if key.id.is_empty() || key.id.len() > 128 || key.id.contains('\0') || key.public_key.len() != 32 {
            return Err(Error::invalid("the signing key has no valid id, or its public key is not 32 bytes long"));
        }
        let newest = self.newest_signing_key();
        let is_recent = newest.is_some_and(|newest| now.saturating_sub(newest.created_ms) < op.older_than_ms);
        // Two leaders, one after the other, may both have found that a key is due.
        if is_recent || self.identity.keys.contains_key(&key.id) {
            return Ok(done());
        }
        if self.identity.keys.len() >= MAX_SIGNING_KEYS && !op.revoke_others {
            return Err(Error::exhausted(format!(
                "the cluster has {MAX_SIGNING_KEYS} signing keys, which is the limit: wait until old ones have expired"
            )));
        }
        // Of two keys of one millisecond the later one is to sign.
        let created_ms = newest.map_or(now, |newest| now.max(newest.created_ms.saturating_add(1)));
        if op.revoke_others {
            let others: Vec<String> = self.identity.keys.keys().cloned().collect();
            others.into_iter().for_each(|id| self.drop_signing_key(id));
        }
        self.touched.insert(RowKey::SigningKey(key.id.clone()));
        self.identity.insert_key(SigningKey { created_ms, ..key.clone() });
        self.raise_identity_epoch();
        Ok(done())
    }

    /// Removes tokens and signing keys whose time has passed.
    pub(super) fn expire_identity(&mut self, now: u64) {
        let tokens: Vec<String> = self.identity.expired_tokens(now).map(str::to_string).collect();
        let keys = self.identity.retired_keys(now);
        if tokens.is_empty() && keys.is_empty() {
            return;
        }
        tokens.iter().for_each(|id| self.drop_token(id));
        keys.into_iter().for_each(|id| self.drop_signing_key(id));
        self.raise_identity_epoch();
    }

    fn drop_signing_key(&mut self, id: String) {
        self.identity.remove_key(&id);
        self.touched.insert(RowKey::SigningKey(id));
    }
}
