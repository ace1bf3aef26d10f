//! Commands that change grants.
//!
//! **Invariant**: while there are users or grants, there is an administrator: a grant of `ROLE_ADMIN`. Without one nobody
//! could log in to a cluster and change that. A user or group of the grant need not be in the catalog, because certificates
//! and OIDC bring principals and groups that the catalog does not know.

use prost::Message;
use volley_common::identity::{MAX_RECEIVER_NAME, check_receiver};
use volley_common::wire::catalog::{Grant, PutGrant, RemoveGrant, Role, reply};
use volley_common::{Error, Result, TableName};

use super::apply::done;
use super::identity::{GrantKey, grant_key};
use super::{Catalog, RowKey};

/// Maximum number of columns that a grant names, and bytes of all their names.
const MAX_COLUMNS: usize = 4_096;
const MAX_COLUMN_BYTES: usize = 64 << 10;

/// Maximum number of grants to a user or group: each check of a right looks at them.
const MAX_GRANTS_TO: usize = 1_000;
/// Maximum number of grants by one principal: an owner of a prefix must not use up those of all.
const MAX_GRANTS_BY: usize = 10_000;

impl Catalog {
    pub(super) fn put_grant(&mut self, op: &PutGrant, now: u64) -> Result<reply::Reply> {
        let grant = checked_grant(op.grant.as_ref())?;
        let old = self.identity.grants.get(&grant_key(&grant));
        if old.is_some_and(|old| old.columns == grant.columns) {
            return Ok(done());
        }
        if grant.role() != Role::Admin {
            self.require_administrator(&format!("a grant to {:?}", grant.to))?;
        }
        match old {
            Some(old) => self.identity.check_bytes(old.encoded_len(), grant.encoded_len())?,
            None => {
                self.check_number_of_grants(&grant)?;
                self.identity.check_room("grants", self.identity.grants.len(), &grant)?;
            }
        }
        self.upsert_grant(Grant { created_ms: now, ..grant });
        self.raise_identity_epoch();
        Ok(done())
    }

    pub(super) fn remove_grant(&mut self, op: &RemoveGrant) -> Result<reply::Reply> {
        let key: GrantKey = (op.to.clone(), op.role as u32, op.prefix.clone());
        if !self.identity.grants.contains_key(&key) {
            return Err(Error::not_found(format!(
                "{:?} has no grant of the role {} on {}",
                op.to,
                op.role().name(),
                prefix_text(&op.prefix)
            )));
        }
        self.check_administrator_left(&op.to, std::slice::from_ref(&key), 0)?;
        self.drop_grant(key);
        self.raise_identity_epoch();
        Ok(done())
    }

    /// Checks that its receiver may have one more grant, and that its granter may have granted one more.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, naming the limit.
    fn check_number_of_grants(&self, grant: &Grant) -> Result<()> {
        if self.identity.grants_to(&grant.to).count() >= MAX_GRANTS_TO {
            return Err(Error::exhausted(format!(
                "{:?} has {MAX_GRANTS_TO} grants, which is the limit: revoke some that are not needed, or grant on a shorter prefix",
                grant.to
            )));
        }
        // Nobody has granted what was granted before the cluster had users.
        if !grant.granted_by.is_empty() && self.identity.granted_by(&grant.granted_by) >= MAX_GRANTS_BY {
            return Err(Error::exhausted(format!(
                "{:?} has granted {MAX_GRANTS_BY} roles, which is the limit for one principal: revoke some that are not needed, grant to groups, or let somebody else grant",
                grant.granted_by
            )));
        }
        Ok(())
    }

    pub(super) fn upsert_grant(&mut self, grant: Grant) {
        self.touched.insert(row_key(grant_key(&grant)));
        self.identity.insert_grant(grant);
    }

    pub(super) fn drop_grant(&mut self, key: GrantKey) {
        self.identity.remove_grant(&key);
        self.touched.insert(row_key(key));
    }

    /// Checks that there is an administrator before `what` closes the cluster to those who cannot identify themselves.
    ///
    /// # Errors
    /// FAILED_PRECONDITION.
    pub(super) fn require_administrator(&self, what: &str) -> Result<()> {
        if self.identity.administrators > 0 {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "{what} would close the cluster to everybody without an identity, and it has no administrator yet: create the first one by the setting bootstrap_admin_file of a coordinator, or grant the role admin on / to somebody who has a client certificate or an OIDC token"
        )))
    }

    /// Checks that an administrator is left without these grants, all to `to`, and without `users` users, unless nothing is
    /// left.
    ///
    /// # Errors
    /// FAILED_PRECONDITION.
    pub(super) fn check_administrator_left(&self, to: &str, grants: &[GrantKey], users: usize) -> Result<()> {
        let removed = grants.iter().filter(|(_, role, _)| *role == Role::Admin as u32).count();
        let users = self.identity.users.len().saturating_sub(users);
        let grants = self.identity.grants.len().saturating_sub(grants.len());
        if removed == 0 || removed < self.identity.administrators || users + grants == 0 {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "{to:?} is the last administrator, and {users} users and {grants} grants would be left, which nobody could change: grant the role admin on / to another user or group first"
        )))
    }
}

fn row_key((to, role, prefix): GrantKey) -> RowKey {
    RowKey::Grant { to, role, prefix }
}

/// A prefix as actions show it: `/` is the whole cluster.
pub(super) fn prefix_text(prefix: &[String]) -> String {
    if prefix.is_empty() { "/".into() } else { format!("{:?}", prefix.join("/")) }
}

/// Checks the components of a prefix: those of a table's name, or none.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn check_prefix(prefix: &[String]) -> Result<()> {
    if prefix.is_empty() || TableName::from_components(prefix)?.components() == prefix {
        return Ok(());
    }
    Err(Error::invalid(format!("a component of the prefix {:?} contains a slash", prefix.join("/"))))
}

/// The grant of a command, with its columns in order, each once.
///
/// # Errors
/// INVALID_ARGUMENT: its receiver, role, prefix or columns. RESOURCE_EXHAUSTED: too many columns.
fn checked_grant(grant: Option<&Grant>) -> Result<Grant> {
    let mut grant = grant.ok_or_else(|| Error::invalid("the command has no grant"))?.clone();
    check_receiver(&grant.to)?;
    check_prefix(&grant.prefix)?;
    let role = Role::try_from(grant.role).unwrap_or(Role::Unspecified);
    let name = role.name();
    match role {
        Role::Unspecified => {
            return Err(Error::invalid("the role is none of reader, writer, owner, operator and admin"));
        }
        Role::Operator | Role::Admin if !grant.prefix.is_empty() => {
            return Err(Error::invalid(format!(
                "the role {name} is for the whole cluster: grant it on /, not on {}",
                prefix_text(&grant.prefix)
            )));
        }
        Role::Writer | Role::Owner | Role::Operator | Role::Admin if !grant.columns.is_empty() => {
            return Err(Error::invalid(format!("a grant of the role {name} cannot name columns: only a reader's can")));
        }
        _ => {}
    }
    grant.columns.sort_unstable();
    grant.columns.dedup();
    let (columns, bytes) = (grant.columns.len(), grant.columns.iter().map(String::len).sum::<usize>());
    if columns > MAX_COLUMNS || bytes > MAX_COLUMN_BYTES {
        return Err(Error::exhausted(format!(
            "the grant to {:?} names {columns} columns of {bytes} bytes, more than the limit of {MAX_COLUMNS} columns or {MAX_COLUMN_BYTES} bytes",
            grant.to
        )));
    }
    if grant.granted_by.len() > MAX_RECEIVER_NAME {
        return Err(Error::invalid(format!("the name of who grants to {:?} is too long", grant.to)));
    }
    Ok(grant)
}
