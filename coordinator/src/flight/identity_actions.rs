//! The actions on users, service tokens, grants and quotas.

use arrow_flight::Action;
use volley_common::Result;
use volley_common::identity::split_service_token;

use super::action_bodies::{ActionReply, EmptyBody, parse};
use super::call_context::CallContext;
use super::identity_bodies::{
    CreateTokenBody, CreateUserBody, GrantBody, ListGrantsBody, ListTokensBody, PrefixBody, RemoveUserBody,
    RevokeTokenBody, SetGroupsBody, SetPasswordBody, SetQuotaBody, parse_with_password,
};
use crate::planner::catalog_limits::CatalogLimits;
use crate::service::identity::{GrantRequest, IdentityService, prefix_text};

/// Names and descriptions of these actions.
pub const ACTIONS: [(&str, &str); 14] = [
    ("create_user", r#"Create a user: {"user", "password", "groups"}; without a password it can only have tokens"#),
    (
        "set_password",
        r#"Set a user's password as an administrator, {"user", "password", "revoke_tokens"}, or one's own, which needs "old_password" too, and revokes one's service tokens unless "revoke_tokens" is false"#,
    ),
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
        r#"Grant a role on the tables of a prefix: {"role": reader, writer, owner, operator or admin, "prefix", "to": user:NAME or group:NAME, "columns": only for a reader} -> {"warnings", ...}"#,
    ),
    ("revoke", r#"Revoke a role: {"role", "prefix", "to"}"#),
    (
        "list_grants",
        r#"The grants that one may see, all or those that concern a prefix: {"prefix"}, or that a user or group has: {"of": user:NAME or group:NAME}"#,
    ),
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
pub async fn run(
    service: &IdentityService,
    limits: &CatalogLimits,
    action: &Action,
    call: &CallContext,
) -> Result<ActionReply> {
    let (name, body, access) = (action.r#type.as_str(), &action.body[..], call.access());
    let value = match name {
        "create_user" => {
            let create: CreateUserBody = parse_with_password(name, body)?;
            call.note_target(&create.user);
            let password = create.password();
            service.create_user(&create.user, password, create.groups).await?
        }
        "set_password" => {
            let set: SetPasswordBody = parse_with_password(name, body)?;
            call.note_target(&set.user);
            service.set_password(access, set.into_change()).await?
        }
        "set_groups" => {
            let set: SetGroupsBody = parse(name, body)?;
            call.note_target(&set.user);
            service.set_groups(&set.user, set.groups).await?
        }
        "remove_user" => {
            let remove: RemoveUserBody = parse(name, body)?;
            call.note_target(&remove.user);
            service.remove_user(&remove.user).await?
        }
        "list_users" => {
            let EmptyBody {} = parse(name, body)?;
            service.list_users().await?
        }
        "create_token" => {
            let create: CreateTokenBody = parse(name, body)?;
            let user = create.user.as_deref();
            let created = service.create_token(access, user, &create.name, create.ttl_s).await;
            let id = created.as_ref().ok().and_then(|created| created["id"].as_str()).unwrap_or_default();
            call.note_target(format!("{} {id}", user.unwrap_or(access.name())).trim_end());
            created?
        }
        "list_tokens" => service.list_tokens(access, parse::<ListTokensBody>(name, body)?.user.as_deref()).await?,
        "revoke_token" => {
            let revoke: RevokeTokenBody = parse(name, body)?;
            call.note_target(token_id(&revoke.id));
            service.revoke_token(access, &revoke.id).await?
        }
        "grant" => {
            let request = parse::<GrantBody>(name, body)?.to_grant()?;
            note_grant(call, &request);
            service.grant(access, request).await?
        }
        "revoke" => {
            let request = parse::<GrantBody>(name, body)?.to_revoke()?;
            note_grant(call, &request);
            service.revoke(access, request).await?
        }
        "list_grants" => {
            let list: ListGrantsBody = parse(name, body)?;
            service.list_grants(access, &list.prefix()?, list.of.as_deref()).await?
        }
        "whoami" => {
            let EmptyBody {} = parse(name, body)?;
            service.whoami(access)
        }
        "set_quota" => {
            let quota: SetQuotaBody = parse(name, body)?;
            let prefix = quota.prefix()?;
            call.note_table(&prefix);
            call.note_target(&prefix_text(&prefix));
            service.set_quota(prefix, quota.bytes, quota.tables).await?
        }
        _ => service.list_quotas(&parse::<PrefixBody>(name, body)?.prefix()?).await?,
    };
    if let Some(rows) = value.as_array() {
        let narrower = match name {
            "list_grants" | "list_quotas" => "list those of a prefix: {\"prefix\": \"sales/\"}",
            "list_tokens" => "list those of a user: {\"user\": NAME}",
            _ => "raise the limit",
        };
        limits.check_rows("rows", rows.len(), narrower)?;
    }
    Ok(ActionReply::json(&value))
}

/// Notes for the audit log what is granted, or revoked, and to whom.
fn note_grant(call: &CallContext, request: &GrantRequest) {
    call.note_table(&request.prefix);
    let (role, prefix) = (request.role.name(), prefix_text(&request.prefix));
    call.note_target(&format!("{role} {prefix} {}", request.to));
}

/// The id of a service token, for the audit log. Some send whole tokens, and other secrets by mistake: these are not recorded.
fn token_id(text: &str) -> &str {
    let id = split_service_token(text).map_or(text, |(id, _)| id);
    if id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id } else { "" }
}
