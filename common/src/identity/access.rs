//! Rights: what the caller of a request may do. [`Access`] is the only place that decides it.
//!
//! | module | what it holds |
//! |---|---|
//! | `rights` | what grants permit |
//! | `ticket_rights` | binding tickets to a principal, and whether a principal may redeem one |

pub(crate) mod rights;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod ticket_rights;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use self::rights::{PrincipalRights, columns_hash, columns_of, permit, permit_cluster};
use super::directory::Directory;
use super::principal::Principal;
use crate::wire::catalog::Role;
use crate::{Error, Result};

/// A principal with its rights, as of one directory; everybody in an open cluster; or nobody, who is refused everything. In
/// the extensions of a request. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    caller: AccessKind,
    client: ClientAddress,
    /// Whether the setting `shareable_tickets` is on.
    shareable_tickets: bool,
}

#[derive(Clone)]
enum AccessKind {
    Open { epoch: u64 },
    Anonymous,
    Identified(Arc<PrincipalRights>),
}

/// The address of a client. Its text is made when it is first needed: most calls need none.
#[derive(Clone, Default)]
struct ClientAddress {
    ip: Option<IpAddr>,
    text: OnceLock<Box<str>>,
}

impl Access {
    /// That of everybody in an open cluster, and of the cluster's own work, such as compaction and repair: everything.
    pub fn open() -> Self {
        Access::open_at_epoch(0)
    }

    /// The same, with the epoch of the directory by which the cluster is open.
    pub(super) fn open_at_epoch(epoch: u64) -> Self {
        Access::new(AccessKind::Open { epoch })
    }

    /// That of a caller without identity.
    pub(super) fn anonymous() -> Self {
        Access::new(AccessKind::Anonymous)
    }

    /// That of a principal who was identified by other means, for example by a test.
    pub fn of_principal(principal: Principal, directory: Arc<Directory>) -> Self {
        Access::with_rights(Arc::new(PrincipalRights::new(principal, directory)))
    }

    /// That of an identified principal.
    pub(super) fn with_rights(rights: Arc<PrincipalRights>) -> Self {
        Access::new(AccessKind::Identified(rights))
    }

    fn new(caller: AccessKind) -> Self {
        Access { caller, client: ClientAddress::default(), shareable_tickets: false }
    }

    /// The same, of a client at this address, with the setting `shareable_tickets`.
    pub(super) fn for_client(mut self, ip: Option<IpAddr>, shareable_tickets: bool) -> Self {
        self.client = ClientAddress { ip, text: OnceLock::new() };
        self.shareable_tickets = shareable_tickets;
        self
    }

    /// That of a request, from its extensions, where the router put it. A request without one has no rights.
    pub fn of(extensions: &http::Extensions) -> Access {
        extensions.get::<Access>().cloned().unwrap_or_else(Access::anonymous)
    }

    /// Who the caller is; `None`: everybody in an open cluster, or nobody.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.rights().map(PrincipalRights::principal)
    }

    pub(super) fn rights(&self) -> Option<&PrincipalRights> {
        match &self.caller {
            AccessKind::Identified(rights) => Some(rights),
            AccessKind::Open { .. } | AccessKind::Anonymous => None,
        }
    }

    /// The principal's name; empty if there is none.
    pub fn name(&self) -> &str {
        self.principal().map_or("", |principal| &principal.name)
    }

    /// The client's IP address, if it is known. The client of a forwarded call is the one that called the first member.
    pub fn client_address(&self) -> Option<&str> {
        let ip = self.client.ip?;
        Some(self.client.text.get_or_init(|| ip.to_string().into_boxed_str()))
    }

    /// The same as an address.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client.ip
    }

    /// Whether it permits everything because the cluster has no users, or because the cluster itself is the caller.
    pub fn is_open(&self) -> bool {
        matches!(self.caller, AccessKind::Open { .. })
    }

    /// The epoch of the directory that the rights are of; 0 if there is none.
    pub fn epoch(&self) -> u64 {
        match &self.caller {
            AccessKind::Open { epoch } => *epoch,
            AccessKind::Anonymous => 0,
            AccessKind::Identified(rights) => rights.directory().epoch(),
        }
    }

    /// Checks that the caller is somebody.
    ///
    /// # Errors
    /// UNAUTHENTICATED: nobody.
    pub fn require_identity(&self) -> Result<()> {
        match &self.caller {
            AccessKind::Open { .. } | AccessKind::Identified(_) => Ok(()),
            AccessKind::Anonymous => Err(Error::unauthenticated(
                "this cluster serves identified clients only: log in with a user and a password, or present a token or a client certificate",
            )),
        }
    }

    /// Checks a role on a table.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the caller is nobody. For a reader NOT_FOUND as if the table did not exist, so that hidden tables are
    /// not revealed. For a writer PERMISSION_DENIED, whether the table exists or not. For an owner NOT_FOUND if the caller may
    /// not read the table, else PERMISSION_DENIED.
    pub fn require(&self, role: Role, table: &[String]) -> Result<()> {
        let Some(rights) = self.checked_rights()? else { return Ok(()) };
        match role {
            Role::Reader | Role::Writer | Role::Owner => {}
            Role::Operator | Role::Admin | Role::Unspecified => return self.require_cluster(role),
        }
        if permit(rights.grants_on(table), role, table) {
            return Ok(());
        }
        let is_hidden = || !permit(rights.grants_on(table), Role::Reader, table);
        match role {
            Role::Writer => Err(lacks(rights, role, table)),
            Role::Owner if !is_hidden() => Err(lacks(rights, role, table)),
            _ => Err(missing_table(table)),
        }
    }

    /// Checks a role of the cluster: operator, which admin includes, or admin.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the caller is nobody. PERMISSION_DENIED: it lacks the role.
    pub fn require_cluster(&self, role: Role) -> Result<()> {
        let Some(rights) = self.checked_rights()? else { return Ok(()) };
        // A role of tables is none of the cluster: that call would be a mistake, and needs the most.
        let role = if role == Role::Operator { role } else { Role::Admin };
        if permit_cluster(rights.grants_on(&[]), role) { Ok(()) } else { Err(lacks(rights, role, &[])) }
    }

    /// Checks that the caller may grant a role on a prefix, or revoke it: an owner of the whole prefix may for reader, writer
    /// and owner, an administrator for all.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the caller is nobody. PERMISSION_DENIED: it may not.
    pub fn require_grant(&self, prefix: &[String], role: Role) -> Result<()> {
        let needed = match role {
            Role::Reader | Role::Writer | Role::Owner => Role::Owner,
            Role::Operator | Role::Admin | Role::Unspecified => return self.require_cluster(Role::Admin),
        };
        let Some(rights) = self.checked_rights()? else { return Ok(()) };
        if permit(rights.grants_on(prefix), needed, prefix) { Ok(()) } else { Err(lacks(rights, needed, prefix)) }
    }

    /// Whether the caller may read a table.
    pub fn can_read(&self, table: &[String]) -> bool {
        match &self.caller {
            AccessKind::Open { .. } => true,
            AccessKind::Anonymous => false,
            AccessKind::Identified(rights) => permit(rights.grants_on(table), Role::Reader, table),
        }
    }

    /// The names of the columns of a table that the caller may read; `None`: all. The union of those of its grants: a reader's
    /// grant may name columns, every other one is to all.
    pub fn permitted_columns(&self, table: &[String]) -> Option<BTreeSet<String>> {
        Some(self.columns_of(table)?.into_iter().map(String::from).collect())
    }

    /// A hash of [`Access::permitted_columns`]: XXH3 of their sorted names; 0 for all.
    pub fn permitted_columns_hash(&self, table: &[String]) -> u64 {
        columns_hash(self.columns_of(table).as_ref())
    }

    fn columns_of(&self, table: &[String]) -> Option<BTreeSet<&str>> {
        match &self.caller {
            AccessKind::Open { .. } => None,
            AccessKind::Anonymous => Some(BTreeSet::new()),
            AccessKind::Identified(rights) => columns_of(rights.grants_on(table), table),
        }
    }

    /// The rights to check; `None`: everything is permitted.
    fn checked_rights(&self) -> Result<Option<&PrincipalRights>> {
        self.require_identity()?;
        Ok(self.rights())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.caller {
            AccessKind::Open { .. } => f.write_str("everybody"),
            AccessKind::Anonymous => f.write_str("nobody"),
            AccessKind::Identified(rights) => write!(f, "{:?}", rights.principal().name),
        }
    }
}

/// The error for a table that does not exist, and for one that the caller may not know of.
pub fn missing_table(name: &[String]) -> Error {
    Error::not_found(format!("there is no table {:?}", name.join("/")))
}

/// The error for a principal without a role on a prefix.
fn lacks(rights: &PrincipalRights, role: Role, prefix: &[String]) -> Error {
    let (name, role_text) = (&rights.principal().name, role.name());
    let (prefix, granting) = match role {
        Role::Reader | Role::Writer | Role::Owner if !prefix.is_empty() => {
            (prefix.join("/"), "an owner of it, or an administrator, can grant it")
        }
        _ => ("/".to_string(), "an administrator can grant it"),
    };
    Error::denied(format!(
        "{name:?} lacks the role {role_text} on {prefix:?}: {granting}, volley grant {role_text} {prefix:?} --to {:?}",
        format!("user:{name}")
    ))
}
