//! What each call requires of its caller, and how the audit log counts it: one table of all actions and of all methods of
//! Flight. What the table does not have is refused.
//!
//! The table's requirement is checked in two places. [`Requirement::admit`] runs before anything of a call is read. What
//! depends on the content of the call is checked where that is known: [`Requirement::check_table`] with the table's name, and
//! in [`crate::service::identity`] and [`crate::service::tickets`] what belongs to a principal.

#[cfg(test)]
mod tests;

use volley_common::identity::Access;
use volley_common::server::audit::AuditKind;
use volley_common::wire::catalog::Role;
use volley_common::{Error, Result};

/// What a call requires of its caller. In an open cluster everybody fulfils it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing: callers that have not identified themselves may make it, too.
    Public,
    /// What the action requires that the call names.
    OfAction,
    /// A principal. The reply shows it only what it may see.
    Identity,
    /// A principal, for what is its own: its user, its tokens, its tickets. Administrators for those of others.
    Own,
    /// The right to grant on the prefix that the call names.
    Grants,
    /// A role on the table that the call names, or whose write it names.
    Table(Role),
    /// The first role on the table that the call names; the second one on the cluster, if it names no table.
    TableOrCluster(Role, Role),
    /// A role on the whole cluster.
    Cluster(Role),
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRights {
    /// What the call requires.
    pub requirement: Requirement,
    /// How the audit log counts it.
    pub kind: AuditKind,
}

use AuditKind::{Admin, Login, Read, Write};
use Requirement::{Cluster, Grants, Identity, OfAction, Own, Public, Table, TableOrCluster};

/// Every method of Flight, and what it requires.
const METHODS: [(&str, Requirement, AuditKind); 10] = [
    ("Handshake", Public, Login),
    ("ListFlights", Identity, Read),
    ("GetFlightInfo", Table(Role::Reader), Read),
    ("PollFlightInfo", Table(Role::Reader), Read),
    ("GetSchema", Table(Role::Reader), Read),
    // Of a signed ticket: as `Access::check_ticket` says.
    ("DoGet", Table(Role::Reader), Read),
    // Checked when the node that receives the stream begins the write.
    ("DoPut", Table(Role::Writer), Write),
    ("DoExchange", Identity, Read),
    ("DoAction", OfAction, Read),
    ("ListActions", Identity, Read),
];

/// Every action, and what it requires.
const ACTIONS: [(&str, Requirement, AuditKind); 50] = [
    ("create_table", Table(Role::Writer), Write),
    ("drop_table", Table(Role::Owner), Admin),
    ("restore_version", Table(Role::Owner), Admin),
    ("list_tables", Identity, Read),
    ("get_stats", TableOrCluster(Role::Reader, Role::Operator), Read),
    ("begin_write", Table(Role::Writer), Write),
    ("commit_write", Table(Role::Writer), Write),
    ("abort_write", Table(Role::Writer), Write),
    // Each put of a transaction needs the role on its table, and so does the commit.
    ("begin_transaction", Identity, Write),
    ("commit_transaction", Own, Write),
    ("abort_transaction", Own, Write),
    ("healthcheck", Public, Read),
    ("addresses", Identity, Read),
    ("clear", Cluster(Role::Admin), Admin),
    ("shutdown", Cluster(Role::Admin), Admin),
    ("CancelFlightInfo", Own, Read),
    ("RenewFlightEndpoint", Own, Read),
    ("SetSessionOptions", Identity, Read),
    ("GetSessionOptions", Identity, Read),
    ("CloseSession", Identity, Read),
    // A node runs it, and checks the rights to the tables when the statement is executed.
    ("CreatePreparedStatement", Identity, Read),
    ("ClosePreparedStatement", Identity, Read),
    // A node runs it by CancelFlightInfo.
    ("CancelQuery", Own, Read),
    // A node runs them: the first makes an id, the second is commit_transaction or abort_transaction.
    ("BeginTransaction", Identity, Write),
    ("EndTransaction", Own, Write),
    // Monitoring repeats it all the time: it counts as a read.
    ("cluster_status", Cluster(Role::Operator), Read),
    ("explain", Table(Role::Reader), Read),
    ("list_versions", Table(Role::Reader), Read),
    ("list_writes", Cluster(Role::Operator), Read),
    // Who reads the audit log is in it.
    ("list_audit", Cluster(Role::Admin), Admin),
    ("drain_node", Cluster(Role::Operator), Admin),
    ("undrain_node", Cluster(Role::Operator), Admin),
    ("remove_node", Cluster(Role::Operator), Admin),
    ("add_coordinator", Cluster(Role::Admin), Admin),
    ("remove_coordinator", Cluster(Role::Admin), Admin),
    ("rotate_keys", Cluster(Role::Admin), Admin),
    ("create_user", Cluster(Role::Admin), Admin),
    ("set_password", Own, Admin),
    ("set_groups", Cluster(Role::Admin), Admin),
    ("remove_user", Cluster(Role::Admin), Admin),
    ("list_users", Cluster(Role::Admin), Admin),
    ("create_token", Own, Admin),
    ("list_tokens", Own, Admin),
    ("revoke_token", Own, Admin),
    ("grant", Grants, Admin),
    ("revoke", Grants, Admin),
    ("list_grants", Identity, Read),
    ("whoami", Identity, Read),
    ("set_quota", Cluster(Role::Admin), Admin),
    ("list_quotas", Cluster(Role::Admin), Admin),
];

/// What an action requires; `None` if the table does not have it.
pub fn of_action(name: &str) -> Option<CallRights> {
    find(&ACTIONS, name)
}

/// What a method of Flight requires (`DoGet`); `None` if the table does not have it.
pub fn of_method(name: &str) -> Option<CallRights> {
    find(&METHODS, name)
}

/// As [`of_method`].
///
/// # Errors
/// UNIMPLEMENTED: the table does not have it.
pub fn require_method(name: &str) -> Result<Requirement> {
    let found = of_method(name).map(|rights| rights.requirement);
    found.ok_or_else(|| Error::unimplemented(format!("Flight has no method {name:?} that this version knows")))
}

fn find(table: &[(&str, Requirement, AuditKind)], name: &str) -> Option<CallRights> {
    let (_, requirement, kind) = table.iter().find(|(known, _, _)| *known == name)?;
    Some(CallRights { requirement: *requirement, kind: *kind })
}

impl Requirement {
    /// Checks what does not depend on the content of a call, before it is read.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the caller has not identified itself. PERMISSION_DENIED: it has not the role on the cluster.
    pub fn admit(self, access: &Access) -> Result<()> {
        match self {
            Public | OfAction => Ok(()),
            Identity | Own | Grants | Table(_) | TableOrCluster(..) => access.require_identity(),
            Cluster(role) => access.require_cluster(role),
        }
    }

    /// Checks the role on the table that a call names.
    ///
    /// # Errors
    /// Those of [`Access::require`]. INTERNAL: calls like this one name no table.
    pub fn check_table(self, access: &Access, table: &[String]) -> Result<()> {
        match self {
            Table(role) | TableOrCluster(role, _) => access.require(role, table),
            Public | OfAction | Identity | Own | Grants | Cluster(_) => Err(self.misplaced("a table")),
        }
    }

    /// Checks the role on the cluster, for a call that names no table.
    ///
    /// # Errors
    /// Those of [`Access::require_cluster`]. INTERNAL: calls like this one are not about the cluster.
    pub fn check_cluster(self, access: &Access) -> Result<()> {
        match self {
            Cluster(role) | TableOrCluster(_, role) => access.require_cluster(role),
            Public | OfAction | Identity | Own | Grants | Table(_) => Err(self.misplaced("the cluster")),
        }
    }

    fn misplaced(self, of: &str) -> Error {
        Error::internal(format!("the table of rights has {self:?} for a call whose rights to {of} are checked"))
    }
}
