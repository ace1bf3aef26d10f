//! Users, service tokens, grants and quotas: what administrators, owners of prefixes and users themselves change and list.
//!
//! What each call requires is in the table of `coordinator/src/flight/rights.rs`. Here is what depends on whose user or token it is, and on the prefix.

mod grants;
mod passwords;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};
use volley_common::identity::{
    Access, Authenticator, LoginMethod, Secret, check_principal_name, hash_password, new_service_token,
    split_service_token,
};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    CreateToken, PutUser, PutUserMode, Quota, RemoveUser, RevokeToken, Role, ServiceToken, SetQuota, User,
};
use volley_common::{Error, Result};

pub use self::grants::GrantRequest;
pub use self::passwords::PasswordChange;
use super::login::LoginService;
use crate::raft::Handle;

/// The longest life of a service token, seconds: ten years.
const MAX_TOKEN_S: u64 = 10 * 365 * 24 * 3600;

/// Users, service tokens, grants and quotas. Cheap to clone.
#[derive(Clone)]
pub struct IdentityService {
    raft: Handle,
    authenticator: Authenticator,
    login: LoginService,
}

impl IdentityService {
    /// Works on this catalog. `authenticator` has the directory by which a caller's own grants are listed; `login` verifies the
    /// password of who changes it.
    pub fn new(raft: Handle, authenticator: Authenticator, login: LoginService) -> Self {
        IdentityService { raft, authenticator, login }
    }

    /// Creates a user, with a password or without: then it can only have service tokens. `{"user"}`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a name or the password. ALREADY_EXISTS. FAILED_PRECONDITION: the cluster has no administrator yet.
    pub async fn create_user(&self, name: &str, password: Option<Secret>, groups: Vec<String>) -> Result<Value> {
        check_principal_name(name).map_err(|e| e.at("the user"))?;
        // Hashing is expensive: not for a user that the catalog would refuse.
        if password.is_some() && self.raft.read().await?.user(name).is_some() {
            return Err(Error::exists(format!(
                "user {name:?} exists already: set its password or its groups, or remove it first"
            )));
        }
        let password_hash = match password {
            Some(password) => hash_password(password).await?,
            None => String::new(),
        };
        let user = User { groups, ..self.user_row(name, password_hash) };
        self.put_user(user, PutUserMode::Create).await?;
        tracing::info!(user = name, "a user was created");
        Ok(json!({ "user": name }))
    }

    /// Replaces the groups of a user: `{"user", "groups"}`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a name. NOT_FOUND: no such user.
    pub async fn set_groups(&self, name: &str, groups: Vec<String>) -> Result<Value> {
        let user = User { groups: groups.clone(), ..self.user_row(name, String::new()) };
        self.put_user(user, PutUserMode::Groups).await?;
        Ok(json!({ "user": name, "groups": groups }))
    }

    /// Removes a user, with its tokens and the grants to it: `{"user", "removed"}`.
    ///
    /// # Errors
    /// NOT_FOUND: no such user. FAILED_PRECONDITION: it is the last administrator.
    pub async fn remove_user(&self, name: &str) -> Result<Value> {
        self.raft.propose(Op::RemoveUser(RemoveUser { name: name.to_string() })).await?;
        tracing::info!(user = name, "a user was removed");
        Ok(json!({ "user": name, "removed": true }))
    }

    fn user_row(&self, name: &str, password_hash: String) -> User {
        let now_ms = self.raft.now_ms();
        User {
            name: name.to_string(),
            password_hash,
            created_ms: now_ms,
            changed_ms: now_ms,
            // 0 is that of no user.
            generation: rand::random_range(1..=u64::MAX),
            ..User::default()
        }
    }

    async fn put_user(&self, user: User, mode: PutUserMode) -> Result<()> {
        self.raft.propose(Op::PutUser(PutUser { user: Some(user), mode: mode as i32 })).await?;
        Ok(())
    }

    /// All users by name: `[{"user", "groups", "has_password", "created_ms", "tokens"}]`, with the number of its tokens.
    ///
    /// # Errors
    /// UNAVAILABLE: no leader.
    pub async fn list_users(&self) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let one = |user: &User| {
            json!({
                "user": user.name,
                "groups": user.groups,
                "has_password": !user.password_hash.is_empty(),
                "created_ms": user.created_ms,
                "tokens": catalog.tokens_of(&user.name).count(),
            })
        };
        Ok(catalog.users().map(one).collect())
    }

    /// Creates a service token of a user: the caller's own, or for administrators any user's. The reply has the token, which is
    /// never shown again: `{"id", "token", "expires_ms"}`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: its name, or how long it lives. NOT_FOUND: the user is not in the catalog. PERMISSION_DENIED: another
    /// user's, or the caller has only a service token.
    pub async fn create_token(&self, access: &Access, user: Option<&str>, name: &str, ttl_s: u64) -> Result<Value> {
        let user = owner_of(access, user)?;
        // Otherwise a stolen token could be exchanged for others, which its revocation does not end.
        let by_token = access.principal().is_some_and(|principal| principal.method == LoginMethod::ServiceToken);
        if by_token && access.require_cluster(Role::Admin).is_err() {
            return Err(Error::denied(format!(
                "a service token creates no others: log in with the password of {user:?}, or ask an administrator"
            )));
        }
        if !(1..=MAX_TOKEN_S).contains(&ttl_s) {
            return Err(Error::invalid(format!(
                "\"ttl_s\" is {ttl_s}: give the token a life of 1 to {MAX_TOKEN_S} seconds"
            )));
        }
        if !name.is_empty() {
            check_principal_name(name).map_err(|e| e.at("the token"))?;
        }
        let (row, token) = new_service_token(user, name, self.raft.now_ms(), ttl_s * 1000);
        let reply = json!({ "id": row.id, "token": token.expose(), "expires_ms": row.expires_ms });
        tracing::info!(user, id = row.id, "a service token was created");
        self.raft.propose(Op::CreateToken(CreateToken { token: Some(row) })).await?;
        Ok(reply)
    }

    /// The service tokens of a user, by id; without one those of all users for administrators, for others their own:
    /// `[{"id", "user", "name", "created_ms", "expires_ms"}]`.
    ///
    /// # Errors
    /// PERMISSION_DENIED: another user's.
    pub async fn list_tokens(&self, access: &Access, user: Option<&str>) -> Result<Value> {
        let of = match user {
            None if access.require_cluster(Role::Admin).is_ok() => None,
            user => Some(owner_of(access, user)?),
        };
        let catalog = self.raft.read().await?;
        let one = |token: &ServiceToken| {
            json!({
                "id": token.id,
                "user": token.user,
                "name": token.name,
                "created_ms": token.created_ms,
                "expires_ms": token.expires_ms,
            })
        };
        Ok(catalog.tokens().filter(|token| of.is_none_or(|of| token.user == of)).map(one).collect())
    }

    /// Revokes a service token, and with it the sessions that were begun by it: `{"id", "revoked"}`.
    ///
    /// # Errors
    /// NOT_FOUND: no such token, or another user's.
    pub async fn revoke_token(&self, access: &Access, id: &str) -> Result<Value> {
        // Of a whole token only the id is kept: no error and no log repeats the rest.
        let id = split_service_token(id).map_or(id, |(id, _)| id);
        if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::invalid(
                "the \"id\" of a service token has 16 hexadecimal digits: `volley token ls` lists them",
            ));
        }
        if access.require_cluster(Role::Admin).is_err() {
            let user = self.raft.read().await?.token(id).map(|token| token.user.clone());
            if user.is_none_or(|user| user != access.name()) {
                return Err(Error::not_found(format!(
                    "{:?} has no service token {id:?}: `volley token ls` lists them",
                    access.name()
                )));
            }
        }
        self.raft.propose(Op::RevokeToken(RevokeToken { id: id.to_string() })).await?;
        tracing::info!(id, "a service token was revoked");
        Ok(json!({ "id": id, "revoked": true }))
    }

    /// Limits the tables of a prefix together; without both limits the quota is removed: `{"prefix", "bytes", "tables"}`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a limit of 0. NOT_FOUND: there is no quota to remove. RESOURCE_EXHAUSTED: too many quotas.
    pub async fn set_quota(&self, prefix: Vec<String>, bytes: Option<u64>, tables: Option<u32>) -> Result<Value> {
        if bytes == Some(0) || tables == Some(0) {
            return Err(Error::invalid(
                "a quota is at least 1: leave a limit out if there is none, and both to remove the quota",
            ));
        }
        let is_removal = bytes.is_none() && tables.is_none();
        if is_removal && !self.raft.read().await?.quotas().any(|usage| usage.quota.prefix == prefix) {
            return Err(Error::not_found(format!(
                "there is no quota of {}: `volley quota ls` lists the quotas",
                prefix_text(&prefix)
            )));
        }
        let reply = json!({ "prefix": prefix_text(&prefix), "bytes": bytes, "tables": tables });
        let quota = Quota { prefix, bytes: bytes.unwrap_or_default(), tables: tables.unwrap_or_default() };
        tracing::info!(quota = %reply, "a quota was set");
        self.raft.propose(Op::SetQuota(SetQuota { quota: Some(quota) })).await?;
        Ok(reply)
    }

    /// The quotas of prefixes that begin with `prefix`: `[{"prefix", "bytes", "tables", "bytes_used", "tables_used"}]`; null: not
    /// limited.
    ///
    /// # Errors
    /// UNAVAILABLE: no leader.
    pub async fn list_quotas(&self, prefix: &[String]) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let below = catalog.quotas().filter(|usage| usage.quota.prefix.starts_with(prefix));
        let quotas = below.map(|usage| {
            json!({
                "prefix": prefix_text(&usage.quota.prefix),
                "bytes": Some(usage.quota.bytes).filter(|bytes| *bytes > 0),
                "tables": Some(usage.quota.tables).filter(|tables| *tables > 0),
                "bytes_used": usage.bytes,
                "tables_used": usage.tables,
            })
        });
        Ok(quotas.collect())
    }
}

/// The user that a request is for: the one that it names, or the caller.
///
/// # Errors
/// PERMISSION_DENIED: it is another user, and the caller is no administrator. INVALID_ARGUMENT: it names none, and the cluster is
/// open.
fn owner_of<'a>(access: &'a Access, user: Option<&'a str>) -> Result<&'a str> {
    let user = user.unwrap_or_else(|| access.name());
    if user.is_empty() {
        return Err(Error::invalid("nobody is logged in, because the cluster has no users: name the \"user\""));
    }
    if access.require_cluster(Role::Admin).is_err() {
        require_self(access, user)?;
    }
    Ok(user)
}

/// Checks that the caller is a user.
fn require_self(access: &Access, user: &str) -> Result<()> {
    access.require_identity()?;
    if access.principal().is_some_and(|principal| principal.name == user) {
        return Ok(());
    }
    Err(Error::denied(format!(
        "{:?} may do this for itself only, and {user:?} is another user: an administrator can do it",
        access.name()
    )))
}

/// A prefix as text: `/` for the whole cluster, else its components.
pub fn prefix_text(prefix: &[String]) -> String {
    if prefix.is_empty() { "/".into() } else { prefix.join("/") }
}
