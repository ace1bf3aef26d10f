//! Commands that change users and service tokens.

use prost::Message;
use volley_common::identity::check_principal_name;
use volley_common::wire::catalog::{
    AdministratorReset, CreateToken, Grant, PutUser, PutUserMode, RemoveUser, ResetAdministrator, RevokeToken, Role,
    ServiceToken, User, reply,
};
use volley_common::{Error, Result};

use super::apply::done;
use super::identity::GrantKey;
use super::{Catalog, RowKey};

/// Maximum number of groups of a user.
const MAX_GROUPS: usize = 1_000;
/// Maximum number of service tokens of a user: a user can create its own, and must not use up those of all.
const MAX_TOKENS_OF_USER: usize = 1_000;
/// Maximum bytes of a password's hash in the PHC format; argon2id's have about 100.
const MAX_HASH_BYTES: usize = 1_024;

impl Catalog {
    pub(super) fn put_user(&mut self, op: &PutUser, now: u64) -> Result<reply::Reply> {
        let user = checked_user(op.user.as_ref())?;
        match PutUserMode::try_from(op.mode) {
            Ok(PutUserMode::Create) => self.create_user(user, now),
            Ok(PutUserMode::Bootstrap) => self.create_first_administrator(user, now),
            Ok(PutUserMode::Password) => {
                let old = self.require_user(&user.name)?.clone();
                self.change_user(User { password_hash: user.password_hash, generation: user.generation, ..old }, now)
            }
            Ok(PutUserMode::Groups) => {
                let old = self.require_user(&user.name)?.clone();
                self.change_user(User { groups: user.groups, ..old }, now)
            }
            Err(_) => Err(Error::unimplemented("the command comes from a newer version: upgrade this coordinator")),
        }
    }

    fn create_user(&mut self, user: User, now: u64) -> Result<reply::Reply> {
        if let Some(old) = self.user(&user.name) {
            return match is_repeated(old, &user) {
                true => Ok(done()),
                false => Err(Error::exists(format!(
                    "user {:?} exists already: set its password or its groups, or remove it first",
                    user.name
                ))),
            };
        }
        self.require_administrator(&format!("user {:?}", user.name))?;
        self.identity.check_room("users", self.identity.users.len(), &user)?;
        self.upsert_user(User { created_ms: now, changed_ms: now, ..user });
        self.raise_identity_epoch();
        Ok(done())
    }

    fn create_first_administrator(&mut self, user: User, now: u64) -> Result<reply::Reply> {
        if self.has_identities() {
            return Err(Error::precondition(format!(
                "user {:?} cannot be created as the first administrator: the cluster has users or grants already",
                user.name
            )));
        }
        if user.password_hash.is_empty() {
            return Err(Error::invalid(format!("the first administrator, {:?}, needs a password", user.name)));
        }
        let grant = administrator_grant(&user.name, "bootstrap", now);
        self.upsert_user(User { created_ms: now, changed_ms: now, ..user });
        self.upsert_grant(grant);
        self.raise_identity_epoch();
        Ok(done())
    }

    /// Makes a user an administrator with a new password. The limits of rows and bytes do not hold: who has filled the catalog
    /// must not keep its operator out.
    pub(super) fn reset_administrator(&mut self, op: &ResetAdministrator, now: u64) -> Result<reply::Reply> {
        let user = checked_user(op.user.as_ref())?;
        if user.password_hash.is_empty() || user.generation == 0 {
            return Err(Error::invalid(format!("the administrator {:?} needs a password and a generation", user.name)));
        }
        let newest = self.administrator_resets().last().map_or(0, |reset| reset.generation);
        // A repeated command.
        if newest == user.generation {
            return Ok(done());
        }
        if newest != op.after {
            return Err(Error::aborted(
                "another coordinator has reset an administrator at the same time: look whether it was by the same file, and try again",
            ));
        }
        let grant = administrator_grant(&user.name, "reset", now);
        if self.grant(&grant.to, Role::Admin, &[]).is_none() {
            self.upsert_grant(grant);
        }
        let old = self.user(&user.name);
        let created_ms = old.map_or(now, |old| old.created_ms);
        let groups = old.map(|old| old.groups.clone()).unwrap_or_default();
        self.identity.record_reset(AdministratorReset {
            user: user.name.clone(),
            password_hash: user.password_hash.clone(),
            generation: user.generation,
            at_ms: now,
        });
        self.upsert_user(User { created_ms, changed_ms: now, groups, ..user });
        self.raise_identity_epoch();
        Ok(done())
    }

    /// Replaces the row of an existing user, if the new one differs.
    fn change_user(&mut self, user: User, now: u64) -> Result<reply::Reply> {
        let old = self.require_user(&user.name)?;
        if *old == user {
            return Ok(done());
        }
        self.identity.check_bytes(old.encoded_len(), user.encoded_len())?;
        self.upsert_user(User { changed_ms: now, ..user });
        self.raise_identity_epoch();
        Ok(done())
    }

    pub(super) fn remove_user(&mut self, op: &RemoveUser) -> Result<reply::Reply> {
        self.require_user(&op.name)?;
        let to = format!("user:{}", op.name);
        let grants: Vec<GrantKey> = self.identity.grants_to(&to).cloned().collect();
        self.check_administrator_left(&to, &grants, 1)?;
        let tokens: Vec<String> = self.identity.tokens_of(&op.name).map(str::to_string).collect();
        tokens.iter().for_each(|id| self.drop_token(id));
        grants.into_iter().for_each(|key| self.drop_grant(key));
        self.identity.remove_user(&op.name);
        self.touched.insert(RowKey::User(op.name.clone()));
        self.raise_identity_epoch();
        Ok(done())
    }

    pub(super) fn create_token(&mut self, op: &CreateToken, now: u64) -> Result<reply::Reply> {
        let token = checked_token(op.token.as_ref())?;
        self.require_user(&token.user)?;
        if let Some(old) = self.token(&token.id) {
            return match *old == (ServiceToken { created_ms: old.created_ms, ..token }) {
                true => Ok(done()),
                false => Err(Error::exists("there is a service token with this id already: create another one")),
            };
        }
        if token.expires_ms <= now {
            return Err(Error::invalid(format!(
                "the service token for user {:?} would have expired already: give it a time to live, and check the clocks of the coordinators",
                token.user
            )));
        }
        let of_user = self.identity.tokens_of(&token.user).count();
        if of_user >= MAX_TOKENS_OF_USER {
            return Err(Error::exhausted(format!(
                "user {:?} has {of_user} service tokens, which is the limit: revoke some",
                token.user
            )));
        }
        self.identity.check_room("service tokens", self.identity.tokens.len(), &token)?;
        self.touched.insert(RowKey::Token(token.id.clone()));
        self.identity.insert_token(ServiceToken { created_ms: now, ..token });
        self.raise_identity_epoch();
        Ok(done())
    }

    pub(super) fn revoke_token(&mut self, op: &RevokeToken) -> Result<reply::Reply> {
        if self.token(&op.id).is_none() {
            return Err(Error::not_found(format!(
                "there is no service token {:?}: it was revoked, has expired, or never was one; `volley token ls` lists those that there are",
                op.id
            )));
        }
        self.drop_token(&op.id);
        self.raise_identity_epoch();
        Ok(done())
    }

    fn require_user(&self, name: &str) -> Result<&User> {
        self.user(name)
            .ok_or_else(|| Error::not_found(format!("there is no user {name:?}: `volley user ls` lists the users")))
    }

    fn upsert_user(&mut self, user: User) {
        self.touched.insert(RowKey::User(user.name.clone()));
        self.identity.insert_user(user);
    }
}

/// The role of administrator for a user.
fn administrator_grant(user: &str, by: &str, now: u64) -> Grant {
    Grant {
        to: format!("user:{user}"),
        role: Role::Admin as i32,
        created_ms: now,
        granted_by: by.into(),
        ..Grant::default()
    }
}

/// Whether a command that creates a user was applied before: its random generation proves it.
fn is_repeated(old: &User, new: &User) -> bool {
    new.generation != 0
        && (old.generation, &old.password_hash, &old.groups) == (new.generation, &new.password_hash, &new.groups)
}

/// The user of a command, with its groups in order, each once.
///
/// # Errors
/// INVALID_ARGUMENT: a name that no user or group can have, or something that is no hash. RESOURCE_EXHAUSTED: too many groups.
fn checked_user(user: Option<&User>) -> Result<User> {
    let mut user = user.ok_or_else(|| Error::invalid("the command has no user"))?.clone();
    check_principal_name(&user.name)?;
    user.groups.sort_unstable();
    user.groups.dedup();
    if user.groups.len() > MAX_GROUPS {
        return Err(Error::exhausted(format!(
            "user {:?} would be in {} groups, more than the limit of {MAX_GROUPS}",
            user.name,
            user.groups.len()
        )));
    }
    for group in &user.groups {
        check_principal_name(group).map_err(|e| e.at(format_args!("a group of user {:?}", user.name)))?;
    }
    if user.password_hash.len() > MAX_HASH_BYTES {
        return Err(Error::invalid(format!("the password's hash of user {:?} is too long", user.name)));
    }
    Ok(user)
}

/// The token of a command.
///
/// # Errors
/// INVALID_ARGUMENT: an id, a name or a hash of the secret that no token can have.
fn checked_token(token: Option<&ServiceToken>) -> Result<ServiceToken> {
    let token = token.ok_or_else(|| Error::invalid("the command has no service token"))?.clone();
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if token.id.len() != 16 || !token.id.bytes().all(is_digit) || token.secret_sha256.len() != 32 {
        return Err(Error::invalid("a service token has an id of 16 hexadecimal digits and a hash of 32 bytes"));
    }
    if !token.name.is_empty() {
        check_principal_name(&token.name).map_err(|e| e.at("the name of the service token"))?;
    }
    Ok(token)
}
