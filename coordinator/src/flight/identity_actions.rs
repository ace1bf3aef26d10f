//! The actions on users, service tokens, grants and quotas.

use arrow_flight::Action;
use volley_common::Result;

use super::action_bodies::{ActionReply, EmptyBody, parse};
use super::call_context::CallContext;
use super::identity_bodies::{
    CreateTokenBody, CreateUserBody, GrantBody, ListTokensBody, PrefixBody, RemoveUserBody, RevokeTokenBody,
    SetGroupsBody, SetPasswordBody, SetQuotaBody, parse_with_password,
};
use crate::service::identity::IdentityService;

/// Names and descriptions of these actions.
pub const ACTIONS: [(&str, &str); 14] = [
    ("create_user", r#"Create a user: {"user", "password", "groups"}; without a password it can only have tokens"#),
    ("set_password", r#"Set a user's password, one's own or as an administrator: {"user", "password"}"#),
    ("set_groups", r#"Replace a user's groups: {"user", "groups"}"#),
    ("remove_user", r#"Remove a user with its tokens and the grants to it: {"user"}"#),
    ("list_users", "All users, as JSON"),
    (
        "create_token",
        r#"Create a service token, which is shown once: {"user", "ttl_s", "name"} -> {"id", "token", "expires_ms"}"#,
    ),
    ("list_tokens", r#"Service tokens: of one user, {"user"}, or all that one may see"#),
    ("revoke_token", r#"Revoke a service token: {"id"}"#),
    (
        "grant",
        r#"Grant a role on the tables of a prefix: {"role": reader, writer, owner, operator or admin, "prefix", "to": user:NAME or group:NAME, "columns": only for a reader}"#,
    ),
    ("revoke", r#"Revoke a role: {"role", "prefix", "to"} -> {"revoked"}"#),
    ("list_grants", r#"The grants that one may see, all or those that concern a prefix: {"prefix"}"#),
    ("whoami", "Who calls, and what it may do, as JSON"),
    (
        "set_quota",
        r#"Limit the tables of a prefix: {"prefix", "bytes", "tables"}; without limits the quota is removed"#,
    ),
    ("list_quotas", r#"Quotas and what is used of them, all or below a prefix: {"prefix"}"#),
];

/// Runs one of [`ACTIONS`].
///
/// # Errors
/// INVALID_ARGUMENT: an invalid body. Errors of the action.
pub async fn run(service: &IdentityService, action: &Action, call: &CallContext) -> Result<ActionReply> {
    let (name, body, access) = (action.r#type.as_str(), &action.body[..], call.access());
    let value = match name {
        "create_user" => {
            let create: CreateUserBody = parse_with_password(name, body)?;
            let password = create.password();
            service.create_user(&create.user, password, create.groups).await?
        }
        "set_password" => {
            let set: SetPasswordBody = parse_with_password(name, body)?;
            service.set_password(access, &set.user, set.password()).await?
        }
        "set_groups" => {
            let set: SetGroupsBody = parse(name, body)?;
            service.set_groups(&set.user, set.groups).await?
        }
        "remove_user" => service.remove_user(&parse::<RemoveUserBody>(name, body)?.user).await?,
        "list_users" => {
            let EmptyBody {} = parse(name, body)?;
            service.list_users().await?
        }
        "create_token" => {
            let create: CreateTokenBody = parse(name, body)?;
            service.create_token(access, create.user.as_deref(), &create.name, create.ttl_s).await?
        }
        "list_tokens" => service.list_tokens(access, parse::<ListTokensBody>(name, body)?.user.as_deref()).await?,
        "revoke_token" => service.revoke_token(access, &parse::<RevokeTokenBody>(name, body)?.id).await?,
        "grant" => {
            let request = parse::<GrantBody>(name, body)?.to_grant()?;
            call.note_table(&request.prefix);
            service.grant(access, request).await?
        }
        "revoke" => {
            let request = parse::<GrantBody>(name, body)?.to_revoke()?;
            call.note_table(&request.prefix);
            service.revoke(access, request).await?
        }
        "list_grants" => service.list_grants(access, &parse::<PrefixBody>(name, body)?.prefix()?).await?,
        "whoami" => {
            let EmptyBody {} = parse(name, body)?;
            service.whoami(access)
        }
        "set_quota" => {
            let quota: SetQuotaBody = parse(name, body)?;
            let prefix = quota.prefix()?;
            call.note_table(&prefix);
            service.set_quota(prefix, quota.bytes, quota.tables).await?
        }
        _ => service.list_quotas(&parse::<PrefixBody>(name, body)?.prefix()?).await?,
    };
    Ok(ActionReply::json(&value))
}
