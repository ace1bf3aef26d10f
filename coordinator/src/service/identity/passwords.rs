//! Changes of passwords: by an administrator, or by the user itself, who proves that it knows the present one.

use serde_json::{Value, json};
use volley_common::identity::{Access, LoginMethod, Secret, hash_password};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{PutUserMode, RevokeToken, Role};
use volley_common::{Code, Error, Result};

use super::{IdentityService, require_self};

/// A password to set.
pub struct PasswordChange {
    /// The user's name.
    pub user: String,
    /// The new password.
    pub password: Secret,
    /// The present one: only administrators need not give it.
    pub old_password: Option<Secret>,
    /// Whether the user's service tokens are revoked too. `None`: if it is the caller's own password.
    pub revoke_tokens: Option<bool>,
}

impl IdentityService {
    /// Sets the password of a user, which ends its sessions, and revokes its service tokens if that is asked for. For the user
    /// itself and for administrators: `{"user", "revoked_tokens"}`, with the number of revoked tokens.
    ///
    /// # Errors
    /// PERMISSION_DENIED: another user's, the caller has only a service token, or the old password is wrong. INVALID_ARGUMENT: the
    /// new password, or no old one. NOT_FOUND: no such user. RESOURCE_EXHAUSTED: too many wrong passwords.
    pub async fn set_password(&self, access: &Access, change: PasswordChange) -> Result<Value> {
        let PasswordChange { user, password, old_password, revoke_tokens } = change;
        if access.require_cluster(Role::Admin).is_err() {
            require_self(access, &user)?;
            // Who got hold of a token must not get the account with it.
            if access.principal().is_some_and(|principal| principal.method == LoginMethod::ServiceToken) {
                return Err(Error::denied(format!(
                    "a service token cannot change the password of its user {user:?}: log in with the password"
                )));
            }
            let old = old_password.ok_or_else(|| {
                Error::invalid(
                    "\"old_password\" is missing: only an administrator sets a password without the present one",
                )
            })?;
            self.login.confirm_password(&user, &old, access.client_address().unwrap_or_default()).await?;
        }
        // Hashing is expensive: not for a typing error.
        if self.raft.read().await?.user(&user).is_none() {
            return Err(Error::not_found(format!("there is no user {user:?}: `volley user ls` lists the users")));
        }
        let password_hash = hash_password(password).await?;
        self.put_user(self.user_row(&user, password_hash), PutUserMode::Password).await?;
        tracing::info!(user, "the password of a user was set");
        let is_own = access.principal().is_some_and(|principal| principal.name == user);
        let revoked = if revoke_tokens.unwrap_or(is_own) { self.revoke_tokens_of(&user).await? } else { 0 };
        Ok(json!({ "user": user, "revoked_tokens": revoked }))
    }

    /// How many service tokens of a user were revoked: all.
    async fn revoke_tokens_of(&self, user: &str) -> Result<usize> {
        let half_done = |e: Error| e.at("the password was set, but not all service tokens are revoked");
        let ids: Vec<String> = {
            let catalog = self.raft.read().await.map_err(half_done)?;
            catalog.tokens_of(user).map(|token| token.id.clone()).collect()
        };
        for id in &ids {
            match self.raft.propose(Op::RevokeToken(RevokeToken { id: id.clone() })).await {
                Ok(_) => tracing::info!(id, "a service token was revoked"),
                // It has expired, or was revoked meanwhile.
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => return Err(half_done(error)),
            }
        }
        Ok(ids.len())
    }
}
