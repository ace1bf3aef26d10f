//! Grants: who makes and revokes them, and who sees which.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};
use volley_common::identity::{Access, Principal, check_receiver};
use volley_common::ipc::schema::parse_schema;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{Grant, PutGrant, RemoveGrant, Role};
use volley_common::{Code, Error, Result};

use super::{IdentityService, prefix_text};
use crate::catalog::Catalog;

/// The most tables whose columns are compared with those of a grant.
const MAX_COMPARED: usize = 10_000;

/// A grant to make or to revoke.
pub struct GrantRequest {
    /// The role.
    pub role: Role,
    /// The components of the prefix; none: the whole cluster.
    pub prefix: Vec<String>,
    /// `user:NAME` or `group:NAME`.
    pub to: String,
    /// The columns that a reader sees; empty: all.
    pub columns: Vec<String>,
}

impl IdentityService {
    /// Grants a role on a prefix: `{"role", "prefix", "to", "columns", "warnings"}`. A grant may precede its tables, so columns that
    /// no table below the prefix has are granted, with a warning, once there are tables.
    ///
    /// # Errors
    /// PERMISSION_DENIED: the caller does not own the prefix. INVALID_ARGUMENT: what such a grant cannot have. FAILED_PRECONDITION:
    /// the cluster has no administrator yet.
    pub async fn grant(&self, access: &Access, request: GrantRequest) -> Result<Value> {
        let GrantRequest { role, prefix, to, columns } = request;
        access.require_grant(&prefix, role)?;
        let mut reply = json!({ "role": role.name(), "prefix": prefix_text(&prefix), "to": to, "columns": columns });
        let (created_ms, granted_by) = (self.raft.now_ms(), access.name().to_string());
        let compared = (prefix.clone(), columns.clone());
        let grant = Grant { to, role: role as i32, prefix, columns, created_ms, granted_by };
        let by = grant.granted_by.clone();
        self.raft.propose(Op::PutGrant(PutGrant { grant: Some(grant) })).await?;
        tracing::info!(grant = %reply, by, "a role was granted");
        // The grant is made, whatever becomes of the comparison.
        let (prefix, columns) = compared;
        let warning = match self.columns_warning(&prefix, columns).await {
            Ok(warning) => warning,
            Err(error) => Some(format!("the columns could not be compared with those of the tables: {error}")),
        };
        reply["warnings"] = warning.into_iter().collect::<Vec<_>>().into();
        Ok(reply)
    }

    /// Names the columns that no table below a prefix has, if there are tables.
    async fn columns_warning(&self, prefix: &[String], columns: Vec<String>) -> Result<Option<String>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let schemas: Vec<Bytes> = {
            let catalog = self.raft.read().await?;
            let below = catalog.tables().filter(|table| table.name.starts_with(prefix));
            below.take(MAX_COMPARED + 1).map(|table| table.schema.clone()).collect()
        };
        let prefix = prefix_text(prefix);
        if schemas.len() > MAX_COMPARED {
            return Ok(Some(format!(
                "more than {MAX_COMPARED} tables are below {prefix}, so the columns were not compared with theirs: look at one by `volley info`"
            )));
        }
        if schemas.is_empty() {
            return Ok(None);
        }
        // Schemas may be large, and many.
        let compare = move || unknown_columns(&schemas, columns);
        let unknown = tokio::task::spawn_blocking(compare).await;
        let unknown = unknown.map_err(|e| Error::internal(format!("comparing columns: {e}")))?;
        Ok((!unknown.is_empty()).then(|| {
            format!(
                "no table below {prefix} has a column {}: compare the spelling with `volley info`, or create the table",
                unknown.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            )
        }))
    }

    /// Revokes a role on a prefix: `{"revoked": true}`.
    ///
    /// # Errors
    /// PERMISSION_DENIED: the caller does not own the prefix. NOT_FOUND: there is no such grant. FAILED_PRECONDITION: it is the last
    /// administrator's.
    pub async fn revoke(&self, access: &Access, request: GrantRequest) -> Result<Value> {
        let GrantRequest { role, prefix, to, .. } = request;
        access.require_grant(&prefix, role)?;
        let what = format!("{} on {} to {to}", role.name(), prefix_text(&prefix));
        match self.raft.propose(Op::RemoveGrant(RemoveGrant { to, role: role as i32, prefix })).await {
            Ok(_) => {
                tracing::info!(grant = what, "a role was revoked");
                Ok(json!({ "revoked": true }))
            }
            Err(error) if error.code == Code::NotFound => Err(Error::not_found(format!(
                "there is no grant of {what}: `volley grants` lists them; a role that comes from a wider prefix or a group is revoked there"
            ))),
            Err(error) => Err(error),
        }
    }

    /// The grants that apply to tables of a prefix, or all: `[{"to", "role", "prefix", "columns", "granted_by", "created_ms"}]`.
    /// A principal sees those to itself, and those on prefixes that it owns. `of`, `user:NAME` or `group:NAME`: only those that
    /// give it rights, for a user also those to its groups in the catalog; of others only for administrators.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `of` is neither. PERMISSION_DENIED: the caller is no administrator, and it is somebody else. UNAVAILABLE: no
    /// leader.
    pub async fn list_grants(&self, access: &Access, prefix: &[String], of: Option<&str>) -> Result<Value> {
        let groups = self.groups_of(access.principal().map(|principal| &**principal));
        let is_self = |to: &str| match to.split_once(':') {
            Some(("user", name)) => access.principal().is_some_and(|principal| principal.name == name),
            Some(("group", name)) => groups.iter().any(|group| group == name),
            _ => false,
        };
        if let Some(of) = of {
            check_receiver(of).map_err(|e| e.at("\"of\""))?;
            if !is_self(of) && access.require_cluster(Role::Admin).is_err() {
                return Err(Error::denied(format!(
                    "only an administrator lists the grants of others, and {of:?} is not {:?}: `volley grants` lists those on the prefixes that you own",
                    access.name()
                )));
            }
        }
        let is_visible =
            |grant: &&Grant| is_self(&grant.to) || access.require_grant(&grant.prefix, Role::Reader).is_ok();
        let applies = |grant: &&Grant| grant.prefix.starts_with(prefix) || prefix.starts_with(&grant.prefix);
        let catalog = self.raft.read().await?;
        let receivers = of.map(|of| receivers_of(&catalog, of));
        let is_wanted = |grant: &&Grant| receivers.as_ref().is_none_or(|wanted| wanted.contains(&grant.to));
        let grants: Vec<Grant> = catalog.grants().filter(applies).filter(is_wanted).cloned().collect();
        drop(catalog);
        Ok(grants.iter().filter(is_visible).map(grant_json).collect())
    }

    /// Who calls, and what it may do: `{"principal", "method", "groups", "credential", "open", "grants"}`, the credential as
    /// [`Principal::proof`] says.
    pub fn whoami(&self, access: &Access) -> Value {
        let principal = access.principal().map(|principal| &**principal);
        let directory = self.authenticator.directory();
        let grants: Value = match (principal, &directory) {
            (Some(principal), Some(directory)) => directory.grants_of(principal).map(grant_json).collect(),
            _ => Value::Array(Vec::new()),
        };
        json!({
            "principal": principal.map(|principal| &principal.name),
            "method": principal.map(|principal| principal.method.as_str()),
            "groups": self.groups_of(principal),
            "credential": principal.map(Principal::proof),
            "open": access.is_open(),
            "grants": grants,
        })
    }

    /// The groups of a principal: those that its token claims, and those of its user.
    fn groups_of(&self, principal: Option<&Principal>) -> Vec<String> {
        let Some(principal) = principal else { return Vec::new() };
        let directory = self.authenticator.directory();
        let user = directory.as_ref().and_then(|directory| directory.user(&principal.name));
        let mut groups = principal.groups.clone();
        groups.extend(user.into_iter().flat_map(|user| user.groups.clone()));
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// To whom a grant is that gives a user or group rights: to itself, and for a user to its groups in the catalog.
fn receivers_of(catalog: &Catalog, of: &str) -> BTreeSet<String> {
    let user = of.strip_prefix("user:").and_then(|name| catalog.user(name));
    let groups = user.into_iter().flat_map(|user| user.groups.iter().map(|group| format!("group:{group}")));
    std::iter::once(of.to_string()).chain(groups).collect()
}

/// Of these columns, those that no schema has.
fn unknown_columns(schemas: &[Bytes], columns: Vec<String>) -> BTreeSet<String> {
    let mut unknown: BTreeSet<String> = columns.into_iter().collect();
    for schema in schemas {
        if unknown.is_empty() {
            break;
        }
        // A table whose schema cannot be read has no column that somebody could read.
        let Ok(schema) = parse_schema(schema) else { continue };
        for field in schema.fields() {
            unknown.remove(field.name());
        }
    }
    unknown
}

fn grant_json(grant: &Grant) -> Value {
    json!({
        "to": grant.to,
        "role": grant.role().name(),
        "prefix": prefix_text(&grant.prefix),
        "columns": grant.columns,
        "granted_by": grant.granted_by,
        "created_ms": grant.created_ms,
    })
}
